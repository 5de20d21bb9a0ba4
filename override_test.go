package peer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// wantOverridden wants what the loser of an id reads: the message, then the
// close.
func (p *testPeer) wantOverridden() {
	p.t.Helper()
	var m struct {
		Type    string
		Payload struct{ Msg string }
	}
	f := p.next()
	require.NoError(p.t, json.Unmarshal([]byte(f), &m), f)
	require.Equal(p.t, "OVERRIDE_CONNECTION", m.Type)
	require.NotEmpty(p.t, m.Payload.Msg)
	require.Equal(p.t, fmt.Sprintf(`{"type":"OVERRIDE_CONNECTION","payload":{"msg":%q}}`, m.Payload.Msg), f)
	require.Equal(p.t, CloseOverridden, p.wantEnd())
}

func TestNobodyIsOverriddenByDefault(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	a := r.dial("a", "one")
	a.wantOpen()
	r.dial("a", "two").wantRefused(TypeIDTaken, isTaken)
	a.offer("a", `1`)
	a.wantOffer("a", `1`)
	rec.want(t, "+a")
}

func TestOverrideAlways(t *testing.T) {
	require.EqualValues(t, 4001, CloseOverridden)
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	rec := watch(r.srv)
	old := r.dial("a", "one")
	old.wantOpen()
	c1 := r.srv.Realm().Client("a")
	for _, early := range []string{"1", "2"} {
		old.offer("a", early)
		old.wantOffer("a", early)
	}
	next := r.dial("a", "two")
	next.wantOpen()
	old.wantOverridden()
	rec.want(t, "+a", "-a overridden", "+a")
	c2 := r.srv.Realm().Client("a")
	require.Equal(t, "two", c2.Token())
	require.Equal(t, ReasonOverridden, c1.Reason())
	wantIntroduced(r.connect("b"), next)
}

func TestOverriddenConnectionsSeeTheirSuccessor(t *testing.T) {
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

func (r *rig) dialAs(user, id, token string) *testPeer {
	r.t.Helper()
	return r.dialURL(r.socketURL("/", id, token), http.Header{"X-User": {user}})
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
	r := newRig(t, Options{AllowOverride: func(_, _ *Client) bool { panic("secret") }})
	rec := watch(r.srv)
	a := r.connect("a")
	r.dial("a", "other").wantRefused(TypeIDTaken, isTaken)
	rec.about(t, "!", "! deciding on an override: peer: panic in a function of the host: secret")
	a.offer("a", `1`)
	a.wantOffer("a", `1`)
}

func TestASlowOverrideDecisionDelaysNobodyElse(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	r := newRig(t, Options{AllowOverride: func(_, _ *Client) bool { asked <- true; return <-answer }})
	a := r.connect("a")
	other := r.dial("a", "other")
	<-asked
	wantIntroduced(r.connect("b"), a)
	answer <- false
	other.wantRefused(TypeIDTaken, isTaken)
}

// The newcomer is not connected yet when AllowOverride sees it. What the host
// sends it then must not come before OPEN, nor in its place.
func TestTheDecisionMaySpeakToTheNewcomer(t *testing.T) {
	sent := make(chan error, 1)
	r := newRig(t, Options{AllowOverride: func(_, new *Client) bool {
		sent <- new.Send(Message{Type: "HELLO"})
		return true
	}})
	r.connect("a")
	p := r.dial("a", "other")
	p.wantOpen()
	if <-sent == nil {
		p.want(`{"type":"HELLO"}`)
	}
	p.offer("a", `1`)
	p.wantOffer("a", `1`)
}

func TestAnOverriddenTokenMayNotComeBackYet(t *testing.T) {
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	rec := watch(r.srv)
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
}

func TestAChainOfOverrides(t *testing.T) {
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	rec := watch(r.srv)
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
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	r.dial("a", "one").wantOpen()
	r.dial("a", "two").wantOpen()
	r.dial("b", "two").wantOpen()
	r.dial("b", "one").wantOpen() // is barred from the other id
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

// A device is an application that reconnects by itself: it dials again, with its
// own token, whenever its socket has ended.
type device struct {
	opened, refused atomic.Int64
	stop, stopped   chan struct{}
}

func (r *rig) device(token string, pause time.Duration) *device {
	d := &device{stop: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(d.stopped)
		for {
			if p, _, err := r.tryDial(r.socketURL("/", "a", token), nil); err == nil {
				switch <-p.frames {
				case `{"type":"OPEN"}`:
					d.opened.Add(1)
				case `{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`:
					d.refused.Add(1)
				}
				select {
				case <-p.ended:
				case <-d.stop:
					p.close()
				}
			}
			select {
			case <-time.After(pause):
			case <-d.stop:
				return
			}
		}
	}()
	return d
}

func (d *device) end() {
	close(d.stop)
	<-d.stopped
}

func TestTwoDevicesThatReconnectSettle(t *testing.T) {
	for _, pause := range []time.Duration{blindTimeout, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newBubbleRig(t, Options{AllowOverride: OverrideAlways})
			phone := r.device("phone", pause)
			synctest.Wait()
			laptop := r.device("laptop", pause)
			time.Sleep(100*pause + pause/2)
			require.EqualValues(t, 1, phone.opened.Load())
			require.EqualValues(t, 1, laptop.opened.Load())
			require.GreaterOrEqual(t, phone.refused.Load(), int64(100*pause/(pause+blindTimeout)))
			require.Zero(t, laptop.refused.Load())

			laptop.end()
			time.Sleep(2 * pause)
			require.EqualValues(t, 2, phone.opened.Load(), "it gets the id when the other one leaves")
			phone.end()
		})
	}
}

func TestManyDevicesThatReconnectSettle(t *testing.T) {
	const devices, refusals = 5, 300
	r := newRig(t, Options{AllowOverride: OverrideAlways})
	rec := watch(r.srv)
	var all []*device
	for i := range devices {
		all = append(all, r.device(fmt.Sprint("device", i), 0))
	}
	sum := func() (opened, refused int64, each bool) {
		each = true
		for _, d := range all {
			opened += d.opened.Load()
			refused += d.refused.Load()
			each = each && d.opened.Load() > 0
		}
		return opened, refused, each
	}
	waitFor(t, func() bool { _, refused, each := sum(); return each && refused >= refusals })
	opened, refused, _ := sum()
	// Each overrides once, and may slip in once more while another is being ended.
	require.LessOrEqual(t, opened, int64(2*devices), "%v", rec.all())
	waitFor(t, func() bool { _, now, _ := sum(); return now >= refused+refusals })
	later, _, _ := sum()
	require.Equal(t, opened, later, "they still fight")
	for _, d := range all {
		d.end()
	}
}
