package peer

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A client reads OPEN when OnConnection has returned. The tests of this file are about the time
// until then.

// newSlowRig is newBubbleRig with an OnConnection that takes so long for the id "slow".
func newSlowRig(t *testing.T, opts Options, takes time.Duration) *rig {
	t.Helper()
	srv := NewServer(opts)
	srv.OnConnection(func(c *Client) {
		if c.ID() == "slow" {
			time.Sleep(takes)
		}
	})
	return serveBubbleRig(t, srv, nil)
}

// dialSlow dials the id "slow" and waits until the client has been admitted.
func (r *rig) dialSlow(token string) (*testPeer, *Client) {
	r.t.Helper()
	p := r.dial("slow", token)
	synctest.Wait()
	c := r.srv.Realm().Client("slow")
	require.NotNil(r.t, c)
	require.Equal(r.t, token, c.Token())
	return p, c
}

// send lets the host send its client a message of this type.
func (r *rig) sendOwn(id string, t MessageType) {
	r.t.Helper()
	require.NoError(r.t, r.srv.Realm().Send(id, Message{Type: t}))
}

func (p *testPeer) wantOwn(types ...MessageType) {
	p.t.Helper()
	for _, t := range types {
		p.want(fmt.Sprintf(`{"type":%q}`, t))
	}
}

func TestOpenGoesOutWhenOnConnectionHasReturned(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name         string
		timeout      time.Duration // HandshakeTimeout
		authenticate time.Duration
		override     time.Duration // AllowOverride
		connection   time.Duration // OnConnection, the first function and the second
		second       time.Duration
		want         time.Duration
	}{
		{"at once", 0, 0, 0, 0, 0, 0},
		{"a slow function", 0, 0, 0, 3 * s, 0, 3 * s},
		{"two slow functions", 0, 0, 0, 3 * s, 4 * s, 7 * s},
		{"after Authenticate", 0, 2 * s, 0, 3 * s, 0, 5 * s},
		{"at the end of HandshakeTimeout", 0, 0, 0, 30 * s, 0, DefaultHandshakeTimeout},
		{"in the second function", 0, 0, 0, 3 * s, 30 * s, DefaultHandshakeTimeout},
		{"at the end of a HandshakeTimeout of the host's", 3 * s, 0, 0, 30 * s, 0, 3 * s},
		{"HandshakeTimeout covers Authenticate", 0, 4 * s, 0, 30 * s, 0, DefaultHandshakeTimeout},
		{"HandshakeTimeout covers AllowOverride", 0, 0, 4 * s, 30 * s, 0, DefaultHandshakeTimeout},
		{"HandshakeTimeout is over before", 3 * s, 0, 4 * s, 30 * s, 0, 4 * s},
		{"no HandshakeTimeout", -1, 4 * s, 0, 14 * s, 0, 18 * s},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := false // the holder of the id, which comes first, is not
				sleep := func(d time.Duration) {
					if slow {
						time.Sleep(d)
					}
				}
				srv := NewServer(Options{
					HandshakeTimeout: c.timeout,
					Authenticate: func(*http.Request, string, string) (any, error) {
						sleep(c.authenticate)
						return nil, nil
					},
					AllowOverride: func(_, _ *Client) bool {
						sleep(c.override)
						return true
					},
				})
				srv.OnConnection(func(*Client) { sleep(c.connection) })
				srv.OnConnection(func(*Client) { sleep(c.second) })
				r := serveBubbleRig(t, srv, nil)
				r.connect("slow")
				slow = true
				start := time.Now()
				p := r.dial("slow", "t")
				p.wantOpen()
				require.Equal(t, c.want, time.Since(start))
				r.sendOwn("slow", "LATER")
				p.wantOwn("LATER")
				require.Equal(t, c.want, time.Since(start), "an open client waits for nothing")
				time.Sleep(time.Minute) // the functions return
			})
		})
	}
}

// With nothing to wait for, a client reads OPEN before its reader has started. OnDisconnect of
// the predecessor is something to wait for, within the same time.
func TestOpenWaitsForOnDisconnectOfThePredecessor(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name       string
		timeout    time.Duration
		disconnect time.Duration // OnDisconnect
		connection time.Duration // OnConnection, -1: none is registered
		want       time.Duration
	}{
		{"nothing is slow", 0, 0, -1, 0},
		{"OnDisconnect alone", 0, 4 * s, -1, 4 * s},
		{"both", 0, 4 * s, 3 * s, 7 * s},
		{"OnDisconnect takes longer than HandshakeTimeout", 0, 15 * s, -1, DefaultHandshakeTimeout},
		{"both take longer", 0, 6 * s, 6 * s, DefaultHandshakeTimeout},
		{"no HandshakeTimeout", -1, 15 * s, 3 * s, 18 * s},
	} {
		for how, leave := range map[string]func(r *rig){
			"replaced": func(*rig) {},
			"removed":  func(r *rig) { r.srv.Realm().RemoveClient("a") },
		} {
			t.Run(c.name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := NewServer(Options{HandshakeTimeout: c.timeout, AliveTimeout: 18 * time.Second})
					r := serveBubbleRig(t, srv, nil)
					r.dial("a", "t").wantOpen()
					synctest.Wait() // a function that is registered before would be called for this client
					start := time.Now()
					told := make(chan time.Duration, 1)
					srv.OnDisconnect(func(*Client, DisconnectReason) { time.Sleep(c.disconnect) })
					if c.connection >= 0 {
						srv.OnConnection(func(*Client) {
							told <- time.Since(start)
							time.Sleep(c.connection)
						})
					}
					leave(r)
					p := r.dial("a", "t")
					p.wantOpen()
					require.Equal(t, c.want, time.Since(start))
					time.Sleep(time.Minute)
					if c.connection >= 0 {
						require.Equal(t, c.disconnect, <-told, "OnDisconnect returns before OnConnection is called")
					}
					require.NotNil(t, srv.Realm().Client("a"), "it was not blamed for the wait")
				})
			})
		}
	}
}

// The host may do what it likes in OnConnection, before the client reads anything: a page that
// reads OPEN can rely on it.
func TestWhatIsSentBeforeOpenComesBehindItInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{MaxOutboxMessages: 4}, 2*time.Second)
		realm := r.srv.Realm()
		sender := r.connect("sender")
		offer := func(ns ...int) {
			for _, n := range ns {
				sender.offer("slow", fmt.Sprint(n))
				synctest.Wait()
			}
		}
		old, c := r.dialSlow("t")
		offer(0)
		require.NoError(t, c.Send(Message{Type: "A"}))
		offer(1, 2)
		offer(3, 4) // have no room, so they are held
		require.NoError(t, r.srv.realm.check())

		p, c := r.dialSlow("t")
		old.wantOpen()
		require.Equal(t, CloseReplaced, old.wantEnd())
		offer(5)
		require.NoError(t, c.Send(Message{Type: "B"}))
		require.NoError(t, realm.Join("x", c))
		_, err := realm.Broadcast("x", Message{Type: "C"})
		require.NoError(t, err)
		offer(6) // has no room
		require.NoError(t, r.srv.realm.check())
		require.Empty(t, p.frames)
		p.wantOpen()
		p.wantOwn("A") // what the predecessor was not sent
		for n := range 3 {
			p.wantOffer("sender", fmt.Sprint(n))
		}
		p.wantOwn("B") // what is sent until OPEN goes out
		p.wantMembers("x", "slow")
		p.wantOwn("C")
		for n := 3; n <= 6; n++ { // what was held, and what is relayed
			p.wantOffer("sender", fmt.Sprint(n))
		}
		require.Empty(t, sender.frames)
	})
}

// A client that has no room for the list of members does not become one without being told.
func TestAJoinThatHasNoRoomBeforeOpenIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{MaxOutboxMessages: 1}, 2*time.Second)
		realm := r.srv.Realm()
		member := r.connect("member")
		require.NoError(t, realm.Join("x", realm.Client("member")))
		member.wantMembers("x", "member")
		p, c := r.dialSlow("t")
		require.NoError(t, c.Send(Message{Type: "A"}))
		require.ErrorIs(t, realm.Join("x", c), ErrSlowConsumer)
		require.ErrorIs(t, realm.Join("y", c), ErrSlowConsumer)
		require.Equal(t, []string{"x"}, realm.Rooms())
		require.Len(t, realm.Members("x"), 1)
		p.wantOpen()
		p.wantOwn("A")
		synctest.Wait() // what the client has read is still in its outbox for a moment
		require.NoError(t, realm.Join("x", c))
		p.wantMembers("x", "member", "slow")
		member.want(`{"type":"ROOM-JOINED","payload":{"room":"x","id":"slow"}}`) // and nothing before
	})
}

// A client cannot be too slow before it may read.
func TestAnOutboxThatOverflowsBeforeOpenClosesNobody(t *testing.T) {
	size := len(textFrame([]byte(`{"type":"OFFER","src":"sender","dst":"slow","payload":0}`)))
	for name, opts := range map[string]Options{
		"messages": {MaxOutboxMessages: 3},
		"bytes":    {MaxOutboxBytes: 3 * size, MaxHeldPerDestination: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts.RelayTypes = []MessageType{"NOTE"}
				r := newSlowRig(t, opts, 4*time.Second)
				errs := make(chan error, 10)
				r.srv.OnError(func(_ *Client, err error) { errs <- err })
				sender := r.connect("sender")
				offer := func(n int) {
					sender.offer("slow", fmt.Sprint(n))
					synctest.Wait()
				}
				p, c := r.dialSlow("t")
				for n := range 3 {
					offer(n)
				}
				require.Empty(t, r.srv.Stats().Held)
				offer(3)
				require.EqualValues(t, 1, r.srv.Stats().Held, "a message that can wait is held")
				large := Message{Type: "OWN", Payload: quoted(string(make([]byte, 200)))}
				require.ErrorIs(t, c.Send(large), ErrSlowConsumer)
				require.ErrorIs(t, r.srv.Realm().Send("slow", large), ErrSlowConsumer)
				sender.send(`{"type":"NOTE","dst":"slow"}`)
				sender.send(`{"type":"LEAVE","dst":"slow"}`)
				synctest.Wait()
				require.EqualValues(t, 2, r.srv.Stats().Dropped["absent"], "other messages are dropped")
				require.ErrorIs(t, <-errs, ErrNotConnected)
				require.Empty(t, errs)
				offer(4)
				require.Zero(t, c.Reason())
				require.NoError(t, r.srv.realm.check())

				start := time.Now()
				p.wantOpen()
				require.Equal(t, 4*time.Second, time.Since(start))
				for n := range 5 {
					p.wantOffer("sender", fmt.Sprint(n))
				}
				offer(5) // is relayed again
				p.wantOffer("sender", "5")
				r.sendOwn("slow", "OWN")
				p.wantOwn("OWN")
				require.EqualValues(t, 2, r.srv.Stats().Held)
				time.Sleep(time.Minute)
				require.Empty(t, sender.frames, "nothing has expired")
				require.NotNil(t, r.srv.Realm().Client("slow"))
			})
		})
	}
}

// A short message must not overtake a long one that had no room.
func TestNothingOvertakesWhatHadNoRoomBeforeOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{MaxOutboxBytes: 1000, MaxHeldPerDestination: -1}, 4*time.Second)
		sender := r.connect("sender")
		p, c := r.dialSlow("t")
		_, long := offerOfSize("slow", 800)
		for _, payload := range []string{`1`, long, `2`} {
			sender.offer("slow", payload)
			synctest.Wait()
		}
		require.NoError(t, c.Send(Message{Type: "OWN"}), "the host's goes before all of them")
		p.wantOpen()
		p.wantOwn("OWN")
		p.wantOffer("sender", `1`)
		p.wantOffer("sender", long)
		p.wantOffer("sender", `2`)
	})
}

// What is held for a client that does not read OPEN yet is bounded and expires like everything
// that is held.
func TestWhatHadNoRoomBeforeOpenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{HandshakeTimeout: -1, MaxOutboxMessages: 1, MaxHeldPerPair: 3}, 15*time.Second)
		a, b := r.connect("a"), r.connect("b")
		p, c := r.dialSlow("t")
		start := time.Now()
		a.offer("slow", `0`) // has room
		synctest.Wait()
		for n := range 3 {
			a.offer("slow", fmt.Sprint(n))
			b.offer("slow", fmt.Sprint(n))
		}
		synctest.Wait()
		a.offer("slow", `3`)
		a.wantExpire("slow")
		require.Zero(t, time.Since(start), "at once")
		b.wantExpire("slow")
		require.Equal(t, DefaultExpireTimeout, time.Since(start))
		require.Zero(t, c.Reason())
		p.wantOpen()
		p.wantOffer("a", `0`)
		b.offer("slow", `4`)
		p.wantOffer("b", `4`)
		time.Sleep(time.Minute)
		require.Empty(t, a.frames)
		require.Empty(t, b.frames)
	})
}

// What was held counts as given: a client is not blamed for it as soon as it is open. What was
// relayed to it before does count, until it is written.
func TestAnOutboxIsBoundedFromOpenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Options{MaxOutboxMessages: 3, WriteTimeout: -1}
		r := newSlowRig(t, opts, 4*time.Second)
		rec := watch(r.srv)
		sender := r.connect("sender")
		offer := func(n int) {
			sender.offer("slow", fmt.Sprint(n))
			synctest.Wait()
		}
		p := r.rawOpen(smallReads).upgrade("slow")
		synctest.Wait()
		for n := range 8 { // three have room
			offer(n)
		}
		time.Sleep(4 * time.Second) // OPEN would be read now
		synctest.Wait()
		require.NotNil(t, r.srv.Realm().Client("slow"))
		require.Zero(t, r.srv.Stats().HeldBytes)
		offer(8)
		rec.about(t, "slow", "+slow", "-slow slow consumer")
		p.wantClose(1008)
		next := r.dial("slow", "another")
		next.wantOpen()
		for n := range 9 {
			next.wantOffer("sender", fmt.Sprint(n))
		}
	})
}
