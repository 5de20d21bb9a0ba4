package peertest

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A stream is one direction of a connection. It has a buffer without a bound, so a write never waits, as a write of
// little to a socket of the system does not. With the ends of net.Pipe, a client could not send a second message while
// a function of the host handles the first one.
type stream struct {
	mu       sync.Mutex // guards the following
	buf      []byte     // written and not read
	closed   bool       // by the writer: the reader gets the rest, then io.EOF
	broken   bool       // by the reader: writes fail
	deadline time.Time  // of reads; zero: none
	changed  chan struct{}
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// set changes the stream and wakes its reader.
func (s *stream) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) write(p []byte) (n int, err error) {
	s.set(func() {
		if s.broken || s.closed {
			err = io.ErrClosedPipe
			return
		}
		s.buf, n = append(s.buf, p...), len(p)
	})
	return n, err
}

func (s *stream) read(p []byte) (int, error) {
	for {
		n, changed, limit, err := s.tryRead(p)
		if changed == nil {
			return n, err
		}
		var over <-chan time.Time
		if limit > 0 {
			timer := time.NewTimer(limit)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-changed:
		case <-over:
		}
	}
}

// tryRead reads what there is. If there is nothing, changed says when to try again, and limit says how far away the
// deadline is.
func (s *stream) tryRead(p []byte) (n int, changed <-chan struct{}, limit time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deadline.IsZero() {
		limit = time.Until(s.deadline)
	}
	switch {
	case s.broken:
		return 0, nil, 0, net.ErrClosed
	case limit < 0 || limit == 0 && !s.deadline.IsZero():
		return 0, nil, 0, os.ErrDeadlineExceeded
	case len(s.buf) > 0:
		n = copy(p, s.buf)
		s.buf = s.buf[n:]
		return n, nil, 0, nil
	case s.closed:
		return 0, nil, 0, io.EOF
	}
	return 0, s.changed, limit, nil
}

// A conn is one end of a connection in memory. It has the addresses of a TCP connection, because middleware expects an
// IP address and a port in the field RemoteAddr of a request.
type conn struct {
	in, out       *stream
	local, remote net.Addr
	frozen        atomic.Bool // what is read is thrown away, and what is written too
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.in.read(p)
		if err != nil || !c.frozen.Load() {
			return n, err
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if c.frozen.Load() {
		return len(p), nil
	}
	return c.out.write(p)
}

// Close lets the other end read what has been written, and then io.EOF.
func (c *conn) Close() error {
	c.out.set(func() { c.out.closed = true })
	c.in.set(func() { c.in.broken = true })
	return nil
}

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline has no effect, because no write waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
