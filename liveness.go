package peer

import "time"

// checkAlive runs when the client may have been silent for too long.
func (c *Client) checkAlive() {
	c.mu.Lock()
	if c.reason != 0 {
		c.mu.Unlock()
		return
	}
	var t todo
	limit, silent := c.opts.AliveTimeout, c.silenceLocked()
	switch {
	case silent >= limit:
		t = c.endLocked(ReasonAliveTimeout, nil, nil)
	case silent >= limit/2:
		t = c.pingLocked()
		c.alive.Reset(limit - silent)
	default:
		c.alive.Reset(limit/2 - silent)
	}
	c.mu.Unlock()
	c.do(t)
}

// pingLocked puts a ping into the outbox, full or not: no client is closed for being asked.
func (c *Client) pingLocked() todo {
	c.pinged = true
	c.outbox.push(parcel{frame: pingFrame})
	return c.startLocked()
}

// silence returns for how long nothing has come from the client.
func (c *Client) silence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silenceLocked()
}

// silenceLocked is silence. While the reader is paused, that says nothing about the client.
func (c *Client) silenceLocked() time.Duration {
	if c.reader == paused {
		return 0
	}
	return time.Since(c.socket.start) - max(c.socket.lastSeen(), c.pausedUntil)
}

// A readerState says where the reader is. Before there is a reader, it is the handshake.
type readerState uint8

const (
	reading readerState = iota // it has the socket
	paused                     // it is out of the socket, and what it last read is still in use
	gone                       // it is out of the socket for good
)

// startReading lets the reader into the socket, unless the client has ended.
func (c *Client) startReading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != 0 {
		return false
	}
	c.reader = reading
	return true
}

// stopReading notes that the reader does not come back to the socket.
func (c *Client) stopReading() { c.setReader(gone) }

func (c *Client) setReader(state readerState) {
	c.mu.Lock()
	c.reader = state
	c.broadcastLocked()
	c.mu.Unlock()
}

// pauseReading runs f on the goroutine of the reader. Meanwhile the client is not read, and
// silence is not counted. If the client ends meanwhile, the reader does not get the socket back,
// and another goroutine calls meanwhile, unless that is nil.
func (c *Client) pauseReading(f, meanwhile func()) {
	c.mu.Lock()
	if c.reader != reading {
		c.mu.Unlock()
		f()
		return
	}
	c.reader = paused
	if c.reason == 0 {
		c.meanwhile = meanwhile
	}
	c.broadcastLocked()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		if c.reason == 0 {
			c.reader = reading
		}
		c.meanwhile = nil
		c.pausedUntil = time.Since(c.socket.start)
		c.mu.Unlock()
		c.socket.heard()
	}()
	f()
}

// readerIs reports whether the reader is in this state.
func (c *Client) readerIs(state readerState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reader == state
}

// probe pings the client and reports whether anything came from it in time.
func (c *Client) probe(timeout time.Duration) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	heard := c.socket.watchActivity()
	before := c.socket.lastSeen()
	c.mu.Lock()
	if c.reader == paused || c.reason != 0 {
		defer c.mu.Unlock()
		return c.reason == 0
	}
	t := c.pingLocked()
	c.mu.Unlock()
	c.do(t)
	for {
		select {
		case <-heard:
		case <-timer.C:
			return c.readerIs(paused)
		}
		heard = c.socket.watchActivity()
		switch {
		case c.Reason() != 0:
			return false
		case c.socket.lastSeen() != before || c.readerIs(paused):
			return true
		}
	}
}
