package peer

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNobodyIsOverriddenByDefault(t *testing.T) {
	onNodes(t, Options{}, func(t *testing.T, r *rig) {
		rec := r.watch()
		a := r.dial("a", "one")
		a.wantOpen()
		r.dial("a", "two").wantRefused(TypeIDTaken, isTaken)
		a.offer("a", `1`)
		a.wantOffer("a", `1`)
		rec.want(t, "+a")
	})
}

func TestOverrideAlways(t *testing.T) {
	require.EqualValues(t, 4001, CloseOverridden)
	onNodes(t, Options{AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		rec := r.watch()
		old := r.dial("a", "one")
		old.wantOpen()
		c1 := r.client("a")
		for _, early := range []string{"1", "2"} {
			old.offer("a", early)
			old.wantOffer("a", early)
		}
		next := r.dial("a", "two")
		next.wantOpen()
		old.wantOverridden()
		rec.want(t, "+a", "-a overridden", "+a")
		c2 := r.client("a")
		require.Equal(t, "two", c2.Token())
		require.Equal(t, ReasonOverridden, c1.Reason())
		wantIntroduced(r.connect("b"), next)
	})
}

func TestOverriddenConnectionsSeeTheirSuccessor(t *testing.T) {
	t.Parallel()
	const rounds = 300
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	seen := make(chan *Client, rounds)
	r.srv.OnDisconnect(func(c *Client, why DisconnectReason) {
		if why == ReasonOverridden {
			seen <- c.Successor()
		}
	})
	r.dial("a", "first").wantOpen()
	for i := range rounds {
		r.dial("a", fmt.Sprint("next", i)).wantOpen()
		require.True(t, <-seen == r.srv.Realm().Client("a"), "round %d", i)
	}
}

// byUser lets users, which tokens begin with, take their own ids over.
func byUser(decide func(old, new *Client) bool) Options {
	return Options{
		AllowOverride: decide,
		Authenticate: func(r *http.Request, _, _ string) (any, error) {
			return r.Header.Get("X-User"), nil
		},
	}
}

func TestOverrideByUser(t *testing.T) {
	var r *rig
	r = newRig(t, byUser(func(old, new *Client) bool {
		// No lock is held: an application can ask for what it likes.
		return old.User() == new.User() && old.ID() == new.ID() && old.Token() != new.Token() &&
			r.srv.Realm().Client(old.ID()) == old && old.Reason() == 0 && old.Successor() == nil
	}))
	rec := watch(r.srv)
	phone := r.dialAs("ann", "a", "phone")
	phone.wantOpen()
	r.dialAs("bob", "a", "stranger").wantRefused(TypeIDTaken, isTaken)
	laptop := r.dialAs("ann", "a", "laptop")
	laptop.wantOpen()
	phone.wantOverridden()
	r.dialAs("bob", "a", "stranger").wantRefused(TypeIDTaken, isTaken)
	rec.want(t, "+a", "-a overridden", "+a")
	require.Equal(t, "ann", r.srv.Realm().Client("a").User())
}

// An id that changes hands is never free on the way.
func TestNobodySlipsInDuringATakeover(t *testing.T) {
	t.Parallel()
	const strangers, takeovers = 4, 60
	r := newRig(t, byUser(func(old, new *Client) bool { return old.User() == new.User() }))
	r.dialAs("ann", "a", "first").wantOpen()
	stop, result := make(chan struct{}), make(chan string, strangers)
	for range strangers {
		go func() {
			taken := `{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`
			answer := taken
			for answer == taken {
				select {
				case <-stop:
					result <- answer
					return
				default:
				}
				p, _, err := r.tryDial(r.socketURL("/", "a", "stranger"), http.Header{"X-User": {"bob"}})
				if answer = fmt.Sprint(err); err == nil {
					answer = <-p.frames
					p.drop()
				}
			}
			result <- answer
		}()
	}
	for i := range takeovers {
		token := fmt.Sprint("device", i/2) // new ones and known ones in turn
		r.dialAs("ann", "a", token).wantOpen()
	}
	close(stop)
	for range strangers {
		require.Equal(t, `{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`, <-result)
	}
	require.Equal(t, 1, r.srv.Realm().Len())
}

func TestAPanicIsNoPermission(t *testing.T) {
	onNodes(t, Options{AllowOverride: func(_, _ *Client) bool { panic("secret") }}, func(t *testing.T, r *rig) {
		rec := r.watch()
		a := r.connect("a")
		r.dial("a", "other").wantRefused(TypeIDTaken, isTaken)
		rec.about(t, "!", "! calling AllowOverride: peer: panic in a function of the host: secret")
		a.offer("a", `1`)
		a.wantOffer("a", `1`)
	})
}

func TestASlowOverrideDecisionDelaysNobodyElse(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	onNodes(t, Options{AllowOverride: func(_, _ *Client) bool { asked <- true; return <-answer }}, func(t *testing.T, r *rig) {
		a := r.connect("a")
		other := r.dial("a", "other")
		<-asked
		wantIntroduced(r.connect("b"), a)
		answer <- false
		other.wantRefused(TypeIDTaken, isTaken)
	})
}

// The newcomer is not connected yet when AllowOverride sees it. What the host
// sends it then must not come before OPEN, nor in its place.
func TestTheDecisionMaySpeakToTheNewcomer(t *testing.T) {
	sent := make(chan error, 2)
	speak := func(_, new *Client) bool {
		sent <- new.Send(Message{Type: "HELLO"})
		return true
	}
	onNodes(t, Options{AllowOverride: speak}, func(t *testing.T, r *rig) {
		r.connect("a")
		p := r.dial("a", "other")
		p.wantOpen()
		if <-sent == nil {
			p.want(`{"type":"HELLO"}`)
		}
		p.offer("a", `1`)
		p.wantOffer("a", `1`)
	})
}

func TestAnOverriddenTokenMayNotComeBackYet(t *testing.T) {
	onNodes(t, Options{AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		rec := r.watch()
		one, two := r.dial("a", "one"), (*testPeer)(nil)
		one.wantOpen()
		two = r.dial("a", "two")
		two.wantOpen()
		one.wantOverridden()
		for range 3 {
			r.dial("a", "one").wantRefused(TypeIDTaken, isTaken)
		}
		again := r.dial("a", "two") // the same device, on another network
		again.wantOpen()
		require.Equal(t, CloseReplaced, two.wantEnd())
		r.dial("a", "one").wantRefused(TypeIDTaken, isTaken)
		again.close()
		rec.want(t, "+a", "-a overridden", "+a", "-a replaced by its own token", "+a", "-a client closed")

		back := r.dial("a", "one")
		back.wantOpen()
		r.dial("a", "two").wantOpen() // was not overridden itself
		back.wantOverridden()
	})
}

func TestAChainOfOverrides(t *testing.T) {
	onNodes(t, Options{AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		rec := r.watch()
		var last *testPeer
		for _, token := range []string{"one", "two", "three"} {
			p := r.dial("a", token)
			p.wantOpen()
			if last != nil {
				last.wantOverridden()
			}
			last = p
		}
		r.dial("a", "one").wantRefused(TypeIDTaken, isTaken)
		r.dial("a", "two").wantRefused(TypeIDTaken, isTaken)
		last.close()
		rec.want(t, "+a", "-a overridden", "+a", "-a overridden", "+a", "-a client closed")
		one := r.dial("a", "one")
		one.wantOpen()
		r.dial("a", "two").wantOpen()
		one.wantOverridden()
	})
}

func TestOnlySoManyTokensAreKeptOutOfAnID(t *testing.T) {
	c := stubClient(t, NewServer(Options{}), "a", "its own")
	for i := range maxBlocked + 1 {
		c.block(hashOf(fmt.Sprint(i)))
	}
	require.False(t, c.blocks("0"), "the oldest may come back")
	for i := range maxBlocked {
		require.True(t, c.blocks(fmt.Sprint(i+1)))
	}
}

func TestOverridesOfOneIDLeaveOthersAlone(t *testing.T) {
	onNodes(t, Options{AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		r.dial("a", "one").wantOpen()
		r.dial("a", "two").wantOpen()
		r.dial("b", "two").wantOpen()
		r.dial("b", "one").wantOpen() // is barred from the other id
	})
}

func TestAnOverrideAtTheLimit(t *testing.T) {
	r := newRig(t, Options{AllowOverride: OverrideAlways, ConcurrentLimit: 1})
	rec := watch(r.srv)
	r.dial("a", "one").wantOpen()
	r.dial("b", "t").wantRefused(TypeError, isFull)
	r.dial("a", "two").wantOpen()
	rec.want(t, "+a", "-a overridden", "+a")
	require.Equal(t, 1, r.srv.Realm().Len())
}

// OnDisconnect of the old connection has returned before OnConnection of the
// next is called, however long it takes.
func TestEventsOfAnOverrideInOrder(t *testing.T) {
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	leaving, goOn := make(chan bool), make(chan bool)
	var inside atomic.Bool
	r.srv.OnDisconnect(func(_ *Client, why DisconnectReason) {
		if why == ReasonOverridden {
			inside.Store(true)
			leaving <- true
			<-goOn
			inside.Store(false)
		}
	})
	connected := make(chan bool, 1)
	r.srv.OnConnection(func(c *Client) {
		if c.Token() == "two" {
			connected <- inside.Load()
		}
	})
	r.dial("a", "one").wantOpen()
	two := r.dial("a", "two")
	<-leaving
	two.offer("a", `1`) // is read when the host has been told who it is from
	wantIntroduced(r.connect("b"), r.connect("c"))
	require.Empty(t, two.frames, "OPEN waits for the events of the predecessor")
	goOn <- true
	require.False(t, <-connected)
	two.wantOpen()
	two.wantOffer("a", `1`)
}

func TestATakenIDIsRefused(t *testing.T) {
	onNodes(t, Options{}, func(t *testing.T, r *rig) {
		holder := r.connect("a")
		for _, behind := range [][]byte{nil, chatter()} {
			r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "another"), behind).wantTurnedAway(TypeIDTaken, isTaken)
		}
		r.connect("A").close() // ids are exact
		holder.offer("a", `1`)
		holder.wantOffer("a", `1`)
	})
}

func TestAPeerTakesItsIDOver(t *testing.T) {
	onNodes(t, Options{AllowOverride: func(_, _ *Client) bool { t.Error("asked"); return false }}, func(t *testing.T, r *rig) {
		rec := r.watch()
		first := r.connect("a")
		c1 := r.client("a")
		second := r.connect("a")
		require.Equal(t, CloseReplaced, first.wantEnd())
		require.EqualValues(t, 4002, CloseReplaced)
		rec.want(t, "+a", "-a replaced by its own token", "+a")
		c2 := r.client("a")
		require.True(t, c2 != c1) // require.Same would print them, and race
		require.True(t, c2.Successor() == nil)
		require.Equal(t, ReasonReplaced, c1.Reason())

		b := r.connect("b")
		wantIntroduced(b, second)
		ids, err := r.srv.Realm().AllClientIDs(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, ids)
	})
}

// Whatever the order in which an old connection and its successor get to run,
// the old one's OnDisconnect sees who has the id.
func TestOnDisconnectSeesTheSuccessor(t *testing.T) {
	t.Parallel()
	const peers, rounds = 16, 60
	r := newRig(t, Options{})
	var successors sync.Map // id -> chan *Client
	r.srv.OnDisconnect(func(c *Client, why DisconnectReason) {
		if ch, ok := successors.Load(c.ID()); ok && why == ReasonReplaced {
			ch.(chan *Client) <- c.Successor()
		}
	})
	t.Run("all at once", func(t *testing.T) {
		for i := range peers {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				id, seen := fmt.Sprint("peer", i), make(chan *Client, rounds)
				successors.Store(id, seen)
				r := r.in(t)
				r.connect(id)
				for range rounds {
					r.connect(id)
					require.True(t, <-seen == r.srv.Realm().Client(id))
				}
			})
		}
	})
}
