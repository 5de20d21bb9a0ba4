package peer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"time"
)

// nodeGone lets nobody wait for a node that is dead.
func (s *Server) nodeGone(l *link) {
	n := s.realm.node
	s.realm.roomsGone(l.name)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, q := range n.questions {
		if q.link == l {
			q.resolveLocked(reply{answered: true, yes: true})
		}
	}
}

// control deals with a control of another node. It does not block.
func (s *Server) control(l *link, c *control) {
	n := s.realm.node
	switch c.What {
	case "ask":
		s.startAnswer(l, *c)
	case "answer":
		n.mu.Lock()
		if q := n.questions[c.Number]; q != nil && q.link == l {
			q.resolveLocked(reply{answered: true, yes: c.Yes, control: c})
		}
		n.mu.Unlock()
	case "room":
		s.realm.roomChanged(c)
	case "kick":
		if client := s.realm.Client(string(c.ID)); client != nil {
			if c.Code == 0 || client.CloseWith(c.Code, c.Text) != nil {
				client.Close()
			}
		}
	}
}

// maxAsks is how many questions are answered at a time; beyond it only those are that follow a grant.
const maxAsks = 1000

// startAnswer answers an ask on a goroutine of its own.
func (s *Server) startAnswer(l *link, q control) {
	a := control{What: "answer", Number: q.Number, ID: q.ID}
	if !q.Granted && s.answering.Load() >= maxAsks {
		l.control(a)
		return
	}
	if !s.work.begin() {
		s.answerAtTheEnd(l, q, a)
		return
	}
	s.answering.Add(1)
	go func() {
		defer s.work.done()
		defer s.answering.Add(-1)
		defer func() { l.control(a) }() // even if a function of the host ends the goroutine
		s.giveUp(l, &q, &a)
	}()
}

// answerAtTheEnd answers when the client of the id has been ended by [Server.Shutdown] and what it was
// not sent has gone back.
func (s *Server) answerAtTheEnd(l *link, q, a control) {
	n := s.realm.node
	a.Yes = true
	if !n.work.begin() {
		l.control(a)
		return
	}
	go func() {
		defer n.work.done()
		for began := time.Now(); time.Since(began) < flushTimeout; sleep(n.ctx, 10*time.Millisecond) {
			if _, _, concerned := s.realm.concerned(string(q.ID), q.Epoch); !concerned {
				break
			}
		}
		l.control(a)
	}()
}

// giveUp gives an id up for a newcomer on another node, if that may have it.
func (s *Server) giveUp(l *link, q, a *control) {
	id := string(q.ID)
	near, far := net.Pipe() // nobody reads: it ends nothing by itself
	defer near.Close()
	defer far.Close()
	newcomer := newClient(nil, newSocket(near, nil, &s.realm.partials), params{id: id, token: string(q.Token)},
		q.Addr, netip.Addr{}, &s.opts, s.realm.traffic(id))
	if q.HasUser {
		newcomer.user = userElsewhere{}
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second+max(0, s.opts.ProbeTimeout))
	defer cancel()
	for {
		holder, settled, concerned := s.realm.concerned(id, q.Epoch)
		switch {
		case !concerned:
			a.Yes = true
			return
		case holder == nil: // a handshake is under way
			select {
			case <-settled:
				continue
			case <-ctx.Done():
				return
			}
		case q.Granted:
			why := ReasonReplaced
			if !equal(holder.token, newcomer.token) {
				why = ReasonClaimLost
			}
			newcomer.block(holder.blocked...)
			holder.evict(newcomer, why, nil)
		case holder.Reason() == 0:
			if s.evict(ctx, holder, newcomer) != nil {
				return
			}
		}
		if !holder.mayBeReplacedBy(newcomer) {
			holder.awaitSuccessor()
			continue
		}
		holder.awaitEnd()
		a.Rooms = s.realm.roomsOf(holder, l.name)
		s.realm.take(holder, false)
		s.awaitFinish(holder, time.Second)
		for _, b := range newcomer.blocked {
			a.Blocked = append(a.Blocked, b[:])
		}
		a.Yes = true
		return
	}
}

// concerned returns the client with the claim that an ask is about. If the claim is here and has no
// client yet, settled is closed when that has changed.
func (r *Realm) concerned(id string, epoch uint64) (holder *Client, settled chan struct{}, yes bool) {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	h := sh.far.claims[id]
	if h == nil || epoch < h.first || epoch > h.epoch {
		return nil, nil, false
	}
	return sh.clients[id], h.settled, true
}

// awaitFinish waits until the last event of a client has returned, for d at most.
func (s *Server) awaitFinish(c *Client, d time.Duration) {
	finished := make(chan struct{})
	s.work.fork()
	go func() {
		defer s.work.done()
		c.awaitFinish()
		close(finished)
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-finished:
	case <-timer.C:
	}
}

// userElsewhere is the user of a newcomer on another node, which only that node knows.
type userElsewhere struct{}

// mayAskAbout reports whether AllowOverride can decide about a newcomer on another node: users do not
// travel, and two that are missing must not look equal.
func (s *Server) mayAskAbout(holder, newcomer *Client) bool {
	if !newcomer.isElsewhere() || holder.user == nil && newcomer.user == nil ||
		reflect.ValueOf(s.opts.AllowOverride).Pointer() == reflect.ValueOf(OverrideAlways).Pointer() {
		return true
	}
	if s.userComplaint.may() {
		s.fail(nil, fmt.Errorf("calling AllowOverride: %w", ErrUserElsewhere))
	}
	return false
}
