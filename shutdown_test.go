package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// closing shuts the server of a rig down, and returns a channel that is closed when that is over.
func (r *rig) closing() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		closeServer(r.t, r.srv)
	}()
	return done
}

// wantNotDone wants a channel not to be closed when nothing else happens.
func wantNotDone(t *testing.T, done <-chan struct{}) {
	t.Helper()
	synctest.Wait()
	select {
	case <-done:
		t.Fatal("it has not waited")
	default:
	}
}

// A function of the host that does not look at its context may say yes when the server has
// closed.
func TestNobodyIsAdmittedAfterTheEnd(t *testing.T) {
	for name, opts := range map[string]Options{
		"checked after the upgrade":   {},
		"checked before the upgrade":  {RejectBeforeUpgrade: true},
		"without a handshake timeout": {HandshakeTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, release := make(chan struct{}), make(chan struct{})
				opts.Authenticate = func(*http.Request, string, string) (any, error) {
					close(asked)
					<-release
					return "user", nil
				}
				r := newBubbleRig(t, opts)
				rec := watch(r.srv)
				p := r.rawOpen()
				p.write([]byte(handshakeFor(socketTarget("a", "t"))))
				if !opts.RejectBeforeUpgrade {
					require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
				}
				<-asked
				done := r.closing()
				wantNotDone(t, done)
				close(release)
				if opts.RejectBeforeUpgrade {
					require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
				}
				p.wantClose(1001)
				<-done
				require.Empty(t, rec.all())
				require.Zero(t, r.srv.Realm().Len())
				st := r.srv.Stats()
				require.EqualValues(t, 1, st.Refused["shutdown"])
				require.Zero(t, st.Accepted)
				require.Zero(t, st.PeakClients)
				p.conn.Close()
			})
		})
	}
}

// A takeover that the end of the server interrupts leaves nobody in the realm.
func TestNobodyTakesAnIDOverAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, release := make(chan struct{}), make(chan struct{})
		r := newBubbleRig(t, Options{AllowOverride: func(old, new *Client) bool {
			close(asked)
			<-release
			return true
		}})
		rec := watch(r.srv)
		a := r.connect("a")
		p := r.dial("a", "another")
		<-asked
		done := r.closing()
		synctest.Wait()
		require.Equal(t, 1001, a.wantEnd())
		wantNotDone(t, done)
		close(release)
		require.Equal(t, 1001, p.wantEnd())
		<-done
		require.Equal(t, []string{"+a", "-a server shutdown"}, rec.all())
		require.Zero(t, r.srv.Realm().Len())
		require.EqualValues(t, 1, r.srv.Stats().Refused["shutdown"])
	})
}

func TestAMessageThatIsRoutedAfterTheEndIsDropped(t *testing.T) {
	for _, dst := range []string{"absent", "b"} { // b has ended
		for typ, dropped := range map[string]map[string]uint64{
			"OFFER": {"shutdown": 1, "absent": 1}, // and its EXPIRE
			"NOTE":  {"absent": 1},
		} {
			t.Run(typ+" for "+dst, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asked, release := make(chan struct{}), make(chan struct{})
					r := newBubbleRig(t, Options{RelayTypes: []MessageType{"NOTE"}, Authorize: func(*Client, Message) error {
						close(asked)
						<-release
						return nil
					}})
					a, b := r.connect("a"), r.connect("b")
					a.send(fmt.Sprintf(`{"type":%q,"dst":%q}`, typ, dst))
					<-asked
					done := r.closing()
					require.Equal(t, 1001, a.wantEnd())
					require.Equal(t, 1001, b.wantEnd())
					wantNotDone(t, done)
					close(release)
					<-done
					st := r.srv.Stats()
					require.Equal(t, countersWith(r.srv.Stats().Dropped, dropped), st.Dropped)
					require.Zero(t, st.Held+st.Relayed+st.Returned)
					require.Zero(t, st.HeldBytes)
				})
			})
		}
	}
}

func TestWhatWaitsAtTheEndIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, sender, silent := silentRig(t, Options{RelayTypes: []MessageType{"NOTE"}})
		for i := range 3 {
			sender.offer("silent", fmt.Sprint(i))
			sender.send(`{"type":"NOTE","dst":"silent"}`)
		}
		for i := range 5 {
			sender.offer(fmt.Sprint("absent", i), `0`)
		}
		synctest.Wait()
		require.Zero(t, total(r.srv.Stats().Dropped))
		done := r.closing()
		synctest.Wait() // so that silent reads nothing of it
		silent.skipToEnd()
		silent.conn.Close()
		<-done
		st := r.srv.Stats()
		require.Equal(t, countersWith(r.srv.Stats().Dropped, map[string]uint64{"shutdown": 3 + 5, "absent": 3}), st.Dropped)
		require.Zero(t, st.Returned, "nothing waits for a server that has closed")
		require.Zero(t, st.Expires, "and there is nobody to tell")
		require.Zero(t, st.HeldBytes)
		require.Empty(t, sender.frames)
	})
}

// Nobody waits longer than that for a client that does not hang up, however its connection ends.
func TestAClientThatNeverHangsUpIsLeft(t *testing.T) {
	config := testCertificate()
	const longest = 2*farewellTimeout + lingerTimeout
	for kind, newRig := range map[string]func(t *testing.T) *rig{
		"pipe": func(t *testing.T) *rig { return newBubbleRig(t, Options{}) },
		"TLS":  func(t *testing.T) *rig { return newTLSBubbleRig(t, config, Options{}) },
	} {
		for name, end := range map[string]func(p *rawPeer, c *Client){
			"removed":        func(p *rawPeer, c *Client) { c.Close() },
			"protocol error": func(p *rawPeer, c *Client) { p.write(rawFrame(rawFin|rawCont, "")) },
			"too big":        func(p *rawPeer, c *Client) { p.write(rawHeader(rawFin|rawText, DefaultMaxMessageSize+1)) },
			"goodbye":        func(p *rawPeer, c *Client) { p.write(rawCloseFrame(1000, "")) },
			"goodbye to a ping": func(p *rawPeer, c *Client) {
				go c.probe(waitLimit)
				first, _ := p.next()
				require.Equal(p.t, byte(rawFin|rawPing), first)
				p.write(rawCloseFrame(1000, ""))
			},
			"LEAVE": func(p *rawPeer, c *Client) { p.text(`{"type":"LEAVE"}`) },
		} {
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprint(kind, ", ", name, ", reads ", reads), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r := newRig(t)
						p := r.rawOpen().open("a")
						c := r.srv.Realm().Client("a")
						start := time.Now()
						end(p, c)
						if reads {
							first, _ := p.next()
							require.Equal(t, byte(rawFin|rawClose), first)
						}
						done := r.closing()
						<-done
						require.LessOrEqual(t, time.Since(start), longest)
						wantNoGoroutines(t)
						p.conn.Close()
					})
				})
			}
		}
	}
}

// wantWaiting wants done not to be closed although everybody had time to close it.
func wantWaiting(t *testing.T, done <-chan struct{}, why string) {
	t.Helper()
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case <-done:
		t.Error(why)
	default:
	}
}

func closedAfter(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func TestShutdownWaitsForTimersThatAreAtWork(t *testing.T) {
	srv := NewServer(Options{})
	srv.realm.timers.Add(1) // as one that expires a queue
	done := closedAfter(func() { srv.Close() })
	wantWaiting(t, done, "a timer is at work")
	srv.realm.timers.Done()
	<-done
}

// A timer that expires a queue is at work until the senders have been told.
func TestAnExpiryIsAtWorkUntilItsSendersKnow(t *testing.T) {
	srv := NewServer(Options{})
	absent, n := "absent", 0
	for ; srv.realm.shard(absent) == srv.realm.shard("sender"); n++ {
		absent = fmt.Sprint("absent", n)
	}
	told := srv.realm.shard("sender")
	told.mu.Lock() // so that nobody can be told
	out, _ := srv.realm.route(absent, parcel{src: "sender", frame: openFrame, deadline: time.Now(), keep: keepUntilExpiry})
	require.Equal(t, held, out)
	waitFor(t, func() bool { return srv.realm.heldParcels.Load() == 0 })
	done := closedAfter(srv.realm.timers.Wait)
	wantWaiting(t, done, "the sender does not know")
	told.mu.Unlock()
	<-done
	require.EqualValues(t, 1, srv.Stats().Expires)
}

// A timer may come too late: when it gets the lock, the queue that it was set for has been taken,
// and messages wait in another one.
func TestALateTimerLeavesTheNextQueueAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a")
		a.offer("absent", `1`)
		synctest.Wait()
		realm := r.srv.realm
		late := realm.shard("absent").queues["absent"]
		require.Equal(t, 1, realm.ClearMessageQueue("absent"))
		a.wantExpire("absent")
		a.offer("absent", `2`)
		synctest.Wait()
		realm.timers.Add(1)
		realm.expire("absent", late)
		require.NoError(t, realm.check())
		r.connect("absent").wantOffer("a", `2`)
	})
}

// Clients that are in the middle of their handshake when the server closes learn why they are
// turned away, whatever they wait for: a page may try again elsewhere.
func TestAHandshakeThatTheServerClosesIn(t *testing.T) {
	const takes = 3 * time.Second // a function that ignores its context
	slow := func() { time.Sleep(takes) }
	for name, c := range map[string]struct {
		opts  Options
		wants time.Duration // when the client is told
	}{
		"Authenticate says yes": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
			}
			return nil, nil
		}}, takes},
		"Authenticate says no": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
				return nil, errors.New("no")
			}
			return nil, nil
		}}, takes},
		"Authenticate rejects": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
				return nil, &Reject{Message: "You may not"}
			}
			return nil, nil
		}}, takes},
		"Authenticate gives up": {Options{Authenticate: func(r *http.Request, id, token string) (any, error) {
			if token != "holder" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return nil, nil
		}}, 0},
		"ValidID says no":        {Options{ValidID: func(id string) bool { slow(); return false }}, takes},
		"AllowOverride says yes": {Options{AllowOverride: func(_, _ *Client) bool { slow(); return true }}, takes},
		"AllowOverride says no":  {Options{AllowOverride: func(_, _ *Client) bool { slow(); return false }}, takes},
		"a probe":                {Options{ProbeAfter: time.Second}, 0},
	} {
		for _, id := range []string{"holder", "free"} {
			t.Run(name+", "+id, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asksHolder := c.opts.AllowOverride != nil || c.opts.ProbeAfter != 0
					if asksHolder && id == "free" || c.opts.ValidID != nil && id == "holder" {
						return
					}
					r := newBubbleRig(t, c.opts)
					if id == "holder" {
						r.rawOpen(smallWrites).begin(r.socketURL("/", "holder", "holder")).pings(false)
						time.Sleep(2 * time.Second)
					}
					p := r.rawOpen()
					p.upgrade(id)
					synctest.Wait()
					start := time.Now()
					done := closedAfter(func() { closeServer(t, r.srv) })
					p.wantClose(1001)
					require.Equal(t, c.wants, time.Since(start))
					<-done
					require.Zero(t, r.srv.Realm().Len())
				})
			})
		}
	}
}

// Shutdown waits for those that are turned away too.
func TestShutdownWaitsForClientsThatAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawOpen()
		p.write([]byte(handshakeFor("/peerjs?key=wrong&id=a&token=t")))
		p.response()
		p.next() // why
		p.next() // the close frame, which is not answered
		start := time.Now()
		closeServer(t, r.srv)
		require.Equal(t, lingerTimeout, time.Since(start))
		require.Empty(t, ownGoroutines())
	})
}

// A newcomer that gives up leaves its probe to the others. Shutdown waits for the probe all the same.
func TestShutdownWaitsForAProbeThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		holder := stubClient(t, srv, "a", "t")
		fail := probeOf(srv, holder)
		ctx, giveUp := context.WithCancel(t.Context())
		gone := closedAfter(func() { srv.answers(ctx, holder) })
		synctest.Wait()
		giveUp()
		<-gone
		done := closedAfter(func() { srv.Close() })
		synctest.Wait()
		wantWaiting(t, done, "a probe is under way")
		fail()
		<-done
		holder.Close()
		holder.writers.Wait()
	})
}

func TestTheServerMayBeClosedFromInsideAnyHook(t *testing.T) {
	for name, end := range map[string]func(srv *Server) error{
		"Close":    (*Server).Close,
		"Shutdown": func(srv *Server) error { return srv.Shutdown(context.Background()) },
		"Close, twice": func(srv *Server) error {
			srv.Close()
			return srv.Close()
		},
	} {
		for _, h := range hooks {
			t.Run(name+", "+string(h), func(t *testing.T) {
				var err error
				hr := newHookRig(t, h, Options{}, func(srv *Server, c *Client) { err = end(srv) })
				hr.provoke()
				require.ErrorIs(t, err, ErrInEvent)
				require.NoError(t, hr.srv.Close())
				require.Equal(t, 1001, hr.by.a.wantEnd())
				require.Equal(t, 1001, hr.by.b.wantEnd())
				hr.settle(t)
			})
		}
	}
}

// deepDown calls f from the bottom of a deep stack.
func deepDown(levels int, f func() error) error {
	if levels == 0 {
		return f()
	}
	return deepDown(levels-1, f)
}

func TestTheServerMayBeClosedFromDeepInsideAHook(t *testing.T) {
	srv := NewServer(Options{})
	result := make(chan error, 1)
	srv.OnMessage(func(c *Client, m Message) {
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit/4)
		defer cancel()
		result <- deepDown(5000, func() error { return srv.Shutdown(ctx) })
	})
	a := serveRig(t, srv, nil).connect("a")
	a.send(`{"type":"X"}`)
	require.ErrorIs(t, <-result, ErrInEvent)
	require.NoError(t, srv.Close())
}
