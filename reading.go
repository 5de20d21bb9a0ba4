package peer

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	readBuffer  = 64 << 10 // what is read at once from a plain socket
	smallBuffer = 8 << 10  // what a connection may keep of a frame without being counted
)

var (
	readBuffers  = sync.Pool{New: func() any { b := make([]byte, readBuffer); return &b }}
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
)

// A budget bounds what all connections of a server keep of messages that are still arriving.
type budget struct {
	limit int // in bytes; negative: none
	used  atomic.Int64
}

// take counts n more bytes, unless that is over the limit. n may be negative.
func (b *budget) take(n int) bool {
	if used := b.used.Add(int64(n)); n > 0 && b.limit >= 0 && used > int64(b.limit) {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// errPartials ends a connection that would need more of the budget than there is.
var errPartials = &frameError{ReasonOverloaded, "all clients together have too much of unfinished messages"}

// errHungUp is the end of the stream.
var errHungUp = errors.New("the other side has closed the connection")

// next waits for a message or a control frame and returns its opcode and payload, which is
// valid until the next call. A message of more than limit bytes is refused from its header; a
// negative limit means none. An error ends the connection, but for a read deadline that has
// passed: then next may be called again.
func (s *socket) next(limit int) (op byte, payload []byte, err error) {
	for {
		s.release()
		if err := s.awaitHeader(); err != nil {
			return 0, nil, err
		}
		h := s.head
		if !s.added {
			s.whole = true
			if !h.isControl() {
				if s.whole, err = s.message.add(h, limit); err != nil {
					return 0, nil, err
				}
			}
			s.added = true
		}
		if err := s.await(h.size + h.n); err != nil {
			return 0, nil, err
		}
		whole := s.whole
		payload = s.unread[h.size : h.size+h.n]
		s.unread = s.unread[h.size+h.n:]
		s.head, s.added = header{}, false
		unmask(payload, h.key)
		if h.isControl() {
			return h.op, payload, nil
		}
		if h.op == opContinuation || !whole {
			if err := s.addPiece(payload); err != nil {
				return 0, nil, err
			}
			payload = s.pieces[:len(s.pieces):len(s.pieces)]
		}
		if whole {
			op = opText
			if s.message.binary {
				op = opBinary
			}
			return op, payload, nil
		}
	}
}

// hasMessage reports whether next would return a message, or the end of one, without waiting
// for anything to arrive.
func (s *socket) hasMessage() bool {
	if s.head.size == 0 {
		s.head, _ = parseHeader(s.unread) // next meets the error again
	}
	h := s.head
	return h.size > 0 && len(s.unread) >= h.size+h.n && h.fin && !h.isControl()
}

// awaitHeader waits until the header of the next frame is known.
func (s *socket) awaitHeader() (err error) {
	for s.head.size == 0 {
		if s.head, err = parseHeader(s.unread); err != nil || s.head.size > 0 {
			return err
		}
		if err = s.fill(maxHeader); err != nil {
			return err
		}
	}
	return nil
}

// await waits until n bytes are unread.
func (s *socket) await(n int) error {
	for len(s.unread) < n {
		if err := s.fill(n); err != nil {
			return err
		}
	}
	return nil
}

// addPiece adds a fragment to those of the message that is arriving.
func (s *socket) addPiece(p []byte) error {
	if need := len(s.pieces) + len(p); need > cap(s.pieces) {
		grown := make([]byte, len(s.pieces), max(need, 2*cap(s.pieces)))
		copy(grown, s.pieces)
		if !s.count(cap(s.own) + cap(grown)) {
			return errPartials
		}
		s.pieces = grown
	}
	s.pieces = append(s.pieces, p...)
	return nil
}

// count has the budget count what the socket keeps of unfinished messages, n bytes, beyond
// what is free. It reports whether the budget allows that.
func (s *socket) count(n int) bool {
	n = max(0, n-smallBuffer)
	if !s.partials.take(n - s.counted) {
		return false
	}
	s.counted = n
	return true
}

// release forgets the last message. The pooled buffer stays for what comes next, until the
// socket waits for that.
func (s *socket) release() {
	if !s.message.begun && !s.added {
		s.pieces = nil
	}
	if len(s.unread) == 0 && s.own != nil {
		s.own, s.unread = nil, nil
	}
	if s.counted > 0 {
		s.count(cap(s.own) + cap(s.pieces))
	}
}

// discard forgets everything that was read.
func (s *socket) discard() {
	s.returnBuffer()
	s.unread, s.message.begun, s.added = nil, false, false
	s.release()
}

// leaveBuffers moves what is unread to another buffer. The goroutine that reads the last message
// keeps the one that it lies in.
func (s *socket) leaveBuffers() {
	s.own = bytes.Clone(s.unread)
	s.buf, s.unread, s.pieces = nil, s.own, nil
}

func (s *socket) returnBuffer() {
	if s.buf == nil {
		return
	}
	if s.raw != nil {
		readBuffers.Put(s.buf)
	} else {
		smallBuffers.Put(s.buf)
	}
	s.buf = nil
}

// fill waits for input and reads it behind what is unread. want is how much is needed in all,
// as far as that is known. An idle connection keeps the stack that it waits on, so nothing
// deep calls fill.
func (s *socket) fill(want int) error {
	s.want = want
	if err := s.makeRoom(); err != nil {
		return err
	}
	before := len(s.unread)
	s.err = nil
	if s.raw == nil {
		s.err = s.readConn()
	} else if err := s.raw.Read(s.ready); err != nil {
		s.err = err
	}
	if len(s.unread) > before {
		s.touch()
		return nil
	}
	if s.err == nil || s.err == io.EOF {
		s.err = errHungUp
	}
	return s.err
}

// makeRoom moves what is unread to the start of its buffer, and to a larger buffer if it is full.
func (s *socket) makeRoom() error {
	b := s.own
	if s.buf != nil {
		b = *s.buf
	}
	if n := copy(b, s.unread); n < len(b) || n == 0 {
		s.unread = b[:n]
		return nil
	}
	return s.keep(min(s.want, 2*len(b)))
}

// keep moves what is unread to a buffer of n bytes of the socket's own.
func (s *socket) keep(n int) error {
	if !s.count(n + cap(s.pieces)) {
		return errPartials
	}
	own := make([]byte, n)
	kept := copy(own, s.unread)
	s.returnBuffer()
	s.own, s.unread = own, own[:kept]
	return nil
}

// room returns where to read to, behind what is unread. It takes a buffer from a pool if there
// is none.
func (s *socket) room(pool *sync.Pool) []byte {
	if s.own != nil {
		return s.own[len(s.unread):]
	}
	if s.buf == nil {
		s.buf = pool.Get().(*[]byte)
	}
	return (*s.buf)[len(s.unread):]
}

// extend notes that n bytes were read to room.
func (s *socket) extend(n int) {
	b := s.own
	if b == nil {
		b = *s.buf
	}
	s.unread = b[:len(s.unread)+n]
}

// park prepares for waiting: the pooled buffer goes back, and what is unread moves to a buffer
// that is as small as can be.
func (s *socket) park() {
	if s.own == nil {
		if len(s.unread) == 0 {
			s.returnBuffer()
			s.unread = nil
		} else {
			s.err = s.keep(max(len(s.unread)+1, min(s.want, smallBuffer)))
		}
	}
	s.noteWaiting()
}

// freeBuffer gives the pooled buffer back while the reader does something else for long. What was read
// last is not valid any more.
func (s *socket) freeBuffer() error {
	s.release()
	if s.buf == nil {
		return nil
	}
	if len(s.unread) > 0 {
		return s.keep(len(s.unread))
	}
	s.returnBuffer()
	s.unread = nil
	return nil
}

// noteWaiting notes that the reader has dealt with all that came.
func (s *socket) noteWaiting() {
	s.activity.Store(s.activity.Load() | 1)
	s.heard()
}

// readReady is called by the runtime's poller, first at once and then when the socket is
// readable. It takes a buffer only for the length of the call, unless there is something to
// keep in it.
func (s *socket) readReady(fd uintptr) bool {
	p := s.room(&readBuffers)
	if v := s.activity.Load(); v&1 != 0 {
		s.activity.Store(v &^ 1) // before the bytes leave the socket, where peek looks for them
	}
	n, err := readSocket(fd, p)
	for err == syscall.EINTR {
		n, err = readSocket(fd, p)
	}
	if wouldBlock(err) {
		s.park()
		return s.err != nil
	}
	if err == nil {
		s.extend(n)
	}
	s.err = err
	return true
}

// readConn reads from a connection that is not a plain socket. Between two frames it waits with
// a single byte, so as to hold no buffer meanwhile.
func (s *socket) readConn() error {
	if len(s.unread) == 0 {
		s.own = nil
		s.park()
		n, err := s.readSome(s.one[:])
		if n > 0 {
			s.room(&smallBuffers)[0] = s.one[0]
			s.extend(1)
		}
		return err
	}
	s.noteWaiting()
	n, err := s.readSome(s.room(&smallBuffers))
	s.extend(n)
	return err
}

// readSome reads at least one byte. A wrapper of the host's may return nothing and no error, which
// is not the end of the stream (see [io.Reader]); one that does nothing else is given up.
func (s *socket) readSome(p []byte) (n int, err error) {
	for range 100 {
		if n, err = s.conn.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}
