package peer

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestNothingIsLostOrRepeatedWhileAnIDChangesHands lets one sender number its
// offers while the destination moves from connection to connection in every way
// in which it can. Each connection reads to its end, so what the server wrote to
// it is what came: all connections together must have read every number once, in
// order.
func TestNothingIsLostOrRepeatedWhileAnIDChangesHands(t *testing.T) {
	slow(t)
	t.Parallel()
	next := map[string]func(r *rig, n int) *testPeer{
		"same token": func(r *rig, n int) *testPeer { return r.dial("dst", "t") },
		"override":   func(r *rig, n int) *testPeer { return r.dial("dst", fmt.Sprint("t", n)) },
		"removed": func(r *rig, n int) *testPeer {
			r.srv.Realm().RemoveClient("dst")
			return r.dial("dst", fmt.Sprint("t", n))
		},
		"any": func(r *rig, n int) *testPeer {
			if n%3 == 0 {
				r.srv.Realm().RemoveClient("dst")
			}
			return r.dial("dst", fmt.Sprint("t", n/2))
		},
	}
	for name, next := range next {
		t.Run(name, func(t *testing.T) {
			const atLeast, atMost = 1000, 15_000 // all fit into MaxHeldBytes, and between two nodes
			opts := Options{
				AllowOverride: OverrideAlways, ExpireTimeout: time.Minute,
				MaxOutboxMessages: -1, MaxOutboxBytes: -1, MaxHeldPerPair: -1, MaxHeldPerDestination: -1,
			}
			onNodes(t, opts, func(t *testing.T, r *rig) {
				src := r.connect("src")
				var stop atomic.Bool
				sent := make(chan int, 1)
				go func() {
					n := 0
					for ; n < atLeast || n < atMost && !stop.Load(); n++ {
						src.send(numberedOffer("dst", n))
					}
					src.send(`{"type":"LEAVE"}`)
					sent <- n
				}()
				conns := []<-chan []int{next(r, 0).collect()}
				handovers := 40
				if !r.isOne() {
					handovers = 15 // each of them takes several messages between the nodes
				}
				for i := range handovers {
					conns = append(conns, next(r, i+1).collect())
				}
				stop.Store(true)
				n := <-sent
				require.Equal(t, 1000, src.wantEnd()) // all that it sent has been routed
				require.NoError(t, r.srv.Realm().Send("dst", Message{Type: "BYE"}))
				var got []int
				for _, c := range conns {
					got = append(got, <-c...)
				}
				require.Equal(t, n, len(got))
				for i := range got {
					require.Equal(t, i, got[i])
				}
				r.each(func(srv *Server) {
					for why, dropped := range srv.Stats().Dropped {
						require.Zero(t, dropped, why)
					}
				})
			})
		})
	}
}

func TestAStrangerCannotSlipIntoATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		holder := stubClient(t, srv, "a", "its own")
		heir := stubClient(t, srv, "a", "its own")
		stranger := stubClient(t, srv, "a", "a stranger's")
		claim := func(c *Client) *refusal { return srv.claim(t.Context(), c) }
		require.Nil(t, claim(holder))
		require.True(t, holder.evict(heir, ReasonReplaced, nil)) // and the heir is about to be admitted
		var no *refusal
		go func() { no = claim(stranger) }()
		synctest.Wait()
		require.Nil(t, srv.Realm().Client("a"))
		require.Equal(t, 1, srv.Realm().Len(), "the place is kept")
		require.NoError(t, srv.Realm().Send("a", Message{Type: "X"}), "and so is what comes for it")
		require.Nil(t, claim(heir))
		time.Sleep(blindTimeout) // for the reader of the successor to notice its end, if that has come
		synctest.Wait()
		require.NotNil(t, no)
		require.Equal(t, refusedTaken, no.cause)
		require.Same(t, heir, srv.Realm().Client("a"))
		require.Same(t, heir, holder.Successor())
		require.NoError(t, srv.realm.check())
		heir.end(ReasonRemoved, nil, nil)
	})
}

// TestEveryMessageArrivesOrExpires sends between peers that come and go, and
// holds the server to its books: whatever was accepted has been written, or was
// answered with one EXPIRE for its pair.
func TestEveryMessageArrivesOrExpires(t *testing.T) {
	t.Parallel()
	const senders, ids, rounds, burst = 6, 4, 60, 5
	srv := NewServer(Options{ExpireTimeout: 20 * time.Millisecond, MaxHeldPerPair: 12, MaxHeldPerDestination: 20})
	r := serveRig(t, srv, nil)
	var arrived atomic.Int64
	stop := make(chan struct{})
	var receivers sync.WaitGroup
	for i := range ids {
		receivers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := r.dial(fmt.Sprint("dst", i), "t")
				done := p.collect()
				srv.Realm().RemoveClient(p.id)
				arrived.Add(int64(len(<-done)))
			}
		})
	}
	var expired atomic.Int64
	parallel(senders, func(i int) {
		p := r.connect(fmt.Sprint("src", i))
		go func() {
			for range p.frames {
				expired.Add(1)
			}
		}()
		for n := range rounds * burst {
			p.send(numberedOffer(fmt.Sprint("dst", n%ids), n))
		}
		p.send(`{"type":"LEAVE"}`)
		<-p.ended
	})
	close(stop)
	receivers.Wait()
	closeServer(t, srv)
	st := srv.Stats()
	lost := int64(st.Dropped["expired"] + st.Dropped["over a bound"] + st.Dropped["shutdown"])
	require.Equal(t, int64(senders*rounds*burst), arrived.Load()+lost)
	require.NotZero(t, arrived.Load())
}

func TestNobodyIsConnectedAfterShutdown(t *testing.T) {
	for round := range 10 {
		srv := NewServer(Options{ConcurrentLimit: -1})
		tl := followEvents(srv)
		r := serveRig(t, srv, nil)
		r.connect("first")
		var dials sync.WaitGroup
		for i := range 8 {
			dials.Go(func() {
				for n := range 10 {
					p, res, err := r.tryDial(r.socketURL("/", fmt.Sprintf("%d-%d", i, n), "t"), nil)
					if err != nil {
						if assert.NotNil(t, res, "%v", err) {
							assert.Equal(t, 503, res.StatusCode)
						}
						return
					}
					_ = p
				}
			})
		}
		for range round * 3 {
			runtime.Gosched()
		}
		closeServer(t, srv)
		require.Zero(t, srv.Realm().Len())
		require.NoError(t, srv.Close(), "a second call waits for the same end")
		tl.check(t)
		dials.Wait()
		st := srv.Stats()
		require.Equal(t, st.Accepted, st.Disconnects[ReasonShutdown])
	}
}

// ownGoroutines returns the functions of this package that have started goroutines.
func ownGoroutines() []string {
	buf := make([]byte, 1<<20)
	var own []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i := strings.Index(g, "created by github.com/gopeerjs/peer."); i >= 0 && !strings.Contains(g, "_test.go") {
			own = append(own, strings.Fields(g[i:])[2])
		}
	}
	return own
}

func TestAnIdleClientCostsOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{})
		require.Empty(t, ownGoroutines(), "a server that nobody uses runs nothing")
		r := serveBubbleRig(t, srv, nil)
		a, b := r.connect("a"), r.connect("b")
		a.offer("b", `1`)
		b.wantOffer("a", `1`)
		a.offer("absent", `1`)
		synctest.Wait()
		require.Len(t, ownGoroutines(), 2)
		time.Sleep(6 * time.Second)
		a.wantExpire("absent")
		gone := srv.Realm().Client("a")
		a.drop()
		b.close()
		synctest.Wait()
		require.Empty(t, ownGoroutines())
		require.Zero(t, srv.Realm().Len())
		require.False(t, gone.alive.Stop(), "its timer has been stopped before")
	})
	// The bubble ends only when every goroutine made in it has.
}

// Two kinds of goroutines share three ids and two rooms: clients come, join, send in fragments and go in every way, and
// the host sends, closes, and makes clients join and leave. The events of an id follow one another, each join has its
// leave, and nothing is kept of a client that has gone.
func TestRoomsAndCloseWithInAStorm(t *testing.T) {
	slow(t)
	duration := 600 * time.Millisecond
	if testing.Short() {
		duration /= 3
	}
	for kind, newRig := range map[string]func(*testing.T, Options) *rig{
		"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig,
	} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, Options{
				AllowJoin: anyRoom, AllowOverride: OverrideAlways, KeepRoomsOnOverride: true,
				MaxOutboxMessages: 50, MessageRate: 200,
				WriteTimeout: 200 * time.Millisecond, AliveTimeout: 300 * time.Millisecond,
				ICEServers: iceOnly, ICERefresh: 20 * time.Millisecond,
			})
			tl := followEvents(r.srv)
			var joins, leaves, faults atomic.Int64
			var all sync.Map
			roomEvent := func(n *atomic.Int64, c *Client) {
				n.Add(1)
				tl.enter(c, func() {
					if tl.online[c.ID()] != c {
						tl.fault("%s had an event of a room outside of its connection", c.ID())
					}
				})
			}
			r.srv.OnConnection(func(c *Client) { all.Store(c, true) })
			r.srv.OnJoin(func(_ string, c *Client) { roomEvent(&joins, c) })
			r.srv.OnLeave(func(_ string, c *Client, _ DisconnectReason) { roomEvent(&leaves, c) })
			end := time.Now().Add(duration)
			parallel(8, func(i int) {
				for time.Now().Before(end) {
					if id, room := fmt.Sprint(rand.IntN(3)), fmt.Sprint(rand.IntN(2)); i%2 == 0 {
						visitRoom(r, id, room)
					} else if c := r.srv.Realm().Client(id); c != nil {
						disturb(r.srv, c, room)
					}
				}
			})
			waitFor(t, func() bool { return r.srv.Realm().Len() == 0 })
			closeServer(t, r.srv)
			tl.check(t)
			all.Range(func(k, _ any) bool {
				c := k.(*Client)
				request := c.request != nil || c.took != nil || c.predecessor != nil
				if c.alive.Stop() || request || c.takeNews() != nil || len(c.Rooms()) > 0 {
					faults.Add(1)
				}
				return true
			})
			require.Zero(t, faults.Load(), "something is kept of clients that have gone")
			st := r.srv.Stats()
			require.Equal(t, []int{0, 0, 0}, []int{st.Rooms, st.Members, st.PartialBytes})
			require.NotZero(t, joins.Load())
			require.Equal(t, joins.Load(), leaves.Load())
		})
	}
}

// visitRoom connects a client that may read or not, and sends, joins and goes in a way that chance decides.
func visitRoom(r *rig, id, room string) {
	p := r.rawOpen()
	p.tryWrite([]byte(handshakeFor(socketTarget(id, one("t", "another")))))
	if one(true, false) {
		go io.Copy(io.Discard, p.bare())
	}
	for range rand.IntN(10) {
		p.tryWrite(rawTextFrame(`{"type":"ROOM-JOIN","payload":{"room":"` + room + `"}}`))
		p.tryWrite(rawFrame(rawText, `{"type":"OFFER","dst":"`+one("0", "1", "2")+`",`))
		p.tryWrite(rawFrame(rawFin|rawPing, "x"))
		p.tryWrite(rawFrame(rawFin|rawCont, `"payload":1}`))
	}
	if one(true, false) {
		p.tryWrite(rawCloseFrame(1000, ""))
	}
	if one(true, false) {
		p.reset()
	}
	p.conn.Close()
}

// disturb does what a host may do with a client at any time.
func disturb(srv *Server, c *Client, room string) {
	switch n := rand.IntN(20); {
	case n == 0:
		c.CloseWith(4200, "bye")
	case n == 1:
		c.Close()
	case n == 2:
		srv.Realm().RemoveClient(c.ID())
	case n < 6:
		c.Send(Message{Type: "BIG", Payload: fmt.Appendf(nil, "%q", strings.Repeat("y", 30000))})
	case n < 12:
		srv.Realm().Join(room, c)
	case n < 16:
		srv.Realm().Leave(room, c)
	default:
		runtime.Gosched()
	}
}
