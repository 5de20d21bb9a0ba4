package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Opcodes of RFC 6455.
const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// offerSize is the size of one OFFER as a client sends it, in bytes: what a data
// channel with gathered candidates or a small audio call comes to.
const offerSize = 2560

// kind is the type of a message from the server.
type kind uint8

const (
	kindOther kind = iota
	kindOpen
	kindOffer
	kindAnswer
	kindCandidate
	kindExpire
	kindError // ERROR, ID-TAKEN and the like: the server turned the client away
)

// typePrefix is how both servers begin a message.
const typePrefix = `{"type":"`

// kindOf tells the type of a message from its first bytes; a message with its
// fields in another order is decoded, which is slow but right.
func kindOf(msg []byte) kind {
	if len(msg) > len(typePrefix)+2 && string(msg[:len(typePrefix)]) == typePrefix {
		switch string(msg[len(typePrefix) : len(typePrefix)+2]) {
		case "OF":
			return kindOffer
		case "AN":
			return kindAnswer
		case "CA":
			return kindCandidate
		case "OP":
			return kindOpen
		case "EX":
			return kindExpire
		case "ER", "ID", "IN":
			return kindError
		}
		return kindOther
	}
	var envelope struct{ Type string }
	if json.Unmarshal(msg, &envelope) != nil {
		return kindOther
	}
	switch envelope.Type {
	case "OFFER":
		return kindOffer
	case "ANSWER":
		return kindAnswer
	case "CANDIDATE":
		return kindCandidate
	case "OPEN":
		return kindOpen
	case "EXPIRE":
		return kindExpire
	case "ERROR", "ID-TAKEN", "INVALID-KEY":
		return kindError
	}
	return kindOther
}

// appendFrame appends one masked frame as a client sends it.
//
// The mask must not be zero: npm peer's WebSocket library skips the unmasking then, and
// the comparison would no longer be one.
func appendFrame(b []byte, opcode byte, mask [4]byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	default:
		panic("frame too long")
	}
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i&3])
	}
	return b
}

// maskOf returns a mask that differs between clients and is never zero.
func maskOf(i int) [4]byte {
	x := uint32(i)*2654435761 | 0x01010101
	return [4]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}
}

// The stamp is 16 hex digits inside the payload of an OFFER: 4 for the sender's
// number, 12 for the time it was sent, in nanoseconds. Patching it into a prebuilt
// frame costs nothing beside the write.
const (
	stampMark   = `"connectionId":"dc_`
	stampDigits = 16
	timeBits    = 48
)

const hexDigits = "0123456789abcdef"

// offer is a prebuilt masked frame with an OFFER.
type offer struct {
	frame []byte
	stamp int // offset of the stamp in frame
	mask  [4]byte
	phase int // offset of the stamp in the frame's payload, for the mask
	src   int
}

// newOffer builds the frame for an OFFER from sender number src to the id dst.
func newOffer(src int, dst string) *offer {
	text := offerText(dst)
	o := &offer{mask: maskOf(src), src: src}
	o.frame = appendFrame(nil, opText, o.mask, text)
	o.phase = bytes.Index(text, []byte(stampMark)) + len(stampMark)
	o.stamp = len(o.frame) - len(text) + o.phase
	return o
}

// at stamps the frame with the time now and returns it.
func (o *offer) at(now int64) []byte {
	v := uint64(o.src)<<timeBits | uint64(now)&(1<<timeBits-1)
	b := o.frame[o.stamp : o.stamp+stampDigits]
	for i := stampDigits - 1; i >= 0; i-- {
		b[i] = hexDigits[v&15] ^ o.mask[(o.phase+i)&3]
		v >>= 4
	}
	return o.frame
}

// readStamp reads the stamp of a relayed OFFER. It looks at the offset hint first,
// where the last one was, and returns where it found the stamp.
func readStamp(msg []byte, hint int) (src int, sent int64, at int, ok bool) {
	n := len(stampMark)
	if hint < n || hint+stampDigits > len(msg) || string(msg[hint-n:hint]) != stampMark {
		i := bytes.Index(msg, []byte(stampMark))
		if i < 0 || i+n+stampDigits > len(msg) {
			return 0, 0, 0, false
		}
		hint = i + n
	}
	var v uint64
	for _, c := range msg[hint : hint+stampDigits] {
		switch {
		case c-'0' <= 9:
			v = v<<4 | uint64(c-'0')
		case c-'a' <= 5:
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, 0, 0, false
		}
	}
	return int(v >> timeBits), int64(v & (1<<timeBits - 1)), hint, true
}

// sdp is the part of every OFFER before the stamp, as JSON text. It is what a
// receiver compares to see that a payload arrives as it was sent.
var sdp = func() string {
	var b strings.Builder
	b.WriteString("v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n" +
		"a=group:BUNDLE 0\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n" +
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n")
	for i := range 16 {
		fmt.Fprintf(&b, "a=candidate:%d 1 udp %d 192.0.2.%d %d typ host generation 0 network-id %d network-cost 10\r\n",
			842163049+i*7919, 2122260223-i*256, i+1, 50000+i*37, i%3+1)
	}
	b.WriteString("a=ice-ufrag:8f3K\r\na=ice-pwd:yJ0vYx1c6Hn2k9mQ4sT7uW3z\r\na=ice-options:trickle\r\n" +
		"a=fingerprint:sha-256 7B:8E:1D:34:A0:5C:92:EF:43:11:6A:D8:09:B7:2F:50:C3:66:9D:E1:28:74:BA:0F:95:4C:D2:13:8A:F7:61:3E\r\n" +
		"a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n")
	text, err := json.Marshal(map[string]string{"sdp": b.String()})
	if err != nil {
		panic(err)
	}
	return `"sdp":{"type":"offer",` + strings.TrimPrefix(string(text), "{")
}()

// offerText returns an OFFER as the PeerJS client writes it, offerSize bytes long.
func offerText(dst string) []byte {
	head := `{"type":"OFFER","payload":{` + sdp + `,"type":"data",` + stampMark + strings.Repeat("0", stampDigits) +
		`","metadata":{"name":"`
	tail := `"},"label":"dc_lq3x7y0m1p","reliable":true,"serialization":"binary"},"dst":"` + dst + `"}`
	pad := offerSize - len(head) - len(tail)
	if pad < 0 {
		panic(fmt.Sprintf("an OFFER is %d bytes too long", -pad))
	}
	return []byte(head + strings.Repeat("x", pad) + tail)
}

// clientID returns the id of client number i. Ids of different groups differ.
func clientID(group, i int) string {
	return fmt.Sprintf("%s%012x", idPrefix(group), i)
}

func idPrefix(group int) string { return fmt.Sprintf("%08x-57a1-4c0f-8b3d-", group) }

// idIndex reads i back from an id of the group.
func idIndex(group int, id []byte) (int, bool) {
	digits, ok := strings.CutPrefix(string(id), idPrefix(group))
	i, err := strconv.ParseInt(digits, 16, 64)
	return int(i), ok && err == nil
}

// field returns the plain string value of a field of msg, or nil.
func field(msg []byte, name string) []byte {
	_, rest, ok := bytes.Cut(msg, []byte(`"`+name+`":"`))
	if !ok {
		return nil
	}
	value, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok {
		return nil
	}
	return value
}
