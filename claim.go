package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
)

var (
	refusedFull    = refuse(refusedLimit, http.StatusServiceUnavailable, TypeError, "Server has reached its concurrent user limit")
	refusedTooLate = refuse(refusedGone, 0, TypeError, "The handshake took too long")
	refusedHolder  = refuse(refusedTaken, http.StatusConflict, TypeIDTaken, "ID is taken")
)

// claim gets the id for c, or returns why it may not have it.
func (s *Server) claim(ctx context.Context, c *Client) *refusal {
	waits := len(s.events.connection.get()) > 0 || s.opts.ICEServers != nil // OPEN waits for these functions
	var predecessor *Client
	var t turn
	defer t.end(s.realm)
	for swept := false; ; {
		holder, err := s.realm.admit(c, predecessor, waits)
		if err != nil && predecessor != nil {
			s.realm.remove(predecessor) // evicted for nothing
			c.inheritedFrom = nil
		}
		if errors.Is(err, errUnclaimed) {
			if why := s.acquire(ctx, c, &t); why != nil {
				return why
			}
			predecessor = nil
			continue
		}
		switch {
		case errors.Is(err, errClosed):
			return refuse(refusedClosed, http.StatusServiceUnavailable, "", "Server is shutting down")
		case err != nil && swept:
			return refusedFull
		case err != nil:
			swept, predecessor = true, nil
			s.makeRoom(ctx, fullAddr(c, err))
			continue
		case holder == nil:
			t.admitted()
			return nil
		case c.Reason() != 0:
			return refuse(refusedGone, 0, TypeError, "Closed by the application")
		}
		if holder.Reason() == 0 && !s.realm.mayReplace(holder, c) {
			if swept {
				return refusedFull
			}
			swept = true
			s.makeRoom(ctx, c.limitAddr)
			continue
		}
		if holder.Reason() == 0 {
			if why := s.evict(ctx, holder, c); why != nil {
				return why
			}
		}
		if predecessor = nil; !holder.mayBeReplacedBy(c) {
			holder.awaitSuccessor() // another newcomer is about to have the id: ask again then
			continue
		}
		if why := s.moveClaim(ctx, c); why != nil {
			s.realm.remove(holder)
			return why
		}
		holder.awaitWrite()
		predecessor = holder
	}
}

// fullAddr returns the address whose limit an error of admit is about, or none if it is about all
// clients.
func fullAddr(c *Client, err error) (addr netip.Addr) {
	if errors.Is(err, errAddrLimit) {
		addr = c.limitAddr
	}
	return addr
}

// evict ends holder if c may have the id in its place, or returns why it may not.
func (s *Server) evict(ctx context.Context, holder, c *Client) *refusal {
	switch {
	case equal(holder.token, c.token):
		c.block(holder.blocked...)
		if holder.evict(c, ReasonReplaced, nil) {
			c.inheritedFrom = append(c.inheritedFrom, holder)
		}
		return nil
	case s.mayOverride(holder, c):
		if why := s.moveClaim(ctx, c); why != nil {
			return why
		}
		c.block(holder.blocked...)
		c.block(hashOf(holder.token)) // two devices that both reconnect by themselves must not take turns
		last := notice(TypeOverride, "Your id was taken over by another connection")
		if holder.evict(c, ReasonOverridden, &last) && s.opts.KeepRoomsOnOverride {
			c.inheritedFrom = append(c.inheritedFrom, holder)
		}
		return nil
	case s.opts.ProbeAfter < 0 || s.opts.ProbeTimeout < 0 || holder.silence() <= s.opts.ProbeAfter:
		if s.hasLeft(ctx, holder) {
			return nil
		}
		return refusedHolder
	}
	ctx, cancel := s.handshakeContext(ctx, c.socket.start)
	defer cancel()
	defer c.socket.watch(cancel)()
	switch {
	case !s.answers(ctx, holder):
		if why := s.moveClaim(ctx, c); why != nil {
			return why
		}
		holder.evict(c, ReasonUnresponsive, nil)
		return nil
	case ctx.Err() != nil:
		return refusedTooLate
	}
	return refusedHolder
}

func (s *Server) mayOverride(holder, c *Client) (ok bool) {
	if s.opts.AllowOverride == nil || holder.blocks(c.token) || !s.mayAskAbout(holder, c) {
		return false
	}
	if err := s.ask("calling AllowOverride", func() { ok = s.opts.AllowOverride(holder, c) }); err != nil {
		s.fail(nil, fmt.Errorf("calling AllowOverride: %w", err))
		return false
	}
	return ok
}

// answers pings a silent holder and reports whether it answers, or ctx ends. Newcomers that come
// meanwhile share the result; a newcomer that gives up leaves it to the others.
func (s *Server) answers(ctx context.Context, holder *Client) bool {
	answered := make(chan bool, 1)
	s.work.fork()
	go func() {
		defer s.work.done()
		dead, _, _ := s.probes.Do(holder.id, func() (any, error) {
			// It may have answered a moment ago, when it was asked for another newcomer.
			if holder.silence() <= s.opts.ProbeAfter || holder.probe(s.opts.ProbeTimeout) {
				return (*Client)(nil), nil
			}
			return holder, nil
		})
		answered <- dead != holder && holder.Reason() == 0
	}()
	select {
	case yes := <-answered:
		return yes
	case <-ctx.Done():
		return true
	}
}
