package peer

import (
	"slices"
	"sync"
	"time"
)

// end ends the connection for a reason, unless it has ended already. It does not
// wait: the reader wakes up and cleans up. cause may be nil. The last message
// that the client is to get before the close frame may be nil too.
func (c *Client) end(why DisconnectReason, cause error, last *Message) bool {
	c.mu.Lock()
	if c.reason != 0 {
		c.mu.Unlock()
		return false
	}
	t := c.endLocked(why, cause, last)
	c.mu.Unlock()
	c.do(t)
	return true
}

// quit is end for the reader, which has read its last. If nothing has to be waited for, the
// reader closes the socket itself, for a goroutine would cost more.
func (c *Client) quit(why DisconnectReason, cause error) {
	c.mu.Lock()
	c.reader = gone
	c.broadcastLocked()
	var t todo
	if c.reason == 0 {
		t = c.endLocked(why, cause, nil)
	}
	lingers := why != ReasonConnectionLost && (why != ReasonClientClosed || c.pinged)
	c.mu.Unlock()
	if t&startWriter == 0 || c.socket.raw == nil || lingers {
		c.do(t)
		return
	}
	c.noteEnd() // nobody has to be woken
	c.part()
	c.writers.Done()
}

// evict is end by a newcomer that is to have the id. If it returns true, it is up
// to the newcomer to take the client out of the realm, and the client stays in it
// until then: nobody else gets the id meanwhile, nor what is sent to it.
func (c *Client) evict(successor *Client, why DisconnectReason, last *Message) bool {
	c.mu.Lock()
	if c.reason != 0 {
		c.mu.Unlock()
		return false
	}
	c.pendingSuccessor = successor
	t := c.endLocked(why, nil, last)
	c.mu.Unlock()
	c.do(t)
	return true
}

// A lastWord is how [Client.CloseWith] ends a client.
type lastWord struct {
	code  uint16
	text  string
	until time.Duration // when the outbox is no longer waited for, since socket.start; 0: never
}

// closeLocked ends the client when its outbox has been written.
func (c *Client) closeLocked(w *lastWord) todo {
	c.closing.Store(w)
	if c.writer == broken || c.writer == idle && len(c.outbox.parcels) == 0 {
		return c.lastWordLocked()
	}
	if c.opts.WriteTimeout > 0 {
		w.until = time.Since(c.socket.start) + c.opts.WriteTimeout
		c.setAliveLocked(c.opts.WriteTimeout)
	}
	return 0
}

// lastWordLocked ends the client with its last word.
func (c *Client) lastWordLocked() todo {
	w := c.closing.Load()
	c.farewell = closeFrame(w.code, w.text)
	if w.text == "" {
		return c.endLocked(ReasonRemoved, nil, nil)
	}
	last := notice(TypeError, w.text)
	return c.endLocked(ReasonRemoved, nil, &last)
}

// endLocked makes the outbox final. The caller must call [Client.do] as soon as it holds no
// lock: a write that is under way either is complete already or is not going to be, as its
// socket's buffer is full, so it is cut off instead of waited for.
func (c *Client) endLocked(why DisconnectReason, cause error, last *Message) todo {
	c.reason, c.cause = why, cause
	if code, text := why.closeCode(); code != 0 && c.farewell == nil {
		c.farewell = closeFrame(code, text)
	}
	if why == ReasonClientClosed { // pings that came before its close frame are answered (RFC 6455, section 5.5.2)
		c.farewell = append(c.outbox.pongs(), c.farewell...)
	}
	if last != nil {
		b, _ := last.encode() // the server's own payload is JSON
		c.farewell = append(textFrame(b), c.farewell...)
	}
	if c.writer == unopened && c.stage == online {
		c.farewell = append(slices.Clone(openFrame), c.farewell...)
	}
	c.stage = ended
	if c.alive != nil {
		c.alive.Stop()
	}
	c.interrupting = true
	return c.startLocked() | wakeOthers
}

// interrupt wakes the reader, the writer, and whoever waits for the end of a client that has
// just ended. Over TLS nothing could follow a write that was cut off, not even why the
// connection ends: there it gets a moment, unless a successor waits for the id and there is no
// message for the client.
func (c *Client) interrupt() {
	c.mu.Lock()
	deadline := past
	if c.socket.sealed && c.outbox.inflight > 0 && (c.pendingSuccessor == nil || c.reason == ReasonOverridden) {
		deadline = time.Now().Add(farewellTimeout)
	}
	meanwhile := c.meanwhile
	if c.meanwhile = nil; meanwhile != nil {
		c.writers.Add(1)
	}
	c.mu.Unlock()
	c.socket.conn.SetWriteDeadline(deadline)
	c.socket.conn.SetReadDeadline(past)
	if meanwhile != nil {
		go func() {
			defer c.writers.Done()
			meanwhile()
		}()
	}
	c.noteEnd()
}

// noteEnd tells those that wait for it, the host among them, that the client has ended.
func (c *Client) noteEnd() {
	c.socket.heard() // a probe need not wait for a client that has ended
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		wakeMonitor() // the host may compute when it learns of it
		cancel(c.reason)
	}
	c.mu.Lock()
	c.interrupting = false
	c.broadcastLocked()
	c.mu.Unlock()
}

// part ends the stream of a client that has ended: it writes the last frames, waits a moment for
// the client's close frame (RFC 6455, section 7.1.1), and closes the socket. It does not wait for
// functions of the host.
func (c *Client) part() {
	c.awaitEnd()
	c.mu.Lock()
	last, why := c.farewell, c.reason
	cut := c.outbox.offset > 0 // the stream ends inside a frame, so no other can follow
	c.mu.Unlock()
	if s := c.socket; last != nil && !cut {
		s.conn.SetWriteDeadline(time.Now().Add(farewellTimeout))
		n, err := s.conn.Write(last)
		c.traffic.bytesOut.Add(uint64(n))
		c.mu.Lock()
		c.sent.bytes += uint64(n)
		c.mu.Unlock()
		if err == nil && why != ReasonConnectionLost {
			c.linger(why)
		}
	}
	c.socket.shut()
	c.takeSocket()
	c.socket.discard()
}

// linger waits for the other side, which has been told of the end.
func (c *Client) linger(why DisconnectReason) {
	s := c.socket
	c.mu.Lock()
	pinged := c.pinged
	c.mu.Unlock()
	switch {
	case why == ReasonClientClosed && !pinged && !s.sealed:
		return // both close frames are out, and nothing else is on its way
	case why == ReasonClientClosed || why == ReasonProtocolError:
		// Nothing that comes can be made sense of, but to close a socket that has unread input
		// would reset it, and what is on its way to the client would be lost.
		s.closeWrite()
		c.takeSocket()
		s.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
		s.drain()
		return
	}
	c.takeSocket()
	s.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	s.awaitClose()
	if s.sealed {
		s.closeWrite()
	}
}

// takeSocket waits until the reader is out of the socket, and leaves it the buffers that it may
// still use.
func (c *Client) takeSocket() {
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.reader != reading && c.wake != waking })
	inUse := c.reader == paused
	c.mu.Unlock()
	if inUse {
		c.socket.leaveBuffers()
	}
}

// awaitLocked waits until cond holds. Functions that change what cond reads call broadcastLocked.
func (c *Client) awaitLocked(cond func() bool) {
	for !cond() {
		if c.changed == nil {
			c.changed = sync.NewCond(&c.mu)
		}
		c.changed.Wait()
	}
}

func (c *Client) broadcastLocked() {
	if c.changed != nil {
		c.changed.Broadcast()
	}
}

// awaitSuccessor reports whether the client was evicted, and waits until it is out of
// the realm if so.
func (c *Client) awaitSuccessor() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitLocked(func() bool { return c.pendingSuccessor == nil || c.stage >= removed })
	return c.pendingSuccessor != nil
}

// mayBeReplacedBy reports whether a client that has ended leaves its id to by: it had
// ended by itself, or by evicted it.
func (c *Client) mayBeReplacedBy(by *Client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pendingSuccessor == nil || c.pendingSuccessor == by
}

// awaitWrite waits until no write is under way on a client that has ended. That takes
// microseconds, or [farewellTimeout] over TLS, see [Client.interrupt].
func (c *Client) awaitWrite() {
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.outbox.inflight == 0 })
	c.mu.Unlock()
}

// takeUnwritten returns what a client that has ended was still to be sent, as far as its
// retention is at least least. by is the client that takes the id over, if there is one. dropped
// counts the other messages. A second call returns nothing.
func (c *Client) takeUnwritten(by *Client, least retention) (kept []parcel, dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stage >= removed {
		return nil, 0
	}
	c.successor, c.stage = by, removed
	c.broadcastLocked()
	return c.outbox.take(least)
}

// finish notes that the last event of this connection has returned.
func (c *Client) finish() {
	c.mu.Lock()
	c.stage = finished
	c.broadcastLocked()
	c.mu.Unlock()
}

// awaitFinish waits for [Client.finish].
func (c *Client) awaitFinish() {
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.stage == finished })
	c.mu.Unlock()
}

// awaitEnd waits until everybody knows that the client has ended.
func (c *Client) awaitEnd() {
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.reason != 0 && !c.interrupting })
	c.mu.Unlock()
}
