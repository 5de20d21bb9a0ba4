package peerredis

import (
	"context"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/gopeerjs/peer/peerredis/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAReaderOnAHalfOpenConnectionReadsOn(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := newProxy(t, s.Addr())
	a, b := join(t, at(s)), join(t, p.options())
	a.send(t, b, "batch 0")
	until(t, soon, func() bool { return len(b.got()) == 1 })
	p.silence("xread", false)
	for _, batch := range numbers(1, 10) {
		a.send(t, b, batch)
	}
	until(t, 4*time.Second, func() bool { return len(b.got()) >= 10 })
	require.Equal(t, numbers(0, 10), b.got(), "in order, and nothing is lost")
}

func TestOneHalfOpenBeatIsNoLoss(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := newProxy(t, s.Addr())
	a, b := join(t, at(s)), join(t, p.options())
	p.silence("multi", false)
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		m, err := a.Missing(t.Context(), b.name)
		require.NoError(t, err)
		require.False(t, m[b.name])
	}
	require.Empty(t, b.got())
}

func TestWithoutBeatsNothingIsReceived(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := newProxy(t, s.Addr())
	a, b := join(t, at(s)), join(t, p.options())
	a.send(t, b, "batch 0")
	until(t, soon, func() bool { return len(b.got()) == 1 })
	p.silence("multi", true)
	until(t, soon, func() bool { m, _ := a.Missing(t.Context(), b.name); return m[b.name] })
	for _, batch := range numbers(1, 40) {
		a.send(t, b, batch)
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		require.Len(t, b.got(), 1)
	}
	p.heal()
	until(t, soon, func() bool { return len(b.got()) >= 41 })
	require.Equal(t, slices.Insert(numbers(0, 40), 1, lost), b.got())
}

func TestKilledConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := join(t, at(s)), join(t, at(s))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 15 {
			s.Client().ClientKillByFilter(context.Background(), "type", "normal", "skipme", "yes")
			time.Sleep(100 * time.Millisecond)
		}
	}()
	var sent []string
	for _, batch := range numbers(0, 400) {
		a.send(t, b, batch)
		sent = append(sent, batch)
		time.Sleep(4 * time.Millisecond)
	}
	<-ended
	until(t, soon, func() bool { return len(b.batches()) >= len(sent) })
	require.Equal(t, sent, b.batches())
	require.Zero(t, b.lost())
}

func TestAStoppedRedisLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := join(t, at(s)), join(t, at(s))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		time.Sleep(200 * time.Millisecond)
		s.Stop()
		time.Sleep(3 * time.Second)
		s.Cont()
	}()
	var sent []string
	for _, batch := range numbers(0, 100) {
		a.send(t, b, batch)
		sent = append(sent, batch)
		time.Sleep(4 * time.Millisecond)
	}
	<-stopped
	until(t, soon, func() bool { return len(unique(b.got())) >= len(sent) })
	require.Equal(t, sent, unique(b.got()))
}

// unique is what the server keeps: it skips a batch that it has had, by its number.
func unique(log []string) []string {
	var bs []string
	for _, s := range log {
		if s != lost && !slices.Contains(bs, s) {
			bs = append(bs, s)
		}
	}
	return bs
}

func TestScriptsAreLoadedAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := join(t, at(s))
	c := []cluster.Claim{{ID: "a", Node: a.name, Epoch: 1}, {ID: "b", Node: a.name, Epoch: 1}}
	for range 3 {
		got, err := a.Claim(t.Context(), c...)
		require.NoError(t, err)
		require.True(t, got[0].Granted && got[1].Granted)
		s.Do("script", "flush")
		members, err := a.Room(t.Context(), "r", cluster.Edit{Node: a.name, Join: map[string][]byte{"a": nil}, Max: 1})
		require.NoError(t, err)
		require.Len(t, members, 1)
		s.Do("script", "flush")
		require.NoError(t, a.Release(t.Context(), c...))
		s.Do("script", "flush")
	}
}

func TestAFailoverBySentinelIsLostAndWorksOn(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	o := redis.UniversalOptions{Addrs: s.Addrs(), MasterName: redistest.MasterName}
	a, b := join(t, o), join(t, o)
	a.send(t, b, "before")
	until(t, soon, func() bool { return len(b.got()) == 1 })
	s.Failover()
	until(t, 15*time.Second, func() bool { return a.lost() > 0 && b.lost() > 0 })
	a.send(t, b, "after a failover")
	until(t, soon, func() bool { return slices.Contains(b.got(), "after a failover") })
	before := b.lost()
	s.KillMaster()
	a.send(t, b, "after a kill")
	until(t, 15*time.Second, func() bool { return slices.Contains(b.got(), "after a kill") && b.lost() > before })
}

func TestAFailoverInAClusterIsLostAndWorksOn(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, true)
	o := redis.UniversalOptions{Addrs: c.Addrs()}
	a, b := join(t, o), join(t, o)
	for i := range 3 { // one of them is the master of b; all hold claims
		before := b.lost()
		c.Failover(i)
		until(t, 15*time.Second, func() bool { return b.lost() > before })
		batch := numbers(i, i+1)[0]
		a.send(t, b, batch)
		until(t, soon, func() bool { return slices.Contains(b.got(), batch) })
	}
}

func TestAMasterThatHangsLeavesOutItsIDs(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, false)
	o := redis.UniversalOptions{Addrs: c.Addrs()}
	a := join(t, o)
	var claims []cluster.Claim
	var ids []string
	for _, id := range numbers(0, 100) {
		claims = append(claims, cluster.Claim{ID: id, Node: a.name, Epoch: 1})
		ids = append(ids, id)
	}
	_, err := a.Claim(t.Context(), claims...)
	require.NoError(t, err)
	all, err := a.IDs(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, ids, all)
	mine := c.Master(a.inbox(a.name))
	other := c.Servers[0]
	if other == mine {
		other = c.Servers[1]
	}
	other.Stop()
	defer other.Cont()
	found, err := a.Find(t.Context(), ids...)
	require.NoError(t, err)
	assert.Greater(t, len(found), 40)
	assert.Less(t, len(found), 90)
	_, err = a.Claim(t.Context(), claims...)
	require.Error(t, err, "a claim has no answer")
	_, err = a.IDs(t.Context())
	require.Error(t, err, "the list would not be whole")
	missing, err := a.Missing(t.Context(), a.name)
	require.NoError(t, err)
	require.Equal(t, map[string]bool{a.name: false}, missing, "the beats go on")
	a.send(t, a, "still")
	until(t, soon, func() bool { return slices.Contains(a.got(), "still") })
	other.Cont()
	require.Zero(t, a.lost())
	other.Restart()
	until(t, 2*soon, func() bool { return a.lost() > 0 }, "the keys of the node are there, but claims are not")
}

func TestEveryKeyHasATTLAtAnyTime(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := uint64(1); ctx.Err() == nil; i++ {
			n := &inbox{Engine: New(at(s), Options{}), name: "n"}
			n.Join(t.Context(), n.name, cluster.Handler{Receive: func(b []byte) { n.add(string(b)) }, Lost: func() {}})
			n.Send(t.Context(), n.name, []byte("b"))
			n.Claim(t.Context(), cluster.Claim{ID: "id", Node: n.name, Epoch: i}, cluster.Claim{ID: "id", Node: n.name, Epoch: i, Own: i})
			n.Room(t.Context(), "r", cluster.Edit{Node: n.name, Join: map[string][]byte{"id": nil, "b": nil}, Max: 1})
			n.Room(t.Context(), "r", cluster.Edit{Node: n.name, Leave: []string{"id"}})
			if i%2 == 0 {
				n.Leave(t.Context())
			}
			n.Send(t.Context(), n.name, []byte("b"))
			n.Close()
		}
	}()
	seen := map[string]bool{}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		for _, key := range s.Do("keys", "*").([]any) {
			require.NotEqual(t, int64(-1), s.Do("pttl", key), key)
			seen[key.(string)] = true
		}
	}
	cancel()
	<-ended
	require.Equal(t, map[string]bool{"peer:{n}:in": true, "peer:{n}:alive": true, "peer:id:id": true, "peer:room:r": true}, seen)
}

func TestTheInboxIsTrimmed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := join(t, at(s))
	for _, batch := range numbers(0, 500) {
		a.send(t, a, batch)
	}
	until(t, soon, func() bool { return len(a.got()) == 500 })
	until(t, soon, func() bool { return s.Do("xlen", a.inbox(a.name)).(int64) < 5 })
}

func TestNowIsTheTimeOfRedis(t *testing.T) {
	t.Parallel()
	a := join(t, at(redistest.Start(t)))
	require.WithinDuration(t, time.Now(), a.Now(), 500*time.Millisecond)
	a.clock.Store(&clock{redis: time.Now().Add(time.Hour), here: time.Now()})
	require.WithinDuration(t, time.Now().Add(time.Hour), a.Now(), 500*time.Millisecond)
	until(t, soon, func() bool { return a.Now().Before(time.Now().Add(time.Minute)) })
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() // accepts connections and says nothing
	nobody := "127.0.0.1:1"
	s := redistest.Start(t)
	s.Do("config", "set", "requirepass", "secret")
	for _, c := range []struct {
		name, text string
		o          redis.UniversalOptions
	}{
		{"no server", "join: beat: dial tcp 127.0.0.1:1: connect: connection refused", redis.UniversalOptions{Addrs: []string{nobody}}},
		{"no cluster", "connection refused", redis.UniversalOptions{Addrs: []string{nobody, nobody}}},
		{"no sentinel", "sentinel", redis.UniversalOptions{Addrs: []string{nobody}, MasterName: "peer"}},
		{"not an address", "join: beat: dial tcp", redis.UniversalOptions{Addrs: []string{"a\nb"}, PoolSize: -1, MinIdleConns: 1 << 40}},
		{"no answer", "join: beat: ", redis.UniversalOptions{Addrs: []string{l.Addr().String()}, PoolSize: 1 << 40}},
		{"no password", "NOAUTH", at(s)},
		{"a wrong password", "WRONGPASS", redis.UniversalOptions{Addrs: []string{s.Addr()}, Password: "wrong"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := engine(t, c.o)
			begin := time.Now()
			err := e.Join(t.Context(), "n", cluster.Handler{})
			require.ErrorContains(t, err, c.text)
			require.Less(t, time.Since(begin), 3*time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			begin = time.Now()
			err = e.Join(ctx, "n", cluster.Handler{})
			require.Error(t, err)
			_, err = e.Find(ctx, "id")
			require.Error(t, err)
			_, err = e.Missing(ctx, "n")
			require.Error(t, err)
			_, err = e.IDs(ctx)
			require.Error(t, err)
			_, err = e.Claim(ctx, cluster.Claim{ID: "id", Node: "n", Epoch: 1})
			require.Error(t, err)
			_, err = e.Room(ctx, "r", cluster.Edit{})
			require.Error(t, err)
			require.Error(t, e.Send(ctx, "n", nil))
			require.Less(t, time.Since(begin), time.Second)
			require.NoError(t, e.Leave(t.Context()))
		})
	}
	s.Do("acl", "setuser", "no-reader", "on", ">secret", "~*", "+@all", "-xread")
	e := engine(t, redis.UniversalOptions{Addrs: []string{s.Addr()}, Username: "no-reader", Password: "secret"})
	require.ErrorContains(t, e.Join(t.Context(), "n", cluster.Handler{}), "join: read the inbox: NOPERM")
	e = engine(t, redis.UniversalOptions{Addrs: []string{s.Addr()}, Password: "secret"})
	require.ErrorContains(t, e.Join(t.Context(), "a b", cluster.Handler{}), "invalid name of a node")
	require.NoError(t, e.Join(t.Context(), "n", cluster.Handler{}))
	require.ErrorContains(t, e.Join(t.Context(), "n", cluster.Handler{}), "joined already")
	require.NoError(t, e.Leave(t.Context()))
	require.NoError(t, e.Join(t.Context(), "n", cluster.Handler{}))
	require.NoError(t, e.Leave(t.Context()))
}

// Not parallel: it looks at all goroutines of the process.
func TestNoGoroutineIsLeft(t *testing.T) {
	s := redistest.Start(t)
	for range 3 {
		n := join(t, at(s))
		until(t, soon, func() bool { return strings.Contains(s.Do("info", "clients").(string), "blocked_clients:1\r\n") })
		begin := time.Now()
		require.NoError(t, n.Leave(t.Context()))
		require.Less(t, time.Since(begin), 500*time.Millisecond, "the reader is woken")
		require.NoError(t, n.Close())
	}
	n := join(t, at(s))
	s.Kill()
	require.Error(t, n.Leave(t.Context()))
	require.NoError(t, n.Close())
	require.Error(t, n.Send(t.Context(), "n", nil))
	until(t, soon, func() bool {
		b := make([]byte, 1<<20)
		for g := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			if strings.Contains(g, "go-redis") || strings.Contains(g, "peerredis.(*") {
				return false
			}
		}
		return true
	})
}
