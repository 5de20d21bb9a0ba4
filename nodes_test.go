package peer

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// nodes returns servers in a bubble that are joined by an engine in memory.
func nodes(t *testing.T, n int, opts Options) (m *cluster.Memory, rs []*rig) {
	m = cluster.NewMemory()
	for range n {
		opts.Cluster = m.Engine()
		rs = append(rs, newBubbleRig(t, opts))
	}
	return m, rs
}

// A ring are the servers of a cluster to which the clients of a rig connect in turn.
type ring struct {
	nodes  []*rig
	dialed atomic.Uint32
}

// ringOf returns a rig of servers that are joined: the first client connects to the first one, the second
// client to the second one, and so on. Its own server is the first one.
func ringOf(rs ...*rig) *rig {
	r := *rs[0]
	r.ring = &ring{nodes: rs}
	return &r
}

// turn returns the rig of the server that the next client connects to.
func (r *rig) turn() *rig {
	if r.ring == nil {
		return r
	}
	n := r.ring.dialed.Add(1) - 1
	return r.ring.nodes[n%uint32(len(r.ring.nodes))].in(r.t)
}

// here returns the address of r in the place of that of the rig that u was made for.
func (r *rig) here(made *rig, u string) string {
	if rest, ok := strings.CutPrefix(u, made.url); ok {
		return r.url + rest
	}
	return u
}

// nodes returns the rigs of all servers.
func (r *rig) nodes() []*rig {
	if r.ring == nil {
		return []*rig{r}
	}
	return r.ring.nodes
}

// each calls f for all servers.
func (r *rig) each(f func(srv *Server)) {
	for _, n := range r.nodes() {
		f(n.srv)
	}
}

// client returns the client with an id, wherever it is connected.
func (r *rig) client(id string) (c *Client) {
	r.each(func(srv *Server) {
		if here := srv.Realm().Client(id); here != nil {
			c = here
		}
	})
	return c
}

// realmOf returns the realm of the client with an id.
func (r *rig) realmOf(id string) (realm *Realm) {
	r.each(func(srv *Server) {
		if srv.Realm().Client(id) != nil {
			realm = srv.Realm()
		}
	})
	return realm
}

// join makes a client a member of a room, as its host does.
func (r *rig) join(room, id string) error {
	realm := r.realmOf(id)
	return realm.Join(room, realm.Client(id))
}

// wantRoom wants these members in a room, which all servers know.
func (r *rig) wantRoom(room string, ids ...string) {
	r.t.Helper()
	r.each(func(srv *Server) {
		all, err := srv.Realm().RoomMembers(r.t.Context(), room)
		require.NoError(r.t, err)
		require.Equal(r.t, ids, all)
	})
}

// len returns how many clients are connected.
func (r *rig) len() (n int) {
	r.each(func(srv *Server) { n += srv.Realm().Len() })
	return n
}

// refused returns how many newcomers have been refused for a reason.
func (r *rig) refused(why string) (n uint64) {
	r.each(func(srv *Server) { n += srv.Stats().Refused[why] })
	return n
}

// moment is how long many newcomers of one id take that are refused at once. On a node of a cluster they are
// dealt with one after the other.
func (r *rig) moment() time.Duration {
	if r.isOne() {
		return blindTimeout
	}
	return newcomers * (blindTimeout + r.trip())
}

// trip is how long a question to another node and its answer take, at most.
func (r *rig) trip() time.Duration {
	if r.isOne() {
		return 0
	}
	return 4 * batchPause
}

// isOne reports whether there is one server. Between servers some rules are others.
func (r *rig) isOne() bool { return r.ring == nil }

// watch is [watch] for all servers.
func (r *rig) watch() *record {
	rec := newRecord()
	r.each(rec.watch)
	return rec
}

// twoNodes returns two servers that are joined.
func twoNodes(t *testing.T, opts Options, newRig func(*testing.T, Options) *rig) *rig {
	m, over := cluster.NewMemory(), new(atomic.Bool)
	var rs []*rig
	for range 2 {
		opts.Cluster = lastWords{m.Engine(), over}
		rs = append(rs, newRig(t, opts))
	}
	t.Cleanup(func() { over.Store(true) })
	return ringOf(rs...)
}

func rigOf(t *testing.T, opts Options) *rig { return newRig(t, opts) }

func bubbleRigOf(t *testing.T, opts Options) *rig { return newBubbleRig(t, opts) }

// lastWords is an engine that takes what is for a node that has left when the test is over. Otherwise the
// last server would try for a second, which is real time in some tests.
type lastWords struct {
	cluster.Engine
	over *atomic.Bool
}

func (e lastWords) Send(ctx context.Context, node string, b []byte) error {
	err := e.Engine.Send(ctx, node, b)
	if errors.Is(err, cluster.ErrNoNode) && e.over.Load() {
		return nil
	}
	return err
}

// onNodes runs a test on one server, and on two that are joined, to which its clients connect in turn.
func onNodes(t *testing.T, opts Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Run("one node", func(t *testing.T) { test(t, newRig(t, opts)) })
	t.Run("two nodes", func(t *testing.T) {
		test(t, twoNodes(t, opts, rigOf))
	})
}

// onNodesInBubbles is onNodes with each run in a bubble.
func onNodesInBubbles(t *testing.T, opts Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Run("one node", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newBubbleRig(t, opts)) })
	})
	t.Run("two nodes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, twoNodes(t, opts, bubbleRigOf))
		})
	})
}
