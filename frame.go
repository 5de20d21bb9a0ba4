package peer

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// This file is the part of RFC 6455 that a server needs, as bytes: it reads the headers of
// frames from a client, puts messages together, and builds frames to a client. Sections are
// those of the RFC.

// The first byte of a frame (section 5.2).
const (
	finBit       = 0x80 // the frame is the last of its message
	reservedBits = 0x70 // for extensions; the server agrees to none
	opBits       = 0x0f
	controlBit   = 0x08 // of the opcode

	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// The second byte of a frame.
const (
	maskedBit = 0x80
	size16    = 126 // the length follows in 2 bytes
	size64    = 127 // the length follows in 8 bytes
)

// Lengths in bytes.
const (
	maxControl   = 125 // the payload of a control frame (section 5.5)
	keySize      = 4   // a masking key
	maxFrameHead = 10  // the header of a frame to a client
	maxHeader    = maxFrameHead + keySize
)

// A frameError is a frame that ends its connection.
type frameError struct {
	why  DisconnectReason
	text string
}

func (e *frameError) Error() string { return "peer: " + e.text }

// breach returns the error for a frame that breaks the protocol.
func breach(text string) error { return &frameError{ReasonProtocolError, text} }

// A header is what a client's frame begins with. The zero header, with size 0, stands for
// one that has not arrived whole.
type header struct {
	fin  bool   // the frame is the last of its message
	op   byte   // opText …
	key  uint32 // for unmask
	size int    // bytes of the header, the masking key included
	n    int    // bytes of the payload
}

// isControl reports whether the frame is a close, ping or pong. Such a frame is no part of a
// message and may come between two fragments of one.
func (h header) isControl() bool { return h.op&controlBit != 0 }

// parseHeader returns the header that b begins with, or the zero header while b is too short.
// It does not wait for the whole header to refuse it: the first or second byte is enough, and
// the last byte of the length is enough for a wrong length.
func parseHeader(b []byte) (h header, err error) {
	if len(b) == 0 {
		return header{}, nil
	}
	h = header{fin: b[0]&finBit != 0, op: b[0] & opBits}
	switch {
	case b[0]&reservedBits != 0:
		return header{}, breach("frame with a reserved bit")
	case h.op&^controlBit > opBinary:
		return header{}, breach("frame with an unknown opcode")
	case len(b) == 1:
		return header{}, nil
	case b[1]&maskedBit == 0:
		return header{}, breach("frame without a mask")
	case h.isControl() && !h.fin:
		return header{}, breach("control frame in fragments")
	case h.isControl() && b[1]&^maskedBit > maxControl:
		return header{}, breach("control frame that is too long")
	}
	n, size, err := parseLength(b[1:])
	h.size = 1 + size + keySize
	if size == 0 || len(b) < h.size {
		return header{}, err
	}
	h.key = binary.LittleEndian.Uint32(b[1+size:])
	// A buffer for more cannot exist. With this bound size+n is an int on every machine.
	h.n = int(min(n, math.MaxInt-maxHeader))
	return h, nil
}

// parseLength returns the length of a payload and how many bytes tell it. b begins with the
// second byte of a frame. While b is too short, and with an error, size is 0.
func parseLength(b []byte) (n uint64, size int, err error) {
	switch short := b[0] &^ maskedBit; {
	case short < size16:
		return uint64(short), 1, nil
	case short == size16 && len(b) >= 3:
		n, size = uint64(binary.BigEndian.Uint16(b[1:])), 3
	case short == size64 && len(b) >= 9:
		n, size = binary.BigEndian.Uint64(b[1:]), 9
	default:
		return 0, 0, nil
	}
	switch {
	case n < size16, size == 9 && n <= math.MaxUint16:
		return 0, 0, breach("frame with a length that is not in its shortest form")
	case n > math.MaxInt64:
		return 0, 0, breach("frame with a length of more than 63 bits")
	}
	return n, size, nil
}

// An assembly is the message that a client is sending, in one frame or in fragments. It
// knows the frames, not the payloads. The zero assembly waits for a message to begin. After
// an error it must not be used again. It is not safe for concurrent use.
type assembly struct {
	begun  bool // the message has begun and is not whole
	binary bool // the message that began last is binary, not text
	size   int  // bytes of that message so far
}

// add takes the header of the next frame, which must not be a control frame, and reports
// whether the message is whole with its payload. A message of more than limit bytes is refused
// before its payload is read; a negative limit means none.
func (a *assembly) add(h header, limit int) (whole bool, err error) {
	if limit < 0 {
		limit = math.MaxInt
	}
	switch begins := h.op != opContinuation; {
	case begins && a.begun:
		return false, breach("message inside of a message")
	case !begins && !a.begun:
		return false, breach("continuation of no message")
	case begins:
		*a = assembly{binary: h.op == opBinary}
	}
	if h.n > limit-a.size { // the sum could be too large for an int
		return false, &frameError{ReasonMessageTooBig, fmt.Sprintf("message of more than %d bytes", limit)}
	}
	a.size += h.n
	a.begun = !h.fin
	return h.fin, nil
}

// unmask undoes the masking of section 5.3 in place. It returns the key for the rest of the
// payload, if b is a part of it.
func unmask(b []byte, key uint32) uint32 {
	long := uint64(key)<<32 | uint64(key)
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^long)
	}
	for i := range b {
		b[i] ^= byte(key)
		key = key>>8 | key<<24
	}
	return key
}

// checkClose returns an error unless payload is what a close frame may carry: nothing, or a
// code and a reason (section 5.5.1).
func checkClose(payload []byte) error {
	switch {
	case len(payload) == 0:
		return nil
	case len(payload) == 1 || !validCloseCode(binary.BigEndian.Uint16(payload)):
		return breach("close frame with an invalid code")
	case !utf8.Valid(payload[2:]):
		return &frameError{ReasonInvalidText, "close frame with a reason that is not UTF-8"}
	}
	return nil
}

// validCloseCode reports whether a client may send code (section 7.4, and the registry of
// codes that it founded).
func validCloseCode(code uint16) bool {
	return code >= 1000 && code <= 1014 && (code < 1004 || code > 1006) || code >= 3000 && code <= 4999
}

// pingFrame is an empty ping.
var pingFrame = []byte{finBit | opPing, 0}

// controlFrame returns a frame with a payload of at most maxControl bytes.
func controlFrame(opcode byte, payload []byte) []byte {
	return append([]byte{finBit | opcode, byte(len(payload))}, payload...)
}

// closeFrame returns a close frame; reason must be at most 123 bytes.
func closeFrame(code uint16, reason string) []byte {
	return controlFrame(opClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// textFrame returns a whole text frame with payload b.
func textFrame(b []byte) []byte { return append(newFrame(len(b)), b...) }

// newFrame returns the header of a text frame with a payload of n bytes, and room for the
// payload. Frames of a server are not masked (section 5.1).
func newFrame(n int) []byte { return appendHead(make([]byte, 0, maxFrameHead+n), n) }

// appendHead appends the header of a text frame with a payload of n bytes.
func appendHead(b []byte, n int) []byte {
	const text = finBit | opText
	switch {
	case n < size16:
		return append(b, text, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, text, size16), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, text, size64), uint64(n))
	}
}

// framePayload returns the payload of a whole frame of the server.
func framePayload(frame []byte) []byte {
	switch frame[1] {
	case size16:
		return frame[4:]
	case size64:
		return frame[10:]
	}
	return frame[2:]
}
