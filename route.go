package peer

import (
	"iter"
	"slices"
	"time"
)

// A waitingQueue is a queue with the timer of its earliest deadline.
type waitingQueue struct {
	queue
	timer *time.Timer
	at    time.Time // what the timer is set to
}

// An outcome is what became of a message.
type outcome uint8

const (
	delivered outcome = iota // in the outbox of its destination
	held                     // in the queue of its destination
	passed                   // on its way to another node, and not kept
	notKept                  // neither: its sender gets EXPIRE, if the message is of a type that is held
	ignored                  // neither, and its sender has read that EXPIRE
)

// Held describes the messages that are held for one id that is not connected.
type Held struct {
	ID       string    // the destination
	Senders  int       // clients whose messages are held
	Messages int       // messages that are held
	Bytes    int       // bytes of these messages
	Since    time.Time // when the server accepted the oldest of these messages
}

// Held returns an entry for each absent id that messages are held for, in no particular order.
// Each entry is a snapshot. An id or a message that comes or goes during the iteration may or
// may not be in it.
func (r *Realm) Held() iter.Seq[Held] {
	return func(yield func(Held) bool) {
		for i := range r.shards {
			for _, h := range r.shards[i].held(r.opts.ExpireTimeout) {
				if !yield(h) {
					return
				}
			}
		}
	}
}

func (sh *shard) held(timeout time.Duration) []Held {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	hs := make([]Held, 0, len(sh.queues))
	for id, w := range sh.queues {
		h := Held{ID: id, Messages: w.parcels, Bytes: w.bytes}
		for _, at := range w.pairs {
			if len(at.parcels) == 0 {
				continue // it only remembers that it has expired
			}
			if at.sender != nobody {
				h.Senders++
			}
			if since := at.oldest().Add(-timeout); h.Since.IsZero() || since.Before(h.Since) {
				h.Since = since
			}
		}
		if h.Messages > 0 {
			hs = append(hs, h)
		}
	}
	return hs
}

// A delivery is the client whose outbox a message went into, and what the sender still has to
// do for it.
type delivery struct {
	to   *Client
	todo todo
}

func (d delivery) finish() {
	if d.to != nil {
		d.to.do(d.todo)
	}
}

// route hands a parcel to the client at id, or else holds it, in one step. The caller must finish
// the delivery.
func (r *Realm) route(id string, p parcel) (outcome, delivery) {
	sh := r.shard(id)
	sh.mu.Lock()
	out, d := sh.routeLocked(r, id, p)
	sh.mu.Unlock()
	if out != delivered && out != held {
		p.release()
	}
	return out, d
}

func (sh *shard) routeLocked(r *Realm, id string, p parcel) (outcome, delivery) {
	d := delivery{to: sh.clients[id]}
	if d.to != nil {
		var err error
		if d.todo, err = d.to.enqueue(p); err == nil {
			sh.traffic.relayed.Add(1)
			return delivered, d
		}
		// It is ending, or is not open yet. What it was to be sent before will go before p.
	}
	switch {
	case sh.far != nil && !sh.closed:
		return sh.routeFarLocked(r, id, p), d
	case p.keep != keepUntilExpiry:
		sh.traffic.dropped[dropAbsent].Add(1)
		return notKept, d
	case sh.closed:
		sh.traffic.dropped[dropShutdown].Add(1)
		return notKept, d
	}
	return sh.holdLocked(r, id, p), d
}

// holdLocked holds p, or refuses it. Of a pair that is over a bound nothing is
// kept: what is left of a negotiation is of no use, and one EXPIRE is for all.
func (sh *shard) holdLocked(r *Realm, id string, p parcel) outcome {
	w := sh.queueLocked(id)
	defer sh.armLocked(r, id, w)
	if w.expired(p.sender()) {
		if p.continues {
			sh.traffic.dropped[dropFull].Add(1)
			return ignored
		}
		r.book(w.drop(p.sender())) // a new offer is a new question
	}
	if w.fits(&p, r.bounds()) && r.reserve(len(p.frame)) {
		w.push(p)
		sh.traffic.held.Add(1)
		return held
	}
	if p.sender() != nobody {
		sh.expirePairLocked(r, id, w, p.sender(), p.deadline)
	}
	sh.traffic.dropped[dropFull].Add(1)
	return notKept
}

// expirePairLocked drops all that a sender has waiting in a queue. It remembers that the sender gets an
// EXPIRE, unless too much of the kind is remembered: then the next message is answered again.
func (sh *shard) expirePairLocked(r *Realm, id string, w *waitingQueue, src sender, deadline time.Time) {
	var t tally
	before := w.held(src)
	if r.expiredPairs.Load() < maxExpiredPairs && len(id) <= maxIDBytes {
		t = w.expirePair(src, deadline)
	} else {
		t = w.drop(src)
	}
	r.book(t)
	sh.traffic.dropped[dropFull].Add(uint64(before))
}

func (r *Realm) bounds() bounds {
	return bounds{perPair: r.opts.MaxHeldPerPair, parcels: r.opts.MaxHeldPerDestination, bytes: r.opts.MaxOutboxBytes}
}

// reserve makes room for a parcel of n bytes that is to be held, or reports that there is none.
func (r *Realm) reserve(n int) bool {
	if r.heldParcels.Add(1) > maxHeldParcels {
		r.heldParcels.Add(-1)
		return false
	}
	if bytes := r.heldBytes.Add(int64(n)); r.opts.MaxHeldBytes >= 0 && bytes > int64(r.opts.MaxHeldBytes) {
		r.book(tally{parcels: -1, bytes: -n})
		return false
	}
	return true
}

// book counts what an operation on a queue has changed. What [Realm.reserve] has counted is not
// booked again.
func (r *Realm) book(t tally) {
	if t != (tally{}) {
		r.heldParcels.Add(int64(t.parcels))
		r.heldBytes.Add(int64(t.bytes))
		r.expiredPairs.Add(int64(t.expired))
	}
}

// maxHeldParcels bounds what is held in all in messages: a short one takes several
// times as much memory as MaxHeldBytes counts.
const maxHeldParcels = 100_000

// maxExpiredPairs bounds how many expired pairs are remembered.
const maxExpiredPairs = 10000

// queueLocked returns the queue of an id, and makes one if there is none. The caller must then
// call armLocked.
func (sh *shard) queueLocked(id string) *waitingQueue {
	w := sh.queues[id]
	if w == nil {
		w = new(waitingQueue)
		sh.queues[id] = w
	}
	return w
}

// armLocked sets the timer of a queue to its earliest deadline after a change, and forgets a
// queue that is empty.
func (sh *shard) armLocked(r *Realm, id string, w *waitingQueue) {
	soonest := w.soonest()
	if soonest != nil && soonest.deadline.Equal(w.at) {
		return
	}
	if w.timer != nil && w.timer.Stop() {
		r.timers.Done()
	}
	if soonest == nil {
		delete(sh.queues, id)
		return
	}
	w.at = soonest.deadline
	r.timers.Add(1)
	w.timer = time.AfterFunc(time.Until(w.at), func() { r.expire(id, w) })
}

// takeLocked returns what is held for id, which then is nothing.
func (sh *shard) takeLocked(r *Realm, id string) []parcel {
	w := sh.queues[id]
	if w == nil {
		return nil
	}
	ps, t := w.take()
	r.book(t)
	sh.armLocked(r, id, w)
	for i := range ps {
		if ps[i].from == 0 {
			ps[i].mark = 0 // it is no business of another node any more
		}
	}
	return ps
}

// expire runs when the earliest deadline of a queue has come.
func (r *Realm) expire(id string, w *waitingQueue) {
	defer r.timers.Done()
	sh := r.shard(id)
	sh.mu.Lock()
	if sh.queues[id] != w {
		sh.mu.Unlock()
		return
	}
	w.at = time.Time{}
	var soon bool
	now := time.Now()
	if sh.far != nil {
		soon = w.postpone(now, r.opts.ExpireTimeout, tickTimeout)
	}
	senders, far, t := w.expire(now)
	sh.traffic.dropped[dropExpired].Add(uint64(-t.parcels - len(far)))
	r.book(t)
	if len(far) > 0 {
		sh.giveBackLocked(r, id, 0, far) // their nodes tell the senders
	}
	sh.armLocked(r, id, w)
	sh.mu.Unlock()
	if soon {
		r.node.tick(func() { r.hasten(id, w) })
	}
	for _, s := range senders {
		r.sendExpire(id, s.id)
	}
}

// sendExpire tells each of the senders that what it sent to id came to nothing.
func (r *Realm) sendExpire(id string, senders ...string) {
	for _, src := range senders {
		b, _ := Message{Type: TypeExpire, Src: id, Dst: src}.encode() // has no payload that could be bad
		r.shard(src).traffic.expires.Add(1)
		_, d := r.route(src, ownParcel(b, keepForSuccessor)) // no EXPIRE is held, so none comes of it
		d.finish()
	}
}

// returnLocked holds parcels that come back from a connection that has ended, within the bounds
// that hold for new ones. It returns the senders of pairs that are over a bound.
func (sh *shard) returnLocked(r *Realm, id string, ps []parcel) (senders []string) {
	w := sh.queueLocked(id)
	defer sh.armLocked(r, id, w)
	w.unshift(ps, func(p *parcel) bool {
		if p.deadline.IsZero() {
			p.deadline = time.Now().Add(r.opts.ExpireTimeout)
		}
		switch {
		case w.expired(p.sender()):
			sh.traffic.dropped[dropFull].Add(1)
			return false
		case w.fits(p, r.bounds()) && r.reserve(len(p.frame)):
			sh.traffic.returned.Add(1)
			return true
		}
		if sh.traffic.dropped[dropFull].Add(1); p.sender() == nobody {
			return false
		}
		sh.expirePairLocked(r, id, w, p.sender(), p.deadline)
		if !slices.Contains(senders, p.src) {
			senders = append(senders, p.src)
		}
		return false
	})
	return senders
}
