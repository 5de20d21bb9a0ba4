package peer

import (
	"errors"
	"net/netip"
	"slices"
)

// check recomputes from the maps what is kept beside them and returns what does
// not agree. It is for tests, at a moment when nothing is under way.
func (r *Realm) check() error {
	var errs []error
	live, bytes, parcels, expired := 0, 0, 0, 0
	addrs := make(map[netip.Addr]int)
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for id, c := range sh.clients {
			live++
			addrs[c.limitAddr]++
			if c.id != id || sh.waiting[id] != nil && c.isOpen() { // before OPEN there may be no room for them
				errs = append(errs, errors.New("a connected id has messages waiting: "+id))
			}
		}
		for id, w := range sh.waiting {
			n := size(w.all())
			bytes += n
			parcels += w.parcels
			for _, p := range w.pairs {
				if p.expired {
					expired++
				}
			}
			if n != w.bytes || len(w.all()) != w.parcels || len(w.pairs) == 0 {
				errs = append(errs, errors.New("a queue is empty or miscounts what it holds: "+id))
			} else if w.timer == nil || !w.at.Equal(w.soonest().deadline) {
				errs = append(errs, errors.New("the timer of a queue is not set to its first deadline: "+id))
			}
		}
		sh.mu.Unlock()
	}
	r.rooms.mu.Lock()
	seats := 0
	for name, rm := range r.rooms.rooms {
		listed := 0
		for c, data := range rm.members {
			listed += listedSize(c, data)
			if !slices.Contains(c.Rooms(), name) || c.Reason() != 0 {
				errs = append(errs, errors.New("a room and its members do not agree: "+name))
			}
		}
		if listed != rm.listed || len(rm.members) == 0 {
			errs = append(errs, errors.New("a room is empty, or miscounts its list: "+name))
		}
		seats += len(rm.members)
	}
	if seats != r.rooms.seats {
		errs = append(errs, errors.New("the members of all rooms are miscounted"))
	}
	r.rooms.mu.Unlock()
	if live != r.Len() || bytes != int(r.heldBytes.Load()) || parcels != int(r.heldParcels.Load()) || expired != int(r.expired.Load()) {
		errs = append(errs, errors.New("clients, held bytes, held messages or refused pairs are miscounted"))
	}
	if r.opts.ConcurrentLimitPerAddr > 0 && len(addrs) != len(r.addrs) {
		errs = append(errs, errors.New("addresses are miscounted"))
	}
	return errors.Join(errs...)
}
