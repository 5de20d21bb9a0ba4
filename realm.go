package peer

import (
	"errors"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Locks are taken in this order. While one is held, only those behind it in its line are taken:
//
//	shard.mu → rooms.mu → Client.mu
//	rooms.mu → roomWork.mu → work.mu
//	shard.mu → Realm.addrMu
//	shard.mu → node.mu → work.mu
//	shard.mu → link.mu → work.mu
//	shard.mu → finder.mu → work.mu
//	shard.mu → claims.mu → work.mu
//	sweeps.mu → work.mu
//	census.mu → work.mu
//
// A goroutine holds the lock of one shard and of one client at most. Under a lock there is no call on a connection, no
// log line and no function of the host: what is to be done afterwards is collected as a todo.

// A Realm is the registry of a [Server]: its connected clients, and the messages held for
// absent ones. Its methods may be called concurrently, and from inside events.
//
// With [Options.Cluster], Client, Clients, ClientIDs, Len, Held, ClearMessageQueue, Members, Rooms and
// RoomLen are about the clients of this server and about what they have sent. The other methods are about
// the clients of all servers. Those that ask the engine say so: they can take two seconds.
type Realm struct {
	opts     *Options
	seed     maphash.Seed
	rooms    rooms
	roomWork *roomWork // nil: the server is no node of a cluster
	partials budget
	node     *node // nil: the server is no node of a cluster

	addrMu sync.Mutex         // guards the following
	addrs  map[netip.Addr]int // limitAddr -> its clients; absent: none. Only kept with ConcurrentLimitPerAddr

	shards [numShards]shard

	// Behind the shards, so as not to share a cache line with what only is read.
	live         atomic.Int64 // clients, those that are being admitted included
	peak         atomic.Int64
	heldBytes    atomic.Int64
	heldParcels  atomic.Int64
	expiredPairs atomic.Int64 // pairs that are remembered as expired

	timers sync.WaitGroup // expiry timers that are set or at work
}

// numShards is how many locks the ids are spread over.
const numShards = 64

// A shard holds the clients and queues of the ids that hash to it. One lock guards both, so
// that no message is held for a client that has just connected.
type shard struct {
	mu      sync.Mutex // guards the following
	closed  bool
	clients map[string]*Client       // id -> its connection; absent: nobody is connected
	queues  map[string]*waitingQueue // id -> what is held for it; absent: nothing
	leaving map[string]*Client       // id -> its last connection, while events of that run; absent: they have returned

	far *farShard // nil: the server is no node of a cluster

	traffic traffic
}

// Errors of admit.
var (
	errLimit     = errors.New("peer: concurrent limit reached")
	errAddrLimit = errors.New("peer: concurrent limit of the address reached")
	errClosed    = errors.New("peer: server closed")
	errUnclaimed = errors.New("peer: the id is not claimed in the cluster")
)

func newRealm(opts *Options) *Realm {
	r := &Realm{opts: opts, seed: maphash.MakeSeed(), addrs: make(map[netip.Addr]int)}
	r.partials.limit = opts.MaxPartialBytes
	r.rooms.rooms = make(map[string]*room)
	for i := range r.shards {
		sh := &r.shards[i]
		sh.clients = make(map[string]*Client)
		sh.queues = make(map[string]*waitingQueue)
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

// Clients returns the connected clients in no particular order. A client that connects or
// ends during the iteration may or may not be among them.
func (r *Realm) Clients() iter.Seq[*Client] {
	return func(yield func(*Client) bool) {
		for c := range r.registered() {
			if c.Reason() == 0 && !yield(c) {
				return
			}
		}
	}
}

// registered is Clients with those that have ended, and are about to be removed.
func (r *Realm) registered() iter.Seq[*Client] {
	return func(yield func(*Client) bool) {
		for i := range r.shards {
			for _, c := range r.shards[i].snapshot() {
				if !yield(c) {
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

// ClientIDs returns the connected ids in ascending order. The slice is not nil.
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

// RemoveClient closes the connection of an id with [ReasonRemoved], and reports whether
// there was one. When it returns, the id is free. Over TLS that can take up to a quarter
// of a second, if the client does not read. [Client.Close] does not wait. With [Options.Cluster], a
// client on another node is told to end too, and RemoveClient does not wait for that; it waits for the
// engine, which can take two seconds.
func (r *Realm) RemoveClient(id string) bool {
	c := r.Client(id)
	if c == nil && r.node != nil {
		there, err := r.kick(id, 0, "")
		if err != nil {
			r.node.engineFailed(err)
		}
		return there
	}
	if c == nil || !c.end(ReasonRemoved, nil, nil) {
		return false
	}
	r.remove(c)
	return true
}

// ClearMessageQueue drops the messages that are held for an id, and returns how many. Each
// sender gets one EXPIRE, as after [Options.ExpireTimeout].
func (r *Realm) ClearMessageQueue(id string) int {
	sh := r.shard(id)
	sh.mu.Lock()
	var senders []string
	ps := sh.takeLocked(r, id)
	for _, p := range ps {
		if p.keep == keepUntilExpiry && !slices.Contains(senders, p.src) {
			senders = append(senders, p.src)
		}
	}
	sh.traffic.dropped[dropCleared].Add(uint64(len(ps)))
	sh.mu.Unlock()
	r.sendExpire(id, senders...)
	return len(ps)
}

// Send sends a message of the application to an id. It returns the errors of [Client.Send]. If
// another client takes the id over before the message is written, the successor gets it. The
// message is not held for an id that is not connected. With [Options.Cluster], nil can also mean that
// the message waits until it is known whether another server has the id; if none has it, the message
// is dropped.
func (r *Realm) Send(id string, m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	sh := r.shard(id)
	sh.mu.Lock()
	c, t := sh.clients[id], todo(0)
	if err = ErrNotConnected; c != nil {
		t, err = c.enqueue(ownParcel(b, keepForSuccessor))
	} else if sh.far != nil && !sh.closed {
		err = sh.sendFarLocked(r, id, ownParcel(b, keepForSuccessor))
	}
	sh.mu.Unlock()
	if c != nil {
		c.do(t)
	}
	return err
}

// admit makes c the connection of its id. Before anybody can find c, admit puts into its outbox:
// OPEN, what the predecessor has not received, and what was held. If waits is true, or the events
// of the predecessor still run, nothing is written until [Realm.open] is called.
//
// If another client than predecessor has the id, admit changes nothing and returns that client.
// predecessor may be nil; else it must have ended, with no write under way.
func (r *Realm) admit(c, predecessor *Client, waits bool) (holder *Client, err error) {
	var t todo
	defer func() { c.do(t) }()
	sh := r.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return nil, errClosed
	}
	holder = sh.clients[c.id]
	if holder != nil && holder != predecessor {
		return holder, nil
	}
	if err := r.takeSlot(c, holder); err != nil {
		return nil, err
	}
	if holder == nil && !sh.mayAdmitLocked(c) {
		r.freeSlot(c)
		return nil, errUnclaimed
	}
	r.notePeak()
	sh.admittedLocked(r, c)
	if len(c.inheritedFrom) > 0 { // a message to a room must find either the predecessor in it or c
		r.rooms.mu.Lock()
		defer r.rooms.mu.Unlock()
	}
	var inherited []parcel
	if holder != nil {
		least := keepForSuccessor
		if equal(holder.token, c.token) {
			least = keepForSamePeer
		}
		var dropped int
		inherited, dropped = holder.takeUnwritten(c, least)
		sh.traffic.dropped[dropAbsent].Add(uint64(dropped))
		sh.traffic.returned.Add(uint64(len(inherited)))
		sh.leaving[c.id] = holder
	}
	t = c.admit(sh.leaving[c.id], holder, inherited, sh.takeLocked(r, c.id), waits)
	sh.clients[c.id] = c
	for _, predecessor := range c.inheritedFrom {
		r.rooms.replaceLocked(predecessor, c)
	}
	c.inheritedFrom = nil
	return nil, nil
}

// open lets a client that was admitted have its outbox, beginning with OPEN.
func (r *Realm) open(c *Client) {
	sh := r.shard(c.id)
	sh.mu.Lock()
	var t todo
	if sh.clients[c.id] == c && c.connected() && !c.isOpen() {
		var held []parcel
		if !c.isClosing() {
			held = sh.takeLocked(r, c.id)
		}
		t = c.open(held)
	}
	sh.mu.Unlock()
	c.do(t)
}

// remove takes a client that has ended out of the realm, unless it is out already. What it was
// still to be sent and can be held is held, before anything that came later.
func (r *Realm) remove(c *Client) { r.take(c, true) }

// take is remove. If release is false, the id has been given to a client on another node.
func (r *Realm) take(c *Client, release bool) {
	c.awaitWrite()
	sh := r.shard(c.id)
	sh.mu.Lock()
	senders := sh.removeLocked(r, c, release)
	sh.mu.Unlock()
	r.sendExpire(c.id, senders...)
}

// removeLocked returns the senders of what cannot be held.
func (sh *shard) removeLocked(r *Realm, c *Client, release bool) (senders []string) {
	if sh.clients[c.id] != c {
		return nil
	}
	delete(sh.clients, c.id)
	sh.leaving[c.id] = c
	r.freeSlot(c)
	least := keepUntilExpiry
	if sh.far != nil {
		least = keepForSuccessor // the successor may be on another node
	}
	rest, dropped := c.takeUnwritten(nil, least)
	sh.traffic.dropped[dropAbsent].Add(uint64(dropped))
	if sh.far != nil {
		rest = sh.endClaimLocked(r, c.id, rest, release)
		defer sh.pushLocked(r, c.id)
	}
	if len(rest) == 0 {
		return nil
	}
	if sh.closed {
		sh.traffic.dropped[dropShutdown].Add(uint64(len(rest)))
		return nil
	}
	return sh.returnLocked(r, c.id, rest)
}

// finish notes that the events of c have returned. A successor waits for that.
func (r *Realm) finish(c *Client) {
	sh := r.shard(c.id)
	sh.mu.Lock()
	if sh.leaving[c.id] == c {
		delete(sh.leaving, c.id)
	}
	sh.mu.Unlock()
	c.finish()
}

// close admits nobody from now on, drops what is held, and returns the clients.
func (r *Realm) close() []*Client {
	var cs []*Client
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		sh.closed = true
		for id := range sh.queues {
			if sh.far != nil && sh.far.claims[id] != nil {
				continue // what is from other nodes goes back when the claim ends, behind what was before it
			}
			sh.traffic.dropped[dropShutdown].Add(uint64(len(sh.takeLocked(r, id))))
		}
		sh.mu.Unlock()
		cs = append(cs, sh.snapshot()...)
	}
	return cs
}

// traffic returns the counters for an id.
func (r *Realm) traffic(id string) *traffic { return &r.shard(id).traffic }
