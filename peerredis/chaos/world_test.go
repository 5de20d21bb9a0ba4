//go:build linux

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A world is a run.
type world struct {
	registry
	t       *testing.T
	start   time.Time
	ctx     context.Context // ends when the clients stop
	stop    context.CancelFunc
	running sync.WaitGroup
	cluster *nodeSet
	clients []*client
	pause   time.Duration   // between the calls of one client
	calm    context.Context // ends when nobody changes its socket by itself any more
	quieten context.CancelFunc
	silent  atomic.Bool // nobody calls

	notes struct {
		sync.Mutex
		stuck      []*client // that do not read
		counts     map[string]int
		faults     []*Fault
		lags       []Lag
		complaints []string
	}
}

func newWorld(t *testing.T, seed uint64, clients int, ns *nodeSet) *world {
	w := &world{t: t, start: ns.start, cluster: ns, pause: *pauseFlag}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.calm, w.quieten = context.WithCancel(w.ctx)
	w.notes.counts = make(map[string]int)
	for i := range clients {
		w.clients = append(w.clients, newClient(w, i, rand.New(rand.NewPCG(seed, uint64(i)+1000))))
	}
	return w
}

func (w *world) now() time.Duration { return time.Since(w.start) }

func (w *world) nodes() int { return len(w.cluster.nodes) }

func (w *world) addr(node int) string { return w.cluster.nodes[node].addr }

// begin lets the clients live.
func (w *world) begin(seed uint64) {
	w.running.Go(w.watchLag)
	for _, c := range w.clients {
		w.running.Go(c.run)
	}
	for i := range max(1, len(w.clients)/50) {
		w.running.Go(func() { w.steal(rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
}

// watchLag notes when this process does not get its turn.
func (w *world) watchLag() {
	const every = 20 * time.Millisecond
	for last := w.now(); w.ctx.Err() == nil; {
		time.Sleep(every)
		now := w.now()
		if late := now - last - every; late > every {
			w.notes.Lock()
			w.notes.lags = append(w.notes.lags, Lag{now, late})
			w.notes.Unlock()
		}
		last = now
	}
}

func (w *world) count(what string, n int) {
	w.notes.Lock()
	defer w.notes.Unlock()
	w.notes.counts[what] += n
}

// complain notes something that must never be.
func (w *world) complain(format string, args ...any) {
	w.notes.Lock()
	defer w.notes.Unlock()
	w.notes.complaints = append(w.notes.complaints, fmt.Sprintf("at %s: ", seconds(w.now()))+fmt.Sprintf(format, args...))
}

// fault notes the begin of a fault. The function that it returns notes the end.
func (w *world) fault(kind string, node int) (end func()) {
	w.notes.Lock()
	defer w.notes.Unlock()
	f := &Fault{Kind: kind, Node: node, From: w.now(), To: never - settle}
	w.notes.faults = append(w.notes.faults, f)
	return func() {
		w.notes.Lock()
		defer w.notes.Unlock()
		f.To = w.now()
	}
}

// troubled reports whether a fault is going on, or has just ended.
func (w *world) troubled() bool {
	w.notes.Lock()
	defer w.notes.Unlock()
	for _, f := range w.notes.faults {
		if w.now() < f.To+settle {
			return true
		}
	}
	return false
}

// stuck notes whether a client does not read.
func (w *world) stuck(c *client, yes bool) {
	w.notes.Lock()
	defer w.notes.Unlock()
	if yes {
		w.notes.stuck = append(w.notes.stuck, c)
	} else {
		w.notes.stuck = slices.DeleteFunc(w.notes.stuck, func(d *client) bool { return d == c })
	}
}

// aStuck returns a client that does not read, or nil.
func (w *world) aStuck(rng *rand.Rand) *client {
	w.notes.Lock()
	defer w.notes.Unlock()
	if len(w.notes.stuck) == 0 {
		return nil
	}
	return w.notes.stuck[rng.IntN(len(w.notes.stuck))]
}

// target chooses whom a client calls: one whose buffers are to be full, one on its own node, anybody, or nobody.
func (w *world) target(c *client) string {
	if c.rng.IntN(4) == 0 {
		if d := w.aStuck(c.rng); d != nil && d != c {
			return d.id
		}
	}
	r := c.rng.IntN(100)
	if r < 4 {
		return fmt.Sprint("ghost-", c.rng.IntN(1000))
	}
	if r < 45 {
		if s := c.current(); s != nil {
			for range 8 {
				d := w.clients[c.rng.IntN(len(w.clients))]
				if o := d.current(); d != c && o != nil && o.Node == s.Node {
					return d.id
				}
			}
		}
	}
	for {
		if d := w.clients[c.rng.IntN(len(w.clients))]; d != c {
			return d.id
		}
	}
}

// history collects what everybody has noted. The clients have stopped, or end is at hand.
func (w *world) history(end time.Duration) *History {
	h := &History{End: end}
	w.registry.mu.Lock()
	socks := w.registry.socks
	w.registry.mu.Unlock()
	for _, s := range socks {
		s.c.mu.Lock()
		c := *s.Conn
		h.Conns = append(h.Conns, &c)
		h.Sends = append(h.Sends, s.sends...)
		h.Recvs = append(h.Recvs, s.recvs...)
		h.Expires = append(h.Expires, s.expires...)
		s.c.mu.Unlock()
	}
	w.notes.Lock()
	defer w.notes.Unlock()
	for _, f := range w.notes.faults {
		h.Faults = append(h.Faults, *f)
	}
	h.Faults = append(h.Faults, w.cluster.stalls()...)
	h.Lags = append(h.Lags, w.notes.lags...)
	return h
}

// snapshot asks everybody what they believe.
func (w *world) snapshot() (*Snapshot, error) {
	now := w.now()
	s := &Snapshot{At: now}
	open := make(map[string][]int)
	on := make(map[string][]int)
	w.registry.mu.Lock()
	socks := w.registry.socks
	w.registry.mu.Unlock()
	for _, k := range socks {
		k.c.mu.Lock()
		if k.Conn.open(now) && k.Code == 0 {
			open[k.ID], on[k.ID] = append(open[k.ID], k.n), append(on[k.ID], k.Node)
		}
		k.c.mu.Unlock()
	}
	var ids []string
	for _, c := range w.clients {
		ids = append(ids, c.id)
		c.mu.Lock()
		b := Belief{ID: c.id, Sockets: open[c.id], On: on[c.id], Rooms: make(map[string]map[string]string), Data: make(map[string]string)}
		for room, members := range c.rooms {
			b.Rooms[room] = make(map[string]string)
			for id, data := range members {
				b.Rooms[room][id] = data
			}
		}
		for room, data := range c.wanted {
			b.Data[room] = data
		}
		c.mu.Unlock()
		s.Clients = append(s.Clients, b)
	}
	for _, n := range w.cluster.nodes {
		st, err := n.state()
		if err != nil {
			return nil, err
		}
		s.Nodes = append(s.Nodes, NodeBelief{st.IDs, st.Clients})
		s.Listed = append(s.Listed, st.Rooms)
	}
	var err error
	s.Claims, err = w.cluster.claims(ids)
	return s, err
}
