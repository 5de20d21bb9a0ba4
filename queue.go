package peer

import (
	"bytes"
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

// release returns the buffer of a parcel that has been written.
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
	parcels  int
	refused  bool // its sender has been told; it has no parcels, and what follows the last offer is not wanted
}

// A queue holds the parcels for one absent destination in the order of their
// arrival. The zero value is empty. It is not safe for concurrent use.
type queue struct {
	parcels []parcel
	pairs   []pair // by deadline
	bytes   int    // of the parcels
	told    int    // how many of the pairs are refused
}

// push appends p unless its pair or the queue holds as many parcels as it may; a
// negative bound means none.
func (q *queue) push(p parcel, maxPair, maxAll int) bool {
	if maxAll >= 0 && len(q.parcels) >= maxAll || maxPair >= 0 && q.count(p.src) >= maxPair {
		return false
	}
	q.add(p)
	p.settle()
	q.parcels = append(q.parcels, p)
	q.sort()
	return true
}

// count returns how many parcels src has waiting.
func (q *queue) count(src string) int {
	if i := q.pair(src); i >= 0 {
		return q.pairs[i].parcels
	}
	return 0
}

// add notes p in the pair that it belongs to.
func (q *queue) add(p parcel) {
	q.bytes += len(p.frame)
	i := q.pair(p.src)
	if i < 0 {
		q.pairs = append(q.pairs, pair{src: p.src, deadline: p.deadline, parcels: 1})
		return
	}
	at := &q.pairs[i]
	if at.refused {
		at.refused = false
		q.told--
	}
	at.parcels++
	if p.deadline.Before(at.deadline) {
		at.deadline = p.deadline
	}
}

// refused reports whether src has been told already that nothing of it waits.
func (q *queue) refused(src string) bool {
	i := q.pair(src)
	return i >= 0 && q.pairs[i].refused
}

// refuse drops everything that src has waiting, returns how many parcels that
// was, and remembers until the deadline of the first of them that src was told.
func (q *queue) refuse(src string, deadline time.Time) int {
	if i := q.pair(src); i >= 0 {
		deadline = q.pairs[i].deadline
	}
	n := q.drop(src)
	q.pairs = append(q.pairs, pair{src: src, deadline: deadline, refused: true})
	q.told++
	q.sort()
	return n
}

// unshift puts parcels that were on their way before everything that waits. They
// were accepted once, so no bound turns them away, and their deadline stays.
func (q *queue) unshift(ps []parcel) {
	for i := range ps {
		q.add(ps[i])
		ps[i].settle()
	}
	q.parcels = append(slices.Clip(ps), q.parcels...)
	q.sort()
}

// take empties the queue and returns what was in it, in order.
func (q *queue) take() []parcel {
	ps := q.parcels
	*q = queue{}
	return ps
}

// drop removes everything that src has waiting and returns how many that was.
func (q *queue) drop(src string) int {
	i := q.pair(src)
	if i < 0 {
		return 0
	}
	n := q.pairs[i].parcels
	if q.pairs[i].refused {
		q.told--
	}
	q.pairs = slices.Delete(q.pairs, i, i+1)
	q.remove(func(p parcel) bool { return p.src == src })
	return n
}

// expire drops the pairs whose deadline is not after now, and returns the senders
// who have to be told and how many parcels they had.
func (q *queue) expire(now time.Time) (srcs []string, n int) {
	gone := make(map[string]bool)
	for _, p := range q.pairs {
		if p.deadline.After(now) {
			break
		}
		gone[p.src] = true
		n += p.parcels
		if p.refused {
			q.told--
		} else {
			srcs = append(srcs, p.src)
		}
	}
	if len(gone) > 0 {
		q.pairs = slices.Delete(q.pairs, 0, len(gone))
		q.remove(func(p parcel) bool { return gone[p.src] })
	}
	return srcs, n
}

func (q *queue) remove(gone func(parcel) bool) {
	q.parcels = slices.DeleteFunc(q.parcels, func(p parcel) bool {
		if !gone(p) {
			return false
		}
		q.bytes -= len(p.frame)
		return true
	})
}

// next returns the earliest deadline, and false if the queue is empty.
func (q *queue) next() (time.Time, bool) {
	if len(q.pairs) == 0 {
		return time.Time{}, false
	}
	return q.pairs[0].deadline, true
}

func (q *queue) pair(src string) int {
	return slices.IndexFunc(q.pairs, func(p pair) bool { return p.src == src })
}

// sort keeps the pairs by deadline. They nearly always are: a new pair has the
// latest one, and only parcels that came back from a connection can be older.
func (q *queue) sort() {
	byDeadline := func(a, b pair) int { return a.deadline.Compare(b.deadline) }
	if !slices.IsSortedFunc(q.pairs, byDeadline) {
		slices.SortStableFunc(q.pairs, byDeadline)
	}
}
