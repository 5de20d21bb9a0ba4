package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
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

// loop drives all clients of a scenario from one goroutine with epoll. A goroutine
// and a buffer for each client would be simpler, but the generator shares its cores
// with the server that it measures.
type loop struct {
	ctx   context.Context
	port  int
	start time.Time
	epfd  int
	timer int

	// onOpen, onMessage and onClosed are the scenario's. A message is valid until
	// the call returns; now is the time since start, in nanoseconds.
	onOpen    func(c *conn)
	onMessage func(c *conn, k kind, msg []byte, now int64)
	onClosed  func(c *conn)

	conns      []*conn // by file descriptor
	generation int32
	addresses  int // source addresses handed out
	heartbeat  []byte
	buf        []byte
	events     []syscall.EpollEvent
	pacers     []*pacer
	err        error // the first failure; it ends run
}

const (
	maxPending = 64 // connections being made at a time
	bufferSize = 256 << 10
)

func newLoop(ctx context.Context, port int) (*loop, error) {
	l := &loop{ctx: ctx, port: port, start: time.Now(), epfd: -1, timer: -1,
		buf: make([]byte, bufferSize), events: make([]syscall.EpollEvent, 256)}
	var err error
	if l.epfd, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	const monotonic, flags = 1, syscall.O_NONBLOCK | syscall.O_CLOEXEC
	fd, _, errno := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, monotonic, flags, 0)
	if errno != 0 {
		l.close()
		return nil, fmt.Errorf("timerfd: %w", errno)
	}
	l.timer = int(fd)
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(l.timer)}
	if err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, l.timer, &ev); err != nil {
		l.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return l, nil
}

// close resets every connection and frees what the loop holds.
func (l *loop) close() {
	for fd, c := range l.conns {
		if c != nil {
			// A reset leaves no socket in TIME_WAIT behind.
			syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
			syscall.Close(fd)
		}
	}
	l.conns = nil
	for _, fd := range []int{l.timer, l.epfd} {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

// now returns the time since the loop was made, in nanoseconds.
func (l *loop) now() int64 { return int64(time.Since(l.start)) }

// fail ends run with the first error.
func (l *loop) fail(format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf(format, args...)
	}
}

// run serves the sockets until done reports true or d is over; it reports which.
// done may be nil.
func (l *loop) run(d time.Duration, done func() bool) (bool, error) {
	end := l.start.Add(time.Duration(l.now()) + d)
	for {
		if l.err != nil {
			return false, l.err
		}
		if done != nil && done() {
			return true, nil
		}
		if err := l.ctx.Err(); err != nil {
			return false, context.Cause(l.ctx)
		}
		left := time.Until(end)
		if left <= 0 {
			return false, nil
		}
		// Rounded up, so that the last millisecond is not spent spinning.
		wait := min(left+time.Millisecond-1, 100*time.Millisecond)
		n, err := syscall.EpollWait(l.epfd, l.events, int(wait/time.Millisecond))
		if err != nil && err != syscall.EINTR {
			return false, fmt.Errorf("epoll: %w", err)
		}
		for i := range max(n, 0) {
			ev := &l.events[i]
			if int(ev.Fd) == l.timer {
				l.tick()
				continue
			}
			// The number may have been given to a new socket within this batch.
			c := l.conns[ev.Fd]
			if c != nil && c.generation == ev.Pad {
				l.ready(c, ev.Events)
			}
		}
	}
}

// must is run for what has to happen within d.
func (l *loop) must(what string, d time.Duration, done func() bool) error {
	ok, err := l.run(d, done)
	if err == nil && !ok {
		err = fmt.Errorf("%s: not within %v", what, d)
	}
	return err
}

// pacer calls send at a fixed rate, whatever comes back: an open loop.
type pacer struct {
	interval float64 // nanoseconds
	next     float64
	end      int64
	sent     int
	send     func(i int)
	late     []int64 // how late each call was, in nanoseconds
}

// pace adds a pacer of rate calls a second for d. All pacers are set up before run.
func (l *loop) pace(rate float64, d time.Duration, send func(i int)) *pacer {
	now := l.now()
	p := &pacer{interval: 1e9 / rate, next: float64(now), end: now + int64(d), send: send,
		late: make([]int64, 0, int(rate*d.Seconds())+1)}
	l.pacers = append(l.pacers, p)
	total := 0.0
	for _, p := range l.pacers {
		total += 1e9 / p.interval
	}
	l.setTimer(time.Duration(min(max(1e9/total, 50e3), 1e6)))
	return p
}

// unpace removes all pacers.
func (l *loop) unpace() {
	l.pacers = nil
	l.setTimer(0)
}

func (l *loop) setTimer(d time.Duration) {
	spec := [2]syscall.Timespec{syscall.NsecToTimespec(int64(d)), syscall.NsecToTimespec(int64(d))}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(l.timer), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if errno != 0 {
		l.fail("timerfd: %w", errno)
	}
}

func (l *loop) tick() {
	var ticks [8]byte
	read(l.timer, ticks[:])
	for _, p := range l.pacers {
		for {
			now := l.now()
			if float64(now) < p.next || p.next >= float64(p.end) {
				break
			}
			p.late = append(p.late, now-int64(p.next))
			p.next += p.interval
			p.send(p.sent)
			p.sent++
		}
	}
}

// connect starts the connection of c.
func (l *loop) connect(c *conn) {
	c.loop, c.state = l, stateConnecting
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		l.fail("socket: %w", err)
		return
	}
	c.fd = fd
	l.generation++
	c.generation = l.generation
	for len(l.conns) <= fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[fd] = c

	// Each client has an address of its own: one address runs out of ports at
	// 28,000 connections, those in TIME_WAIT included. The port is chosen at
	// connect, where it needs to be unique for this destination only.
	const bindAddressNoPort = 24
	source := &syscall.SockaddrInet4{Addr: [4]byte{127, 0, byte(1 + l.addresses/250%250), byte(1 + l.addresses%250)}}
	l.addresses++
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.Bind(fd, source))
	if c.rcvbuf > 0 {
		err = errors.Join(err, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, c.rcvbuf))
	}
	if err != nil {
		l.fail("preparing a socket: %w", err)
		return
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: l.port, Addr: [4]byte{127, 0, 0, 1}})
	switch err {
	case nil: // usual on loopback
		l.watch(c, syscall.EPOLL_CTL_ADD, syscall.EPOLLIN)
		l.upgrade(c)
	case syscall.EINPROGRESS:
		l.watch(c, syscall.EPOLL_CTL_ADD, syscall.EPOLLOUT)
	default:
		l.fail("connect: %w", err)
	}
}

func (l *loop) watch(c *conn, op int, events uint32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(c.fd), Pad: c.generation}
	if err := syscall.EpollCtl(l.epfd, op, c.fd, &ev); err != nil {
		l.fail("epoll: %w", err)
	}
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
		c.id, uint64(c.generation)*2654435761, l.port))
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
