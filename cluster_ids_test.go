package peer

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// control waits for the next control of a kind.
func (h *handNode) control(what string) control {
	h.t.Helper()
	for {
		select {
		case rec := <-h.records:
			if rec.kind == recordControl && rec.control.What == what {
				return rec.control
			}
		case <-time.After(waitLimit):
			h.t.Fatal("no " + what + " came")
		}
	}
}

// answer says yes to an ask.
func (h *handNode) answer(r *rig, number uint64, ask control) {
	h.t.Helper()
	h.tell(r, number, control{What: "answer", Number: ask.Number, ID: ask.ID, Yes: true})
}

func (h *handNode) tell(r *rig, number uint64, c control) {
	h.t.Helper()
	h.sendTo(r, number, 0, func(b []byte) []byte { return appendControl(b, &c) })
}

// ask asks for an id, as for a newcomer with the token "stranger".
func (h *handNode) ask(r *rig, number uint64, id string, epoch uint64, granted bool) {
	h.t.Helper()
	h.tell(r, number, control{
		What: "ask", Number: number, ID: []byte(id), Epoch: epoch, Token: []byte("stranger"), Granted: granted,
	})
}

func TestTheQueueOfADeadNodeIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		h.taken(1)
		require.NoError(t, h.engine.Leave(t.Context()))
		a.offer("b", "2")
		time.Sleep(untilDead)
		l := rs[0].srv.realm.node.link(handName)
		l.mu.Lock()
		defer l.mu.Unlock()
		require.False(t, l.running, "nothing is sent any more")
	})
}

func TestTheQueueOfANodeWithoutAnInboxWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		a.offer("b", "1")
		h.taken(1)
		m.Forget() // the next beat of the node makes its inbox again
		a.offer("b", "2")
		h.taken(1)
	})
}

// Else what the other node accepts could come twice.
func TestANewcomerWaitsForANodeThatMessagesWereSentTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.holdAs("b", "t")
		a.offer("b", "1")
		h.taken(1)
		b := rs[0].dial("b", "t")
		ask := h.control("ask")
		require.True(t, ask.Granted)
		time.Sleep(3 * time.Second)
		require.Empty(t, b.frames)
		h.answer(rs[0], 1, ask)
		b.wantOpen()
		b.wantOffer("a", "1")
	})
}

func TestANewcomerAsksBothNodesThatMayHaveTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, before, h := rs[0].connect("a"), newHandNodeAs(t, m, "before"), newHandNode(t, m)
		claim := before.holdAs("b", "t")
		a.offer("b", "1")
		before.taken(1)
		require.NoError(t, before.engine.Release(t.Context(), claim))
		h.holdAs("b", "t")
		b := rs[0].dial("b", "t")
		h.answer(rs[0], 1, h.control("ask"))
		ask := before.control("ask")
		require.False(t, ask.Granted)
		before.answer(rs[0], 1, ask)
		b.wantOpen()
	})
}

// A node that was thought dead renews with an epoch that it was granted: who has claimed the id since then keeps it.
func TestAnIDThatWasTakenMeanwhileIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		time.Sleep(soon)
		m.Forget()
		claim := h.hold("a")
		require.Equal(t, CloseClaimLost, a.wantEnd())
		require.Equal(t, claim.Epoch, h.epochOf("a"))
	})
}

func TestAClaimThatFailedIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		m.Drop(1)
		b := rs[0].dial("b", "t")
		time.Sleep(engineTimeout / 4)
		m.Drop(0)
		b.wantOpen()
	})
}

// The node before would keep a client whose claim is gone.
func TestTheNodeBeforeIsAskedThoughTheNewcomerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		require.NoError(t, rs[0].srv.Ready(t.Context()))
		h := newHandNode(t, m)
		h.holdAs("b", "t")
		time.Sleep(soon)
		m.Pause()
		b := rs[0].dial("b", "t")
		time.Sleep(soon)
		b.drop()
		time.Sleep(soon)
		m.Resume()
		require.True(t, h.control("ask").Granted)
		time.Sleep(time.Second)
		require.Zero(t, h.epochOf("b"), "it is released")
	})
}

// The holder's own peer is about to replace it: that one has the id, and is asked about.
func TestAnAskDuringATakeoverIsAboutTheSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{AliveTimeout: -1})
		rs[0].connect("b")
		h, srv := newHandNode(t, m), rs[0].srv
		holder, heir := srv.Realm().Client("b"), stubClient(t, srv, "b", "token-of-b")
		require.True(t, holder.evict(heir, ReasonReplaced, nil))
		h.ask(rs[0], 1, "b", h.epochOf("b"), false)
		time.Sleep(soon)
		require.Nil(t, srv.claim(t.Context(), heir))
		require.False(t, h.control("answer").Yes)
		require.Same(t, heir, srv.Realm().Client("b"))
		heir.end(ReasonRemoved, nil, nil)
		srv.realm.remove(heir)
	})
}

func TestAnAskIsAboutOneClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		b, h := rs[0].connect("b"), newHandNode(t, m)
		h.ask(rs[0], 1, "b", h.epochOf("b")-1, true)
		require.True(t, h.control("answer").Yes)
		b.offer("b", "1")
		b.wantOffer("b", "1")
		h.ask(rs[0], 2, "b", h.epochOf("b"), true)
		require.True(t, h.control("answer").Yes)
		require.Equal(t, CloseClaimLost, b.wantEnd())
	})
}

// Until the newcomer's node has claimed the id, nobody else gets it.
func TestAnIDThatWasGivenAwayIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{AllowOverride: OverrideAlways})
		b, h := rs[0].connect("b"), newHandNode(t, m)
		epoch := h.epochOf("b")
		h.ask(rs[0], 1, "b", epoch, false)
		require.True(t, h.control("answer").Yes)
		b.wantOverridden()
		time.Sleep(time.Second)
		require.Equal(t, epoch, h.epochOf("b"))
	})
}

// The engine may have done what it did not answer.
func TestAnOverrideThatFailedLeavesTheTokenAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var may atomic.Bool
		may.Store(true)
		m, rs := nodes(t, 2, Options{AllowOverride: func(_, _ *Client) bool { return may.Load() }})
		old := rs[0].connect("b")
		require.NoError(t, rs[1].srv.Ready(t.Context()))
		m.Fail(1)
		m.Pause()
		rs[0].dial("b", "another").wantRefused(TypeError, refusedEngineAway.reject.Message)
		m.Resume()
		m.Fail(0)
		may.Store(false)
		time.Sleep(2 * time.Second)
		rs[1].dial("b", "another").wantRefused(TypeIDTaken, isTaken)
		old.offer("b", "1")
		old.wantOffer("b", "1")
	})
}

// While one newcomer waits for the engine, another node can get the id. Then it is taken, and nothing is wrong.
func TestAnIDThatIsGivenAwayDuringAnOverrideIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{AllowOverride: OverrideAlways})
		old, h := rs[0].connect("b"), newHandNode(t, m)
		epoch := h.epochOf("b")
		m.Delay(soon)
		b := rs[0].dial("b", "another")
		time.Sleep(soon / 4)
		m.Delay(0)
		h.ask(rs[0], 1, "b", epoch, false)
		require.True(t, h.control("answer").Yes)
		got, err := h.engine.Claim(t.Context(), cluster.Claim{ID: "b", Node: handName, Epoch: epoch + 1e9, Over: epoch})
		require.NoError(t, err)
		require.True(t, got[0].Granted)
		old.wantOverridden()
		time.Sleep(soon)
		require.Zero(t, rs[0].refused("cluster"), "the engine can check the id")
		h.tell(rs[0], 2, control{What: "answer", Number: h.control("ask").Number, ID: []byte("b")})
		b.wantRefused(TypeIDTaken, isTaken)
	})
}

// While an id is being claimed here, what is for it waits. If the claim is refused, it goes where the id is.
func TestWhatWaitedForARefusedClaimIsSentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodes(t, 1, Options{})
		a, h := rs[0].connect("a"), newHandNode(t, m)
		h.hold("b")
		m.Delay(soon)
		rs[0].dial("b", "another")
		time.Sleep(soon / 2)
		a.offer("b", "1")
		h.taken(1)
	})
}

// The lists of the engine are those of the nodes, whatever happened to them.
func TestAListThatIsWrongIsPutRight(t *testing.T) {
	for name, edit := range map[string]func(node string) cluster.Edit{
		"a member is missing": func(node string) cluster.Edit { return cluster.Edit{Node: handName, Gone: node} },
		"somebody is listed who is not here": func(node string) cluster.Edit {
			return cluster.Edit{Node: node, Join: map[string][]byte{"ghost": nil}, Max: -1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, rs := nodesWithRooms(t, 1)
				a, h := rs[0].connect("a"), newHandNode(t, m)
				a.join("x")
				a.wantMembers("x", "a")
				_, err := h.engine.Room(t.Context(), "x", edit(rs[0].srv.realm.node.name))
				require.NoError(t, err)
				h.tell(rs[0], 1, control{What: "room", Room: []byte("x")})
				time.Sleep(time.Second)
				rs[0].wantRoom("x", "a")
			})
		})
	}
}

// After an empty restart of the engine a list can lack members that are there.
func TestAMemberThatIsMissingWithoutAReasonLeavesAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rs := nodesWithRooms(t, 1)
		a, h := rs[0].connect("a"), newHandNode(t, m)
		a.join("x")
		a.wantMembers("x", "a")
		changed := func(number uint64, e cluster.Edit) {
			e.Node, e.Max = handName, -1
			_, err := h.engine.Room(t.Context(), "x", e)
			require.NoError(t, err)
			h.tell(rs[0], number, control{What: "room", Room: []byte("x")})
		}
		changed(1, cluster.Edit{Join: map[string][]byte{"b": nil}})
		a.wantJoined("x", "b")
		changed(2, cluster.Edit{Leave: []string{"b"}})
		began := time.Now()
		a.wantLeft("x", "b", ReasonConnectionLost.String())
		require.GreaterOrEqual(t, time.Since(began), missingFor)
		require.LessOrEqual(t, time.Since(began), missingFor+2*time.Second)
	})
}
