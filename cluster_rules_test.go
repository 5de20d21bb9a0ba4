package peer

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are about rules that are others between nodes than on one node.

func TestUsersDoNotTravelBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoNodes(t, byUser(func(old, new *Client) bool { return old.User() == new.User() }), bubbleRigOf)
		rec := r.watch()
		phone := r.dialAs("ann", "a", "phone")
		phone.wantOpen()
		laptop := func() { r.dialAs("ann", "a", "laptop").wantRefused(TypeIDTaken, isTaken) }
		laptop()
		told := "! calling AllowOverride: " + ErrUserElsewhere.Error()
		rec.want(t, "+a", told)
		r.turn() // so that the next one is on the other node, too
		laptop()
		rec.want(t, "+a", told) // once a minute
		time.Sleep(time.Minute)
		r.turn()
		laptop()
		rec.want(t, "+a", told, told)
		here := r.dialAs("ann", "a", "laptop") // on the node of the phone
		here.wantOpen()
		phone.wantOverridden()
	})
}

func TestANewcomerOnAnotherNodeHasNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan *Client, 1)
		r := twoNodes(t, Options{AllowOverride: func(_, new *Client) bool { asked <- new; return true }}, bubbleRigOf)
		r.dial("a", "one").wantOpen()
		r.dial("a", "two").wantOpen()
		newcomer := <-asked
		require.Nil(t, newcomer.Request())
		require.Equal(t, "two", newcomer.Token())
		require.Equal(t, r.client("a").RemoteAddr(), newcomer.RemoteAddr())
	})
}

// OnDisconnect on one node comes before OnConnection on the next, if it takes less than a second.
func TestEventsOfATakeoverByAnotherNodeInOrder(t *testing.T) {
	for takes, inOrder := range map[time.Duration]bool{900 * time.Millisecond: true, 3 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			r := twoNodes(t, Options{}, bubbleRigOf)
			var disconnected, seen atomic.Bool
			r.nodes()[0].srv.OnDisconnect(func(*Client, DisconnectReason) {
				time.Sleep(takes)
				disconnected.Store(true)
			})
			r.nodes()[1].srv.OnConnection(func(*Client) { seen.Store(disconnected.Load()) })
			r.connect("a")
			began := time.Now()
			r.connect("a")
			require.Equal(t, inOrder, seen.Load())
			require.LessOrEqual(t, time.Since(began), time.Second+r.trip())
			time.Sleep(5 * time.Second)
		})
	}
}

func TestARoomIsFullForAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoNodes(t, Options{MaxRoomMembers: 2}, bubbleRigOf)
		for _, id := range []string{"a", "b", "c", "d"} {
			r.connect(id)
		}
		require.NoError(t, r.join("x", "a"))
		require.NoError(t, r.join("x", "b"))
		require.ErrorIs(t, r.join("x", "c"), ErrRoomFull)
		require.ErrorIs(t, r.join("x", "d"), ErrRoomFull)
		require.NoError(t, r.join("x", "a"), "a member already")
		r.wantRoom("x", "a", "b")
		require.True(t, r.realmOf("a").Leave("x", r.client("a")))
		time.Sleep(time.Second)
		require.NoError(t, r.join("x", "d"))
		r.wantRoom("x", "b", "d")
	})
}

// The limits of clients are those of each node.
func TestEachNodeHasItsLimitOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoNodes(t, Options{ConcurrentLimit: 1, AllowOverride: OverrideAlways}, bubbleRigOf)
		r.connect("a")
		r.connect("b")
		r.dial("c", "t").wantRefused(TypeError, isFull)
		r.dial("a", "another").wantRefused(TypeError, isFull) // it would be the second one there
		require.Equal(t, 2, r.len())
		require.NotNil(t, r.nodes()[0].srv.Realm().Client("a"))
	})
}
