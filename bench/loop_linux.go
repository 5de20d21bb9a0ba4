package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// loop drives all clients of a scenario from one goroutine with epoll. A goroutine
// and a buffer for each client would be simpler, but the generator shares its cores
// with the server that it measures.
type loop struct {
	ctx   context.Context
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

func newLoop(ctx context.Context) (*loop, error) {
	l := &loop{ctx: ctx, start: time.Now(), epfd: -1, timer: -1,
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
	_, _, errno := syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(l.timer), 0,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
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
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: c.port, Addr: [4]byte{127, 0, 0, 1}})
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
