package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unsafe"
)

// state is how far a connection is.
type state uint8

const (
	stateNew        state = iota
	stateConnecting       // TCP connect under way
	stateUpgrading        // the request is sent
	stateWaiting          // upgraded, no OPEN yet
	stateOpen
	stateClosing // our close frame is sent
	stateClosed
)

// conn is one client of the load generator. Only the goroutine that runs the loop
// touches it.
type conn struct {
	loop       *loop
	index      int // number among the clients of the scenario
	id         string
	port       int // of its server
	rcvbuf     int // receive buffer of the socket in bytes, 0 for the kernel's choice
	mayBeEnded bool
	deaf       bool // does not answer a close frame

	fd         int
	generation int32
	state      state
	in         []byte // what was read of an incomplete frame
	fragments  []byte // what was read of an incomplete message
	out        []byte // what the kernel has not taken yet
	stampAt    int    // where the last stamp was found
	checked    bool   // one whole message was compared
}

// The nonce of the handshake is the example of RFC 6455: nobody checks that it is
// random, and the answer to it is known without a hash.
const (
	handshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	handshakeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// upgrade sends the request that a browser sends, with all its headers: reading them
// is part of what a connect costs.
func (l *loop) upgrade(c *conn) {
	c.state = stateUpgrading
	c.write(fmt.Appendf(nil, "GET /peerjs?key=peerjs&id=%s&token=%011x&version=1.5.5 HTTP/1.1\r\n"+
		"Host: 127.0.0.1:%d\r\n"+
		"Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"+
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n"+
		"Upgrade: websocket\r\nOrigin: https://app.example\r\nSec-WebSocket-Version: 13\r\n"+
		"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"+
		"Sec-WebSocket-Key: "+handshakeKey+"\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
		c.id, uint64(c.generation)*2654435761, c.port))
}

// ready handles what epoll says about c.
func (l *loop) ready(c *conn, events uint32) {
	if c.state == stateConnecting {
		if code, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || code != 0 {
			l.fail("connect: %w", errors.Join(err, syscall.Errno(code)))
			return
		}
		l.watch(c, syscall.EPOLL_CTL_MOD, syscall.EPOLLIN)
		l.upgrade(c)
		return
	}
	if events&syscall.EPOLLOUT != 0 && len(c.out) > 0 {
		rest := c.out
		c.out = nil
		c.write(rest)
		if len(c.out) == 0 && c.state != stateClosed {
			l.watch(c, syscall.EPOLL_CTL_MOD, syscall.EPOLLIN)
		}
	}
	if events&^uint32(syscall.EPOLLOUT) != 0 && c.state != stateClosed {
		l.readable(c)
	}
}

func (l *loop) readable(c *conn) {
	have := copy(l.buf, c.in)
	n, errno := read(c.fd, l.buf[have:])
	switch {
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
		return
	case errno != 0:
		l.drop(c, errno)
		return
	case n == 0:
		l.drop(c, errors.New("end of stream"))
		return
	}
	rest := l.consume(c, l.buf[:have+n])
	if c.state == stateClosed {
		return
	}
	if len(rest) == len(l.buf) {
		l.fail("a frame is larger than %d bytes", len(l.buf))
		return
	}
	c.in = append(c.in[:0], rest...)
}

// consume handles what is complete in data and returns the rest.
func (l *loop) consume(c *conn, data []byte) []byte {
	if c.state == stateUpgrading {
		head, rest, ok := bytes.Cut(data, []byte("\r\n\r\n"))
		if !ok {
			return data
		}
		if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") || !bytes.Contains(head, []byte(handshakeAccept)) {
			l.fail("the upgrade was refused:\n%s", head)
			return nil
		}
		// A browser offers compression. A server that takes it up needs a
		// generator that can compress, and would be measured at something else.
		if bytes.Contains(bytes.ToLower(head), []byte("sec-websocket-extensions")) {
			l.fail("the server took up an extension:\n%s", head)
			return nil
		}
		c.state = stateWaiting
		data = rest
	}
	now := l.now()
	for l.err == nil {
		f, rest, ok := nextFrame(data)
		if !ok {
			break
		}
		data = rest
		l.frame(c, f, now)
		if c.state == stateClosed {
			return nil
		}
	}
	return data
}

// frame is one frame from the server.
type frame struct {
	first   byte // FIN, the reserved bits and the opcode
	second  byte // its top bit says masked, which a server must not do
	payload []byte
}

// nextFrame cuts the first frame off data, if it is there as a whole.
func nextFrame(data []byte) (f frame, rest []byte, ok bool) {
	if len(data) < 2 {
		return frame{}, data, false
	}
	head, size := 2, uint64(data[1]&0x7f)
	switch size {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if len(data) < head {
		return frame{}, data, false
	}
	switch head {
	case 4:
		size = uint64(binary.BigEndian.Uint16(data[2:]))
	case 10:
		size = binary.BigEndian.Uint64(data[2:])
	}
	if uint64(len(data)-head) < size {
		return frame{}, data, false
	}
	end := head + int(size)
	return frame{data[0], data[1], data[head:end]}, data[end:], true
}

func (l *loop) frame(c *conn, f frame, now int64) {
	const fin, reserved, masked = 0x80, 0x70, 0x80
	opcode := f.first & 0x0f
	if f.first&reserved != 0 || f.second&masked != 0 {
		l.fail("a frame with header %#x %#x from the server", f.first, f.second)
		return
	}
	switch opcode {
	case opText, opContinuation:
		if f.first&fin == 0 {
			c.fragments = append(c.fragments, f.payload...)
			return
		}
		msg := f.payload
		if opcode == opContinuation {
			msg = append(c.fragments, msg...)
			c.fragments = nil
		}
		l.message(c, msg, now)
	case opPing:
		c.write(appendFrame(nil, opPong, maskOf(c.index), f.payload))
	case opPong:
	case opClose:
		if c.state == stateClosing {
			return // the answer to ours: the end of the stream comes next
		}
		if c.state == stateOpen && c.mayBeEnded {
			if !c.deaf {
				c.sendClose()
			}
			return
		}
		code := 0
		if len(f.payload) >= 2 {
			code = int(binary.BigEndian.Uint16(f.payload))
		}
		l.fail("the server closed client %d: %d %q", c.index, code, f.payload[min(2, len(f.payload)):])
	default:
		l.fail("a frame with opcode %#x from the server", opcode)
	}
}

func (l *loop) message(c *conn, msg []byte, now int64) {
	k := kindOf(msg)
	if c.state == stateWaiting && k == kindOpen {
		c.state = stateOpen
		if l.onOpen != nil {
			l.onOpen(c)
		}
		return
	}
	if k == kindError || k == kindOther {
		l.fail("client %d got %.200s", c.index, msg)
		return
	}
	if l.onMessage != nil {
		l.onMessage(c, k, msg, now)
	}
}

// drop ends c because of what its socket said.
func (l *loop) drop(c *conn, why error) {
	if c.state != stateClosing && !c.mayBeEnded {
		l.fail("client %d lost its connection: %w", c.index, why)
	}
	l.conns[c.fd] = nil
	c.state = stateClosed
	syscall.Close(c.fd)
	if l.onClosed != nil && l.err == nil {
		l.onClosed(c)
	}
}

// write sends b, or keeps what the kernel does not take; b may be reused after it.
func (c *conn) write(b []byte) {
	if c.state == stateClosed {
		return
	}
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return
	}
	for len(b) > 0 {
		n, errno := write(c.fd, b)
		switch errno {
		case 0:
			b = b[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			c.out = append(c.out, b...)
			c.loop.watch(c, syscall.EPOLL_CTL_MOD, syscall.EPOLLIN|syscall.EPOLLOUT)
			return
		default:
			c.loop.drop(c, errno)
			return
		}
	}
}

func (c *conn) sendHeartbeat() {
	if c.loop.heartbeat == nil {
		c.loop.heartbeat = appendFrame(nil, opText, maskOf(1), []byte(`{"type":"HEARTBEAT"}`))
	}
	c.write(c.loop.heartbeat)
}

// sendClose starts the closing handshake, as a browser's close() does.
func (c *conn) sendClose() {
	c.state = stateClosing
	c.write(appendFrame(nil, opClose, maskOf(c.index), nil))
}

// pause stops reading from c; resume goes on.
func (c *conn) pause()  { c.loop.watch(c, syscall.EPOLL_CTL_DEL, 0) }
func (c *conn) resume() { c.loop.watch(c, syscall.EPOLL_CTL_ADD, syscall.EPOLLIN) }

// read and write call the kernel without telling Go's scheduler: the sockets never
// block, and these two calls are most of what the generator does.
func read(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

func write(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}
