package peer

import (
	"cmp"
	"slices"
	"time"
)

// A parcel of this node that is sent to another one stays in the queue, with a mark, until that node
// has said what became of it.

// A grace is how far the end of a pair with marked parcels has come, when its time is over.
type grace uint8

const (
	noGrace  grace = iota
	waiting        // the other node has as much time again
	overtime       // what was in the inbox before now is read, and then the pair expires
)

// countMark counts a parcel of a pair that comes (+1) or goes (-1).
func (q *queue) countMark(at *pair, p *parcel, d int) {
	switch {
	case p.from != 0:
	case p.mark != 0:
		at.marked += d
	default:
		q.unsent += d
	}
}

// last returns the newest parcel of a sender, which must have one.
func (q *queue) last(s sender) *parcel {
	at := q.pairs[s]
	return &at.parcels[len(at.parcels)-1].parcel
}

// unmarked returns the parcels of this node that are not marked, in order. They may be marked with
// setMark while nothing else is done with the queue.
func (q *queue) unmarked() (ps []*numbered) {
	if q.unsent == 0 {
		return nil
	}
	for _, at := range q.pairs {
		for i := range at.parcels {
			if p := &at.parcels[i]; p.from == 0 && p.mark == 0 {
				ps = append(ps, p)
			}
		}
	}
	slices.SortFunc(ps, func(a, b *numbered) int { return cmp.Compare(a.number, b.number) })
	return ps
}

// setMark marks a parcel that is in the queue, or takes its mark away (0).
func (q *queue) setMark(p *parcel, mark uint32) {
	at := q.pairs[p.sender()]
	q.countMark(at, p, -1)
	p.mark = mark
	q.countMark(at, p, +1)
}

// settle removes the parcel of a sender that has a mark, and reports whether it was there.
func (q *queue) settle(s sender, mark uint32) (ok bool, t tally) {
	at := q.pairs[s]
	if at == nil || mark == 0 {
		return false, tally{}
	}
	i := slices.IndexFunc(at.parcels, func(p numbered) bool { return p.mark == mark })
	if i < 0 {
		return false, tally{}
	}
	return true, q.remove(at, i)
}

// remove removes parcel i of a pair. The pair goes with its last parcel.
func (q *queue) remove(at *pair, i int) tally {
	p := &at.parcels[i]
	t := q.count(tally{parcels: -1, bytes: -len(p.frame)})
	q.countMark(at, &p.parcel, -1)
	first := at.parcels[i].deadline.Equal(at.deadline) || at.grace != noGrace
	if at.parcels = slices.Delete(at.parcels, i, i+1); len(at.parcels) == 0 {
		delete(q.pairs, at.sender)
		q.order.Remove(at.place)
		return t
	}
	if first {
		q.reline(at)
	}
	return t
}

// reline sets the deadline of a pair to that of its oldest parcel.
func (q *queue) reline(at *pair) {
	at.grace = noGrace
	q.order.Remove(at.place)
	q.line(at, at.oldest())
}

// deadlineOf returns the deadline of the pair of a parcel that is in the queue: another node is to deal with
// all of it as one.
func (q *queue) deadlineOf(p *parcel) time.Time {
	at := q.pairs[p.sender()]
	switch {
	case at.sender == nobody:
		return p.deadline
	case at.grace == noGrace:
		return at.deadline
	}
	return at.oldest()
}

// oldest returns the deadline of the oldest parcel of a pair, which must have one.
func (at *pair) oldest() time.Time {
	oldest := at.parcels[0].deadline
	for i := range at.parcels {
		if d := at.parcels[i].deadline; d.Before(oldest) {
			oldest = d
		}
	}
	return oldest
}

// unmark takes all marks away.
func (q *queue) unmark() {
	for _, at := range q.pairs {
		if at.marked == 0 {
			continue
		}
		for i := range at.parcels {
			if p := &at.parcels[i].parcel; p.mark != 0 && p.from == 0 {
				q.setMark(p, 0)
			}
		}
		if at.grace != noGrace {
			q.reline(at)
		}
	}
}

// isMarked reports whether the queue has marked parcels.
func (q *queue) isMarked() bool {
	for _, at := range q.pairs {
		if at.marked > 0 {
			return true
		}
	}
	return false
}

// postpone gives the pairs with marked parcels whose deadline is not after now more time: as much as
// they had, and then a moment. It reports whether some have only the moment left from now on.
func (q *queue) postpone(now time.Time, timeout, moment time.Duration) (soon bool) {
	for due := q.due(now); len(due) > 0; due = q.due(now) {
		for _, at := range due {
			at.grace++
			until := at.deadline.Add(timeout)
			if at.grace == overtime {
				soon, until = true, now.Add(moment)
			}
			q.order.Remove(at.place)
			q.line(at, until)
		}
	}
	return soon
}

// due returns the pairs that postpone can give more time.
func (q *queue) due(now time.Time) (due []*pair) {
	if q.order == nil {
		return nil
	}
	for e := q.order.Front(); e != nil; e = e.Next() {
		at := e.Value.(*pair)
		if at.deadline.After(now) {
			break
		}
		if at.marked > 0 && at.grace != overtime {
			due = append(due, at)
		}
	}
	return due
}

// hasten ends the moment of the pairs that have only that left.
func (q *queue) hasten(now time.Time) {
	var late []*pair
	for _, at := range q.pairs {
		if at.grace == overtime {
			late = append(late, at)
		}
	}
	for _, at := range late {
		q.order.Remove(at.place)
		q.line(at, now)
	}
}

// takeFar takes the parcels of other nodes out, in order.
func (q *queue) takeFar() (ps []parcel, t tally) {
	rest := queue{}
	all, t := q.take()
	for _, p := range all {
		if p.from != 0 {
			ps = append(ps, p)
		} else {
			t = t.plus(rest.push(p))
		}
	}
	*q = rest
	return ps, t
}

// discard drops the parcels of nobody.
func (q *queue) discard() tally { return q.drop(nobody) }

// dropSent drops the parcels of nobody that are marked: they are sent once at most.
func (q *queue) dropSent() (t tally) {
	for at := q.pairs[nobody]; at != nil && at.marked > 0; at = q.pairs[nobody] {
		t = t.plus(q.remove(at, slices.IndexFunc(at.parcels, func(p numbered) bool { return p.mark != 0 })))
	}
	return t
}
