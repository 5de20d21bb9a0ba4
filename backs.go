package peer

import (
	"slices"
	"time"
)

// giveBackLocked sends parcels that came from other nodes back to them, and returns the others.
func (sh *shard) giveBackLocked(r *Realm, id string, epoch uint64, ps []parcel) (local []parcel) {
	var origins []uint16
	for i := range ps {
		switch p := &ps[i]; {
		case p.from == 0:
			local = append(local, *p)
		case p.keep >= keepForSuccessor && !slices.Contains(origins, p.from):
			origins = append(origins, p.from)
		}
	}
	for _, from := range origins {
		var back []parcel
		for _, p := range ps {
			if p.from == from && p.keep >= keepForSuccessor {
				back = append(back, p)
			}
		}
		if l := r.node.origin(from); l != nil {
			l.giveBack(id, epoch, back)
		}
		sh.traffic.returned.Add(uint64(len(back)))
	}
	return local
}

// A partKey is a back of which parts have come.
type partKey struct {
	link  *link
	dst   string
	epoch uint64
}

type part struct {
	messages []farMessage
	since    time.Time
}

// takeBack takes what another node had accepted and not written. All parts of a back are dealt with
// at once: one by one they would end up in reverse.
func (r *Realm) takeBack(l *link, rec *farRecord) {
	n, key := r.node, partKey{l, rec.dst, rec.epoch}
	n.mu.Lock()
	all := n.parts[key]
	if all == nil {
		all = &part{since: time.Now()}
	}
	all.messages = append(all.messages, rec.backs...)
	n.parts[key] = all
	if rec.more {
		n.mu.Unlock()
		return
	}
	delete(n.parts, key)
	n.mu.Unlock()

	ps, expired := r.backParcels(l, all.messages)
	sh := r.shard(rec.dst)
	sh.mu.Lock()
	sh.overLocked(r, rec.dst, l, rec.epoch)
	var ds deliveries
	if c := sh.clients[rec.dst]; c != nil && !sh.closed {
		for len(ps) > 0 {
			t, err := c.enqueue(ps[0])
			ds = append(ds, delivery{c, t}) // also if it has ended c
			if err != nil {
				break
			}
			ps = ps[1:]
		}
	}
	if len(ps) > 0 && !sh.closed {
		expired = append(expired, sh.returnLocked(r, rec.dst, ps)...)
	}
	sh.pushLocked(r, rec.dst)
	sh.mu.Unlock()
	ds.finish()
	r.sendExpire(rec.dst, expired...)
}

// backParcels makes parcels of what has come back. What was sent before the node was found dead has
// been sent elsewhere or has expired, so it expires.
func (r *Realm) backParcels(l *link, ms []farMessage) (ps []parcel, expired []string) {
	r.node.stats.returned.Add(uint64(len(ms)))
	for i := range ms {
		m := &ms[i]
		l.takeRef(m.number)
		if !l.wasBefore(m.number) {
			ps = append(ps, m.parcel(r.node.unstamp(m.deadline)))
		} else if m.keep() == keepUntilExpiry && !slices.Contains(expired, m.src) {
			expired = append(expired, m.src)
		}
	}
	return ps, expired
}

// dropParts expires what has come back in part, when the rest has not come in time.
func (r *Realm) dropParts(now time.Time) {
	late := make(map[partKey]*part)
	r.node.mu.Lock()
	for key, p := range r.node.parts {
		if now.Sub(p.since) > keepParts {
			late[key] = p
			delete(r.node.parts, key)
		}
	}
	r.node.mu.Unlock()
	for key, p := range late {
		var srcs []string
		for i := range p.messages {
			if m := &p.messages[i]; m.keep() == keepUntilExpiry && !slices.Contains(srcs, m.src) {
				srcs = append(srcs, m.src)
			}
		}
		r.sendExpire(key.dst, srcs...)
	}
}
