package peer

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// reports returns what has been reported to the node up to now.
func (h *handNode) reports() (all receipt) {
	synctest.Wait()
	for len(h.records) > 0 {
		if rec := <-h.records; rec.kind == recordReceipt {
			all.accepted = append(all.accepted, rec.receipt.accepted...)
			all.over = append(all.over, rec.receipt.over...)
			all.late = append(all.late, rec.receipt.late...)
		}
	}
	return all
}

// offers are messages from "x" with these numbers.
func offers(b []byte, dst string, epoch uint64, numbers ...uint32) []byte {
	for _, n := range numbers {
		p := ownParcel([]byte(`{"type":"OFFER"}`), keepUntilExpiry)
		p.src = "x"
		b = appendMessage(b, n, dst, epoch, &p, time.Now().Add(DefaultExpireTimeout).UnixMicro())
	}
	return b
}

const soon = 100 * time.Millisecond // enough for a batch and its receipt

// A claim is present before the engine is asked: its answer can come after the first message.
func TestAMessageForAClaimThatIsNotAnsweredYetIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		h := newHandNode(t, m)
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		m.Fail(1)
		b := rs[0].dial("b", "t")
		time.Sleep(minRetry / 2)
		m.Fail(0) // the engine has the claim, and the node has an error and will claim again
		h.sendTo(rs[0], 1, 0, func(b []byte) []byte { return offers(b, "b", h.epochOf("b"), 1) })
		time.Sleep(minRetry / 4)
		require.Nil(t, rs[0].srv.Realm().Client("b"))
		b.wantOpen()
		b.want(`{"type":"OFFER"}`)
		time.Sleep(soon)
		require.Equal(t, receipt{accepted: []uint32{1}}, h.reports())
	})
}

// What finds no room is late, and so is the rest of its pair, of which nothing is kept.
func TestOfAPairThatFindsNoRoomNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{MaxHeldPerPair: 1})
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		h := newHandNode(t, m)
		h.holdAs("b", "t")
		b := rs[0].dial("b", "t") // it waits a second for this node, which says nothing
		time.Sleep(soon)
		h.sendTo(rs[0], 1, 0, func(b []byte) []byte { return offers(b, "b", h.epochOf("b"), 1, 2, 3) })
		time.Sleep(soon)
		require.Equal(t, receipt{accepted: []uint32{1}, late: []uint32{2, 3}}, h.reports())
		b.wantOpen()
		synctest.Wait()
		require.Empty(t, b.frames)
		h.sendTo(rs[0], 2, 0, func(b []byte) []byte { return offers(b, "b", h.epochOf("b"), 4) })
		b.want(`{"type":"OFFER"}`)
	})
}

func TestAPairOfWhichAMessageWasLateExpiresAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		a.offer("b", "2")
		_, numbers := h.taken(2)
		began := time.Now()
		h.sendTo(rs[0], 1, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{late: numbers[:1]}) })
		a.wantExpire("b")
		require.Less(t, time.Since(began), soon)
		require.Zero(t, rs[0].srv.Stats().HeldMessages)
	})
}

// A pair expires as a whole, also if its messages are read one by one elsewhere: each has the deadline of the
// first that waits.
func TestAMessageTravelsWithTheDeadlineOfItsPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		first := h.message().message
		time.Sleep(2 * time.Second)
		a.offer("b", "2")
		second := h.message().message
		require.Equal(t, first.deadline, second.deadline)
		h.sendTo(rs[0], 1, 1, func(b []byte) []byte {
			return appendReceipt(b, &receipt{accepted: []uint32{first.number, second.number}})
		})
		time.Sleep(soon)
		a.offer("b", "3")
		require.Greater(t, h.message().message.deadline, first.deadline)
	})
}

// Only what names the node and the claim of a route ends it: otherwise what was sent would go twice.
func TestARouteEndsOnlyWithItsClaim(t *testing.T) {
	for name, of := range map[string]func(present, other *handNode) (*handNode, uint64){
		"another node":      func(_, other *handNode) (*handNode, uint64) { return other, 0 },
		"a claim before it": func(present, _ *handNode) (*handNode, uint64) { return present, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, rs := nodes(t, 1, Options{})
				a, h, other := rs[0].connect("a"), newHandNode(t, m), newHandNodeAs(t, m, "other")
				claim := h.hold("b")
				a.offer("b", "1")
				_, numbers := h.taken(1)
				from, before := of(h, other)
				from.sendTo(rs[0], 1, 0, func(b []byte) []byte {
					b, _ = appendBack(b, "b", claim.Epoch-before, nil, inAnHour)
					return b
				})
				time.Sleep(soon)
				h.sendTo(rs[0], 2, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{accepted: numbers}) })
				time.Sleep(soon)
				require.Zero(t, rs[0].srv.Stats().HeldMessages)
				require.Empty(t, a.frames)
			})
		})
	}
}

// Only what was sent before a death expires when it comes back.
func TestWhatComesBackAfterADeathWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{ExpireTimeout: time.Minute})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		_, numbers := h.taken(1)
		h.sendTo(rs[0], 1, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{accepted: numbers}) })
		time.Sleep(time.Second)
		m.Cut(handName)
		time.Sleep(10 * time.Second)
		m.Mend(handName)
		time.Sleep(2 * time.Second)
		claim := h.hold("b")
		a.offer("b", "2")
		ps, _ := h.taken(1)
		require.NoError(t, h.engine.Release(t.Context(), claim))
		h.sendTo(rs[0], 2, 1, func(b []byte) []byte {
			b, _ = appendBack(b, "b", claim.Epoch, ps, inAnHour)
			return b
		})
		time.Sleep(soon)
		b := rs[0].connect("b")
		b.wantOffer("a", "2")
		require.Empty(t, a.frames)
	})
}

// A slowReader is an engine whose inbox can be left unread for a while.
type slowReader struct {
	cluster.Engine
	gate atomic.Pointer[chan struct{}] // nil: all is read as it comes
}

func (e *slowReader) Join(ctx context.Context, node string, h cluster.Handler) error {
	receive := h.Receive
	h.Receive = func(b []byte) {
		if gate := e.gate.Load(); gate != nil {
			<-*gate
		}
		receive(b)
	}
	return e.Engine.Join(ctx, node, h)
}

// stop lets nothing be read until the function that it returns is called.
func (e *slowReader) stop() (goOn func()) {
	gate := make(chan struct{})
	e.gate.Store(&gate)
	return func() {
		e.gate.Store(nil)
		close(gate)
	}
}

// A node by hand has got a message from "a", whose own node reads nothing since then.
func unread(t *testing.T) (m *cluster.Memory, r *rig, h *handNode, number uint32, goOn func()) {
	m = cluster.NewMemory()
	e := &slowReader{Engine: m.Engine()}
	r = newBubbleRig(t, Options{Cluster: e, ExpireTimeout: time.Minute})
	a := r.connect("a")
	h = newHandNode(t, m)
	h.hold("b")
	a.offer("b", "1")
	_, numbers := h.taken(1)
	return m, r, h, numbers[0], e.stop()
}

const untilDead = watchFor + 2*cluster.MissingAfter

// What a node that is dead has reported may lie in the inbox.
func TestANodeIsNotDeadBeforeWhatItSentIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, r, h, number, goOn := unread(t)
		h.sendTo(r, 1, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{accepted: []uint32{number}}) })
		m.Cut(handName)
		time.Sleep(untilDead)
		goOn()
		time.Sleep(soon)
		require.Zero(t, r.srv.Stats().HeldMessages)
		m.Mend(handName)
	})
}

func TestANodeThatIsBackBeforeTheInboxIsReadIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, r, h, number, goOn := unread(t)
		m.Cut(handName)
		time.Sleep(untilDead)
		m.Mend(handName)
		time.Sleep(2 * time.Second)
		goOn()
		time.Sleep(2 * time.Second)
		for len(h.records) > 0 {
			require.NotEqual(t, recordMessage, (<-h.records).kind, "it was sent twice")
		}
		h.sendTo(r, 1, 1, func(b []byte) []byte { return appendReceipt(b, &receipt{accepted: []uint32{number}}) })
		time.Sleep(soon)
		require.Zero(t, r.srv.Stats().HeldMessages)
	})
}

func TestANodeIsSuspectedAfterAnswersWithoutAGap(t *testing.T) {
	const yes, no, unknown = 'y', 'n', '?'
	type answer struct {
		at      float64 // in seconds
		missing rune
	}
	for name, answers := range map[string][]answer{ // only after the last one it is suspected
		"missing from the first answer on":  {{0, yes}, {1, yes}, {2, yes}, {3, yes}},
		"named by the last two":             {{0, no}, {1.5, no}, {3, yes}, {4, yes}},
		"named with an interruption":        {{0, yes}, {1, yes}, {2, no}, {3, yes}, {4, yes}},
		"after a gap":                       {{0, yes}, {1, yes}, {4, yes}, {5, yes}, {6, yes}, {7, yes}},
		"after an answer that does not say": {{0, yes}, {1, yes}, {2, unknown}, {3, yes}, {4, yes}, {5, yes}, {6, yes}},
	} {
		var l link
		for i, a := range answers {
			now := at(0).Add(time.Duration(a.at * float64(time.Second)))
			suspected := l.note(now, a.missing == yes, a.missing != unknown)
			require.Equal(t, i == len(answers)-1, suspected, "%s: answer %d", name, i)
		}
	}
}
