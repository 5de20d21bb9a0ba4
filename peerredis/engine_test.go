package peerredis

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/gopeerjs/peer/peerredis/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const soon = 5 * time.Second

func at(s *redistest.Server) redis.UniversalOptions {
	return redis.UniversalOptions{Addrs: []string{s.Addr()}}
}

func TestBatchesArriveInOrder(t *testing.T) {
	t.Parallel()
	o := at(redistest.Start(t))
	a, b := join(t, o), join(t, o)
	for _, s := range numbers(0, 100) {
		a.send(t, b, s)
	}
	a.send(t, a, "to oneself")
	until(t, soon, func() bool { return len(b.got()) == 100 && len(a.got()) == 1 })
	require.Equal(t, numbers(0, 100), b.got())
	require.NoError(t, b.Leave(t.Context()))
	require.ErrorIs(t, a.Send(t.Context(), b.name, nil), cluster.ErrNoNode)
	require.ErrorIs(t, a.Send(t.Context(), a.name, make([]byte, cluster.MaxBatch+1)), cluster.ErrTooBig)
	big := strings.Repeat("x", cluster.MaxBatch)
	a.send(t, a, big)
	until(t, soon, func() bool { return len(a.got()) == 2 })
	require.True(t, a.got()[1] == big)
}

func TestClaims(t *testing.T) {
	t.Parallel()
	o := at(redistest.Start(t))
	a, b := join(t, o), join(t, o)
	for _, id := range []string{"id", "an id of\nlines and {braces}\x00\xff", strings.Repeat("x", 1024)} {
		claim := func(c cluster.Claim) cluster.Claimed {
			t.Helper()
			c.ID = id
			got, err := a.Claim(t.Context(), c)
			require.NoError(t, err)
			return got[0]
		}
		place := func(n string, e uint64) cluster.Place { return cluster.Place{Node: n, Epoch: e} }
		granted := func(n string, e uint64) cluster.Claimed {
			return cluster.Claimed{Granted: true, Previous: place(n, e)}
		}
		x, y := token("x"), token("y")
		assert.Equal(t, granted("", 0), claim(cluster.Claim{Node: a.name, Token: x, Epoch: 1 << 52}))
		assert.Equal(t, granted("", 0), claim(cluster.Claim{Node: a.name, Token: x, Epoch: 1 << 52}), "again")
		assert.Equal(t, granted("", 0), claim(cluster.Claim{Node: a.name, Token: y, Epoch: 1<<52 + 1}), "not renewed yet")
		assert.Equal(t, granted("", 0), claim(cluster.Claim{Node: a.name, Token: y, Epoch: 1<<52 + 1, Own: 1<<52 + 1}))
		assert.True(t, claim(cluster.Claim{Node: a.name, Token: y, Epoch: 1 << 52, Own: 1 << 52}).Granted, "a renewal that comes late")
		assert.Equal(t, cluster.Claimed{Previous: place(a.name, 1<<52+1)}, claim(cluster.Claim{Node: b.name, Token: x, Epoch: 1<<52 + 2}))
		assert.Equal(t, cluster.Claimed{Previous: place(a.name, 1<<52+1)}, claim(cluster.Claim{Node: b.name, Token: y, Epoch: 1<<52 + 1}))
		assert.Equal(t, granted(a.name, 1<<52+1), claim(cluster.Claim{Node: b.name, Token: y, Epoch: 1<<52 + 2}), "the same token")
		assert.Equal(t, cluster.Claimed{Previous: place(b.name, 1<<52+2)}, claim(cluster.Claim{Node: a.name, Token: x, Epoch: 1<<52 + 3, Own: 1<<52 + 1}))
		assert.Equal(t, granted(b.name, 1<<52+2), claim(cluster.Claim{Node: a.name, Token: x, Epoch: 1<<52 + 3, Over: 1<<52 + 2}))
		found, err := b.Find(t.Context(), id, "nobody")
		require.NoError(t, err)
		assert.Equal(t, map[string]cluster.Place{id: place(a.name, 1<<52+3), "nobody": {}}, found)
		ids, err := b.IDs(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{id}, ids)
		require.NoError(t, b.Release(t.Context(), cluster.Claim{ID: id, Node: b.name, Epoch: 1<<52 + 3}, cluster.Claim{ID: id, Node: a.name, Epoch: 1}))
		found, _ = b.Find(t.Context(), id)
		assert.Equal(t, place(a.name, 1<<52+3), found[id])
		require.NoError(t, b.Release(t.Context(), cluster.Claim{ID: id, Node: a.name, Epoch: 1<<52 + 3}))
		found, _ = b.Find(t.Context(), id)
		assert.Equal(t, cluster.Place{}, found[id])
	}
}

func TestRooms(t *testing.T) {
	t.Parallel()
	o := at(redistest.Start(t))
	a := engine(t, o)
	edit := func(e cluster.Edit) map[string]string {
		t.Helper()
		got, err := a.Room(t.Context(), "a room\n", e)
		require.NoError(t, err)
		members := map[string]string{}
		for id, m := range got {
			members[id] = m.Node + " " + string(m.Data)
		}
		return members
	}
	join := func(ids ...string) map[string][]byte {
		m := map[string][]byte{}
		for _, id := range ids {
			m[id] = []byte(`"` + id + ` of a node"`)
		}
		return m
	}
	require.Equal(t, map[string]string{"x y": `A "x y of a node"`, "z": `A "z of a node"`}, edit(cluster.Edit{Node: "A", Join: join("x y", "z"), Max: -1}))
	require.Equal(t, map[string]string{"x y": `B "x y of a node"`, "z": `A "z of a node"`}, edit(cluster.Edit{Node: "B", Join: join("x y", "w"), Max: 2}))
	require.Len(t, edit(cluster.Edit{Node: "A", Leave: []string{"x y"}}), 2)
	require.Equal(t, map[string]string{"v": `B "v of a node"`, "z": `A "z of a node"`}, edit(cluster.Edit{Node: "B", Leave: []string{"x y"}, Join: join("v", "w"), Max: 2}))
	require.Equal(t, map[string]string{"v": `B "v of a node"`, "u": "B "}, edit(cluster.Edit{Node: "B", Gone: "A", Join: map[string][]byte{"u": nil}, Max: 2}))
	require.Len(t, edit(cluster.Edit{}), 2)
}

func TestMissing(t *testing.T) {
	t.Parallel()
	o := at(redistest.Start(t))
	a, b := join(t, o), join(t, o)
	_, err := a.Claim(t.Context(), cluster.Claim{ID: "of b", Node: b.name, Epoch: 1}, cluster.Claim{ID: "of a", Node: a.name, Epoch: 1})
	require.NoError(t, err)
	require.NoError(t, b.Close())
	until(t, soon, func() bool {
		m, err := a.Missing(t.Context(), a.name, b.name, "nobody")
		require.NoError(t, err)
		require.True(t, m["nobody"])
		require.False(t, m[a.name])
		return m[b.name]
	})
	ids, err := a.IDs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"of a"}, slices.Sorted(slices.Values(ids)))
	require.NoError(t, a.Send(t.Context(), b.name, nil), "the inbox stays for 30 s")
}

func TestLostComesBeforeTheNextBatchWhenRedisWasEmpty(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := join(t, at(s)), join(t, at(s))
	a.send(t, b, "one")
	until(t, soon, func() bool { return len(b.got()) == 1 })
	s.Restart()
	a.send(t, b, "two")
	until(t, soon, func() bool { return slices.Contains(b.got(), "two") })
	require.Equal(t, []string{"one", lost, "two"}, b.got()[:3])
}

func TestTheInboxGoesOnAfterAFailoverToAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := join(t, at(s)), join(t, at(s))
	future := strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10) + "-7"
	s.Do("xadd", b.inbox(b.name), future, "b", "one")
	until(t, soon, func() bool { return len(b.got()) == 1 })
	for range 2 { // the inbox is gone; it is there with ids that are behind
		s.Do("del", b.inbox(b.name))
		before := len(b.got())
		a.send(t, b, "two")
		until(t, soon, func() bool { return len(b.got()) == before+2 })
		require.Equal(t, []string{lost, "two"}, b.got()[before:])
		s.Do("del", b.inbox(b.name))
		s.Do("xadd", b.inbox(b.name), "*", "b", "not read")
		s.Do("pexpire", b.inbox(b.name), 30000)
		until(t, soon, func() bool { return b.lost() > 0 && b.got()[len(b.got())-1] == lost })
		a.send(t, b, "three")
		until(t, soon, func() bool { return b.got()[len(b.got())-1] == "three" })
	}
}

func TestPrefixesDoNotMeet(t *testing.T) {
	t.Parallel()
	o := at(redistest.Start(t))
	x, y := New(o, Options{Prefix: "a*[b]?\\"}), New(o, Options{Prefix: "aa[b]?\\"})
	defer x.Close()
	defer y.Close()
	for i, e := range []*Engine{x, y} {
		require.NoError(t, e.Join(t.Context(), "n", cluster.Handler{Receive: func([]byte) {}, Lost: func() {}}))
		_, err := e.Claim(t.Context(), cluster.Claim{ID: numbers(i, i+1)[0], Node: "n", Epoch: 1})
		require.NoError(t, err)
	}
	for i, e := range []*Engine{x, y} {
		ids, err := e.IDs(t.Context())
		require.NoError(t, err)
		require.Equal(t, numbers(i, i+1), ids)
		require.NoError(t, e.Leave(t.Context()))
	}
}

func TestEachKeyThatIsGoneIsLost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := join(t, at(s))
	for i, key := range []string{a.inbox(a.name), a.alive(a.name)} {
		s.Do("del", key)
		until(t, soon, func() bool { return a.lost() == i+1 })
		until(t, soon, func() bool { return s.Do("exists", key) == int64(1) })
	}
	a.send(t, a, "works")
	until(t, soon, func() bool { return len(a.got()) == 3 })
	require.Equal(t, 2, a.lost(), "once for each")
}

func TestTheGate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name string
		n    *node
		open bool
	}{
		{"a beat has worked", &node{sent: now}, true},
		{"Lost has to be called", &node{sent: now, gone: true}, false},
		{"the node has left", &node{sent: now, left: true}, false},
		{"the beats are over 2 s old", &node{sent: now.Add(-2100 * time.Millisecond)}, false},
		{"the machine was suspended", &node{sent: now.Round(0).Add(-2100 * time.Millisecond)}, false},
		{"no beat has worked", &node{}, false},
	} {
		received := false
		c.n.h.Receive = func([]byte) { received = true }
		require.Equal(t, c.open, c.n.try(nil), c.name)
		require.Equal(t, c.open, received, c.name)
	}
}
