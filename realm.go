package peer

import (
	"errors"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Realm is who is connected to a [Server], and what waits for whom. Its
// methods may be called concurrently, and from inside events.
type Realm struct {
	limits *Options
	seed   maphash.Seed
	rooms  rooms

	addrMu sync.Mutex         // guards the following
	addrs  map[netip.Addr]int // site -> its clients; absent: none. Only kept with ConcurrentLimitPerAddr

	shards [numShards]shard

	// Behind the shards, so as not to share a cache line with what only is read.
	live        atomic.Int64 // clients, those that are being admitted included
	peak        atomic.Int64
	heldBytes   atomic.Int64
	told        atomic.Int64 // refused pairs
	heldParcels atomic.Int64

	timers sync.WaitGroup // expiry timers that are set or at work
}

// numShards is how many locks the ids are spread over.
const numShards = 64

// A shard is what there is to know about the ids that hash to it. "Who is it?"
// and "what waits for it?" are under one lock, so that no message can be left
// waiting for somebody who has just come.
type shard struct {
	mu      sync.Mutex // guards the following
	closed  bool
	clients map[string]*Client  // id -> its connection; absent: nobody is connected
	waiting map[string]*waiting // id -> what it will get; absent: nothing
	leaving map[string]*Client  // id -> its last connection, whose events still run; absent: they have returned

	traffic traffic
}

// waiting is a queue with the timer of its earliest deadline.
type waiting struct {
	queue
	timer *time.Timer
	at    time.Time // what the timer is set to
}

// traffic counts. Every shard has its own, so that connections on different
// processors do not wait for each other's counting.
type traffic struct {
	relayed, held, expired, returned atomic.Uint64 // first, to be on the lock's cache line: who counts these has it, or had
	bytesIn, bytesOut                atomic.Uint64
	dropped                          [numDropReasons]atomic.Uint64
	_                                [104]byte // makes a shard 256 bytes, and keeps its neighbour off its cache lines
}

// A dropReason says why a message came to nothing.
type dropReason uint8

const (
	dropAbsent       dropReason = iota // not a type that waits, and nobody there
	dropExpired                        // waited in vain
	dropFull                           // over a bound on what may wait
	dropCleared                        // the host cleared the queue
	dropUnknownType                    // a type that is not relayed
	dropBadMessage                     // not a message
	dropUnauthorized                   // Options.Authorize said no
	dropShutdown                       // the server has closed
	numDropReasons   = iota
)

// Errors of admit.
var (
	errLimit  = errors.New("peer: concurrent limit reached")
	errClosed = errors.New("peer: server closed")
)

func newRealm(limits *Options) *Realm {
	r := &Realm{limits: limits, seed: maphash.MakeSeed(), addrs: make(map[netip.Addr]int)}
	r.rooms.members = make(map[string]map[*Client]struct{})
	r.rooms.of = make(map[*Client]map[string]struct{})
	for i := range r.shards {
		sh := &r.shards[i]
		sh.clients = make(map[string]*Client)
		sh.waiting = make(map[string]*waiting)
		sh.leaving = make(map[string]*Client)
	}
	return r
}

func (r *Realm) shard(id string) *shard {
	return &r.shards[maphash.String(r.seed, id)%numShards]
}

// Client returns the connection of an id, or nil if it is not connected.
func (r *Realm) Client(id string) *Client {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if c := sh.clients[id]; c != nil && c.Reason() == 0 {
		return c
	}
	return nil
}

// Clients returns the connected clients in no particular order. Those who come
// or go meanwhile may be missing or be there still.
func (r *Realm) Clients() iter.Seq[*Client] {
	return func(yield func(*Client) bool) {
		for i := range r.shards {
			for _, c := range r.shards[i].snapshot() {
				if c.Reason() == 0 && !yield(c) {
					return
				}
			}
		}
	}
}

func (sh *shard) snapshot() []*Client {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	cs := make([]*Client, 0, len(sh.clients))
	for _, c := range sh.clients {
		cs = append(cs, c)
	}
	return cs
}

// ClientIDs returns the connected ids in ascending order. It is never nil.
func (r *Realm) ClientIDs() []string {
	ids := make([]string, 0, r.Len())
	for c := range r.Clients() {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	return ids
}

// Len returns how many clients are connected.
func (r *Realm) Len() int { return int(r.live.Load()) }

// RemoveClient closes the connection of an id with [ReasonRemoved] and reports
// whether there was one. When it returns, the id is free; that can take a quarter
// of a second if the client is behind TLS and does not read. [Client.Close] does
// not wait.
func (r *Realm) RemoveClient(id string) bool {
	c := r.Client(id)
	if c == nil || !c.end(ReasonRemoved, nil, nil) {
		return false
	}
	r.remove(c)
	return true
}

// ClearMessageQueue drops what waits for an id and returns how many messages
// that was. Each sender gets its EXPIRE, as if the time were over.
func (r *Realm) ClearMessageQueue(id string) int {
	sh := r.shard(id)
	sh.mu.Lock()
	var senders []string
	ps := sh.takeLocked(r, id)
	for _, p := range ps {
		if !slices.Contains(senders, p.src) {
			senders = append(senders, p.src)
		}
	}
	sh.traffic.dropped[dropCleared].Add(uint64(len(ps)))
	sh.mu.Unlock()
	r.sendExpire(id, senders...)
	return len(ps)
}

// Send sends a message of the application's own to an id, with the errors of
// [Client.Send]. Whoever takes the id over before the message is written gets it;
// it does not wait for an id that is not connected.
func (r *Realm) Send(id string, m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	sh := r.shard(id)
	sh.mu.Lock()
	c, start := sh.clients[id], false
	if err = ErrNotConnected; c != nil {
		start, err = c.enqueue(parcel{frame: textFrame(b), fate: fatePass})
	}
	sh.mu.Unlock()
	if start {
		c.flush()
	}
	return err
}

// An outcome is what became of a message.
type outcome uint8

const (
	delivered outcome = iota // in the outbox of its destination
	held                     // waits for it
	refused                  // neither: its sender gets EXPIRE, if it is a type that waits
	ignored                  // the same, but the sender has had that EXPIRE
)

// route hands a parcel to the client at id, or else holds it, in one step.
func (r *Realm) route(id string, p parcel) outcome {
	sh := r.shard(id)
	sh.mu.Lock()
	out, start, c := sh.routeLocked(r, id, p)
	sh.mu.Unlock()
	if start {
		c.flush()
	}
	if out == refused || out == ignored {
		p.release()
	}
	if out == refused && p.fate == fateHold {
		r.sendExpire(id, p.src)
	}
	return out
}

func (sh *shard) routeLocked(r *Realm, id string, p parcel) (out outcome, start bool, c *Client) {
	if c = sh.clients[id]; c != nil {
		var err error
		if start, err = c.enqueue(p); err == nil {
			sh.traffic.relayed.Add(1)
			return delivered, start, c
		}
		// It is ending. What it has not been sent will go before p.
	}
	if p.fate != fateHold {
		sh.traffic.dropped[dropAbsent].Add(1)
		return refused, start, c
	}
	if sh.closed {
		sh.traffic.dropped[dropShutdown].Add(1)
		return refused, start, c
	}
	return sh.holdLocked(r, id, p), start, c
}

// holdLocked holds p, or refuses it. Of a pair that is over a bound nothing is
// kept: what is left of a negotiation is of no use, and one EXPIRE is for all.
func (sh *shard) holdLocked(r *Realm, id string, p parcel) outcome {
	w := sh.waiting[id]
	if w == nil {
		w = new(waiting)
		sh.waiting[id] = w
	}
	before := w.queue
	defer func() { sh.settleLocked(r, id, w, before) }()
	if w.refused(p.src) {
		if p.follows {
			sh.traffic.dropped[dropFull].Add(1)
			return ignored
		}
		w.drop(p.src) // a new offer is a new question
	}
	fits := r.limits.MaxOutboxBytes < 0 || w.bytes+len(p.frame) <= r.limits.MaxOutboxBytes || w.bytes == 0
	if fits = fits && r.reserve(len(p.frame)); fits {
		before.bytes += len(p.frame)
	}
	if fits && w.push(p, r.limits.MaxHeldPerPair, r.limits.MaxHeldPerDestination) {
		sh.traffic.held.Add(1)
		return held
	}
	n := 0
	if r.told.Load() < maxTold && len(id) <= maxIDBytes {
		n = w.refuse(p.src, p.deadline)
	} else {
		n = w.drop(p.src) // not even to remember it is there room: the next one is answered again
	}
	sh.traffic.dropped[dropFull].Add(uint64(n) + 1)
	return refused
}

// reserve makes room for n bytes that are to wait, or reports that there is none.
func (r *Realm) reserve(n int) bool {
	if r.heldParcels.Load() >= maxHeldParcels {
		return false
	}
	for {
		now := r.heldBytes.Load()
		if r.limits.MaxHeldBytes >= 0 && now+int64(n) > int64(r.limits.MaxHeldBytes) {
			return false
		}
		if r.heldBytes.CompareAndSwap(now, now+int64(n)) {
			return true
		}
	}
}

// maxHeldParcels bounds what waits in all in messages: a short one takes several
// times as much memory as MaxHeldBytes counts.
const maxHeldParcels = 100_000

// maxTold bounds how many refused pairs are remembered.
const maxTold = 10000

// settleLocked sets the books and the timer of a queue right after a change.
func (sh *shard) settleLocked(r *Realm, id string, w *waiting, before queue) {
	r.heldBytes.Add(int64(w.bytes - before.bytes))
	r.heldParcels.Add(int64(w.parcels - before.parcels))
	r.told.Add(int64(w.told - before.told))
	soonest := w.soonest()
	if soonest != nil && soonest.deadline.Equal(w.at) {
		return
	}
	if w.timer != nil && w.timer.Stop() {
		r.timers.Done()
	}
	if soonest == nil {
		delete(sh.waiting, id)
		return
	}
	w.at = soonest.deadline
	r.timers.Add(1)
	w.timer = time.AfterFunc(time.Until(w.at), func() { r.expire(id, w) })
}

// takeLocked returns what waits for id, which then is nothing.
func (sh *shard) takeLocked(r *Realm, id string) []parcel {
	w := sh.waiting[id]
	if w == nil {
		return nil
	}
	before := w.queue
	ps := w.take()
	sh.settleLocked(r, id, w, before)
	return ps
}

// expire runs when the earliest deadline of a queue has come.
func (r *Realm) expire(id string, w *waiting) {
	defer r.timers.Done()
	sh := r.shard(id)
	sh.mu.Lock()
	if sh.waiting[id] != w {
		sh.mu.Unlock()
		return
	}
	before := w.queue
	w.at = time.Time{}
	senders, n := w.expire(time.Now())
	sh.traffic.dropped[dropExpired].Add(uint64(n))
	sh.settleLocked(r, id, w, before)
	sh.mu.Unlock()
	r.sendExpire(id, senders...)
}

// sendExpire tells each of the senders that what it sent to id came to nothing.
func (r *Realm) sendExpire(id string, senders ...string) {
	for _, src := range senders {
		b, _ := Message{Type: TypeExpire, Src: id, Dst: src}.encode() // has no payload that could be bad
		r.shard(src).traffic.expired.Add(1)
		r.route(src, parcel{frame: textFrame(b), fate: fatePass})
	}
}

// admit makes c the connection of its id and gives it OPEN, what the connection
// that it replaces had not written, and what was held, before anybody can find
// it. If somebody else than replace has the id, admit changes nothing and
// returns who. replace may be nil; else it must have ended and settled.
func (r *Realm) admit(c, replace *Client) (holder *Client, err error) {
	sh := r.shard(c.id)
	sh.mu.Lock()
	if sh.closed {
		sh.mu.Unlock()
		return nil, errClosed
	}
	holder = sh.clients[c.id]
	if holder != nil && holder != replace {
		sh.mu.Unlock()
		return holder, nil
	}
	if !r.count(c, holder) {
		sh.mu.Unlock()
		return nil, errLimit
	}
	var inherited []parcel
	if holder != nil {
		least := fatePass
		if equal(holder.token, c.token) {
			least = fateOwn
		}
		var dropped int
		inherited, dropped = holder.takeUnwritten(c, func(f fate) bool { return f >= least })
		sh.traffic.dropped[dropAbsent].Add(uint64(dropped))
		sh.traffic.returned.Add(uint64(len(inherited)))
		sh.leaving[c.id] = holder
	}
	start := c.admit(sh.leaving[c.id], inherited, sh.takeLocked(r, c.id))
	sh.clients[c.id] = c
	for _, old := range c.inherits {
		r.inheritRooms(c, old)
	}
	c.inherits = nil
	sh.mu.Unlock()
	if start {
		c.flush()
	}
	return nil, nil
}

var openFrame = textFrame([]byte(`{"type":"OPEN"}`))

// remove takes c out of the realm, unless it is out already. What it was still
// to be sent and can wait does wait, before anything that came later.
func (r *Realm) remove(c *Client) {
	c.settle()
	sh := r.shard(c.id)
	sh.mu.Lock()
	senders := sh.removeLocked(r, c)
	sh.mu.Unlock()
	r.sendExpire(c.id, senders...)
}

// removeLocked returns the senders of what cannot wait for want of room.
func (sh *shard) removeLocked(r *Realm, c *Client) (senders []string) {
	if sh.clients[c.id] != c {
		return nil
	}
	delete(sh.clients, c.id)
	sh.leaving[c.id] = c
	r.uncount(c)
	rest, dropped := c.takeUnwritten(nil, func(f fate) bool { return f == fateHold })
	sh.traffic.dropped[dropAbsent].Add(uint64(dropped))
	if len(rest) == 0 {
		return nil
	}
	if sh.closed {
		sh.traffic.dropped[dropShutdown].Add(uint64(len(rest)))
		return nil
	}
	w := sh.waiting[c.id]
	if w == nil {
		w = new(waiting)
		sh.waiting[c.id] = w
	}
	before := w.queue
	w.unshift(rest)
	sh.traffic.returned.Add(uint64(len(rest)))
	for r.limits.MaxHeldBytes >= 0 && int(r.heldBytes.Load())+w.bytes-before.bytes > r.limits.MaxHeldBytes && w.parcels > 0 {
		last := w.latest().src
		senders = append(senders, last)
		sh.traffic.dropped[dropFull].Add(uint64(w.drop(last)))
	}
	sh.settleLocked(r, c.id, w, before)
	return senders
}

// finish notes that the events of c have returned, for the next one of its id.
func (r *Realm) finish(c *Client) {
	sh := r.shard(c.id)
	sh.mu.Lock()
	if sh.leaving[c.id] == c {
		delete(sh.leaving, c.id)
	}
	sh.mu.Unlock()
	c.finish()
}

// mayReplace reports whether there is room for c in the place of old.
func (r *Realm) mayReplace(old, c *Client) bool {
	limit := r.limits.ConcurrentLimitPerAddr
	if limit <= 0 || !c.site.IsValid() || c.site == old.site {
		return true
	}
	r.addrMu.Lock()
	defer r.addrMu.Unlock()
	return r.addrs[c.site] < limit
}

// count makes room for c in the place of old, which may be nil, or reports that
// there is none.
func (r *Realm) count(c, old *Client) bool {
	if limit := r.limits.ConcurrentLimitPerAddr; limit > 0 {
		r.addrMu.Lock()
		defer r.addrMu.Unlock()
		taken := r.addrs[c.site]
		if old != nil && old.site == c.site {
			taken--
		}
		if taken >= limit && c.site.IsValid() {
			return false
		}
	}
	if old != nil {
		r.countAddrLocked(old, -1)
		r.countAddrLocked(c, +1)
		return true
	}
	for {
		n := r.live.Load()
		if r.limits.ConcurrentLimit >= 0 && n >= int64(r.limits.ConcurrentLimit) {
			return false
		}
		if r.live.CompareAndSwap(n, n+1) {
			r.countAddrLocked(c, +1)
			for peak := r.peak.Load(); n+1 > peak && !r.peak.CompareAndSwap(peak, n+1); {
				peak = r.peak.Load()
			}
			return true
		}
	}
}

func (r *Realm) uncount(c *Client) {
	r.live.Add(-1)
	if r.limits.ConcurrentLimitPerAddr > 0 {
		r.addrMu.Lock()
		r.countAddrLocked(c, -1)
		r.addrMu.Unlock()
	}
}

func (r *Realm) countAddrLocked(c *Client, d int) {
	if r.limits.ConcurrentLimitPerAddr <= 0 {
		return
	}
	if r.addrs[c.site] += d; r.addrs[c.site] == 0 {
		delete(r.addrs, c.site)
	}
}

// close admits nobody from now on, drops what waits, and returns who is there.
func (r *Realm) close() []*Client {
	var cs []*Client
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		sh.closed = true
		for id := range sh.waiting {
			sh.traffic.dropped[dropShutdown].Add(uint64(len(sh.takeLocked(r, id))))
		}
		sh.mu.Unlock()
		cs = append(cs, sh.snapshot()...)
	}
	return cs
}

// traffic returns the counters for an id.
func (r *Realm) traffic(id string) *traffic { return &r.shard(id).traffic }

// check recomputes from the maps what is kept beside them and returns what does
// not agree. It is for tests, at a moment when nothing is under way.
func (r *Realm) check() error {
	var errs []error
	live, bytes, parcels, told := 0, 0, 0, 0
	addrs := make(map[netip.Addr]int)
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for id, c := range sh.clients {
			live++
			addrs[c.site]++
			if c.id != id || sh.waiting[id] != nil {
				errs = append(errs, errors.New("a connected id has messages waiting: "+id))
			}
		}
		for id, w := range sh.waiting {
			n := size(w.all())
			bytes += n
			parcels += w.parcels
			for _, p := range w.pairs {
				if p.refused {
					told++
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
	for room, members := range r.rooms.members {
		for c := range members {
			if _, is := r.rooms.of[c][room]; !is || c.Reason() != 0 {
				errs = append(errs, errors.New("a room and its members do not agree: "+room))
			}
		}
	}
	r.rooms.mu.Unlock()
	if live != r.Len() || bytes != int(r.heldBytes.Load()) || parcels != int(r.heldParcels.Load()) || told != int(r.told.Load()) {
		errs = append(errs, errors.New("clients, held bytes, held messages or refused pairs are miscounted"))
	}
	if r.limits.ConcurrentLimitPerAddr > 0 && len(addrs) != len(r.addrs) {
		errs = append(errs, errors.New("addresses are miscounted"))
	}
	return errors.Join(errs...)
}
