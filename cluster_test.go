package peer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

func TestTwoNodesRelayToEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{})
		a, b := rs[0].connect("a"), rs[1].connect("b")
		for i := range 100 {
			a.offer("b", fmt.Sprint(i))
			b.offer("a", fmt.Sprint(i))
		}
		for i := range 100 {
			b.wantOffer("a", fmt.Sprint(i))
			a.wantOffer("b", fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		for _, r := range rs {
			require.Zero(t, r.srv.Stats().HeldMessages, "what was accepted waits no more")
		}
		a.offer("absent", "1")
		began := time.Now()
		a.wantExpire("absent")
		require.Equal(t, DefaultExpireTimeout, time.Since(began))
	})
}

func TestAMessageWaitsForAClientOnAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{})
		a := rs[0].connect("a")
		for i := range 10 {
			a.offer("b", fmt.Sprint(i))
		}
		time.Sleep(3 * time.Second)
		b := rs[1].connect("b")
		for i := range 10 {
			b.wantOffer("a", fmt.Sprint(i))
		}
	})
}

func TestAnIDMovesBetweenNodesWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 3, Options{})
		told := watch(rs[0].srv)
		a := rs[2].connect("a")
		old := rs[0].connect("b")
		a.offer("b", "0")
		old.wantOffer("a", "0")
		b := rs[1].connect("b")
		require.Equal(t, CloseReplaced, old.wantEnd())
		told.want(t, "+b", "-b replaced by its own token")
		for i := range 10 {
			a.offer("b", fmt.Sprint(i))
			b.wantOffer("a", fmt.Sprint(i))
		}
		require.Nil(t, rs[0].srv.Realm().Client("b"))
	})
}

func TestAnIDIsTakenOnAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{})
		rs[0].connect("b")
		p := rs[1].dial("b", "another")
		p.wantRefused(TypeIDTaken, "ID is taken")
	})
}

func TestOverrideOfAnIDOnAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{AllowOverride: OverrideAlways})
		old := rs[0].connect("b")
		p := rs[1].dial("b", "another")
		p.wantOpen()
		old.wantOverridden()
		again := rs[0].dial("b", "token-of-b")
		again.wantRefused(TypeIDTaken, "ID is taken")
	})
}

func TestAClientOfANodeThatIsGoneIsFoundElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 3, Options{})
		a := rs[0].connect("a")
		old := rs[1].connect("b")
		a.offer("b", "0")
		old.wantOffer("a", "0")
		time.Sleep(time.Second)
		m.Cut(rs[1].srv.realm.node.name)
		a.offer("b", "1")
		began := time.Now()
		b := rs[2].connect("b")
		t.Log("back after", time.Since(began))
		b.wantOffer("a", "1")
		t.Log("got after", time.Since(began))
		a.offer("b", "2")
		b.wantOffer("a", "2")
		m.Mend(rs[1].srv.realm.node.name)
		require.Contains(t, []int{CloseReplaced, CloseClaimLost}, old.wantEnd(), "the ask lay in its inbox, or its renewal was refused before")
	})
}

// nodesWithRooms is nodes for clients that join rooms by themselves.
func nodesWithRooms(t *testing.T, n int) (*cluster.Memory, []*rig) {
	return nodes(t, n, Options{AllowJoin: func(*Client, string, json.RawMessage) error { return nil }})
}

// bothInRoom connects "a" to one node and "b" to another, and lets them join the room "x".
func bothInRoom(one, other *rig) (a, b *testPeer) {
	a, b = one.connect("a"), other.connect("b")
	a.join("x")
	a.wantMembers("x", "a")
	b.join("x")
	b.wantMembers("x", "a", "b")
	a.wantJoined("x", "b")
	return a, b
}

func TestARoomHasMembersOnTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodesWithRooms(t, 2)
		a, b := bothInRoom(rs[0], rs[1])
		for _, r := range rs {
			ids, err := r.srv.Realm().RoomMembers(t.Context(), "x")
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b"}, ids)
		}
		n, err := rs[0].srv.Realm().Broadcast("x", Message{Type: "HELLO"})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		a.want(`{"type":"HELLO"}`)
		b.want(`{"type":"HELLO"}`)
		b.close()
		a.wantLeft("x", "b", ReasonClientClosed.String())
		ids, err := rs[0].srv.Realm().AllClientIDs(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, ids)
	})
}

func TestAMemberThatMovesToAnotherNodeStaysInItsRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodesWithRooms(t, 3)
		a, old := bothInRoom(rs[0], rs[1])
		b := rs[2].connect("b")
		b.wantMembers("x", "a", "b")
		require.Equal(t, CloseReplaced, old.wantEnd())
		time.Sleep(time.Minute)
		b.close()
		a.wantLeft("x", "b", ReasonClientClosed.String())
	})
}

func TestAMemberOnANodeThatIsGoneLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, _ := bothInRoom(rs[0], rs[1])
		time.Sleep(time.Second)
		m.Cut(rs[1].srv.realm.node.name)
		began := time.Now()
		a.wantLeft("x", "b", ReasonConnectionLost.String())
		require.Less(t, time.Since(began), 6*time.Second)
		m.Mend(rs[1].srv.realm.node.name)
		a.wantJoined("x", "b")
	})
}

func TestAnEngineThatForgetsIsToldAllAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, b := bothInRoom(rs[0], rs[1])
		m.Forget()
		time.Sleep(5 * time.Second)
		a.offer("b", "1")
		b.wantOffer("a", "1")
		for _, r := range rs {
			ids, err := r.srv.Realm().RoomMembers(t.Context(), "x")
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b"}, ids)
			ids, err = r.srv.Realm().AllClientIDs(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b"}, ids)
		}
		require.True(t, rs[0].srv.Realm().RemoveClient("b"))
		require.Equal(t, CloseRemoved, b.wantEnd())
	})
}

func TestAServerWhoseEngineIsAwayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{})
		a, b := rs[0].connect("a"), rs[1].connect("b")
		a.offer("b", "1")
		b.wantOffer("a", "1")
		m.Pause()
		a.offer("b", "2")
		began := time.Now()
		p := rs[0].dial("c", "t")
		p.wantRefused(TypeError, "The server cannot check this id now")
		require.Equal(t, 2*time.Second, time.Since(began))
		require.NoError(t, rs[0].srv.Close())
		require.ErrorIs(t, rs[0].srv.Ready(t.Context()), http.ErrServerClosed)
		m.Resume()
	})
}
