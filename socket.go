package peer

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A socket is one connection to a client: whole messages in, bytes out. It knows no client.
//
// Only one goroutine at a time may read, and only one may write. While it waits for a
// message to begin, a socket has no buffer.
type socket struct {
	// Fixed at construction.
	conn     net.Conn
	raw      syscall.RawConn // nil if conn is not a plain socket: it is TLS, or wrapped by the host, or the system is Windows
	sealed   bool            // TLS: after a write that was cut off nothing can be written
	start    time.Time
	partials *budget // of the server
	ready    func(fd uintptr) bool
	try      func(fd uintptr) bool

	// Owned by the reader; by watch until the handshake is over; by awaitClose at the end.
	buf     *[]byte  // pooled; nil: none
	own     []byte   // in the place of buf while the rest of a frame is waited for; nil: none
	unread  []byte   // what has been read and not taken, a part of buf or own
	want    int      // how long unread has to be
	head    header   // of the frame that unread begins with; zero: not known yet
	added   bool     // message knows of head
	whole   bool     // with the frame of head the message is whole; if added
	message assembly // the message that is arriving
	pieces  []byte   // its fragments so far
	counted int      // bytes of own and pieces that partials counts
	err     error    // of the last read
	one     [1]byte  // what a socket that is not plain is waited for with

	// Owned by the writer.
	writing *attempt // nil: no write is under way

	activity atomic.Int64 // when the last byte came, in nanoseconds since start; the lowest bit is set while the reader waits
	watcher  atomic.Pointer[chan struct{}]
}

// Times that a peer on the other side of a socket cannot stretch.
const (
	farewellTimeout = 250 * time.Millisecond // to write the last frames to a client that ends
	lingerTimeout   = time.Second            // for a client to answer the close frame
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// newSocket returns the socket of a connection of which early has been read already.
func newSocket(conn net.Conn, early []byte, partials *budget) *socket {
	s := &socket{conn: conn, start: time.Now(), partials: partials}
	if len(early) > 0 {
		s.own, s.unread = early, early
	}
	s.raw = rawConn(conn)
	_, s.sealed = conn.(overTLS)
	s.ready, s.try = s.readReady, s.writeReady
	return s
}

// rawConn returns what a plain socket is read with, and nil for another connection. A wrapper
// of the host's is to see the bytes, even if it embeds a plain socket. On Windows a socket is
// not read like a file.
func rawConn(conn net.Conn) (raw syscall.RawConn) {
	if runtime.GOOS == "windows" {
		return nil
	}
	switch conn := conn.(type) {
	case *net.TCPConn:
		raw, _ = conn.SyscallConn()
	case *net.UnixConn:
		raw, _ = conn.SyscallConn()
	}
	return raw
}

// touch notes a sign of life.
func (s *socket) touch() {
	s.activity.Store(int64(time.Since(s.start)) &^ 1)
	s.heard()
}

// lastSeen returns when the last byte came, since start.
func (s *socket) lastSeen() time.Duration { return time.Duration(s.activity.Load() &^ 1) }

// waits reports whether the reader waits for input and has dealt with all that came before.
func (s *socket) waits() bool { return s.activity.Load()&1 == 1 }

// watchActivity returns a channel that is closed when a byte comes, when the reader has dealt
// with all that came, or when heard is called.
func (s *socket) watchActivity() <-chan struct{} {
	ch := make(chan struct{})
	for {
		old := s.watcher.Load()
		if old != nil {
			return *old
		}
		if s.watcher.CompareAndSwap(nil, &ch) {
			return ch
		}
	}
}

// heard wakes those that watch the activity.
func (s *socket) heard() {
	if s.watcher.Load() != nil {
		if ch := s.watcher.Swap(nil); ch != nil {
			close(*ch)
		}
	}
}

// What a look into a socket shows.
type peeked uint8

const (
	peekedUnknown peeked = iota // the connection is wrapped, or the system cannot look
	peekedNothing               // nothing is unread
	peekedBytes
	peekedEnd // the end of the stream, and nothing before it
)

// peek looks into the socket, or into the one below TLS, for what the reader has not taken yet.
func (s *socket) peek() (seen peeked) {
	raw := s.raw
	if tls, ok := s.conn.(overTLS); ok {
		raw = rawConn(tls.NetConn())
	}
	if raw == nil {
		return peekedUnknown
	}
	if raw.Control(func(fd uintptr) { seen = peekSocket(fd) }) != nil {
		return peekedEnd // it is closed
	}
	return seen
}

// An attempt is a write that does not wait.
type attempt struct {
	p   []byte
	n   int // bytes that were written
	err error
}

var attempts = sync.Pool{New: func() any { return new(attempt) }}

// tryWrite writes as much of p as a plain socket takes at once.
func (s *socket) tryWrite(p []byte) (int, error) {
	a := attempts.Get().(*attempt)
	*a = attempt{p: p}
	s.writing = a
	if err := s.raw.Write(s.try); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		a.err = err
	}
	n, err := a.n, a.err
	s.writing, *a = nil, attempt{}
	attempts.Put(a)
	return n, err
}

// writeReady is called by the runtime's poller. It never asks to wait.
func (s *socket) writeReady(fd uintptr) bool {
	a := s.writing
	n, err := writeSocket(fd, a.p)
	for err == syscall.EINTR {
		n, err = writeSocket(fd, a.p)
	}
	switch {
	case err == nil:
		a.n = n
	case !wouldBlock(err):
		a.err = err
	}
	return true
}

// wouldBlock reports whether err says that there is nothing to do now. It compares exactly:
// [syscall.Errno.Temporary] is true for ETIMEDOUT too, which must end the connection.
func wouldBlock(err error) bool { return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK }

// maxEarly bounds what a client may send before it is answered.
const maxEarly = 64 << 10

// watch reads on a goroutine and calls gone if the other side closes. stop ends it; what was
// read stays for next.
func (s *socket) watch(gone func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		for err == nil && len(s.unread) < maxEarly {
			err = s.fill(maxEarly)
		}
		if err != nil && err != errPartials && !errors.Is(err, os.ErrDeadlineExceeded) {
			gone()
		}
	}()
	return func() {
		// The adaptors of some frameworks clear the deadlines after the upgrade, so once may not be
		// enough.
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for waits := true; waits; {
			s.conn.SetReadDeadline(past)
			select {
			case <-done:
				waits = false
			case <-again.C:
			}
		}
		s.conn.SetReadDeadline(time.Time{})
	}
}

// A halfCloser is a TCP, Unix or TLS connection.
type halfCloser interface{ CloseWrite() error }

// overTLS is a TLS connection.
type overTLS interface{ NetConn() net.Conn }

// closeWrite says that nothing more will come.
func (s *socket) closeWrite() {
	half, ok := s.conn.(halfCloser)
	if !ok {
		return
	}
	if tls, ok := s.conn.(overTLS); ok { // it allows itself five seconds, which nobody asked for
		defer time.AfterFunc(farewellTimeout, func() { tls.NetConn().SetWriteDeadline(past) }).Stop()
	}
	half.CloseWrite()
}

// awaitClose reads until the client's close frame has come, the stream ends, or the read
// deadline passes. Everything else that comes is ignored.
func (s *socket) awaitClose() {
	s.own = append(make([]byte, 0, max(smallBuffer, len(s.unread))), s.unread...) // one buffer is enough for all that comes
	s.returnBuffer()
	s.unread, s.own = s.own, s.own[:cap(s.own)]
	for {
		if err := s.awaitHeader(); err != nil {
			if bad := (*frameError)(nil); errors.As(err, &bad) { // nobody can say where the next frame begins
				s.drain()
			}
			return
		}
		op, rest := s.head.op, s.head.size+s.head.n
		s.head, s.added = header{}, false
		for rest > 0 {
			if s.await(min(rest, 2)) != nil { // for one byte, readConn would read one byte
				return
			}
			n := min(rest, len(s.unread))
			s.unread = s.unread[n:]
			rest -= n
		}
		if op == opClose {
			return
		}
	}
}

// drain reads until the stream ends or the read deadline passes.
func (s *socket) drain() {
	s.discard()
	io.Copy(io.Discard, s.conn)
}

// shut closes the connection.
func (s *socket) shut() {
	if tls, ok := s.conn.(overTLS); ok {
		tls.NetConn().Close() // closing the TLS layer first could wait for five seconds to say so
	}
	s.conn.Close()
}
