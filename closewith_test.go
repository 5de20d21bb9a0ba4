package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// wantWord wants the close frame of CloseWith, answers it, and wants the end.
func (p *rawPeer) wantWord(code int, text string) {
	p.t.Helper()
	first, payload := p.next()
	require.Equal(p.t, byte(rawFin|rawClose), first, "%q", payload)
	require.EqualValues(p.t, code, binary.BigEndian.Uint16(payload))
	require.Equal(p.t, text, string(payload[2:]))
	p.answerClose()
	p.wantGone()
}

func TestAClientIsClosedWithAWord(t *testing.T) {
	for name, newRig := range map[string]func(*testing.T, Options) *rig{
		"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			a, b := r.rawOpen().open("a"), r.rawOpen().open("b")
			rec.wait(t, 2)
			c := r.srv.Realm().Client("a")
			require.NoError(t, c.Send(Message{Type: "BEFORE"}))
			require.NoError(t, c.CloseWith(4321, `You "were" away`))
			a.want(`{"type":"BEFORE"}`)
			a.want(`{"type":"ERROR","payload":{"msg":"You \"were\" away"}}`)
			a.wantWord(4321, `You "were" away`)
			rec.last(t, 3)
			require.Equal(t, ReasonRemoved, c.Reason())
			require.ErrorIs(t, c.CloseWith(4321, ""), ErrNotConnected)

			require.NoError(t, r.srv.Realm().Client("b").CloseWith(4100, ""))
			b.wantWord(4100, "")
			require.Equal(t, "-b removed", rec.last(t, 4))
		})
	}
}

func TestACloseHasACodeAndATextOfItsOwn(t *testing.T) {
	r := newRig(t, Options{})
	a := r.rawOpen().open("a")
	c := r.srv.Realm().Client("a")
	for _, bad := range []struct {
		code int
		text string
	}{
		{4099, ""}, {5000, ""}, {1000, ""}, {0, ""}, {-4100, ""}, {4100 + 1<<16, ""},
		{4100, strings.Repeat("x", 124)}, {4100, "\xff"},
	} {
		require.ErrorIs(t, c.CloseWith(bad.code, bad.text), ErrBadClose, "%v", bad)
	}
	require.Zero(t, c.Reason())
	text := strings.Repeat("x", 123)
	require.NoError(t, c.CloseWith(4999, text))
	a.want(`{"type":"ERROR","payload":{"msg":"` + text + `"}}`)
	a.wantWord(4999, text)
}

// Until everything is written the id stays taken, and nothing more is accepted.
func TestWhileALastWordWaits(t *testing.T) {
	for _, alive := range []time.Duration{0, -1} {
		t.Run(fmt.Sprint(alive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{AliveTimeout: alive, WriteTimeout: 3 * time.Second})
				rec := watch(r.srv)
				sender := r.connect("sender")
				a := r.rawOpen().open("a") // a pipe has no buffer: what it does not read waits
				c := r.srv.Realm().Client("a")
				require.NoError(t, c.Send(Message{Type: "ONE"}))
				require.NoError(t, c.Send(Message{Type: "TWO"}))
				require.NoError(t, c.CloseWith(4444, "bye"))
				require.ErrorIs(t, c.CloseWith(4445, "again"), ErrNotConnected)
				require.ErrorIs(t, c.Send(Message{Type: "THREE"}), ErrNotConnected)
				require.ErrorIs(t, r.srv.Realm().Join("x", c), ErrNotConnected)
				sender.offer("a", "1") // waits for the id
				go a.tryWrite(rawTextFrame(`{"type":"OFFER","dst":"sender"}`))
				synctest.Wait()
				require.Same(t, c, r.srv.Realm().Client("a"))
				r.dial("a", "another").wantRefused(TypeIDTaken, "ID is taken")
				require.Empty(t, sender.frames)
				time.Sleep(time.Second)
				a.want(`{"type":"ONE"}`)
				a.want(`{"type":"TWO"}`)
				a.want(`{"type":"ERROR","payload":{"msg":"bye"}}`)
				a.wantWord(4444, "bye")
				synctest.Wait()
				rec.want(t, "+sender", "+a", "-a removed")
				next := r.connect("a")
				next.wantOffer("sender", "1")
				require.NoError(t, r.srv.realm.check())
			})
		})
	}
}

// A client that does not read is waited for until WriteTimeout is over, also if it takes a little now
// and then.
func TestALastWordDoesNotWaitForLong(t *testing.T) {
	for name, alive := range map[string]time.Duration{"with an alive timer": 0, "without": -1} {
		for _, trickles := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", trickles: ", trickles), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newBubbleRig(t, Options{AliveTimeout: alive, WriteTimeout: 3 * time.Second})
					rec := watch(r.srv)
					a := r.rawOpen().open("a")
					c := r.srv.Realm().Client("a")
					for range 20 {
						require.NoError(t, c.Send(Message{Type: "OWN"}))
					}
					synctest.Wait()
					start := time.Now()
					require.NoError(t, c.CloseWith(4444, "bye"))
					if trickles {
						go func() {
							for range 5 {
								time.Sleep(time.Second)
								a.readWithin(time.Second)
							}
						}()
					}
					<-c.Context().Done()
					require.Equal(t, 3*time.Second, time.Since(start))
					rec.last(t, 2)
					require.LessOrEqual(t, time.Since(start), 3*time.Second+farewellTimeout)
					time.Sleep(10 * time.Second) // for the other goroutine
				})
			})
		}
	}
}

// The word comes behind OPEN and what was held. A function of OnConnection that takes long is waited
// for as long as a write.
func TestALastWordBeforeOpen(t *testing.T) {
	for _, takes := range []time.Duration{0, 5 * time.Second, time.Minute} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{HandshakeTimeout: -1, ExpireTimeout: -1})
				admitted := make(chan *Client, 1)
				srv.OnConnection(func(c *Client) {
					if c.ID() == "a" {
						admitted <- c
						c.Send(Message{Type: "HELLO"})
						if err := c.CloseWith(4242, "not today"); err != nil {
							t.Error(err)
						}
						time.Sleep(takes)
					}
				})
				r := serveBubbleRig(t, srv, nil)
				r.connect("sender").offer("a", "1")
				synctest.Wait()
				start := time.Now()
				a := r.rawOpen()
				a.upgrade("a")
				go func() {
					time.Sleep(min(takes, DefaultWriteTimeout))
					a.want(`{"type":"OPEN"}`)
					if takes <= DefaultWriteTimeout {
						a.want(`{"type":"HELLO"}`)
						a.want(`{"type":"OFFER","src":"sender","dst":"a","payload":1}`)
					}
					a.want(`{"type":"ERROR","payload":{"msg":"not today"}}`)
					a.wantWord(4242, "not today")
				}()
				<-(<-admitted).Context().Done()
				require.Equal(t, min(takes, DefaultWriteTimeout), time.Since(start))
				time.Sleep(2 * time.Minute)
				require.Nil(t, srv.Realm().Client("a"))
			})
		})
	}
}

// A successor with the same token need not hear a word that was not for it.
func TestATakeoverWhileALastWordWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.rawOpen().open("a")
		c := r.srv.Realm().Client("a")
		require.NoError(t, c.Send(Message{Type: "ONE"}))
		synctest.Wait()
		require.NoError(t, c.CloseWith(4444, "bye"))
		p := r.dial("a", a.token)
		p.wantOpen()
		synctest.Wait()
		require.Equal(t, ReasonReplaced, c.Reason())
		require.Equal(t, DisconnectReason(0), r.srv.Realm().Client("a").Reason())
	})
}

// Many closes at once, each of which comes to one of the two ends.
func TestLastWordsRaceWithEverything(t *testing.T) {
	slow(t)
	t.Parallel()
	srv := NewServer(Options{AllowOverride: OverrideAlways, ProbeAfter: -1})
	tl := followEvents(srv)
	r := serveRig(t, srv, nil)
	parallel(8, func(i int) {
		for n := range 60 {
			p := r.rawOpen().upgrade("x").deaf()
			if c := srv.Realm().Client("x"); c != nil {
				for range n % 5 {
					c.Send(Message{Type: "OWN"})
				}
				if err := c.CloseWith(4100+i, "bye"); err != nil && !errors.Is(err, ErrNotConnected) {
					t.Error(err)
				}
			}
			if n%3 == 0 {
				p.conn.Close()
			}
		}
	})
	closeServer(t, srv)
	tl.check(t)
	require.NoError(t, srv.realm.check())
}

// A client may ask for a pong while its last messages are written. The server does not answer, and writes them.
func TestAPingWhileALastWordWaitsDoesNotEndTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.rawOpen().open("a")
		c := r.srv.Realm().Client("a")
		require.NoError(t, c.Send(Message{Type: "ONE"}))
		require.NoError(t, c.Send(Message{Type: "TWO"}))
		require.NoError(t, c.CloseWith(4444, "bye"))
		a.write(rawFrame(rawFin|rawPing, "x"))
		synctest.Wait()
		require.Zero(t, c.Reason())
		a.want(`{"type":"ONE"}`)
		a.want(`{"type":"TWO"}`)
		a.want(`{"type":"ERROR","payload":{"msg":"bye"}}`)
		a.wantWord(4444, "bye")
	})
}

// A message that comes after CloseWith is held, as for an absent client. A client that has been closed before its OPEN
// does not receive it: the next client with the id does.
func TestWhatIsHeldForAClosingClientStaysHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{})
		srv.OnConnection(func(c *Client) {
			if c.Token() == "bad" {
				c.CloseWith(4444, "no")
				time.Sleep(2 * time.Second)
			}
		})
		r := serveBubbleRig(t, srv, nil)
		sender, a := r.connect("sender"), r.rawOpen()
		a.begin(r.socketURL("/", "a", "bad"))
		time.Sleep(time.Second)
		sender.offer("a", "1")
		a.want(`{"type":"OPEN"}`)
		a.want(`{"type":"ERROR","payload":{"msg":"no"}}`)
		a.wantWord(4444, "no")
		time.Sleep(time.Second)
		p := r.dial("a", "good")
		p.wantOpen()
		p.wantOffer("sender", "1")
	})
}

// One message comes after CloseWith, and is held. The next one comes while a successor waits for the last write of the
// client. The successor receives them in their order.
func TestWhatAClosingClientMissedKeepsItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		realm := r.srv.realm
		sender, a := r.connect("sender"), r.rawOpen().open("a")
		c := realm.Client("a")
		require.NoError(t, c.Send(Message{Type: "ONE"})) // the write of it ends when the client reads
		require.NoError(t, c.CloseWith(4444, ""))
		sender.offer("a", "1")
		synctest.Wait()
		next := stubClient(t, r.srv, "a", a.token)
		require.True(t, c.evict(next, ReasonReplaced, nil)) // as claim does, which then waits for the write
		sender.offer("a", "2")
		synctest.Wait()
		c.awaitWrite()
		holder, err := realm.admit(next, c, true)
		require.NoError(t, err)
		require.Nil(t, holder)
		next.mu.Lock()
		var got []string
		for _, p := range next.outbox.parcels {
			if strings.Contains(string(p.frame), "OFFER") {
				got = append(got, string(p.frame[2:]))
			}
		}
		next.mu.Unlock()
		require.Equal(t, []string{
			`{"type":"OFFER","src":"sender","dst":"a","payload":1}`, `{"type":"OFFER","src":"sender","dst":"a","payload":2}`,
		}, got)
		next.end(ReasonRemoved, nil, nil)
		realm.remove(next)
		realm.finish(next)
	})
}
