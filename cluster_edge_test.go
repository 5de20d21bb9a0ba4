package peer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// claimed returns how many ids a node has claimed.
func (r *rig) claimed() (n int) {
	for i := range r.srv.realm.shards {
		sh := &r.srv.realm.shards[i]
		sh.mu.Lock()
		n += len(sh.far.claims)
		sh.mu.Unlock()
	}
	return n
}

func TestAClientThatIsFloodedFromAnotherNodeIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{MaxOutboxMessages: 5, WriteTimeout: 3 * time.Second})
		a := rs[0].connect("a")
		rs[1].connect("b") // the server writes to a pipe, and the client takes one frame at a time
		for i := range 100 {
			a.offer("b", fmt.Sprint(i))
		}
		time.Sleep(20 * time.Second)
		require.Nil(t, rs[1].srv.Realm().Client("b"))
		require.Zero(t, rs[1].claimed())
		a.wantExpire("b")
	})
}

func TestAClaimEndsWithTheHandshakeThatALimitRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{ConcurrentLimit: 1})
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		m.Delay(100 * time.Millisecond)
		rs[0].dial("x", "1")
		rs[0].dial("y", "1")
		time.Sleep(10 * time.Second)
		m.Delay(0)
		require.Equal(t, 1, rs[0].srv.Realm().Len())
		require.Equal(t, 1, rs[0].claimed())
	})
}

// A node is gone with the id "b", and a newcomer on another node waits for it.
func newcomerOfALostNode(t *testing.T, opts Options) (a *testPeer, b chan *testPeer) {
	m, rs := nodes(t, 3, opts)
	rs[2].connect("b")
	a = rs[0].connect("a")
	require.NoError(t, rs[1].srv.Ready(t.Context()))
	time.Sleep(time.Second)
	m.Cut(rs[2].srv.realm.node.name)
	b = make(chan *testPeer, 1)
	go func() { b <- rs[1].connect("b") }()
	time.Sleep(50 * time.Millisecond)
	t.Cleanup(func() { m.Mend(rs[2].srv.realm.node.name) })
	return a, b
}

func TestALeaveThatFindsNoRoomLeavesTheOffersBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, newcomer := newcomerOfALostNode(t, Options{MaxHeldPerPair: 2})
		a.offer("b", "1")
		a.offer("b", "2")
		time.Sleep(100 * time.Millisecond)
		a.send(`{"type":"LEAVE","dst":"b"}`)
		b := <-newcomer
		b.wantOffer("a", "1")
		b.wantOffer("a", "2")
	})
}

func TestWhatExpiresDuringAnAdmissionLeavesTheRouteAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, newcomer := newcomerOfALostNode(t, Options{ExpireTimeout: 500 * time.Millisecond})
		a.offer("b", "1")
		b := <-newcomer
		a.wantExpire("b")
		a.offer("b", "2")
		b.wantOffer("a", "2")
		a.offer("b", "3")
		b.wantOffer("a", "3")
	})
}

func TestAMessageOfTheHostDoesNotStopTheClockOfAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a := rs[0].connect("a")
		rs[0].srv.OnConnection(func(c *Client) {
			if c.ID() != "b" {
				return
			}
			m.Pause()
			rs[0].srv.Realm().Send(c.ID(), Message{Type: "X"})
			c.Close()
		})
		rs[0].dial("b", "1")
		time.Sleep(time.Second)
		a.offer("b", "1")
		time.Sleep(30 * time.Second)
		require.Zero(t, rs[0].srv.Stats().HeldMessages)
		m.Resume()
		a.wantExpire("b")
	})
}

func TestNodesThatHaveForgottenEachOtherTalkAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{AliveTimeout: -1})
		a := rs[0].connect("a")
		time.Sleep(500 * time.Millisecond)
		b := rs[1].connect("b")
		time.Sleep(330 * time.Millisecond)
		for i := range 4 {
			a.offer("b", fmt.Sprint(i))
			b.wantOffer("a", fmt.Sprint(i))
			b.offer("a", fmt.Sprint(i))
			a.wantOffer("b", fmt.Sprint(i))
			time.Sleep(keepLink + time.Duration(i)*keepLink/3)
		}
	})
}

func TestBadBatchesAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		told := watch(rs[0].srv)
		a := rs[0].connect("a")
		other := m.Engine()
		require.NoError(t, other.Join(t.Context(), "other", cluster.Handler{Receive: func([]byte) {}, Lost: func() {}}))
		defer other.Leave(t.Context())
		good := appendControl(appendBatchHead(nil, "other"), &control{What: "unknown"})
		setBatchHead(good, "other", 1, 0)
		newer := append([]byte{batchVersion + 1}, good[1:]...)
		for _, b := range [][]byte{nil, {0}, newer, good[:len(good)-1], []byte("of another application"), good} {
			require.NoError(t, other.Send(t.Context(), rs[0].srv.realm.node.name, b))
		}
		time.Sleep(time.Second)
		require.Equal(t, uint64(5), rs[0].srv.Stats().Cluster.Errors)
		a.offer("a", "1")
		a.wantOffer("a", "1")
		told.want(t, "+a", "! peer: cluster: bad batch: version 0")
	})
}

func FuzzBatch(f *testing.F) {
	p := ownParcel([]byte(`{"type":"OFFER"}`), keepUntilExpiry)
	b := appendMessage(appendBatchHead(nil, "n"), 1, "dst", 2, &p, 3)
	b = appendReceipt(b, &receipt{accepted: []uint32{1, 7, 3}, late: []uint32{1 << 31}})
	b, _ = appendBack(b, "dst", 2, []parcel{p, p}, func(time.Time) int64 { return 4 })
	setBatchHead(b, "n", 1, 2)
	f.Add(appendControl(b, &control{What: "ask"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := batchReader{b: b}
		if _, err := r.head(); err != nil {
			return
		}
		rs, err := r.records()
		if err != nil {
			return
		}
		for i := range rs {
			if rs[i].kind == recordMessage {
				m := &rs[i].message
				again := m.parcel(time.Time{})
				require.Equal(t, string(m.payload), string(again.payload()))
			}
		}
	})
}

func TestABatchIsReadAsItWasWritten(t *testing.T) {
	p := ownParcel([]byte(`{"type":"OFFER"}`), keepUntilExpiry)
	p.src, p.continues, p.mark = "src", true, 9
	want := receipt{accepted: []uint32{1, 7, 3, 1<<32 - 1}, over: []uint32{}, late: []uint32{1 << 31}}
	b := appendMessage(appendBatchHead(nil, "node"), 1, "dst", 2, &p, -3)
	b = appendReceipt(b, &want)
	b, n := appendBack(b, "dst", 2, []parcel{p, p}, func(time.Time) int64 { return 4 })
	require.Equal(t, 2, n)
	setBatchHead(b, "node", 5, 6)
	r := batchReader{b: b}
	h, err := r.head()
	require.NoError(t, err)
	require.Equal(t, batchHead{"node", 5, 6}, h)
	rs, err := r.records()
	require.NoError(t, err)
	require.Len(t, rs, 3)
	require.Equal(t, "dst", rs[0].dst)
	require.Equal(t, uint64(2), rs[0].epoch)
	message := farMessage{number: 1, src: "src", fate: fateOf(&p), deadline: -3, payload: p.payload()}
	require.Equal(t, message, rs[0].message)
	require.Equal(t, want, rs[1].receipt)
	message.number, message.deadline = 9, 4
	require.Equal(t, []farMessage{message, message}, rs[2].backs)
	for cut := range len(b) {
		r := batchReader{b: b[:cut]}
		if _, err := r.head(); err != nil {
			continue
		}
		rs, err := r.records()
		require.True(t, err != nil || len(rs) < 3, "a batch that is cut off")
	}
}

func TestAJoinThatTheEngineDidNotAnswerIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a := rs[0].connect("a")
		m.Pause()
		realm := rs[0].srv.Realm()
		began := time.Now()
		require.ErrorIs(t, realm.Join("x", realm.Client("a")), ErrEngine)
		require.Equal(t, engineTimeout, time.Since(began))
		m.Resume()
		time.Sleep(10 * time.Second)
		require.Empty(t, realm.Client("a").Rooms())
		ids, err := realm.RoomMembers(t.Context(), "x")
		require.NoError(t, err)
		require.Empty(t, ids)
		a.join("x")
		a.wantMembers("x", "a")
	})
}

func TestARoomHasNoMoreMembersThanItMayWhileOthersAreRenewed(t *testing.T) {
	job := newRoomJob()
	job.join("member", &joinOp{member: true})
	job.join("newcomer", &joinOp{})
	job.leave("gone", ReasonLeft)
	require.Equal(t, []cluster.Edit{
		{Node: "n", Leave: []string{"gone"}, Renew: map[string][]byte{"member": nil}, Join: map[string][]byte{"newcomer": nil}, Max: 1},
	}, job.edits("n", 1))
}

func TestASilentHolderOnAnotherNodeIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{})
		stuck := rs[0].rawOpen().openAs("b", "one") // it answers no ping
		time.Sleep(DefaultProbeAfter + time.Second)
		p := rs[1].dial("b", "another")
		p.wantOpen()
		require.Nil(t, rs[0].srv.Realm().Client("b"))
		_ = stuck
		live := rs[0].connect("c")
		time.Sleep(DefaultProbeAfter + time.Second)
		rs[1].dial("c", "another").wantRefused(TypeIDTaken, "ID is taken")
		live.offer("c", "1")
		live.wantOffer("c", "1")
	})
}

func TestAHostThatBlocksInOnErrorDelaysNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{})
		a, b := rs[0].connect("a"), rs[1].connect("b")
		unblock := make(chan struct{})
		rs[1].srv.OnError(func(*Client, error) { <-unblock })
		other := m.Engine()
		require.NoError(t, other.Join(t.Context(), "other", cluster.Handler{Receive: func([]byte) {}, Lost: func() {}}))
		defer other.Leave(t.Context())
		require.NoError(t, other.Send(t.Context(), rs[1].srv.realm.node.name, []byte("bad")))
		time.Sleep(time.Second)
		a.offer("b", "1")
		b.wantOffer("a", "1")
		close(unblock)
	})
}

func TestARefusedNewcomerIsNoPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 2, Options{})
		rs[0].connect("b")
		rs[1].dial("b", "another").wantRefused(TypeIDTaken, "ID is taken")
		require.Zero(t, rs[1].srv.Stats().PeakClients)
	})
}

// A page that opens a second connection while the engine stands still is told that it cannot. When the
// engine goes on, its first connection must not end for a second one that is not there.
func TestAClientStaysWhenItsSuccessorWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{})
		x := rs[0].connect("x")
		a := rs[1].connect("a")
		m.Pause()
		rs[1].dial("x", "token-of-x").wantRefused(TypeError, refusedEngineAway.reject.Message)
		time.Sleep(time.Second)
		m.Resume()
		time.Sleep(3 * time.Second)
		a.offer("x", "1")
		x.wantOffer("a", "1")
		require.Equal(t, 1, rs[0].claimed())
		require.Equal(t, 1, rs[1].claimed())
	})
}

// A tardyEngine makes its first edit of a member that leaves a while after it has returned an error.
type tardyEngine struct {
	cluster.Engine
	was   *atomic.Bool
	after time.Duration
}

func (e tardyEngine) Room(ctx context.Context, room string, edit cluster.Edit) (map[string]cluster.Member, error) {
	if len(edit.Leave) > 0 && len(edit.Join) == 0 && !e.was.Swap(true) {
		time.AfterFunc(e.after, func() { e.Engine.Room(context.Background(), room, edit) })
		return nil, errors.New("the connection is lost")
	}
	return e.Engine.Room(ctx, room, edit)
}

func TestAnEditThatWasOnItsWayForLongUndoesNothing(t *testing.T) {
	for _, after := range []time.Duration{editWithin * 9 / 10, 2 * editWithin} { // what follows waits; it is too late
		t.Run(after.String(), func(t *testing.T) { editOnItsWay(t, after) })
	}
}

func editOnItsWay(t *testing.T, after time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 1)
		r := newBubbleRig(t, Options{Cluster: tardyEngine{m.Engine(), new(atomic.Bool), after}, AllowJoin: rs[0].srv.opts.AllowJoin})
		a, _ := bothInRoom(r, rs[0])
		a.send(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`)
		a.wantLeft("x", "a", ReasonLeft.String())
		time.Sleep(10 * time.Millisecond) // the edit is under way
		a.join("x")
		a.wantMembers("x", "a", "b")
		time.Sleep(10 * time.Second)
		ids, err := r.srv.Realm().RoomMembers(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, ids)
	})
}

func TestAMemberThatComesBackWhileTheEngineIsAwayIsAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 2)
		a, b := bothInRoom(rs[0], rs[1])
		m.Pause()
		a.send(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`)
		a.wantLeft("x", "a", ReasonLeft.String())
		a.join("x")
		time.Sleep(1300 * time.Millisecond) // the edit of both has failed
		m.Resume()
		a.wantMembers("x", "a", "b")
		for _, r := range rs {
			ids, err := r.srv.Realm().RoomMembers(t.Context(), "x")
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b"}, ids)
		}
		b.offer("a", "1")
		a.wantOffer("b", "1")
	})
}
