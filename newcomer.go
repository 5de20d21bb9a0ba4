package peer

import (
	"context"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

var refusedEngineAway = refuse(refusedEngine, http.StatusServiceUnavailable, TypeError, "The server cannot check this id now")

// lines let newcomers of one id ask the other nodes one at a time.
type lines struct {
	mu   sync.Mutex       // guards the following
	byID map[string]*line // absent: nobody asks
}

type line struct {
	waiting []*inLine
}

type inLine struct {
	token string
	ok    bool          // before turn is closed: false if a younger one with its token has its place
	turn  chan struct{} // closed when it has its turn, or no place any more
}

// enter waits for the turn of c, and reports whether it has come. leave must then be called.
func (ls *lines) enter(ctx context.Context, c *Client) (leave func(), ok bool) {
	leave = func() { ls.leave(c.id) }
	ls.mu.Lock()
	if ls.byID == nil {
		ls.byID = make(map[string]*line)
	}
	l := ls.byID[c.id]
	if l == nil {
		ls.byID[c.id] = new(line)
		ls.mu.Unlock()
		return leave, true
	}
	me := &inLine{token: c.token, turn: make(chan struct{})}
	placed := false
	for i, other := range l.waiting {
		if equal(other.token, c.token) {
			close(other.turn)
			l.waiting[i], placed = me, true
			break
		}
	}
	if !placed {
		l.waiting = append(l.waiting, me)
	}
	ls.mu.Unlock()
	select {
	case <-me.turn:
		return leave, me.ok
	case <-ctx.Done():
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	select {
	case <-me.turn: // meanwhile
		if me.ok {
			ls.nextLocked(c.id)
		}
	default:
		for i, other := range l.waiting {
			if other == me {
				l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
				break
			}
		}
	}
	return nil, false
}

func (ls *lines) leave(id string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.nextLocked(id)
}

func (ls *lines) nextLocked(id string) {
	l := ls.byID[id]
	if len(l.waiting) == 0 {
		delete(ls.byID, id)
		return
	}
	l.waiting[0].ok = true
	close(l.waiting[0].turn)
	l.waiting = l.waiting[1:]
}

// A turn is that of one newcomer.
type turn struct {
	leave   func()    // nil: it has not come
	rejoins []func()  // for when the newcomer is admitted
	claim   *ownClaim // that has been granted; nil: none
}

// admitted lets the newcomer be a member of the rooms of its predecessor on another node.
func (t *turn) admitted() {
	for _, rejoin := range t.rejoins {
		rejoin()
	}
}

func (t *turn) end(r *Realm) {
	if t.claim != nil {
		r.drop(t.claim, true) // unless its client was admitted
	}
	if t.leave != nil {
		t.leave()
		t.leave = nil
	}
}

// acquire gets the id of c from the other nodes, so that it can be admitted, or returns why it may not
// have the id. The first call only waits for the turn of c: the id may have come to this node meanwhile.
func (s *Server) acquire(ctx context.Context, c *Client, t *turn) *refusal {
	ctx, cancel := s.handshakeContext(ctx, c.socket.start)
	defer cancel()
	defer c.socket.watch(cancel)()
	if t.leave == nil {
		leave, ok := s.lines.enter(ctx, c)
		if !ok {
			return refusedTooLate
		}
		t.leave = leave
		return nil
	}
	n := s.realm.node
	joining, cancelJoin := context.WithTimeout(ctx, engineTimeout)
	defer cancelJoin()
	if err := n.join(joining); err != nil {
		n.engineFailed(err)
		return refusedEngineAway
	}
	over := uint64(0)
	for range maxRounds {
		h, epoch := s.realm.hold(c)
		if h == nil {
			return nil // a client has come
		}
		got, why := s.awaitClaim(ctx, h, epoch, over, t)
		switch {
		case why != nil:
			return why
		case got.Granted:
			t.claim = h
			return s.takeOver(ctx, c, h, got.Previous, t)
		}
		s.realm.drop(h, false)
		if got.Previous.Epoch >= epoch || !isNodeName(got.Previous.Node) { // the epoch was too low
			continue
		}
		l := n.link(got.Previous.Node)
		q := n.question(l, h, got.Previous.Epoch, c, false)
		a := q.await(ctx, 5*time.Second+max(0, s.opts.ProbeTimeout))
		switch {
		case ctx.Err() != nil:
			return refusedTooLate
		case !a.yes:
			return refusedHolder
		}
		a.keepOut(c)
		a.rejoinAll(s.realm, c, t)
		over = got.Previous.Epoch
	}
	return refusedEngineAway
}

// maxRounds bounds how often a newcomer claims an id that other nodes claim at the same time.
const maxRounds = 20

// awaitClaim waits for the answer of the engine to a claim.
func (s *Server) awaitClaim(ctx context.Context, h *ownClaim, epoch, over uint64, t *turn) (got cluster.Claimed, why *refusal) {
	n := s.realm.node
	newcomer := h.newcomer
	patience := engineTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	op := n.claims.ask(h, epoch, over, patience*3/4) // the answer has to come in time, too
	timer := time.NewTimer(engineTimeout)
	defer timer.Stop()
	select {
	case <-op.done:
		return op.got, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	leave := t.leave
	got, answered, later := n.claims.abandon(op, func(got cluster.Claimed) {
		if got.Granted {
			s.askAll(newcomer, h, got.Previous) // else the holder before would live on without a claim
		}
		s.realm.drop(h, got.Granted)
		leave()
	})
	if answered {
		return got, nil
	}
	if later {
		t.leave = nil
	} else {
		s.realm.drop(h, false)
	}
	if ctx.Err() != nil {
		return got, refusedTooLate
	}
	return got, refusedEngineAway
}

// askAll asks the nodes that may have had the id before h.
func (s *Server) askAll(c *Client, h *ownClaim, previous cluster.Place) (asks []*question, routed []bool) {
	n := s.realm.node
	rt := s.realm.routeOf(c.id)
	if isNodeName(previous.Node) && previous.Node != n.name {
		l := n.link(previous.Node)
		asks = append(asks, n.question(l, h, previous.Epoch, c, true))
		routed = append(routed, rt != nil && rt.link == l)
	}
	if rt != nil && rt.link.name != previous.Node {
		asks = append(asks, n.question(rt.link, h, rt.epoch, c, false))
		routed = append(routed, true)
	}
	return asks, routed
}

// takeOver lets the nodes that had the id before end their clients.
func (s *Server) takeOver(ctx context.Context, c *Client, h *ownClaim, previous cluster.Place, t *turn) *refusal {
	asks, routed := s.askAll(c, h, previous)
	for i, q := range asks {
		patience := time.Second
		if routed[i] { // else messages could come twice
			patience = forever
		}
		a := q.await(ctx, patience)
		if ctx.Err() != nil {
			return refusedTooLate
		}
		if a.answered && !a.yes && !q.granted {
			return refusedHolder
		}
		a.keepOut(c)
		a.rejoinAll(s.realm, c, t)
	}
	return nil
}

// routeOf returns the route of an id, or nil.
func (r *Realm) routeOf(id string) *route {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.far.routes[id]
}

// moveClaim lets the claim of an id that a client here has be for the token of c, which is to replace
// that client. Otherwise the old token could take the id elsewhere.
func (s *Server) moveClaim(ctx context.Context, c *Client) *refusal {
	n := s.realm.node
	if n == nil || c.isElsewhere() {
		return nil
	}
	token := tokenOf(c.id, c.token)
	sh := s.realm.shard(c.id)
	sh.mu.Lock()
	h := sh.far.claims[c.id]
	if h == nil || h.newcomer != nil || h.token == token { // a newcomer: the holder has gone
		sh.mu.Unlock()
		return nil
	}
	before := h.token
	op := n.claims.moveLocked(h, token)
	sh.mu.Unlock()
	timer := time.NewTimer(engineTimeout)
	defer timer.Stop()
	select {
	case <-op.done:
		return nil // if it is not granted, another node has got the id meanwhile: claim finds that out
	case <-timer.C:
	case <-ctx.Done():
	}
	sh.mu.Lock() // the engine may do it yet
	n.claims.moveLocked(h, before)
	sh.mu.Unlock()
	return refusedEngineAway
}

// rejoinAll lets c be put into the rooms that its predecessor on another node was in.
func (a reply) rejoinAll(r *Realm, c *Client, t *turn) {
	if a.control == nil {
		return
	}
	for name, data := range a.control.Rooms {
		if b, err := base64.StdEncoding.DecodeString(name); err == nil && validID(string(b)) && checkRoomData(orNil(data)) == nil {
			t.rejoins = append(t.rejoins, func() { r.rejoin(string(b), c, orNil(data)) })
		}
	}
}
