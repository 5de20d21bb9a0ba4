package peer

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// How long a newcomer waits for the reader of a client whose end may have arrived.
const (
	vacancyTimeout = 250 * time.Millisecond // where the socket shows that something is unread
	blindTimeout   = 20 * time.Millisecond  // where nobody can look into the socket
	sealedTimeout  = 100 * time.Millisecond // where nothing is unread below TLS, which may have taken it and not told its reader yet
	sweepInterval  = 100 * time.Millisecond // between two looks at all clients
)

// hasLeft reports whether a client has ended, or its end has arrived and is about to be noticed.
// Before a newcomer is refused because of a client, the client's socket is looked into: if something
// lies there unread, its reader gets a bounded time to take it. A client that is well is found to
// be so at once.
func (s *Server) hasLeft(ctx context.Context, c *Client) bool {
	ctx, cancel := context.WithTimeout(ctx, vacancyTimeout)
	defer cancel()
	for looks := 0; ; looks++ {
		activity := c.socket.watchActivity() // before the look, so that no change after it is missed
		if c.Reason() != 0 {
			return true
		}
		isPaused := c.readerIs(paused)
		switch seen := c.socket.peek(); {
		case seen == peekedEnd && isPaused: // nobody else will notice before the host's function returns
			c.end(ReasonConnectionLost, nil, nil)
			return true
		case isPaused:
			return c.Reason() != 0
		case seen == peekedNothing && c.socket.waits() && (looks > 0 || !c.socket.sealed):
			return c.Reason() != 0
		case looks == 0 && seen == peekedUnknown:
			ctx, cancel = context.WithTimeout(ctx, blindTimeout)
			defer cancel()
		case looks == 0 && seen == peekedNothing && c.socket.sealed:
			ctx, cancel = context.WithTimeout(ctx, sealedTimeout)
			defer cancel()
		}
		select {
		case <-activity:
		case <-ctx.Done():
			return c.Reason() != 0
		}
	}
}

// sweeps look for clients that have left while a limit is reached. Newcomers share them.
type sweeps struct {
	mu    sync.Mutex               // guards the following
	next  map[netip.Addr]*sweep    // by address, the zero one for all clients; absent: nobody waits for one
	begun map[netip.Addr]time.Time // when the last one began; absent: longer ago than sweepInterval
}

// A sweep is one look at the clients of an address, or at all.
type sweep struct{ done chan struct{} }

// makeRoom waits for a look at the clients of an address, or at all if addr is the zero one, that
// frees the ids of those that have left.
func (s *Server) makeRoom(ctx context.Context, addr netip.Addr) {
	s.sweeps.mu.Lock()
	sw := s.sweeps.next[addr]
	if sw == nil {
		sw = &sweep{make(chan struct{})}
		s.sweeps.next[addr] = sw
		s.work.fork()
		go s.sweep(addr, sw)
	}
	s.sweeps.mu.Unlock()
	select {
	case <-sw.done:
	case <-ctx.Done():
	}
}

// sweep looks at the clients, when the last look is long enough ago.
func (s *Server) sweep(addr netip.Addr, sw *sweep) {
	defer s.work.done()
	s.sweeps.mu.Lock()
	begun := s.sweeps.begun[addr]
	s.sweeps.mu.Unlock()
	sleep(s.ctx, sweepInterval-time.Since(begun))

	begun = time.Now()
	s.sweeps.mu.Lock()
	delete(s.sweeps.next, addr) // those that come from now on need another look
	s.sweeps.begun[addr] = begun
	s.sweeps.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, vacancyTimeout)
	defer cancel()
	for c := range s.realm.registered() {
		if (!addr.IsValid() || c.limitAddr == addr) && ctx.Err() == nil && s.hasLeft(ctx, c) && c.mayBeReplacedBy(nil) {
			s.realm.remove(c)
		}
	}
	close(sw.done)

	sleep(s.ctx, sweepInterval-time.Since(begun))
	s.sweeps.mu.Lock()
	if s.sweeps.begun[addr] == begun {
		delete(s.sweeps.begun, addr)
	}
	s.sweeps.mu.Unlock()
}
