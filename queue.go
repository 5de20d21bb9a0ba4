package peer

import (
	"bytes"
	"cmp"
	"container/list"
	"math"
	"slices"
	"sync"
	"time"
)

// A retention says what becomes of a parcel whose connection ends before the parcel is
// written.
type retention uint8

const (
	keepNone         retention = iota // it is for that connection only: OPEN, pings and pongs
	keepForSamePeer                   // a successor with the same token gets it
	keepForSuccessor                  // any successor gets it
	keepUntilExpiry                   // any successor gets it; without one it is held for the id
)

// A parcel is one encoded message on its way to one destination.
type parcel struct {
	frame     []byte  // a whole WebSocket frame; not modified while anybody has the parcel
	buf       *[]byte // the pooled buffer that frame lies in, if it does
	src       string  // id of the sender; "" for the server itself
	deadline  time.Time
	keep      retention
	continues bool   // ANSWER or CANDIDATE: part of a negotiation that an OFFER began
	from      uint16 // the node of the cluster that it comes from; 0: this one
	mark      uint32 // its number between two nodes, if it comes from another one, or has been sent to one; else 0
}

// sender returns whose parcel p is.
func (p *parcel) sender() sender {
	if p.from == 0 && p.keep != keepUntilExpiry {
		return nobody
	}
	return sender{p.src, p.from}
}

// payload returns the message in the frame of p.
func (p *parcel) payload() []byte { return framePayload(p.frame) }

// newParcel returns a client's message as it is relayed. quoted is src as a JSON string.
func newParcel(e *envelope, src, quoted string, keep retention, deadline time.Time) parcel {
	frame, buf := frameBuffer(e.size(quoted))
	return parcel{
		frame:     e.append(frame, quoted),
		buf:       buf,
		src:       src,
		deadline:  deadline,
		keep:      keep,
		continues: e.typ == TypeAnswer || e.typ == TypeCandidate,
	}
}

// ownParcel returns a message of the server itself, or of the host.
func ownParcel(message []byte, keep retention) parcel {
	return parcel{frame: textFrame(message), keep: keep}
}

// frameBuffers are buffers for the frames of relayed messages. Without them the garbage
// collector runs thirty times a second under load.
var frameBuffers = sync.Pool{New: func() any { b := make([]byte, 0, pooledFrame); return &b }}

const pooledFrame = 4 << 10

// frameBuffer returns the header of a text frame with a payload of n bytes, and room for
// the payload. buf is the pooled buffer that it lies in, if n fits into one without wasting
// most of it.
func frameBuffer(n int) (frame []byte, buf *[]byte) {
	if n+maxFrameHead > pooledFrame || n < pooledFrame/4 {
		return newFrame(n), nil
	}
	buf = frameBuffers.Get().(*[]byte)
	return appendHead((*buf)[:0], n), buf
}

// release returns the buffer of a parcel that has been written, or is not going to be.
func (p *parcel) release() {
	if p.buf != nil {
		frameBuffers.Put(p.buf)
		p.buf = nil
	}
}

// detach moves the frame of a parcel that is to wait out of its pooled buffer, so that it
// takes no more memory than it counts for.
func (p *parcel) detach() {
	if p.buf != nil {
		p.frame = bytes.Clone(p.frame)
		p.release()
	}
}

// size returns how many bytes the frames of ps take.
func size(ps []parcel) (n int) {
	for i := range ps {
		n += len(ps[i].frame)
	}
	return n
}

// A tally is what an operation has changed of what is counted in all queues together.
type tally struct {
	parcels int
	bytes   int // of the parcels
	expired int // pairs that are remembered as expired
}

func (t tally) plus(u tally) tally {
	return tally{t.parcels + u.parcels, t.bytes + u.bytes, t.expired + u.expired}
}

// A sender is a client, and the node of the cluster that it sent from.
type sender struct {
	id   string
	from uint16 // as that of a parcel
}

// nobody is the sender of parcels that wait only until it is known whether another node has their
// destination. It gets no EXPIRE.
var nobody = sender{from: math.MaxUint16}

// A pair is all that one sender has waiting for one destination. It expires as a whole: an offer
// is of no use without its candidates, nor are they without it.
type pair struct {
	sender
	deadline time.Time // of its oldest parcel, or later if it is in grace
	parcels  []numbered
	marked   int           // parcels that have been sent to another node, which has not said yet what became of them
	grace    grace         // it has marked parcels, and its time is over
	expired  bool          // its sender has read EXPIRE: it has no parcels, and what continues the last offer is not wanted
	place    *list.Element // in queue.order
}

// A numbered parcel has its place in the order of arrival of a queue.
type numbered struct {
	parcel
	number int
}

// bounds are what one queue may hold. A negative bound means none.
type bounds struct {
	perPair int // parcels of one sender
	parcels int
	bytes   int // one parcel may always wait, however large
}

// A queue holds the parcels for one absent destination. What it does with a new parcel, or
// with one pair, takes no longer if there are many. The zero value is empty. It is not safe
// for concurrent use.
type queue struct {
	pairs       map[sender]*pair
	order       *list.List // of *pair, by deadline; nil without any
	first, next int        // numbers: of the first parcel that came back, and of the next to come
	unsent      int        // parcels of this node that are not marked
	tally                  // of what is in the queue now
}

// fits reports whether p is within the bounds of the queue.
func (q *queue) fits(p *parcel, b bounds) bool {
	return (b.perPair < 0 || q.held(p.sender()) < b.perPair) &&
		(b.parcels < 0 || q.parcels < b.parcels) &&
		(b.bytes < 0 || q.parcels == 0 || q.bytes+len(p.frame) <= b.bytes)
}

// held returns how many parcels a sender has waiting.
func (q *queue) held(s sender) int {
	if at := q.pairs[s]; at != nil {
		return len(at.parcels)
	}
	return 0
}

// push appends p.
func (q *queue) push(p parcel) tally {
	q.next++
	return q.add(p, q.next-1)
}

// unshift puts parcels that were on their way before everything that waits. Their deadlines
// stay. Those for which accept is false are not put anywhere.
func (q *queue) unshift(ps []parcel, accept func(p *parcel) bool) (t tally) {
	q.first -= len(ps)
	first := q.first
	for i := range ps {
		if accept(&ps[i]) {
			t = t.plus(q.add(ps[i], first+i))
		}
	}
	return t
}

// add puts p into the pair that it belongs to.
func (q *queue) add(p parcel, number int) tally {
	at := q.pairs[p.sender()]
	if at == nil {
		at = q.open(p.sender(), p.deadline)
	}
	t := q.revive(at)
	if p.deadline.Before(at.deadline) && at.grace == noGrace {
		q.order.Remove(at.place)
		q.line(at, p.deadline)
	}
	p.detach()
	q.countMark(at, &p, +1)
	at.parcels = append(at.parcels, numbered{p, number})
	return t.plus(q.count(tally{parcels: 1, bytes: len(p.frame)}))
}

// count changes what is in the queue by t, and returns t.
func (q *queue) count(t tally) tally {
	q.tally = q.tally.plus(t)
	return t
}

// open makes a pair without parcels.
func (q *queue) open(s sender, deadline time.Time) *pair {
	if q.pairs == nil {
		q.pairs, q.order = make(map[sender]*pair), list.New()
	}
	at := &pair{sender: s}
	q.pairs[s] = at
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

// revive forgets that a pair has expired.
func (q *queue) revive(at *pair) tally {
	if !at.expired {
		return tally{}
	}
	at.expired = false
	return q.count(tally{expired: -1})
}

// expired reports whether the sender has read EXPIRE for this destination and has had
// nothing waiting since.
func (q *queue) expired(s sender) bool {
	at := q.pairs[s]
	return at != nil && at.expired
}

// expirePair drops everything that a sender has waiting, and remembers until the deadline of the
// first of it that the sender reads EXPIRE.
func (q *queue) expirePair(s sender, deadline time.Time) tally {
	at := q.pairs[s]
	if at == nil {
		at = q.open(s, deadline)
	}
	t := q.clear(at)
	at.expired = true
	return t.plus(q.count(tally{expired: 1}))
}

// clear takes the parcels out of a pair.
func (q *queue) clear(at *pair) tally {
	t := tally{parcels: -len(at.parcels)}
	for i := range at.parcels {
		t.bytes -= len(at.parcels[i].frame)
		q.countMark(at, &at.parcels[i].parcel, -1)
	}
	at.parcels, at.grace = nil, noGrace
	return q.count(t).plus(q.revive(at))
}

// drop removes the pair of a sender with everything that it has waiting.
func (q *queue) drop(s sender) tally {
	at := q.pairs[s]
	if at == nil {
		return tally{}
	}
	delete(q.pairs, s)
	q.order.Remove(at.place)
	return q.clear(at)
}

// expire drops the pairs whose deadline is not after now. It returns the senders that have to be
// told, and the parcels of senders on other nodes, which tell them.
func (q *queue) expire(now time.Time) (ss []sender, far []parcel, t tally) {
	for at := q.soonest(); at != nil && !at.deadline.After(now); at = q.soonest() {
		switch {
		case at.sender == nobody || at.expired:
		case at.from == 0:
			ss = append(ss, at.sender)
		default:
			for _, p := range at.parcels {
				far = append(far, p.parcel)
			}
		}
		t = t.plus(q.drop(at.sender))
	}
	return ss, far, t
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
func (q *queue) take() ([]parcel, tally) {
	ps, t := q.all(), tally{-q.parcels, -q.bytes, -q.tally.expired}
	*q = queue{}
	return ps, t
}

// soonest returns the pair that expires first, and nil if the queue is empty.
func (q *queue) soonest() *pair {
	if len(q.pairs) == 0 {
		return nil
	}
	return q.order.Front().Value.(*pair)
}
