package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// leavings are the ways in which a client can be gone although its reader does not know yet.
var leavings = map[string]func(p *rawPeer){
	"close frame":                 func(p *rawPeer) { p.write(rawCloseFrame(1000, "")) },
	"close frame and TCP close":   func(p *rawPeer) { p.write(rawCloseFrame(1000, "")); p.conn.Close() },
	"TCP close":                   func(p *rawPeer) { p.conn.Close() },
	"reset":                       func(p *rawPeer) { p.reset() },
	"a message, then close frame": func(p *rawPeer) { p.text(`{"type":"HEARTBEAT"}`); p.write(rawCloseFrame(1000, "")) },
	"close frame behind 100 frames": func(p *rawPeer) {
		p.write([]byte(strings.Repeat(string(rawTextFrame(`{"type":"HEARTBEAT"}`)), 100) + string(rawCloseFrame(1000, ""))))
	},
}

// tlsRig is newRig with TLS.
func tlsRig(t *testing.T, opts Options) *rig {
	srv := NewServer(opts)
	ts := httptest.NewUnstartedServer(srv)
	ts.StartTLS()
	t.Cleanup(func() {
		closeServer(t, srv)
		ts.Close()
	})
	return &rig{t: t, srv: srv, url: strings.Replace(ts.URL, "https", "http", 1), dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it is this process
		return d.DialContext(ctx, network, addr)
	}}
}

func TestAnIDIsFreeOnceItsHolderHasLeft(t *testing.T) {
	slow(t)
	t.Parallel()
	const tries = 15
	for where, newRig := range map[string]func(*testing.T, Options) *rig{"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig} {
		for how, leave := range leavings {
			t.Run(where+", "+how, func(t *testing.T) {
				r := newRig(t, Options{ConcurrentLimit: -1})
				for i := range tries {
					id := fmt.Sprint("peer", i)
					a := r.rawOpen().open(id)
					leave(a)
					r.dial(id, "another token").wantOpen()
					a.conn.Close()
				}
				require.Zero(t, r.srv.Stats().Refused["id taken"])
			})
		}
	}
}

func TestTheLimitHasRoomOnceAClientHasLeft(t *testing.T) {
	for name, opts := range map[string]Options{
		"in all":      {ConcurrentLimit: 3},
		"per address": {ConcurrentLimitPerAddr: 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, opts)
			for i := range 3 {
				a, b, c := r.rawOpen().open("a"), r.rawOpen().open("b"), r.rawOpen().open("c")
				for _, p := range []*rawPeer{a, b, c} {
					p.write(rawCloseFrame(1000, ""))
				}
				for j := range 3 {
					r.dial(fmt.Sprint("new", j), "t").wantOpen()
				}
				require.EqualValues(t, i, r.srv.Stats().Refused["limit"])
				r.dial("one too many", "t").wantRefused(TypeError, isFull)
				for j := range 3 {
					require.True(t, r.srv.Realm().RemoveClient(fmt.Sprint("new", j)))
				}
			}
		})
	}
}

// A holder that is well keeps its id, and the newcomer need not wait to read that.
func TestAHolderThatIsWellKeepsItsIDAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	holder := r.connect("a")
	start := time.Now()
	const tries = 50
	for range tries {
		r.dial("a", "another token").wantRefused(TypeIDTaken, isTaken)
	}
	require.Less(t, time.Since(start), tries*vacancyTimeout/2)
	holder.offer("a", "1")
	holder.wantOffer("a", "1")
}

// While a function of the host runs for the holder, nobody reads what the holder has sent, and only
// the end of its stream tells that it has gone.
func TestAHolderInAFunctionOfTheHost(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(p *rawPeer)
		free  bool
	}{
		{"that is well", func(*rawPeer) {}, false},
		{"that has sent something", func(p *rawPeer) { p.text(`{"type":"HEARTBEAT"}`) }, false},
		{"that has sent a close frame", func(p *rawPeer) { p.write(rawCloseFrame(1000, "")) }, false},
		{"that has hung up", func(p *rawPeer) { p.conn.Close() }, true},
		{"whose connection was reset", func(p *rawPeer) { p.reset() }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			inside, goOn := make(chan bool), make(chan bool)
			r.srv.OnMessage(func(c *Client, m Message) {
				if m.Type == "HOLD" {
					inside <- true
					<-goOn
				}
			})
			p := r.rawOpen().open("a")
			p.text(`{"type":"HOLD"}`)
			<-inside
			holder := r.srv.Realm().Client("a")
			c.leave(p)
			b := r.dial("a", "another token")
			if !c.free {
				b.wantRefused(TypeIDTaken, isTaken)
				goOn <- true
				return
			}
			waitFor(t, func() bool { n := r.srv.Realm().Client("a"); return n != nil && n.Token() == "another token" })
			require.Equal(t, ReasonConnectionLost, holder.Reason(), "before the function returns")
			goOn <- true
			b.wantOpen() // after the events of its predecessor
			rec.want(t, "+a", "-a connection lost", "+a")
		})
	}
}

// Where nobody can look into a socket, its reader gets a moment.
func TestAHolderWhoseSocketCannotBeLookedInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawOpen().open("a")
		start := time.Now()
		r.dial("a", "another token").wantRefused(TypeIDTaken, isTaken)
		require.Equal(t, blindTimeout, time.Since(start))
		p.write(rawCloseFrame(1000, ""))
		r.dial("a", "another token").wantOpen()
	})
}

// Newcomers that meet a full server share one look at its clients, and not too often.
func TestNewcomersShareALookAtAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ConcurrentLimit: 1})
		r.connect("a")
		start := time.Now()
		r.dial("b", "t").wantRefused(TypeError, isFull)
		require.Equal(t, blindTimeout, time.Since(start))
		parallel(20, func(i int) { r.dial(fmt.Sprint("b", i), "t").wantRefused(TypeError, isFull) })
		require.Equal(t, sweepInterval+blindTimeout, time.Since(start), "the next look comes a while after the first, for all of them")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.srv.sweeps.mu.Lock()
		defer r.srv.sweeps.mu.Unlock()
		require.Empty(t, r.srv.sweeps.next)
		require.Empty(t, r.srv.sweeps.begun)
	})
}

// A watchedConn counts how often the server looks into it.
type watchedConn struct {
	net.Conn
	looks  atomic.Int64
	during func() // is called at each look; nil: nothing
}

// NetConn is what a look asks for first.
func (c *watchedConn) NetConn() net.Conn {
	if c.looks.Add(1); c.during != nil {
		c.during()
	}
	return c.Conn
}

// watchedClient is a client of this address that is connected, without a reader.
func watchedClient(t *testing.T, srv *Server, id string, addr netip.Addr) (*Client, *watchedConn) {
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	conn := &watchedConn{Conn: near}
	c := benchClient(srv, conn, id, "t")
	c.limitAddr = addr
	silence(srv, c)
	c.writer = broken // nothing is written to it
	return c, conn
}

func TestALookIsAboutTheClientsOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		conns := map[*watchedConn]netip.Addr{}
		for i, addr := range []netip.Addr{one, two, two, two, {}} {
			_, conn := watchedClient(t, srv, fmt.Sprint("peer", i), addr)
			conns[conn] = addr
		}
		srv.makeRoom(t.Context(), one)
		for conn, addr := range conns {
			require.Equal(t, addr == one, conn.looks.Load() == 1, "%v", addr)
		}
		srv.makeRoom(t.Context(), netip.Addr{})
		for conn, addr := range conns {
			require.Equal(t, addr == one, conn.looks.Load() == 2, "%v", addr)
		}
		closeServer(t, srv)
	})
}

// The first of the newcomers has a look of its own. The others come while it lasts, and the next
// look is for all of them.
func TestNewcomersShareALookAtEachClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		_, conn := watchedClient(t, srv, "a", netip.Addr{})
		go srv.makeRoom(t.Context(), netip.Addr{})
		synctest.Wait()
		parallel(20, func(int) { srv.makeRoom(t.Context(), netip.Addr{}) })
		require.EqualValues(t, 2, conn.looks.Load())
		closeServer(t, srv)
	})
}

func TestLooksKeepTheirDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const looks = 20
		srv := NewServer(Options{AliveTimeout: -1})
		watchedClient(t, srv, "a", netip.Addr{})
		start := time.Now()
		for range looks {
			srv.makeRoom(t.Context(), netip.Addr{})
		}
		require.Equal(t, (looks-1)*sweepInterval+blindTimeout, time.Since(start))
		closeServer(t, srv)
	})
}

// A client that is found to have ended is out of the realm when the look is over, wherever its
// reader is. A newcomer that has evicted a client takes it out by itself.
func TestALookFreesTheIDsOfThoseThatHaveEnded(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(c *Client)
		left int
	}{
		"ended":   {(*Client).Close, 0},
		"evicted": {func(c *Client) { c.evict(new(Client), ReasonReplaced, nil) }, 1},
		"well":    {func(*Client) {}, 1},
	} {
		for _, before := range []bool{false, true} { // the reader has not come to the removal yet
			t.Run(fmt.Sprint(name, ", before: ", before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := NewServer(Options{AliveTimeout: -1})
					client, _ := watchedClient(t, srv, "a", netip.Addr{})
					if before {
						c.end(client)
					} else {
						time.AfterFunc(blindTimeout/2, func() { c.end(client) })
					}
					srv.makeRoom(t.Context(), netip.Addr{})
					require.Equal(t, c.left, srv.Realm().Len())
					closeServer(t, srv)
				})
			})
		}
	}
}

// How long a newcomer waits depends on what the socket of the holder shows, and on what its reader does meanwhile.
func TestANewcomerWaitsAsLongAsTheReaderMayNeed(t *testing.T) {
	const soon = 10 * time.Millisecond
	waits, ends := func(c *Client) { c.socket.noteWaiting() }, func(c *Client) { c.Close() }
	for _, c := range []struct {
		name      string
		kind      string // of connection
		unread    bool
		before    func(c *Client) // what the reader does before the newcomer comes; nil: it is busy
		meanwhile func(c *Client) // what it does soon after; nil: nothing
		takes     time.Duration
		left      bool
	}{
		{"the reader waits", "plain", false, waits, nil, 0, false},
		{"the reader is busy", "plain", false, nil, nil, vacancyTimeout, false},
		{"the reader waits soon", "plain", false, nil, waits, soon, false},
		{"the reader ends soon", "plain", false, nil, ends, soon, true},
		{"something is unread", "plain", true, waits, nil, vacancyTimeout, false},
		{"something is unread, and the reader ends soon", "plain", true, waits, ends, soon, true},
		{"it has ended", "plain", true, ends, nil, 0, true},
		{"TLS may have something", "TLS", false, waits, nil, sealedTimeout, false},
		{"TLS had nothing", "TLS", false, waits, waits, soon, false},
		{"TLS had the end", "TLS", false, waits, ends, soon, true},
		{"something is unread below TLS", "TLS", true, waits, nil, vacancyTimeout, false},
		{"nobody can look", "pipe", false, waits, nil, blindTimeout, false},
		{"nobody can look, and the reader ends soon", "pipe", false, waits, ends, soon, true},
		{"nobody can look, and the host is at work", "pipe", false, func(c *Client) { c.setReader(paused) }, nil, 0, false},
	} {
		t.Run(c.kind+", "+c.name, func(t *testing.T) {
			near, far := tcpPair(t)
			defer far.Close()
			if c.unread {
				_, err := far.Write([]byte("x"))
				require.NoError(t, err)
				waitFor(t, func() bool { return newSocket(near, nil, nil).peek() == peekedBytes })
			}
			synctest.Test(t, func(t *testing.T) {
				switch c.kind {
				case "TLS":
					near = &watchedConn{Conn: near}
				case "pipe":
					near, _ = net.Pipe()
				}
				defer near.Close()
				srv := NewServer(Options{AliveTimeout: -1})
				client := benchClient(srv, near, "a", "t")
				silence(srv, client)
				client.setReader(reading)
				if c.before != nil {
					c.before(client)
				}
				if c.meanwhile != nil {
					time.AfterFunc(soon, func() { c.meanwhile(client) })
				}
				start := time.Now()
				require.Equal(t, c.left, srv.hasLeft(t.Context(), client))
				require.Equal(t, c.takes, time.Since(start))
			})
		})
	}
}

// A newcomer for whom an address is full, or all places are taken, has a look at those clients.
func TestALimitHasTheClientsLookedAtThatItCounts(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for name, c := range map[string]struct {
		opts Options
		want map[netip.Addr]int64 // looks
	}{
		"of the address": {Options{ConcurrentLimitPerAddr: 1}, map[netip.Addr]int64{one: 1}},
		"of all":         {Options{ConcurrentLimit: 2}, map[netip.Addr]int64{one: 1, two: 1}},
		"of nobody":      {Options{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.opts.AliveTimeout = -1
				srv := NewServer(c.opts)
				_, first := watchedClient(t, srv, "a", one)
				_, second := watchedClient(t, srv, "b", two)
				newcomer := stubClient(t, srv, "c", "t")
				newcomer.limitAddr = one
				require.Equal(t, c.want == nil, srv.claim(t.Context(), newcomer) == nil)
				require.Equal(t, c.want[one], first.looks.Load())
				require.Equal(t, c.want[two], second.looks.Load())
				closeServer(t, srv)
			})
		})
	}
}

// What the reader does while a newcomer looks is not missed.
func TestAnEndDuringALookIsNoticedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		c, conn := watchedClient(t, srv, "a", netip.Addr{})
		conn.during = func() {
			conn.during = nil
			c.Close()
		}
		start := time.Now()
		require.True(t, srv.hasLeft(t.Context(), c))
		require.Zero(t, time.Since(start))
		closeServer(t, srv)
	})
}

// A look at many clients ends in time, and a newcomer that gives up does not wait for it.
func TestALookAtManyClientsEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		var conns []*watchedConn
		for i := range 100 {
			_, conn := watchedClient(t, srv, fmt.Sprint("peer", i), netip.Addr{})
			conns = append(conns, conn)
		}
		start := time.Now()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		srv.makeRoom(gone, netip.Addr{})
		require.Zero(t, time.Since(start))
		srv.makeRoom(t.Context(), netip.Addr{})
		require.LessOrEqual(t, time.Since(start), sweepInterval+2*vacancyTimeout)
		looks := int64(0)
		for _, conn := range conns {
			looks += conn.looks.Load()
		}
		most := int64(2 * (vacancyTimeout/blindTimeout + 1))
		require.LessOrEqual(t, looks, most)
		closeServer(t, srv)
	})
}

func TestShutdownWaitsForALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		_, conn := watchedClient(t, srv, "a", netip.Addr{})
		goOn := make(chan bool)
		conn.during = func() {
			conn.during = nil
			<-goOn
		}
		go srv.makeRoom(t.Context(), netip.Addr{})
		synctest.Wait()
		done := closedAfter(func() { srv.Close() })
		synctest.Wait()
		wantWaiting(t, done, "a look is under way")
		close(goOn)
		<-done
	})
}
