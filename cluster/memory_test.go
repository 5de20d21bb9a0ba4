package cluster_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer/cluster"
	"github.com/gopeerjs/peer/cluster/clustertest"
)

// A breakable is an engine of a Memory that clustertest can break.
type breakable struct {
	cluster.Engine
	m    *cluster.Memory
	node string
}

func (b *breakable) Join(ctx context.Context, node string, h cluster.Handler) error {
	b.node = node
	return b.Engine.Join(ctx, node, h)
}

func (b *breakable) Cut()    { b.m.Cut(b.node) }
func (b *breakable) Mend()   { b.m.Mend(b.node) }
func (b *breakable) Forget() { b.m.Forget() }

func TestMemoryKeepsTheContract(t *testing.T) {
	clustertest.TestInBubbles(t, func(*testing.T) (a, b cluster.Engine) {
		m := cluster.NewMemory()
		return &breakable{Engine: m.Engine(), m: m}, &breakable{Engine: m.Engine(), m: m}
	})
}

func TestMemoryKeepsTheContractWhenItIsSlow(t *testing.T) {
	clustertest.TestInBubbles(t, func(*testing.T) (a, b cluster.Engine) {
		m := cluster.NewMemory()
		m.Delay(20 * time.Millisecond)
		return m.Engine(), m.Engine()
	})
}

var ranInRealTime atomic.Bool

// Engines that do I/O are tested in real time, so that has to work, too.
func TestMemoryKeepsTheContractInRealTime(t *testing.T) {
	if testing.Short() || ranInRealTime.Swap(true) {
		t.Skip("takes six seconds of real time, so it runs once")
	}
	m := cluster.NewMemory() // all subtests share it, as they share a server
	clustertest.Test(t, func(*testing.T) (a, b cluster.Engine) { return m.Engine(), m.Engine() }, nil)
}

// A rig is a Memory with the nodes a and b, in a bubble.
type rig struct {
	*testing.T
	*cluster.Memory
	a, b *node
}

type node struct {
	cluster.Engine
	mu  sync.Mutex
	log []string // batches, and "lost"
}

func (n *node) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, s)
}

// got returns what the handler got since the last call.
func (n *node) got() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	log := n.log
	n.log = nil
	return log
}

func (n *node) handler() cluster.Handler {
	return cluster.Handler{Receive: func(b []byte) { n.add(string(b)) }, Lost: func() { n.add("lost") }}
}

func inBubble(t *testing.T, f func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		m := cluster.NewMemory()
		r := &rig{t, m, &node{Engine: m.Engine()}, &node{Engine: m.Engine()}}
		require.NoError(t, r.a.Join(t.Context(), "a", r.a.handler()))
		require.NoError(t, r.b.Join(t.Context(), "b", r.b.handler()))
		t.Cleanup(func() {
			m.Resume()
			m.Mend("a")
			m.Mend("b")
			m.Drop(0)
			m.Fail(0)
			m.Delay(0)
			assert.NoError(t, r.a.Leave(context.Background()))
			assert.NoError(t, r.b.Leave(context.Background()))
		})
		f(r)
	})
}

// in returns a context that ends after d.
func (r *rig) in(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), d)
	r.Cleanup(cancel)
	return ctx
}

func (r *rig) send(batches ...string) {
	r.Helper()
	for _, b := range batches {
		require.NoError(r, r.b.Send(r.Context(), "a", []byte(b)))
	}
}

// wants fails unless this is what node a got, a moment later.
func (r *rig) wants(log ...string) {
	r.Helper()
	synctest.Wait()
	assert.Equal(r, log, r.a.got())
}

func (r *rig) place(id string) cluster.Place {
	r.Helper()
	all, err := r.b.Find(r.Context(), id)
	require.NoError(r, err)
	return all[id]
}

func (r *rig) missing(node string) bool {
	r.Helper()
	all, err := r.b.Missing(r.Context(), node)
	require.NoError(r, err)
	return all[node]
}

var x = cluster.Claim{ID: "x", Node: "a", Epoch: 1}

func (r *rig) claim(ctx context.Context) error {
	_, err := r.a.Claim(ctx, x)
	return err
}

func TestPauseHoldsCallsAndDeliveries(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Pause()
		began := time.Now()
		assert.ErrorIs(t, r.claim(r.in(time.Second)), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		done := make(chan error, 2)
		go func() { done <- r.claim(r.Context()) }()
		go func() { done <- r.b.Send(r.Context(), "a", []byte("2")) }()
		time.Sleep(400 * time.Millisecond)
		assert.Empty(t, done)
		r.wants()
		r.Resume()
		assert.NoError(t, <-done)
		assert.NoError(t, <-done)
		r.wants("2")
		assert.Equal(t, cluster.Place{Node: "a", Epoch: 1}, r.place("x"))
	})
}

func TestPauseHoldsWhatWasSentBefore(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Delay(100 * time.Millisecond)
		r.send("1")
		r.Pause()
		time.Sleep(500 * time.Millisecond)
		r.wants()
		r.Resume()
		r.wants("1")
	})
}

func TestMendDeliversWhatWaits(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Cut("a")
		r.send("1")
		time.Sleep(500 * time.Millisecond)
		r.wants()
		r.Mend("a")
		r.wants("1")
	})
}

func TestCallThatEndedDuringAPauseHasNoEffect(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Pause()
		assert.Error(t, r.claim(r.in(time.Second)))
		r.Resume()
		assert.Zero(t, r.place("x"))
	})
}

func TestCallThatEndedDuringAPauseHasItsEffectLaterIfCallsFail(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Pause()
		r.Fail(1)
		assert.Error(t, r.claim(r.in(time.Second)))
		assert.Error(t, r.b.Send(r.in(100*time.Millisecond), "a", []byte("1")))
		assert.Error(t, r.b.Send(r.in(100*time.Millisecond), "a", []byte("2")))
		r.Fail(0)
		r.Resume()
		assert.Equal(t, cluster.Place{Node: "a", Epoch: 1}, r.place("x"))
		r.wants("1", "2")
	})
}

func TestLongPauseMakesAllNodesMissing(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.send("1")
		r.wants("1")
		require.NoError(t, r.claim(r.Context()))
		time.Sleep(500 * time.Millisecond)
		r.Pause()
		time.Sleep(4 * time.Second)
		r.wants() // no Lost before a beat has found out
		r.Resume()
		// The beats that wait find out at once, and none of the others.
		r.send("2")
		time.Sleep(time.Second)
		r.wants("lost", "2")
		assert.Equal(t, []string{"lost"}, r.b.got())
		assert.False(t, r.missing("a"))
		assert.NotZero(t, r.place("x"), "a pause loses no claims")
	})
}

func TestFailHasTheEffect(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Fail(1)
		assert.Error(t, r.claim(r.Context()))
		assert.Error(t, r.b.Send(r.Context(), "a", []byte("1")))
		_, err := r.a.Room(r.Context(), "room", cluster.Edit{Node: "a", Join: map[string][]byte{"x": nil}, Max: -1})
		assert.Error(t, err)
		r.wants("1")
		r.Fail(0)
		assert.NotZero(t, r.place("x"))
		all, err := r.b.Room(r.Context(), "room", cluster.Edit{})
		assert.NoError(t, err)
		assert.Contains(t, all, "x")
	})
}

// The beats of a node that fail register it, but the node does not know.
func TestFailedBeatsHoldReceive(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Fail(1)
		time.Sleep(2500 * time.Millisecond)
		r.b.Send(r.Context(), "a", []byte("1"))
		r.wants()
		r.Fail(0)
		assert.False(t, r.missing("a"))
		time.Sleep(time.Second)
		r.wants("1")
	})
}

// A failed beat finds the inbox missing and makes it, and the next one finds it there.
func TestLostAfterABeatThatFailed(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Forget()
		r.Fail(1)
		time.Sleep(1500 * time.Millisecond)
		r.Fail(0)
		r.send("1")
		time.Sleep(time.Second)
		r.wants("lost", "1")
	})
}

func TestDropHasNoEffect(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Drop(1)
		assert.Error(t, r.claim(r.Context()))
		err := r.b.Send(r.Context(), "a", []byte("1"))
		assert.Error(t, err)
		assert.NotErrorIs(t, err, cluster.ErrNoNode)
		time.Sleep(2900 * time.Millisecond)
		r.Drop(0)
		assert.Zero(t, r.place("x"))
		assert.True(t, r.missing("a"), "beats are dropped, too")
		time.Sleep(time.Second)
		r.wants("lost")
		assert.False(t, r.missing("a"))
	})
}

func TestProbabilities(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Drop(0.5)
		failed := 0
		for range 1000 {
			if r.claim(r.Context()) != nil {
				failed++
			}
		}
		assert.InDelta(t, 500, failed, 100)
	})
}

func TestSeedRepeatsFaults(t *testing.T) {
	inBubble(t, func(r *rig) {
		run := func(seed int64) (failed []bool) {
			r.Seed(seed)
			for range 100 {
				failed = append(failed, r.claim(r.Context()) != nil)
			}
			return failed
		}
		r.Fail(0.3)
		r.Drop(0.3)
		first := run(7)
		assert.Equal(t, first, run(7))
		assert.NotEqual(t, first, run(8))
	})
}

func TestForgetLosesEverything(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Pause()
		r.Fail(1) // it is there when the pause ends
		r.b.Send(r.in(time.Millisecond), "a", []byte("gone"))
		r.Fail(0)
		r.Resume()
		r.wants("gone")
		require.NoError(t, r.claim(r.Context()))
		_, err := r.a.Room(r.Context(), "room", cluster.Edit{Node: "a", Join: map[string][]byte{"x": nil}, Max: -1})
		require.NoError(t, err)

		r.Forget()
		assert.Zero(t, r.place("x"))
		assert.True(t, r.missing("a"))
		all, err := r.b.Room(r.Context(), "room", cluster.Edit{})
		assert.NoError(t, err)
		assert.Empty(t, all)
		assert.ErrorIs(t, r.b.Send(r.Context(), "a", nil), cluster.ErrNoNode)
		time.Sleep(1100 * time.Millisecond)
		r.wants("lost")
		r.send("1")
		r.wants("1")
		time.Sleep(10 * time.Second)
		r.wants() // it says so once
	})
}

func TestCutSeparatesOneNode(t *testing.T) {
	inBubble(t, func(r *rig) {
		time.Sleep(500 * time.Millisecond)
		r.Cut("a")
		began := time.Now()
		assert.ErrorIs(t, r.claim(r.in(time.Second)), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		r.send("1")
		assert.NoError(t, r.b.Send(r.Context(), "b", []byte("2")))
		time.Sleep(2 * time.Second)
		assert.Equal(t, []string{"2"}, r.b.got())
		r.wants()
		assert.True(t, r.missing("a"))
		assert.False(t, r.missing("b"))
		r.Mend("a")
		r.Mend("b")
		time.Sleep(time.Second)
		r.wants("lost", "1")
		assert.NoError(t, r.claim(r.Context()))
	})
}

func TestCutWinsOverResume(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Cut("a")
		r.Pause()
		r.Fail(1)
		assert.Error(t, r.claim(r.in(time.Second)))
		r.Fail(0)
		r.Resume()
		assert.Zero(t, r.place("x"), "what a node sends while it is cut off does not arrive")
	})
}
