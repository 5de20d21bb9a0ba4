package peer

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// A writerState says who writes to the socket. There is never more than one writer.
type writerState uint8

const (
	unopened writerState = iota // nobody may: OPEN does not go out yet
	idle                        // nobody does: there is nothing to write
	busy                        // somebody does, or is about to
	broken                      // nobody can: a write has failed, and the reader will find out why
)

// A todo is what a change under a lock leaves to be done when no lock is held any more.
type todo uint8

const (
	startWriter todo = 1 << iota // call flush
	wakeOthers                   // call interrupt
	wakeReader                   // call wakeUp
)

// do does what is to be done. The caller must hold no lock.
func (c *Client) do(t todo) {
	if t&wakeOthers != 0 {
		c.interrupt()
	}
	if t&wakeReader != 0 {
		c.wakeUp()
	}
	if t&startWriter != 0 {
		c.flush()
	}
}

// errNoRoom is the error of a message to a client that is not open yet and has as much waiting
// as it may.
var errNoRoom = errors.New("peer: no room before OPEN")

// post is [Client.enqueue] for callers that hold no lock.
func (c *Client) post(p parcel) error {
	t, err := c.enqueue(p)
	c.do(t)
	return err
}

// enqueue accepts a parcel for writing. It never blocks. The caller must call [Client.do] as
// soon as it holds no lock.
func (c *Client) enqueue(p parcel) (todo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	full := c.outbox.full(len(p.frame), c.opts.MaxOutboxMessages, c.opts.MaxOutboxBytes)
	switch {
	case c.stage == online && c.closing.Load() != nil:
		c.refusedOne = true
		return 0, ErrNotConnected
	case c.stage == online && c.writer == unopened:
		return 0, c.enqueueEarlyLocked(p, full)
	case c.stage == online && full:
		return c.endLocked(ReasonSlowConsumer, nil, nil), ErrSlowConsumer
	case c.stage == online:
		c.outbox.push(p)
		return c.startLocked(), nil
	case c.stage != ended || c.pendingSuccessor == nil:
		return 0, ErrNotConnected
	case c.refusedOne || full || c.reason != ReasonReplaced && p.keep <= keepForSamePeer:
		c.refusedOne = c.refusedOne || p.keep > keepForSamePeer
		return 0, ErrNotConnected
	}
	p.detach() // the successor, which is at the door, gets it with the rest
	c.outbox.push(p)
	return 0, nil
}

// enqueueEarlyLocked accepts a parcel for a client that has not read OPEN. A client cannot be
// too slow before it may read, so none is closed.
func (c *Client) enqueueEarlyLocked(p parcel, full bool) error {
	own := p.src == ""
	switch {
	case own && full:
		return ErrSlowConsumer
	case own:
		c.outbox.pushFront(p)
		return nil
	case full || c.refusedOne:
		c.refusedOne = true
		return errNoRoom
	}
	c.outbox.push(p)
	return nil
}

// startLocked makes the caller the writer, unless there is one or nothing may be written. The
// end of a client needs a writer too, exactly once.
func (c *Client) startLocked() todo {
	if c.writer == busy || c.reason == 0 && c.writer != idle {
		return 0
	}
	if c.writer == broken {
		c.farewell = nil
	}
	c.writer = busy
	c.writers.Add(1)
	return startWriter
}

// flush writes the outbox on the caller's goroutine as far as that goes without waiting, and
// leaves the rest to a goroutine. Mostly there is no rest: to start a goroutine for every
// message would cost more than to write it.
func (c *Client) flush() {
	const rounds = 4 // others may go on filling the outbox meanwhile
	for i := 0; i < rounds && c.socket.raw != nil; i++ {
		data, buf := c.batch()
		if data == nil {
			break
		}
		n, err := c.socket.tryWrite(data)
		blocked := n < len(data)
		recycle(buf)
		more, t := c.wrote(n, err)
		if c.do(t); !more {
			c.writers.Done()
			return
		}
		if blocked {
			break
		}
	}
	go c.write()
}

// joinBuffers are for frames that go out in one write.
var joinBuffers = sync.Pool{New: func() any { b := make([]byte, 0, joinedBytes); return &b }}

func recycle(buf *[]byte) {
	if buf != nil {
		joinBuffers.Put(buf)
	}
}

// batch returns what is to be written next, and the pooled buffer that it lies in, if it does. It
// returns nil if the client has ended, a write has failed, or nothing waits.
func (c *Client) batch() (data []byte, buf *[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != 0 {
		return nil, nil
	}
	// Over TLS, and through a wrapper of the host's, nobody knows how much of a write that
	// failed has been written: one message at a time is at stake.
	if c.socket.raw == nil || !c.outbox.joinable() {
		return c.outbox.first(), nil
	}
	buf = joinBuffers.Get().(*[]byte)
	return c.outbox.join((*buf)[:0]), buf
}

// wrote notes the result of a write that did not wait, and reports whether a writer is still
// needed.
func (c *Client) wrote(n int, err error) (more bool, t todo) {
	c.mu.Lock()
	c.noteLocked(n)
	if err != nil && c.reason == 0 {
		c.writer = broken
	} else if c.reason == 0 && len(c.outbox.parcels) == 0 {
		more, t = c.settleLocked()
	} else {
		more = true
	}
	c.mu.Unlock()
	if err != nil {
		c.hurry()
	}
	return more, t
}

// settleLocked lets the writer go when the outbox is empty, unless the client is to end now. It
// reports whether the writer has still to end the stream.
func (c *Client) settleLocked() (ended bool, t todo) {
	if c.closing.Load() != nil {
		return true, c.lastWordLocked()
	}
	c.writer = idle
	return false, 0
}

// noteLocked notes that a write is over and that n bytes of it were written.
func (c *Client) noteLocked(n int) {
	c.traffic.bytesOut.Add(uint64(n))
	c.sent.bytes += uint64(n)
	c.sent.messages += uint64(c.outbox.wrote(n))
	if c.reason != 0 {
		c.broadcastLocked() // somebody may wait for the end of the write
	}
}

// hurry gives the reader a moment to find out why a write has failed. That does not end the
// client by itself: what the client sent before its socket broke, a close frame perhaps, is
// still to be read.
func (c *Client) hurry() {
	c.socket.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	if c.Reason() != 0 {
		c.socket.conn.SetReadDeadline(past) // it ended before that, and its reader was to wake up
	}
}

// write writes the outbox until it is empty or the client has ended, and then ends the stream if
// the client has ended.
//
// A deadline is set without a lock. So that it cannot undo the one by which an end wakes the
// writer, the writer first sets its own, then looks whether the client has ended.
func (c *Client) write() {
	defer c.writers.Done()
	for {
		if c.opts.WriteTimeout > 0 {
			c.socket.conn.SetWriteDeadline(time.Now().Add(c.opts.WriteTimeout))
		}
		data, buf := c.batch()
		if data == nil {
			c.socket.conn.SetWriteDeadline(time.Time{}) // else it would keep flush from trying
			more, ended, t := c.rest()
			if c.do(t); ended {
				c.part()
			}
			if !more {
				return
			}
			continue
		}
		n, err := c.socket.conn.Write(data)
		recycle(buf)
		t, gone := c.wroteSlowly(n, err)
		if c.do(t); gone {
			return
		}
	}
}

// wroteSlowly notes the result of a write that may have waited. It reports whether nothing more
// can be written before the client ends; that will start another writer.
func (c *Client) wroteSlowly(n int, err error) (t todo, gone bool) {
	c.mu.Lock()
	c.noteLocked(n)
	late := errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case c.reason != 0, err == nil, late && n > 0 && c.socket.raw != nil: // it takes what it can
	case late:
		t = c.endLocked(ReasonSlowConsumer, fmt.Errorf("writing: %w", err), nil)
	default:
		c.writer, gone = broken, true
	}
	c.mu.Unlock()
	if gone {
		c.hurry()
	}
	return t, gone
}

// rest lets the writer go if there is nothing more to write. It reports whether there is, and
// whether the writer is the last one, because the client has ended.
func (c *Client) rest() (more, ended bool, t todo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.reason != 0:
		return false, true, 0
	case len(c.outbox.parcels) > 0:
		return true, false, 0
	}
	ended, t = c.settleLocked()
	return false, ended, t
}

var errNotUTF8 = badMessage{errors.New("not UTF-8")}

// read waits for the next message, valid until the next read. It returns nil for a control
// frame, and an error that ends the connection; after one that wraps [ErrBadMessage], reading
// goes on. Only the reader may call it.
func (c *Client) read() ([]byte, error) {
	op, data, err := c.socket.next(c.opts.MaxMessageSize)
	switch {
	case err != nil:
		return nil, err
	case op == opPing:
		c.post(parcel{frame: controlFrame(opPong, data)}) // startReading finds out if the client has ended
		return nil, nil
	case op == opPong:
		return nil, nil
	case op == opClose:
		return nil, c.answerClose(data)
	}
	c.traffic.bytesIn.Add(uint64(len(data)))
	switch {
	case len(data) == 0:
		return []byte{}, nil
	case utf8.Valid(data):
		return data, nil
	case op == opBinary:
		return nil, errNotUTF8
	}
	return nil, &frameError{ReasonInvalidText, "text that is not UTF-8"}
}

// errClosedByClient is the end that the client has asked for.
var errClosedByClient = &frameError{ReasonClientClosed, "closed by the client"}

// answerClose sets the close frame that ends the stream to the client's own (RFC 6455, section
// 5.5.1), unless the server has ended the connection for a reason of its own. It returns the
// error that ends the connection.
func (c *Client) answerClose(payload []byte) error {
	if err := checkClose(payload); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == 0 {
		c.farewell = controlFrame(opClose, payload)
	}
	return errClosedByClient
}

// reasonOf says why a connection ended whose read failed with err.
func reasonOf(err error) DisconnectReason {
	if bad, ok := err.(*frameError); ok { // nobody wraps it
		return bad.why
	}
	return ReasonConnectionLost
}
