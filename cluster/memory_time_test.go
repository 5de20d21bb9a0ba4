package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer/cluster"
)

func TestInboxOfASilentNodeGoesAfter30Seconds(t *testing.T) {
	inBubble(t, func(r *rig) {
		time.Sleep(500 * time.Millisecond) // its last beat was that of Join
		r.Cut("a")
		time.Sleep(29500 * time.Millisecond)
		r.send("1")
		time.Sleep(time.Second)
		assert.ErrorIs(t, r.b.Send(r.Context(), "a", []byte("2")), cluster.ErrNoNode)
		r.Mend("a")
		time.Sleep(2 * time.Second)
		r.wants("lost")
	})
}

func TestMissingFrom2500Milliseconds(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Cut("a")
		time.Sleep(cluster.MissingAfter - 1)
		assert.False(t, r.missing("a"))
		time.Sleep(time.Nanosecond)
		assert.True(t, r.missing("a"))
	})
}

func TestReceiveUpTo2SecondsAfterABeat(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Drop(1) // deliveries go on
		time.Sleep(2 * time.Second)
		synctest.Wait() // the second beat is dropped
		r.Drop(0)
		r.send("1")
		r.wants("1")
		time.Sleep(time.Millisecond)
		r.send("2")
		r.wants()
		time.Sleep(time.Second) // a beat
		r.wants("lost", "2")
	})
}

func TestClaimsAndRoomsGoAfterFiveMinutes(t *testing.T) {
	inBubble(t, func(r *rig) {
		require.NoError(t, r.claim(r.Context()))
		_, err := r.a.Room(r.Context(), "room", cluster.Edit{Node: "a", Join: map[string][]byte{"x": nil}, Max: -1})
		require.NoError(t, err)
		members := func() int {
			all, err := r.b.Room(r.Context(), "room", cluster.Edit{})
			require.NoError(t, err)
			return len(all)
		}
		time.Sleep(cluster.ClaimTTL)
		assert.NotZero(t, r.place("x"))
		assert.Equal(t, 1, members())
		time.Sleep(time.Nanosecond)
		assert.Zero(t, r.place("x"))
		assert.Zero(t, members())
		ids, err := r.a.IDs(r.Context())
		assert.NoError(t, err)
		assert.Empty(t, ids)
	})
}

func TestDelayOfCallsAndDeliveries(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Delay(100 * time.Millisecond)
		began := time.Now()
		require.NoError(t, r.claim(r.Context()))
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
		assert.ErrorIs(t, r.claim(r.in(50*time.Millisecond)), context.DeadlineExceeded)

		r.send("1")
		r.wants()
		r.send("2") // this call ends when the first batch is delivered
		r.wants("1")
		time.Sleep(100*time.Millisecond - 1)
		r.wants()
		time.Sleep(time.Nanosecond)
		r.wants("2")
	})
}

func TestDelayBelowTwoSecondsKeepsNodesAlive(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Delay(900 * time.Millisecond)
		for range 20 {
			assert.False(t, r.missing("a"))
		}
		r.send("1")
		time.Sleep(2 * time.Second)
		r.wants("1")
	})
}

func TestJoinTwiceIsAnError(t *testing.T) {
	inBubble(t, func(r *rig) {
		assert.Error(t, r.a.Join(r.Context(), "c", r.a.handler()))
		assert.True(t, r.missing("c"))
		assert.NoError(t, r.a.Leave(r.Context()))
		assert.NoError(t, r.a.Join(r.Context(), "c", r.a.handler()))
		assert.False(t, r.missing("c"))
		assert.True(t, r.missing("a"))
	})
}

func TestFailedJoinCanBeRepeated(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := &node{Engine: r.Engine()}
		r.Fail(1)
		require.Error(t, c.Join(r.Context(), "c", c.handler()))
		r.Fail(0)
		assert.NoError(t, c.Leave(r.Context()), "it has no node")
		require.NoError(t, r.b.Send(r.Context(), "c", []byte("1")), "the inbox is there all the same")
		require.NoError(t, c.Join(r.Context(), "c", c.handler()))
		synctest.Wait()
		assert.Equal(t, []string{"1"}, c.got())
		require.NoError(t, r.b.Send(r.Context(), "c", []byte("2")))
		synctest.Wait()
		assert.Equal(t, []string{"2"}, c.got())
		assert.NoError(t, c.Leave(r.Context()))
	})
}

func TestCutBeforeJoin(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := &node{Engine: r.Engine()}
		r.Cut("c")
		assert.ErrorIs(t, c.Join(r.in(time.Second), "c", c.handler()), context.DeadlineExceeded)
		r.Mend("c")
		assert.True(t, r.missing("c"))
	})
}

func TestLeaveEndsAJoinUnderWay(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := &node{Engine: r.Engine()}
		r.Pause()
		joined := make(chan error, 1)
		go func() { joined <- c.Join(r.Context(), "c", c.handler()) }()
		synctest.Wait()
		left := make(chan error, 1)
		go func() { left <- c.Leave(r.Context()) }()
		assert.ErrorIs(t, <-joined, context.Canceled)
		r.Resume()
		assert.NoError(t, <-left)
		assert.True(t, r.missing("c"))
		assert.ErrorIs(t, r.b.Send(r.Context(), "c", nil), cluster.ErrNoNode)
	})
}

func TestFailedLeaveCanBeRepeated(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Pause()
		assert.ErrorIs(t, r.a.Leave(r.in(100*time.Millisecond)), context.DeadlineExceeded)
		r.Resume()
		r.send("1") // nothing was removed
		r.wants()   // but the node has ended
		assert.NoError(t, r.a.Leave(r.Context()))
		assert.ErrorIs(t, r.b.Send(r.Context(), "a", nil), cluster.ErrNoNode)
	})
}

// Nodes that repeat what failed lose nothing and keep the order, whatever happens.
func TestRepeatedBatchesSurviveFaults(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Fail(0.2)
		r.Drop(0.2)
		r.Delay(time.Millisecond)
		faults := make(chan struct{})
		go func() {
			defer close(faults)
			for range 20 {
				r.Pause()
				time.Sleep(100 * time.Millisecond)
				r.Cut("a")
				r.Resume()
				time.Sleep(100 * time.Millisecond)
				r.Mend("a")
				time.Sleep(100 * time.Millisecond)
			}
		}()
		var want []string
		for i := range 500 {
			batch := fmt.Sprint(i)
			want = append(want, batch)
			for r.b.Send(r.in(50*time.Millisecond), "a", []byte(batch)) != nil {
			}
		}
		<-faults
		r.Fail(0)
		r.Drop(0)
		time.Sleep(5 * time.Second)
		log := slices.DeleteFunc(r.a.got(), func(s string) bool { return s == "lost" })
		assert.Greater(t, len(log), len(want), "some came twice")
		var once []string
		seen := map[string]bool{}
		for _, batch := range log {
			if !seen[batch] {
				seen[batch] = true
				once = append(once, batch)
			}
		}
		assert.Equal(t, want, once)
	})
}
