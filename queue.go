package peer

import (
	"bytes"
	"cmp"
	"container/list"
	"slices"
	"time"
)

// A fate says what becomes of a parcel whose connection ends before it is written.
type fate uint8

const (
	fateDrop fate = iota // concerns that one connection: OPEN, pings
	fateOwn              // goes to the next connection of the same peer, if that takes over directly
	fatePass             // goes to whoever takes the id over directly
	fateHold             // the same, but waits for the id if nobody has it
)

// A parcel is one encoded message on its way to one destination.
type parcel struct {
	frame    []byte  // a whole WebSocket frame; not modified while anybody has the parcel
	buf      *[]byte // the pooled buffer that frame lies in, if it does
	src      string  // id of the sender; "" for the server itself
	deadline time.Time
	fate     fate
	follows  bool // belongs to an offer, like an answer or a candidate
}

// release returns the buffer of a parcel that has been written, or is not going to be.
func (p *parcel) release() {
	if p.buf != nil {
		frames.Put(p.buf)
		p.buf = nil
	}
}

// settle moves the frame of a parcel that is to wait out of its buffer, so that it
// takes no more memory than it counts for.
func (p *parcel) settle() {
	if p.buf != nil {
		p.frame = bytes.Clone(p.frame)
		p.release()
	}
}

// A pair is all that one sender has waiting for one destination. It expires as
// one: an offer without its candidates is of no use, nor are they without it.
type pair struct {
	src      string
	deadline time.Time // of its oldest parcel
	parcels  []numbered
	refused  bool          // its sender has been told; it has no parcels, and what follows the last offer is not wanted
	place    *list.Element // in queue.order
}

// A numbered parcel has its place in the order of arrival of a queue.
type numbered struct {
	parcel
	number int
}

// A queue holds the parcels for one absent destination. What it does with a new
// parcel, or with one pair, takes no longer if there are many. The zero value is
// empty. It is not safe for concurrent use.
type queue struct {
	pairs       map[string]*pair // by sender
	order       *list.List       // of *pair, by deadline; nil without any
	first, next int              // numbers: of the first parcel that came back, and of the next to come
	parcels     int
	bytes       int // of the parcels
	told        int // how many of the pairs are refused
}

// push appends p unless its pair or the queue holds as many parcels as it may; a
// negative bound means none.
func (q *queue) push(p parcel, maxPair, maxAll int) bool {
	if maxAll >= 0 && q.parcels >= maxAll || maxPair >= 0 && q.count(p.src) >= maxPair {
		return false
	}
	q.add(p, q.next)
	q.next++
	return true
}

// count returns how many parcels src has waiting.
func (q *queue) count(src string) int {
	if at := q.pairs[src]; at != nil {
		return len(at.parcels)
	}
	return 0
}

// add puts p into the pair that it belongs to.
func (q *queue) add(p parcel, number int) {
	at := q.pairs[p.src]
	switch {
	case at == nil:
		at = q.open(p.src, p.deadline)
	case at.refused:
		at.refused = false
		q.told--
	}
	if p.deadline.Before(at.deadline) {
		q.order.Remove(at.place)
		q.line(at, p.deadline)
	}
	p.settle()
	at.parcels = append(at.parcels, numbered{p, number})
	q.parcels++
	q.bytes += len(p.frame)
}

// open makes a pair without parcels.
func (q *queue) open(src string, deadline time.Time) *pair {
	if q.pairs == nil {
		q.pairs, q.order = make(map[string]*pair), list.New()
	}
	at := &pair{src: src}
	q.pairs[src] = at
	q.line(at, deadline)
	return at
}

// line puts a pair where it belongs by its deadline. That is nearly always the
// end: only parcels that came back from a connection can be older than others.
func (q *queue) line(at *pair, deadline time.Time) {
	at.deadline = deadline
	before := q.order.Back()
	for before != nil && before.Value.(*pair).deadline.After(deadline) {
		before = before.Prev()
	}
	if before == nil {
		at.place = q.order.PushFront(at)
	} else {
		at.place = q.order.InsertAfter(at, before)
	}
}

// refused reports whether src has been told already that nothing of it waits.
func (q *queue) refused(src string) bool {
	at := q.pairs[src]
	return at != nil && at.refused
}

// refuse drops everything that src has waiting, returns how many parcels that
// was, and remembers until the deadline of the first of them that src was told.
func (q *queue) refuse(src string, deadline time.Time) int {
	at := q.pairs[src]
	if at == nil {
		at = q.open(src, deadline)
	}
	n := q.clear(at)
	at.refused = true
	q.told++
	return n
}

// size returns how many bytes the frames of ps take.
func size(ps []parcel) (n int) {
	for i := range ps {
		n += len(ps[i].frame)
	}
	return n
}

// clear takes the parcels out of a pair and returns how many there were.
func (q *queue) clear(at *pair) int {
	n := len(at.parcels)
	for _, p := range at.parcels {
		q.bytes -= len(p.frame)
	}
	q.parcels -= n
	at.parcels = nil
	if at.refused {
		at.refused = false
		q.told--
	}
	return n
}

// unshift puts parcels that were on their way before everything that waits. They
// were accepted once, so no bound turns them away, and their deadline stays.
func (q *queue) unshift(ps []parcel) {
	q.first -= len(ps)
	for i, p := range ps {
		q.add(p, q.first+i)
	}
}

// all returns the parcels in the order of their arrival.
func (q *queue) all() []parcel {
	if q.parcels == 0 {
		return nil
	}
	sorted := slices.Clip(q.soonest().parcels) // mostly that is all
	for e := q.order.Front().Next(); e != nil; e = e.Next() {
		sorted = append(sorted, e.Value.(*pair).parcels...)
	}
	slices.SortFunc(sorted, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	ps := make([]parcel, len(sorted))
	for i := range sorted {
		ps[i] = sorted[i].parcel
	}
	return ps
}

// take empties the queue and returns what was in it, in order.
func (q *queue) take() []parcel {
	ps := q.all()
	*q = queue{}
	return ps
}

// drop removes everything that src has waiting and returns how many that was.
func (q *queue) drop(src string) int {
	at := q.pairs[src]
	if at == nil {
		return 0
	}
	delete(q.pairs, src)
	q.order.Remove(at.place)
	return q.clear(at)
}

// expire drops the pairs whose deadline is not after now, and returns the senders
// who have to be told and how many parcels they had.
func (q *queue) expire(now time.Time) (srcs []string, n int) {
	for at := q.soonest(); at != nil && !at.deadline.After(now); at = q.soonest() {
		if !at.refused {
			srcs = append(srcs, at.src)
		}
		n += q.drop(at.src)
	}
	return srcs, n
}

// soonest returns the pair that expires first, and nil if the queue is empty.
func (q *queue) soonest() *pair {
	if len(q.pairs) == 0 {
		return nil
	}
	return q.order.Front().Value.(*pair)
}

// latest returns the pair with parcels that expires last, and nil if no pair has any.
func (q *queue) latest() *pair {
	if q.parcels == 0 {
		return nil
	}
	last := q.order.Back()
	for last.Value.(*pair).refused {
		last = last.Prev()
	}
	return last.Value.(*pair)
}
