package peer

import (
	"context"
	"encoding/json"
	"fmt"
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

// The tests of this file break when an invariant of the design does. They count
// everything that was sent and everything that came, under many goroutines.

// timeline checks that the events of each id follow one another: connected,
// disconnected, connected …, and never two at once.
type timeline struct {
	mu     sync.Mutex
	online map[string]*Client
	inside map[string]bool
	faults []string
	ups    int
	downs  int
}

func followEvents(srv *Server) *timeline {
	tl := &timeline{online: make(map[string]*Client), inside: make(map[string]bool)}
	srv.OnConnection(func(c *Client) {
		tl.enter(c, func() {
			if was := tl.online[c.ID()]; was != nil {
				tl.fault("%s connected before its last connection had disconnected", c.ID())
			}
			tl.online[c.ID()] = c
			tl.ups++
		})
	})
	srv.OnMessage(func(c *Client, m Message) {
		tl.enter(c, func() {
			if tl.online[c.ID()] != c {
				tl.fault("%s had a message outside of its connection", c.ID())
			}
		})
	})
	srv.OnDisconnect(func(c *Client, why DisconnectReason) {
		tl.enter(c, func() {
			if tl.online[c.ID()] != c {
				tl.fault("%s disconnected without having connected", c.ID())
			}
			if why == 0 || context.Cause(c.Context()) != why {
				tl.fault("%s disconnected for %v, its context says %v", c.ID(), why, context.Cause(c.Context()))
			}
			delete(tl.online, c.ID())
			tl.downs++
		})
	})
	return tl
}

// enter runs f, and notes if another event of the same id runs at the same time.
func (tl *timeline) enter(c *Client, f func()) {
	tl.mu.Lock()
	if tl.inside[c.ID()] {
		tl.fault("two events of %s at once", c.ID())
	}
	tl.inside[c.ID()] = true
	f()
	tl.mu.Unlock()
	runtime.Gosched() // the event takes its time, without the lock
	tl.mu.Lock()
	delete(tl.inside, c.ID())
	tl.mu.Unlock()
}

func (tl *timeline) fault(format string, args ...any) {
	tl.faults = append(tl.faults, fmt.Sprintf(format, args...))
}

// check is called when the server has shut down.
func (tl *timeline) check(t *testing.T) {
	t.Helper()
	tl.mu.Lock()
	defer tl.mu.Unlock()
	assert.Empty(t, tl.faults)
	assert.Empty(t, tl.online, "connected for ever")
	assert.Equal(t, tl.ups, tl.downs)
	assert.NotZero(t, tl.ups)
}

// parallel runs f n times at once and waits for all.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestOneOfManyConnectionsKeepsTheID(t *testing.T) {
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

// collect wants OPEN first, and then reads the connection to its end or to a BYE
// on a goroutine. It returns the numbers of the offers that came.
func (p *testPeer) collect() <-chan []int {
	p.t.Helper()
	assert.Equal(p.t, `{"type":"OPEN"}`, p.next())
	result := make(chan []int, 1)
	go func() {
		var got []int
		defer func() { result <- got }()
		for f := range p.frames {
			var m struct {
				Type    MessageType
				Payload json.RawMessage
			}
			assert.NoError(p.t, json.Unmarshal([]byte(f), &m), f)
			switch m.Type {
			case "BYE":
				return
			case TypeOverride:
			case TypeOffer:
				var text string
				var n int
				assert.NoError(p.t, json.Unmarshal(m.Payload, &text))
				_, err := fmt.Sscan(text, &n)
				assert.NoError(p.t, err)
				assert.Equal(p.t, numberedText(n), text)
				got = append(got, n)
			default:
				p.t.Errorf("a frame that is not expected: %s", f)
			}
		}
	}()
	return result
}

// numberedOffer is an offer whose payload tells its number and whether it came
// unharmed. Sizes vary, as buffers are kept by size.
func numberedOffer(dst string, n int) string {
	return fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":%q}`, dst, numberedText(n))
}

func numberedText(n int) string {
	return fmt.Sprint(n, " ", strings.Repeat(string(rune('a'+n%26)), n%4*1000))
}

// TestNothingIsLostOrRepeatedWhileAnIDChangesHands lets one sender number its
// offers while the destination moves from connection to connection in every way
// in which it can. Each connection reads to its end, so what the server wrote to
// it is what came: all connections together must have read every number once, in
// order.
func TestNothingIsLostOrRepeatedWhileAnIDChangesHands(t *testing.T) {
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
			const handovers, atLeast = 100, 2000
			r := newRig(t, Options{
				AllowOverride: OverrideAlways, ExpireTimeout: time.Minute,
				MaxOutboxMessages: -1, MaxOutboxBytes: -1, MaxHeldPerPair: -1, MaxHeldPerDestination: -1,
			})
			src := r.connect("src")
			var stop atomic.Bool
			sent := make(chan int, 1)
			go func() {
				n := 0
				for ; n < atLeast || !stop.Load(); n++ {
					src.send(numberedOffer("dst", n))
				}
				src.send(`{"type":"LEAVE"}`)
				sent <- n
			}()
			conns := []<-chan []int{next(r, 0).collect()}
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
			st := r.srv.Stats()
			for why, dropped := range st.Dropped {
				require.Zero(t, dropped, why)
			}
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
