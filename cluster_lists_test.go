package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// A flakyEngine fails edits for which bad reports true.
type flakyEngine struct {
	cluster.Engine
	bad func(room string, e cluster.Edit) bool
}

func (e flakyEngine) Room(ctx context.Context, room string, edit cluster.Edit) (map[string]cluster.Member, error) {
	if e.bad(room, edit) {
		return nil, errors.New("the connection is lost")
	}
	return e.Engine.Room(ctx, room, edit)
}

// wantListed fails unless the engine lists these members of the room "x".
func wantListed(t *testing.T, r *rig, ids ...string) {
	t.Helper()
	all, err := r.srv.Realm().RoomMembers(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, append([]string{}, ids...), all)
}

func TestARoomThatComesAfterTheDeathOfANodeHasNoneOfItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, b := rs[0].connect("a"), rs[1].connect("b")
		b.join("x")
		b.wantMembers("x", "b")
		a.offer("b", "1")
		b.wantOffer("a", "1")
		name := rs[1].srv.realm.node.name
		m.Cut(name)
		time.Sleep(20 * time.Second)
		require.True(t, rs[0].srv.realm.node.link(name).isDead())
		a.wantExpire("b") // its receipt did not come
		a.join("x")
		a.wantMembers("x", "a", "b")
		a.wantLeft("x", "b", ReasonConnectionLost.String())
		wantListed(t, rs[0], "a")
		m.Mend(name)
	})
}

func TestAMemberWhoseSuccessorHasGoneLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, _ := bothInRoom(rs[0], rs[1])
		m.Delay(200 * time.Millisecond)
		successor := rs[1].dial("a", "token-of-a")
		time.Sleep(450 * time.Millisecond) // the holder gives the id up now
		successor.drop()
		a.wantEnd()
		m.Delay(0)
		time.Sleep(2 * missingFor)
		wantListed(t, rs[1], "b")
	})
}

func TestARenewalThatIsRepeatedTakesNoMemberBack(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprint(alone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, rs := nodesWithRooms(t, 1)
				failed := make(chan struct{}, 1)
				e := flakyEngine{m.Engine(), func(_ string, e cluster.Edit) bool {
					if len(e.Renew) == 0 {
						return false
					}
					select {
					case failed <- struct{}{}:
						return true
					default:
						return false
					}
				}}
				home := newBubbleRig(t, Options{Cluster: e, AllowJoin: rs[0].srv.opts.AllowJoin})
				bothInRoom(home, rs[0])
				rest := []string{"b"}
				if !alone {
					c := home.connect("c")
					c.join("x")
					rest = append(rest, "c")
				}
				for len(failed) == 0 {
					time.Sleep(time.Millisecond)
				}
				successor := rs[0].connect("a")
				time.Sleep(10 * time.Second)
				wantListed(t, rs[0], append([]string{"a"}, rest...)...)
				successor.close()
				time.Sleep(10 * time.Second)
				wantListed(t, rs[0], rest...)
			})
		})
	}
}

func TestRoomsThatFailHoldNoOthersUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 1)
		var away atomic.Bool
		e := flakyEngine{m.Engine(), func(room string, _ cluster.Edit) bool { return away.Load() && strings.HasPrefix(room, "bad") }}
		r := newBubbleRig(t, Options{Cluster: e, AllowJoin: rs[0].srv.opts.AllowJoin, MaxRoomsPerClient: -1})
		r.connect("a")
		r.connect("b")
		realm := r.srv.Realm()
		a, b := realm.Client("a"), realm.Client("b")
		for i := range 4 * roomsAtATime {
			require.NoError(t, realm.Join(fmt.Sprint("bad", i), a))
		}
		away.Store(true)
		for i := range 4 * roomsAtATime {
			realm.Leave(fmt.Sprint("bad", i), a)
		}
		time.Sleep(20 * time.Second)
		for i := range 20 {
			require.NoError(t, realm.Join(fmt.Sprint("good", i), b))
		}
		away.Store(false)
	})
}

func TestAfterALossOfDataAllIsWrittenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 1)
		a, e := rs[0].connect("a"), m.Engine()
		a.join("x")
		a.wantMembers("x", "a")
		find := func() cluster.Place {
			places, err := e.Find(t.Context(), "a")
			require.NoError(t, err)
			return places["a"]
		}
		m.Forget()
		at := find()
		for ; at.Node == ""; at = find() {
			time.Sleep(10 * time.Millisecond)
		}
		// What was written went to a master that has been replaced.
		require.NoError(t, e.Release(t.Context(), cluster.Claim{ID: "a", Node: at.Node, Epoch: at.Epoch}))
		_, err := e.Room(t.Context(), "x", cluster.Edit{Gone: at.Node})
		require.NoError(t, err)
		time.Sleep(againAfter + againWithin + time.Second)
		require.Equal(t, at, find())
		wantListed(t, rs[0], "a")
	})
}

func TestAMemberThatComesBackQuietlyIsToldIfItsLeaveWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, _ := bothInRoom(rs[0], rs[1])
		_, err := m.Engine().Room(t.Context(), "x", cluster.Edit{Gone: rs[1].srv.realm.node.name})
		require.NoError(t, err)
		rs[0].srv.realm.roomChanged(&control{Room: []byte("x"), ID: []byte("b"), Reason: int(ReasonConnectionLost)})
		a.wantLeft("x", "b", ReasonConnectionLost.String())
		rs[0].connect("b")
		a.wantJoined("x", "b")
	})
}
