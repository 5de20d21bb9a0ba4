package peer

import (
	"errors"
	"time"
)

// checkAlive runs when the client may have been silent for too long, or when something else is
// due.
func (c *Client) checkAlive() {
	c.mu.Lock()
	var t todo
	if c.reason == 0 {
		t = c.tickLocked()
	}
	c.mu.Unlock()
	c.do(t)
}

// tickLocked does what is due, and sets the timer to what is due next.
func (c *Client) tickLocked() (t todo) {
	now, next := time.Since(c.socket.start), time.Duration(forever)
	if limit := c.opts.AliveTimeout; limit > 0 {
		switch silent := c.silenceLocked(); {
		case silent >= limit:
			return c.endLocked(ReasonAliveTimeout, nil, nil)
		case silent >= limit/2:
			t |= c.pingLocked()
			next = limit - silent
		default:
			next = limit/2 - silent
		}
	}
	if w := c.closing.Load(); w != nil && w.until > 0 {
		if now >= w.until {
			return t | c.lastWordLocked()
		}
		next = min(next, w.until-now)
	}
	if due := c.iceDue; due > 0 && now < due {
		next = min(next, due-now)
	} else if due > 0 {
		c.iceDue, c.icePending = 0, true
		t |= c.wakeLocked()
	}
	if next < forever {
		c.alive.Reset(next)
	}
	return t
}

// setAliveLocked sets the timer to d from now, or to what it is set to if that comes first.
func (c *Client) setAliveLocked(d time.Duration) {
	if c.alive == nil {
		c.alive = time.AfterFunc(d, c.checkAlive)
		return
	}
	c.alive.Reset(0) // tickLocked finds out what is due first
}

// refreshICE lets the reader ask for the ICE servers again in d.
func (c *Client) refreshICE(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == 0 {
		c.iceDue = time.Since(c.socket.start) + d
		c.setAliveLocked(d)
	}
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

// startReading lets the reader into the socket, unless the client has ended, and notes what it has
// taken in. errands says whether there is something else for the reader to do first.
func (c *Client) startReading(in received) (ok, errands bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = in
	if c.reason != 0 {
		return false, false
	}
	c.reader = reading
	return true, c.icePending || c.wake != asleep || c.membership != nil && len(c.membership.news) > 0
}

// A wakeState says how far somebody has come who wakes the reader for an errand.
type wakeState uint8

const (
	asleep  wakeState = iota // nobody wakes it
	waking                   // somebody is about to set the read deadline
	awaking                  // the read deadline has passed
)

// wakeLocked wakes the reader, which has an errand. While it is paused, or has been woken already,
// it finds the errand by itself.
func (c *Client) wakeLocked() todo {
	if c.wake != asleep || c.reader != reading || c.reason != 0 || c.writer == broken {
		return 0
	}
	c.wake = waking
	return wakeReader
}

// wakeUp is what [wakeReader] asks for.
func (c *Client) wakeUp() {
	c.socket.conn.SetReadDeadline(past)
	c.mu.Lock()
	c.wake = awaking
	c.broadcastLocked()
	c.mu.Unlock()
}

// resume reports whether err, of the reader, is only that it was woken, and lets it go on then.
func (c *Client) resume(err error) bool {
	if timeout := (interface{ Timeout() bool })(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		return false
	}
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.wake != waking })
	woken := c.wake == awaking
	c.mu.Unlock()
	return woken && c.fallAsleep()
}

// fallAsleep takes back the deadline that woke the reader. An end, and a write that failed, set a
// deadline after they have noted that, so they are looked for afterwards. It reports whether the
// client has not ended.
func (c *Client) fallAsleep() bool {
	c.socket.conn.SetReadDeadline(time.Time{})
	c.mu.Lock()
	c.wake = asleep
	ended, failed := c.reason != 0, c.writer == broken
	c.mu.Unlock()
	switch {
	case ended:
		c.socket.conn.SetReadDeadline(past)
	case failed:
		c.hurry()
	}
	return !ended
}

// takeErrands returns what the reader, which has been woken, has to do beside reading.
func (c *Client) takeErrands() (news []roomNews, ice bool) {
	c.mu.Lock()
	c.awaitLocked(func() bool { return c.wake != waking })
	woken := c.wake == awaking
	news = c.takeNewsLocked()
	ice, c.icePending = c.icePending, false
	c.mu.Unlock()
	if woken {
		c.fallAsleep()
	}
	return news, ice
}

// takeNews returns what the host has not been told of yet. Unlike takeErrands it leaves the socket
// alone, which is the writer's when the client has ended.
func (c *Client) takeNews() []roomNews {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takeNewsLocked()
}

func (c *Client) takeNewsLocked() (news []roomNews) {
	if c.membership != nil {
		news, c.membership.news = c.membership.news, nil
	}
	return news
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
	silent := c.silenceLocked()
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
		c.pausedUntil = time.Since(c.socket.start) - silent
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
