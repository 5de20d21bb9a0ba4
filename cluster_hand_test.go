package peer

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A handNode is a node of a cluster that does only what a test says.
type handNode struct {
	t       *testing.T
	name    string
	m       *cluster.Memory
	engine  cluster.Engine
	records chan farRecord // that have come
	heads   chan batchHead
}

const handName = "hand"

func newHandNode(t *testing.T, m *cluster.Memory) *handNode { return newHandNodeAs(t, m, handName) }

func newHandNodeAs(t *testing.T, m *cluster.Memory, name string) *handNode {
	h := &handNode{
		t: t, name: name, m: m, engine: m.Engine(), records: make(chan farRecord, 1000), heads: make(chan batchHead, 1000),
	}
	require.NoError(t, h.engine.Join(t.Context(), name, cluster.Handler{Receive: h.receive, Lost: func() {}}))
	t.Cleanup(func() { h.engine.Leave(t.Context()) })
	return h
}

func (h *handNode) receive(b []byte) {
	r := batchReader{b: b}
	head, err := r.head()
	require.NoError(h.t, err)
	rs, err := r.records()
	require.NoError(h.t, err)
	h.heads <- head
	for _, rec := range rs {
		h.records <- rec
	}
}

// hold claims an id.
func (h *handNode) hold(id string) cluster.Claim {
	return h.holdAs(id, "")
}

// holdAs claims an id for a client with a token.
func (h *handNode) holdAs(id, token string) cluster.Claim {
	c := cluster.Claim{ID: id, Node: h.name, Token: tokenOf(id, token), Epoch: uint64(h.engine.Now().UnixMicro())}
	got, err := h.engine.Claim(h.t.Context(), c)
	require.NoError(h.t, err)
	require.True(h.t, got[0].Granted)
	return c
}

// sendTo sends a batch with a number, which confirms what came up to received.
func (h *handNode) sendTo(r *rig, number, received uint64, write func(b []byte) []byte) {
	h.t.Helper()
	b := write(appendBatchHead(nil, h.name))
	setBatchHead(b, h.name, number, received)
	require.NoError(h.t, h.engine.Send(h.t.Context(), r.srv.realm.node.name, b))
}

// message waits for the next message.
func (h *handNode) message() farRecord {
	h.t.Helper()
	for {
		select {
		case rec := <-h.records:
			if rec.kind == recordMessage {
				return rec
			}
		case <-time.After(waitLimit):
			h.t.Fatal("no message came")
		}
	}
}

// taken returns what has come as it goes back.
func (h *handNode) taken(n int) (ps []parcel, numbers []uint32) {
	for range n {
		m := h.message().message
		p := m.parcel(time.Now().Add(time.Hour))
		p.mark = m.number
		ps, numbers = append(ps, p), append(numbers, m.number)
	}
	return ps, numbers
}

func inAnHour(time.Time) int64 { return time.Now().Add(time.Hour).UnixMicro() }

func (h *handNode) epochOf(id string) uint64 {
	places, err := h.engine.Find(h.t.Context(), id)
	require.NoError(h.t, err)
	return places[id].Epoch
}

func TestABatchThatComesTwiceIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		p := ownParcel([]byte(`{"type":"OFFER"}`), keepUntilExpiry)
		p.src = "x"
		for _, number := range []uint64{1, 1, 2} {
			h.sendTo(rs[0], number, 0, func(b []byte) []byte {
				return appendMessage(b, uint32(number), "a", h.epochOf("a"), &p, inAnHour(time.Time{}))
			})
		}
		a.want(`{"type":"OFFER"}`)
		a.want(`{"type":"OFFER"}`)
		time.Sleep(time.Second)
		require.Equal(t, uint64(1), rs[0].srv.Stats().Cluster.Repeated)
		require.Equal(t, uint64(3), rs[0].srv.Realm().Client("a").Stats().MessagesOut)
	})
}

func TestWhatComesBackGoesBeforeWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{ExpireTimeout: time.Minute})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		claim := h.hold("b")
		for i := range 4 {
			a.offer("b", fmt.Sprint(i))
		}
		ps, numbers := h.taken(4)
		for i := range ps[:2] {
			ps[i].deadline = time.Now().Add(time.Minute)
		}
		require.NoError(t, h.engine.Release(t.Context(), claim))
		h.sendTo(rs[0], 1, 0, func(b []byte) []byte {
			b = appendReceipt(b, &receipt{accepted: numbers[:2]})
			// The first part says that more follows.
			first := appendRecord(nil, recordBack, func(b []byte) []byte {
				whole, _ := appendBack(nil, "b", claim.Epoch, ps[:1], inAnHour)
				body := whole[5:]
				at := 1 + len("b") + uvarintSize(claim.Epoch)
				body[at] = 1
				return append(b, body...)
			})
			b = append(b, first...)
			b, _ = appendBack(b, "b", claim.Epoch, ps[1:2], inAnHour)
			return b
		})
		time.Sleep(time.Second)
		b := rs[1].connect("b")
		for i := range 4 {
			b.wantOffer("a", fmt.Sprint(i))
		}
	})
}

func uvarintSize(n uint64) (size int) {
	for size = 1; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

func TestWhatAClientDidNotReceiveGoesToItsNextNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 3, Options{})
		a := rs[0].connect("a")
		stuck := rs[1].rawOpen().openAs("b", "one")
		for i := range 5 {
			a.offer("b", fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		require.Zero(t, rs[0].srv.Stats().HeldMessages)
		stuck.conn.Close()
		time.Sleep(time.Second)
		b := rs[2].connect("b")
		for i := range 5 {
			b.wantOffer("a", fmt.Sprint(i))
		}
	})
}

func TestWhatComesBackFromANodeThatWasDeadExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{ExpireTimeout: time.Minute})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		claim := h.hold("b")
		a.offer("b", "1")
		ps, numbers := h.taken(1)
		h.sendTo(rs[0], 1, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{accepted: numbers}) })
		time.Sleep(time.Second)
		m.Cut(handName)
		time.Sleep(10 * time.Second)
		m.Mend(handName)
		time.Sleep(2 * time.Second)
		began := time.Now()
		h.sendTo(rs[0], 2, 1, func(b []byte) []byte {
			b, _ = appendBack(b, "b", claim.Epoch, ps, inAnHour)
			return b
		})
		a.wantExpire("b")
		require.Less(t, time.Since(began), time.Second)
	})
}

func TestAMarkedMessageHasTwiceItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		began := time.Now()
		a.wantExpire("b")
		require.GreaterOrEqual(t, time.Since(began), 2*DefaultExpireTimeout)
		require.Less(t, time.Since(began), 2*DefaultExpireTimeout+time.Second, "the tick came back")
	})
}

func TestANodeThatConfirmsNothingGetsNoMoreThanItsBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		payload := `"` + strings.Repeat("x", 900<<10) + `"`
		const sent = 8
		for i := range sent {
			h.hold(fmt.Sprint("b", i))
			a.offer(fmt.Sprint("b", i), payload)
		}
		time.Sleep(2 * time.Second)
		n := len(h.records)
		assert.Equal(t, maxUnderWay/(900<<10)+1, n)
		last := batchHead{}
		for len(h.heads) > 0 {
			last = <-h.heads
		}
		h.sendTo(rs[0], 1, last.number, func(b []byte) []byte { return appendControl(b, &control{What: "unknown"}) })
		time.Sleep(time.Second)
		require.Len(t, h.records, sent, "there is room again")
		for len(h.heads) > 0 {
			last = <-h.heads
		}
		require.Equal(t, uint64(1), last.received, "and the batch that said so is confirmed")
	})
}

func TestALeaveForAnAbsentIDIsDroppedAtTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := nodes(t, 1, Options{})
		a := rs[0].connect("a")
		a.send(`{"type":"LEAVE","dst":"b"}`)
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, rs[0].srv.Stats().HeldMessages)
		require.Equal(t, uint64(1), rs[0].srv.Stats().Dropped["absent"])
	})
}

func TestANodeThatWasForgottenMayCountFromOneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{AliveTimeout: -1})
		rs[0].connect("a")
		h := newHandNode(t, m)
		unknown := func(b []byte) []byte { return appendControl(b, &control{What: "unknown"}) }
		h.sendTo(rs[0], 50, 0, unknown)
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, uint64(50), (<-h.heads).received, "a batch is confirmed though there is nothing else to send")
		time.Sleep(keepLink + 2*time.Second)
		h.sendTo(rs[0], 1, 0, unknown)
		time.Sleep(time.Second)
		require.Zero(t, rs[0].srv.Stats().Cluster.Repeated)
	})
}

func TestAMemberThatIsListedElsewhereHasNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 1)
		h := newHandNode(t, m)
		c, b := rs[0].connect("c"), rs[0].connect("b")
		c.join("x")
		c.wantMembers("x", "c")
		b.join("x")
		b.wantMembers("x", "b", "c")
		c.wantJoined("x", "b")
		edit := cluster.Edit{Node: handName, Join: map[string][]byte{"b": nil}, Max: -1}
		_, err := h.engine.Room(t.Context(), "x", edit)
		require.NoError(t, err)
		h.sendTo(rs[0], 1, 0, func(b []byte) []byte {
			return appendControl(b, &control{What: "room", Room: []byte("x"), ID: []byte("b")})
		})
		time.Sleep(time.Second)
		b.close()
		time.Sleep(time.Minute)
		d := rs[0].connect("d")
		d.join("x")
		c.wantJoined("x", "d")
		d.wantMembers("x", "b", "c", "d")
	})
}

func TestAReceiptGoesBeforeWhatComesBack(t *testing.T) {
	n := newNode(cluster.NewMemory().Engine(), nil)
	n.work.close() // nothing is sent
	l := n.link("other")
	l.report(1, accepted)
	l.giveBack("b", 1, []parcel{ownParcel([]byte("{}"), keepUntilExpiry)})
	require.Len(t, l.batches, 1)
	r := batchReader{b: l.batches[0].b}
	r.head() // its numbers are not set yet
	rs, err := r.records()
	require.NoError(t, err)
	require.Len(t, rs, 2)
	require.Equal(t, recordReceipt, rs[0].kind)
	require.Equal(t, recordBack, rs[1].kind)
}

func TestAfterALossOfDataNoIDIsNewForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		rs[0].connect("a")
		m.Forget()
		time.Sleep(1100 * time.Millisecond)
		require.NotZero(t, rs[0].srv.Stats().Cluster.Lost)
		rs[0].dial("b", "t").wantRefused(TypeError, refusedEngineAway.reject.Message)
		rs[0].connect("c")
	})
}

func TestAnOverrideNeedsTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 2, Options{AllowOverride: OverrideAlways})
		old := rs[0].connect("b")
		m.Pause()
		rs[0].dial("b", "another").wantRefused(TypeError, refusedEngineAway.reject.Message)
		m.Resume()
		old.offer("b", "1")
		old.wantOffer("b", "1")
		time.Sleep(time.Second)
		again := rs[1].dial("b", "token-of-b") // the claim has its token again
		again.wantOpen()
		require.Equal(t, CloseReplaced, old.wantEnd())
	})
}

func TestInTheLineAYoungerNewcomerReplacesAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		m.Delay(time.Second)
		rs[0].dial("b", "t") // the third one can take the id before this one has read OPEN
		synctest.Wait()
		second := rs[0].dial("b", "t")
		synctest.Wait()
		third := rs[0].dial("b", "t")
		second.wantRefused(TypeError, refusedTooLate.reject.Message)
		third.wantOpen()
	})
}

func TestAJoinThatIsGivenUpWhileItIsUnderWayIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		rs[0].connect("a")
		rs[0].connect("b")
		realm := rs[0].srv.Realm()
		require.NoError(t, realm.Join("x", realm.Client("a")))
		m.Delay(700 * time.Millisecond)
		m.Fail(1)
		time.AfterFunc(1500*time.Millisecond, func() { m.Fail(0) }) // the third attempt works, too late for who waits
		require.ErrorIs(t, realm.Join("x", realm.Client("b")), ErrEngine)
		time.Sleep(10 * time.Second)
		m.Delay(0)
		require.Empty(t, realm.Client("b").Rooms())
		ids, err := realm.RoomMembers(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, ids)
	})
}

func TestAMessageOfTheHostExpiresWithTheEngineAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a := rs[0].connect("a")
		m.Pause()
		require.NoError(t, rs[0].srv.Realm().Send("b", Message{Type: "X", Payload: json.RawMessage("1")}))
		a.offer("b", "1")
		time.Sleep(30 * time.Second)
		require.Zero(t, rs[0].srv.Stats().HeldMessages)
		a.wantExpire("b")
		m.Resume()
	})
}
