package peer

import "slices"

// joinedBytes is how much of an outbox goes to the socket in one write.
const joinedBytes = 64 << 10

// longOutbox is how many parcels an outbox has when those that come next will wait for so
// long that they should not keep a pooled buffer.
const longOutbox = 256

// An outbox is what one client is still to be sent, oldest first. The zero value is empty.
// A parcel leaves it when it has been written as a whole. It is not safe for concurrent use.
type outbox struct {
	parcels  []parcel
	bytes    int       // of the parcels
	given    tally     // of the parcels, those that were there from the start; they do not count for a bound
	front    int       // how many of the parcels go before what was held, until the first write
	inflight int       // how many of the parcels a write is under way for
	offset   int       // how much of the first frame is written
	room     [1]parcel // for the parcels while there is no more than one
}

// fill puts the first parcels into an empty outbox: OPEN, what the predecessor was not sent,
// and what was held. They do not count for a bound, but for what the predecessor was not sent
// beyond one outbox: an id that is taken over again and again, and never read, must not gather
// more and more.
func (o *outbox) fill(open parcel, inherited, held []parcel, maxParcels, maxBytes int) {
	o.parcels = append(append(append(o.room[:0], open), inherited...), held...)
	o.moveOut()
	o.bytes = size(o.parcels)
	o.front = 1 + len(inherited)
	o.given = tally{parcels: len(o.parcels), bytes: o.bytes}
	if maxParcels >= 0 {
		o.given.parcels -= max(0, len(inherited)-maxParcels)
	}
	if maxBytes >= 0 {
		o.given.bytes -= max(0, size(inherited)-maxBytes)
	}
}

// full reports whether a frame of n bytes is over a bound. A negative bound means none. One
// frame always has room, however large.
func (o *outbox) full(n, maxParcels, maxBytes int) bool {
	parcels, bytes := len(o.parcels)-o.given.parcels, o.bytes-o.given.bytes
	return maxParcels >= 0 && parcels >= maxParcels ||
		maxBytes >= 0 && bytes+n > maxBytes && parcels > 0
}

// push puts a parcel at the end.
func (o *outbox) push(p parcel) {
	if len(o.parcels) >= longOutbox {
		p.detach()
	}
	if o.parcels == nil {
		o.parcels = o.room[:0]
	}
	o.parcels = append(o.parcels, p)
	o.bytes += len(p.frame)
	o.moveOut()
}

// pushFront puts a parcel before what was held. It is for the time before the first write.
func (o *outbox) pushFront(p parcel) {
	o.parcels = slices.Insert(o.parcels, o.front, p)
	o.bytes += len(p.frame)
	o.front++
	o.moveOut()
}

// precede puts a frame in front of OPEN, the first parcel, so that both go out in one write. It is
// for the time before the first write.
func (o *outbox) precede(frame []byte) {
	o.parcels[0].frame = slices.Concat(frame, o.parcels[0].frame)
	o.bytes += len(frame)
	o.given.bytes += len(frame)
}

// give puts parcels at the end that do not count for a bound.
func (o *outbox) give(ps []parcel) {
	for _, p := range ps {
		o.push(p)
		o.given = o.given.plus(tally{parcels: 1, bytes: len(p.frame)})
	}
}

// moveOut lets room forget a parcel once the parcels have outgrown it.
func (o *outbox) moveOut() {
	if len(o.parcels) > len(o.room) {
		o.room[0] = parcel{}
	}
}

// first returns the first frame as far as it is unwritten, and nil if the outbox is empty. A
// write of it is then under way until wrote is called.
func (o *outbox) first() []byte {
	if len(o.parcels) == 0 {
		return nil
	}
	o.inflight = 1
	return o.parcels[0].frame[o.offset:]
}

// joinable reports whether more than one frame fits into one write.
func (o *outbox) joinable() bool {
	return len(o.parcels) > 1 && len(o.parcels[0].frame)-o.offset+len(o.parcels[1].frame) <= joinedBytes
}

// join appends the unwritten frames to b, as many as fit into its capacity. A write of them is
// then under way until wrote is called.
func (o *outbox) join(b []byte) []byte {
	b = append(b, o.first()...)
	for _, p := range o.parcels[o.inflight:] {
		if len(b)+len(p.frame) > cap(b) {
			break
		}
		b = append(b, p.frame...)
		o.inflight++
	}
	return b
}

// pongs returns the pongs that no write is under way for.
func (o *outbox) pongs() (frames []byte) {
	for _, p := range o.parcels[o.inflight:] {
		if p.frame[0] == finBit|opPong {
			frames = append(frames, p.frame...)
		}
	}
	return frames
}

// wrote notes that the write is over and that n bytes of it were written. It returns how many
// messages that completed.
func (o *outbox) wrote(n int) (messages int) {
	n += o.offset
	whole := 0
	for whole < o.inflight && n >= len(o.parcels[whole].frame) {
		p := &o.parcels[whole]
		n -= len(p.frame)
		o.bytes -= len(p.frame)
		o.given = tally{parcels: max(0, o.given.parcels-1), bytes: max(0, o.given.bytes-len(p.frame))}
		if p.frame[0]&opBits == opText {
			messages++
		}
		p.release()
		whole++
	}
	o.offset, o.inflight = n, 0
	rest := copy(o.parcels, o.parcels[whole:])
	clear(o.parcels[rest:])
	if o.parcels = o.parcels[:rest]; rest == 0 && cap(o.parcels) > 8 {
		o.parcels = o.room[:0] // an idle client keeps no room for a burst
	}
	return messages
}

// take empties the outbox and returns the parcels whose retention is at least least. dropped
// counts the others, without those that concern one connection.
func (o *outbox) take(least retention) (kept []parcel, dropped int) {
	for _, p := range o.parcels {
		switch {
		case p.keep >= least:
			kept = append(kept, p)
		case p.keep != keepNone:
			dropped++
		}
	}
	*o = outbox{offset: o.offset} // the stream still ends inside of a frame
	return kept, dropped
}
