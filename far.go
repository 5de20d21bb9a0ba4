package peer

import (
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// A farShard is what a shard knows of a cluster. It is guarded by the lock of the shard.
type farShard struct {
	claims map[string]*ownClaim // id -> the claim of this node; absent: the id may be anywhere
	routes map[string]*route    // id -> the node that has it; absent: not known
}

// A route is the place of an id on another node. A message is sent to it before it is known whether
// the place is right.
type route struct {
	link  *link
	epoch uint64
	used  time.Time
}

// routeFarLocked hands on a parcel for an id that is not connected here, or is about to end.
func (sh *shard) routeFarLocked(r *Realm, id string, p parcel) outcome {
	claimed := sh.far.claims[id] != nil
	if p.deadline.IsZero() {
		p.deadline = time.Now().Add(r.opts.ExpireTimeout)
	}
	switch {
	case p.keep != keepUntilExpiry && sh.clients[id] != nil: // it is about to end
		sh.traffic.dropped[dropAbsent].Add(1)
		return notKept
	case !claimed && len(p.frame)+len(p.src)+len(id) > maxBatchOne:
		sh.traffic.dropped[dropFull].Add(1)
		return notKept
	case p.keep != keepUntilExpiry && !claimed:
		w, rt := sh.queues[id], sh.far.routes[id]
		if rt != nil && (w == nil || w.unsent == 0) && rt.send(id, &p, p.deadline) != 0 {
			return passed
		}
	}
	s := p.sender()
	out := sh.holdLocked(r, id, p)
	if out != held || claimed {
		return out
	}
	w, rt := sh.queues[id], sh.far.routes[id]
	if rt == nil || w.unsent != 1 || s == nobody {
		sh.pushLocked(r, id)
		return out
	}
	last := w.last(s) // mostly nothing else waits
	if number := rt.send(id, last, w.deadlineOf(last)); number != 0 {
		w.setMark(last, number)
	}
	return out
}

// send puts a copy of a parcel, whose pair has a deadline, into the queue of the node, and returns its
// number, or 0 if there is no room now.
func (rt *route) send(id string, p *parcel, deadline time.Time) uint32 {
	number, ok := rt.link.sendMessage(id, rt.epoch, p, deadline)
	if !ok {
		return 0
	}
	rt.used = time.Now()
	return number
}

// pushLocked sends what waits for an id to the node that has it, or asks the finder which node that
// is.
func (sh *shard) pushLocked(r *Realm, id string) {
	w := sh.queues[id]
	if sh.far == nil || id == "" || len(id) > maxIDBytes || w == nil || w.unsent == 0 || sh.far.claims[id] != nil || sh.closed {
		return
	}
	rt := sh.far.routes[id]
	if rt == nil {
		r.node.finder.want(id, cluster.Place{})
		return
	}
	for _, p := range w.unmarked() {
		number := rt.send(id, &p.parcel, w.deadlineOf(&p.parcel))
		if number == 0 {
			break
		}
		w.setMark(&p.parcel, number)
	}
	r.book(w.dropSent())
	sh.armLocked(r, id, w)
}

// pushAll is pushLocked for ids for which there is room again.
func (r *Realm) pushAll(ids []string) {
	for _, id := range ids {
		sh := r.shard(id)
		sh.mu.Lock()
		sh.pushLocked(r, id)
		sh.mu.Unlock()
	}
}

// found notes where an id is, as far as the engine knows; over is a place that has refused messages
// for it. It reports whether the finder is to look again.
func (r *Realm) found(id string, place, over cluster.Place, known bool) (again bool) {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.queues[id]
	switch {
	case w == nil || w.unsent == 0 || sh.far.claims[id] != nil || sh.closed:
		return false
	case sh.far.routes[id] != nil:
		sh.pushLocked(r, id)
		return false
	case !known:
		return true
	}
	n := r.node
	n.saw(place.Epoch)
	isOver := place.Node == over.Node && place.Epoch <= over.Epoch
	if isNodeName(place.Node) && place.Node != n.name && !isOver {
		if l := n.link(place.Node); !l.isDead() {
			sh.far.routes[id] = &route{l, place.Epoch, time.Now()}
			sh.pushLocked(r, id)
			return false
		}
	}
	t := w.discard()
	sh.traffic.dropped[dropAbsent].Add(uint64(-t.parcels))
	r.book(t)
	again = w.unsent > 0
	sh.armLocked(r, id, w)
	return again
}

// accept takes a message that another node has sent for an id here, and reports to that node what
// became of it.
func (r *Realm) accept(l *link, rec *farRecord, ds *deliveries) {
	m := &rec.message
	deadline := r.node.unstamp(m.deadline)
	sh := r.shard(rec.dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if h := sh.far.claims[rec.dst]; h == nil || h.epoch != rec.epoch || sh.closed {
		r.node.stats.refused.Add(1)
		l.report(m.number, refusedOver)
		return
	}
	p := m.parcel(deadline)
	p.from, p.mark = l.index, m.number
	w := sh.queues[rec.dst]
	late := w != nil && w.expired(p.sender()) || m.deadline != 0 && !deadline.After(time.Now())
	if c := sh.clients[rec.dst]; c != nil && !late {
		t, err := c.enqueue(p)
		*ds = append(*ds, delivery{c, t}) // also if it has ended c
		if err == nil {
			sh.traffic.relayed.Add(1)
			l.report(m.number, accepted)
			return
		}
	}
	if p.keep == keepForSamePeer || p.keep == keepForSuccessor && sh.clients[rec.dst] != nil {
		sh.traffic.dropped[dropAbsent].Add(1)
		p.release()
		l.report(m.number, accepted) // it is sent once at most
		return
	}
	if p.deadline.IsZero() {
		p.deadline = time.Now().Add(r.opts.ExpireTimeout)
	}
	if w = sh.queueLocked(rec.dst); !late && w.fits(&p, r.bounds()) && r.reserve(len(p.frame)) {
		w.push(p)
		sh.traffic.held.Add(1)
		l.report(m.number, accepted)
	} else {
		if p.keep == keepUntilExpiry && deadline.After(time.Now()) {
			sh.expirePairLocked(r, rec.dst, w, p.sender(), deadline) // and so is what comes before that deadline
		}
		r.node.stats.refused.Add(1)
		sh.traffic.dropped[dropFull].Add(1)
		p.release()
		l.report(m.number, refusedLate)
	}
	sh.armLocked(r, rec.dst, w)
}

// settle does what a receipt says.
func (r *Realm) settle(l *link, rc *receipt) {
	for _, number := range rc.accepted {
		ref, ok := l.takeRef(number)
		if !ok {
			continue
		}
		sh := r.shard(ref.dst)
		sh.mu.Lock()
		if w := sh.queues[ref.dst]; w != nil {
			if ok, t := w.settle(ref.from, number); ok {
				sh.traffic.relayed.Add(1)
				r.book(t)
				sh.armLocked(r, ref.dst, w)
			}
		}
		sh.mu.Unlock()
	}
	for _, number := range rc.late {
		if ref, ok := l.takeRef(number); ok && ref.from != nobody {
			r.expireLate(ref, number)
		}
	}
	for _, number := range rc.over {
		if ref, ok := l.takeRef(number); ok {
			sh := r.shard(ref.dst)
			sh.mu.Lock()
			sh.overLocked(r, ref.dst, l, ref.epoch)
			sh.pushLocked(r, ref.dst)
			sh.mu.Unlock()
		}
	}
}

// expireLate expires a pair of which the other node has refused a message as late.
func (r *Realm) expireLate(ref ref, number uint32) {
	sh := r.shard(ref.dst)
	sh.mu.Lock()
	w := sh.queues[ref.dst]
	expired := false
	if w != nil {
		if ok, t := w.settle(ref.from, number); ok {
			r.book(t)
			sh.traffic.dropped[dropExpired].Add(1)
			sh.expirePairLocked(r, ref.dst, w, ref.from, time.Now().Add(r.opts.ExpireTimeout))
			expired = true
		}
		sh.armLocked(r, ref.dst, w)
	}
	sh.mu.Unlock()
	if expired {
		r.sendExpire(ref.dst, ref.from.id)
	}
}

// overLocked notes that a claim of another node is over. What was sent to it and is not reported is
// to be sent again.
func (sh *shard) overLocked(r *Realm, id string, l *link, epoch uint64) {
	rt := sh.far.routes[id]
	if rt == nil || rt.link != l || rt.epoch > epoch {
		return
	}
	delete(sh.far.routes, id)
	w := sh.queues[id]
	if w == nil {
		return
	}
	w.unmark()
	sh.armLocked(r, id, w)
	if w.unsent > 0 {
		r.node.finder.want(id, cluster.Place{Node: l.name, Epoch: rt.epoch})
	}
}

// dropNode forgets all routes to a node that is dead.
func (r *Realm) dropNode(l *link) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for id, rt := range sh.far.routes {
			if rt.link == l {
				sh.overLocked(r, id, l, rt.epoch)
				sh.pushLocked(r, id)
			}
		}
		sh.mu.Unlock()
	}
}

// forgetRoutes forgets the routes that have not been used for as long as a message can wait.
func (r *Realm) forgetRoutes(now time.Time) {
	limit := min(r.opts.ExpireTimeout, time.Minute)
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for id, rt := range sh.far.routes {
			if w := sh.queues[id]; now.Sub(rt.used) > limit && (w == nil || !w.isMarked() && w.unsent == 0) {
				delete(sh.far.routes, id)
			}
		}
		sh.mu.Unlock()
	}
}

// hasten expires the pairs of a queue that only waited until the inbox had been read.
func (r *Realm) hasten(id string, w *waitingQueue) {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.queues[id] == w {
		w.hasten(time.Now())
		sh.armLocked(r, id, w)
	}
}

// tickTimeout is how long a pair waits for the tick, beyond twice ExpireTimeout.
const tickTimeout = 2 * time.Second

// sendFarLocked sends a message of the host to an id that is not connected here.
func (sh *shard) sendFarLocked(r *Realm, id string, p parcel) error {
	switch sh.routeFarLocked(r, id, p) {
	case held, passed:
		return nil
	}
	return ErrNotConnected
}
