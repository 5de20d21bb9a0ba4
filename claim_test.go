package peer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A newcomer that has ended the holder of its id may come to nothing all the same: meanwhile
// others have used the last place for its address, or the server closes. Then the id is free, what
// the holder was not sent waits for it, and the holder has left its rooms.
func TestAHolderThatWasEndedForNothing(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, srv *Server, other *Client)
		cause     refusalCause
		held      int // messages
	}{
		"the limit": {func(t *testing.T, srv *Server, other *Client) {
			require.Nil(t, srv.claim(t.Context(), other))
		}, refusedLimit, 1},
		"the server closes": {func(_ *testing.T, srv *Server, _ *Client) {
			srv.realm.close()
		}, refusedClosed, 0},
	} {
		for _, token := range []string{"t", "another"} {
			t.Run(name+", token "+token, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := NewServer(Options{ConcurrentLimitPerAddr: 1, AllowOverride: OverrideAlways, AliveTimeout: -1, ExpireTimeout: -1})
					client := func(id, token string, addr byte) *Client {
						c := stubClient(t, srv, id, token)
						c.limitAddr = netip.AddrFrom4([4]byte{192, 0, 2, addr})
						return c
					}
					holder, watcher := client("a", "t", 1), client("watcher", "t", 2)
					newcomer, other := client("a", token, 3), client("other", "t", 3)
					for _, c := range []*Client{holder, watcher} {
						silence(srv, c)
						require.NoError(t, srv.realm.Join("x", c))
					}
					p := parcel{src: "src", frame: openFrame, deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry}
					out, _ := srv.realm.route("a", p)
					require.Equal(t, delivered, out)
					holder.outbox.first() // a write is under way, which the newcomer waits for
					var no *refusal
					claimed := closedAfter(func() {
						if no = srv.claim(t.Context(), newcomer); no != nil {
							srv.turnAway(newcomer, no)
						}
					})
					synctest.Wait()
					require.NotZero(t, holder.Reason())
					c.meanwhile(t, srv, other)
					holder.mu.Lock()
					holder.noteLocked(0)
					holder.mu.Unlock()
					<-claimed
					require.NotNil(t, no)
					require.Equal(t, c.cause, no.cause)

					require.Nil(t, srv.realm.shard("a").clients["a"])
					require.Nil(t, holder.Successor())
					srv.work.fork()
					srv.leave(holder) // as its reader does
					srv.work.done()
					require.Equal(t, []*Client{watcher}, srv.realm.Members("x"))
					last := watcher.outbox.parcels[len(watcher.outbox.parcels)-1]
					require.Contains(t, string(last.frame),
						`{"type":"ROOM-LEFT","payload":{"room":"x","id":"a","reason":"`+holder.Reason().String()+`"}}`)
					require.EqualValues(t, c.held, srv.realm.heldParcels.Load())
					require.NoError(t, srv.realm.check())
					if c.cause == refusedLimit {
						next := client("a", "yet another", 4)
						require.Nil(t, srv.claim(t.Context(), next))
						next.Close()
						srv.realm.remove(next)
					}
					other.Close()
					srv.realm.remove(other)
					srv.realm.ClearMessageQueue("a")
					watcher.outbox = outbox{}
				})
			})
		}
	}
}

// The host can close a newcomer in AllowOverride. Such a newcomer does not get an id that has
// another holder, and the holder notices nothing.
func TestANewcomerThatHasEndedEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		srv := NewServer(Options{AliveTimeout: -1, AllowOverride: func(_, _ *Client) bool {
			asked++
			return true
		}})
		holder := stubClient(t, srv, "a", "t")
		require.Nil(t, srv.claim(t.Context(), holder))
		for _, token := range []string{"t", "another"} {
			newcomer := stubClient(t, srv, "a", token)
			newcomer.Close()
			no := srv.claim(t.Context(), newcomer)
			require.NotNil(t, no, "token %s", token)
			require.Equal(t, refusedGone, no.cause)
			require.Zero(t, holder.Reason())
			newcomer.writers.Wait()
		}
		require.Zero(t, asked, "there is nothing to decide")
		require.Same(t, holder, srv.Realm().Client("a"))
		holder.Close()
		srv.realm.remove(holder)
		holder.writers.Wait()
	})
}

// Nobody is evicted for a newcomer that has no place at its own address.
func TestAHolderIsNotEndedForANewcomerThatHasNoPlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		token string
		addr  byte
		cause refusalCause
		ok    bool
	}{
		{"the same peer, at a full address", "t", 3, refusedLimit, false},
		{"another peer, at a full address", "another", 3, refusedLimit, false},
		{"the same peer, at its own address", "t", 1, 0, true},
		{"the same peer, at an empty address", "t", 4, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{ConcurrentLimitPerAddr: 1, AllowOverride: OverrideAlways, AliveTimeout: -1})
				defer closeServer(t, srv) // ends a claim that goes on and on
				client := func(id, token string, addr byte) *Client {
					c := stubClient(t, srv, id, token)
					c.limitAddr = netip.AddrFrom4([4]byte{192, 0, 2, addr})
					return c
				}
				holder, newcomer := client("a", "t", 1), client("a", c.token, c.addr)
				require.Nil(t, srv.claim(t.Context(), holder))
				require.Nil(t, srv.claim(t.Context(), client("other", "t", 3)))
				start := time.Now()
				answer := make(chan *refusal, 1)
				go func() { answer <- srv.claim(t.Context(), newcomer) }()
				select {
				case no := <-answer:
					require.Equal(t, c.ok, no == nil)
					require.Equal(t, c.ok, holder.Reason() != 0)
					if no != nil {
						require.Equal(t, c.cause, no.cause)
						require.LessOrEqual(t, time.Since(start), vacancyTimeout, "there is one look for a place")
					}
				case <-time.After(time.Minute):
					t.Error("it looks for a place for ever")
				}
			})
		})
	}
}

// A holder that ends by itself in the last moment leaves its rooms as everybody does.
func TestANewcomerInheritsFromAHolderThatItHasEnded(t *testing.T) {
	for name, ended := range map[string]bool{"by the newcomer": false, "by itself": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{AliveTimeout: -1})
				holder, newcomer := stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t")
				if ended {
					holder.Close()
				}
				require.Nil(t, srv.evict(t.Context(), holder, newcomer))
				require.Equal(t, !ended, holder.Reason() == ReasonReplaced)
				require.Equal(t, !ended, len(newcomer.inheritedFrom) == 1)
				holder.writers.Wait()
			})
		})
	}
}

// While a newcomer that has evicted the holder is about to have the id, the next newcomer waits
// for it and does nothing.
func TestANewcomerWaitsForAnotherThatHasEvictedTheHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		holder, first := stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t")
		require.Nil(t, srv.claim(t.Context(), holder))
		require.True(t, holder.evict(first, ReasonReplaced, nil))
		answer := make(chan *refusal, 1)
		go func() { answer <- srv.claim(t.Context(), stubClient(t, srv, "a", "another")) }()
		synctest.Wait() // this would not return if it went on asking
		require.Empty(t, answer)
		other, err := srv.realm.admit(first, holder, true)
		require.NoError(t, err)
		require.Nil(t, other)
		no := <-answer
		require.NotNil(t, no)
		require.Equal(t, refusedTaken, no.cause)
		require.Same(t, first, srv.Realm().Client("a"))
		closeServer(t, srv)
	})
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
	t.Parallel()
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
	t.Parallel()
	const devices, refusals = 5, 120
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

func TestOneOfManyConnectionsKeepsTheID(t *testing.T) {
	t.Parallel()
	srv := NewServer(Options{AllowOverride: OverrideAlways})
	tl := followEvents(srv)
	r := serveRig(t, srv, nil)
	parallel(8, func(i int) {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		for range 40 {
			id := fmt.Sprint("id", rnd.IntN(3))
			p := r.dial(id, fmt.Sprint("token", rnd.IntN(4)))
			switch rnd.IntN(4) {
			case 0:
				p.drop()
			case 1:
				p.close()
			case 2:
				srv.Realm().RemoveClient(id)
			}
		}
	})
	for i := range 3 { // a last one for each id must find it free or take it
		r.dial(fmt.Sprint("id", i), fmt.Sprint("last", i)).wantOpen()
	}
	require.LessOrEqual(t, srv.Realm().Len(), 3)
	for c := range srv.Realm().Clients() {
		require.Same(t, c, srv.Realm().Client(c.ID()))
	}
	closeServer(t, srv)
	tl.check(t)
}

func TestALateEndDoesNotRemoveTheSuccessor(t *testing.T) {
	r := newRig(t, Options{})
	held := make(chan struct{})
	inside := make(chan struct{})
	r.srv.OnMessage(func(c *Client, m Message) {
		if m.Type == "HOLD" {
			close(inside)
			<-held
		}
	})
	old := r.dial("a", "t")
	old.wantOpen()
	old.send(`{"type":"HOLD"}`)
	<-inside // the reader of the old connection is held up by the host
	young := r.dial("a", "t")
	require.Equal(t, CloseReplaced, old.wantEnd())
	waitFor(t, func() bool { return r.srv.Realm().Client("a") != nil })
	successor := r.srv.Realm().Client("a")
	close(held)
	young.wantOpen() // after the events of its predecessor
	require.NotNil(t, successor)
	b := r.connect("b")
	b.offer("a", `1`)
	young.wantOffer("b", `1`)
	require.Same(t, successor, r.srv.Realm().Client("a"))
}
