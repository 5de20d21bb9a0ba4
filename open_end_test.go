package peer

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A client that ends before its OPEN has gone out reads OPEN first, so that a page knows that it
// was connected, then why it ends. That does not wait for OnConnection.
func TestAClientThatEndsBeforeOpenReadsOpenAndWhy(t *testing.T) {
	const fate = 4 * time.Second // of OnConnection
	overridden := `{"type":"OVERRIDE_CONNECTION","payload":{"msg":"Your id was taken over by another connection"}}`
	for name, c := range map[string]struct {
		end   func(r *rig, c *Client) *testPeer // returns the successor, if there is one
		last  string
		code  int
		heirs string // which of the offer and the host's message the next connection gets
	}{
		"Close":        {func(_ *rig, c *Client) *testPeer { c.Close(); return nil }, "", CloseRemoved, "offer"},
		"RemoveClient": {func(r *rig, _ *Client) *testPeer { r.srv.Realm().RemoveClient("slow"); return nil }, "", CloseRemoved, "offer"},
		"the same token": {func(r *rig, c *Client) *testPeer { return r.dial("slow", c.Token()) },
			"", CloseReplaced, "offer and own"},
		"an override": {func(r *rig, _ *Client) *testPeer { return r.dial("slow", "another") },
			overridden, CloseOverridden, "offer"},
		"Shutdown": {func(r *rig, _ *Client) *testPeer { go r.srv.Close(); return nil }, "", 1001, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSlowRig(t, Options{AllowOverride: OverrideAlways}, fate)
				sender := r.connect("sender")
				p := r.rawOpen(smallReads).upgrade("slow")
				synctest.Wait()
				client := r.srv.Realm().Client("slow")
				sender.offer("slow", `1`)
				synctest.Wait()
				require.NoError(t, client.Send(Message{Type: "OWN"}))
				start := time.Now()
				next := c.end(r, client)
				p.want(`{"type":"OPEN"}`)
				if c.last != "" {
					p.want(c.last)
				}
				p.wantClose(c.code)
				require.Zero(t, time.Since(start))
				if c.heirs == "" {
					time.Sleep(fate)
					return
				}
				if next == nil {
					synctest.Wait()
					require.Equal(t, 1, r.srv.Realm().Len(), "the id is free")
					next = r.dial("slow", client.Token())
				}
				next.wantOpen()
				require.Equal(t, 2*fate, time.Since(start), "its events come after those of its predecessor")
				if c.heirs == "offer and own" {
					next.wantOwn("OWN")
				}
				next.wantOffer("sender", `1`)
				r.sendOwn("slow", "LAST")
				next.wantOwn("LAST")
				require.Empty(t, sender.frames)
			})
		})
	}
}

// The same holds for an end inside of OnConnection.
func TestOnConnectionMayEndItsClient(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(r *Realm, c *Client)
		code int
	}{
		"Close":           {func(_ *Realm, c *Client) { c.Close() }, CloseRemoved},
		"RemoveClient":    {func(r *Realm, c *Client) { r.RemoveClient(c.ID()) }, CloseRemoved},
		"a panic":         {func(*Realm, *Client) { panic("of the host") }, 1011},
		"Send, then stop": {func(_ *Realm, c *Client) { c.Send(Message{Type: "OWN"}); c.Close() }, CloseRemoved},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{})
				srv.OnConnection(func(client *Client) {
					c.end(srv.Realm(), client)
					time.Sleep(time.Second)
				})
				p := serveBubbleRig(t, srv, nil).rawOpen(smallReads).upgrade("a")
				p.want(`{"type":"OPEN"}`)
				p.wantClose(c.code)
				time.Sleep(time.Minute)
				st := srv.Stats()
				require.EqualValues(t, 1, st.Accepted, "it was admitted")
				require.EqualValues(t, 1, total(st.Disconnects))
				require.Zero(t, total(st.Refused))
			})
		})
	}
}

func TestAcceptedCountsClientsThatHaveNotReadOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{}, 4*time.Second)
		p, _ := r.dialSlow("t")
		require.EqualValues(t, 1, r.srv.Stats().Accepted)
		require.Equal(t, 1, r.srv.Stats().Clients)
		r.dial("slow", "another").wantRefused(TypeIDTaken, isTaken)
		p.wantOpen()
		require.EqualValues(t, 1, r.srv.Stats().Accepted)
	})
}

// The time until OPEN says nothing about the client: it is neither pinged nor closed for it, and
// a newcomer does not get its id.
func TestTheTimeUntilOpenIsNoSilence(t *testing.T) {
	const takes = 15 * time.Second
	for name, timeout := range map[string]time.Duration{"OPEN at the end": -1, "OPEN meanwhile": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := Options{HandshakeTimeout: timeout, AliveTimeout: 4 * time.Second, ProbeAfter: time.Second}
				r := newSlowRig(t, opts, takes)
				p := r.rawOpen(smallReads).upgrade("slow")
				pings := p.pings(false)
				time.Sleep(takes - 1)
				start := time.Now()
				r.dial("slow", "another").wantRefused(TypeIDTaken, isTaken)
				require.Zero(t, time.Since(start), "no probe is made")
				require.Zero(t, pings())
				time.Sleep(1 + opts.AliveTimeout/2 - 1)
				synctest.Wait()
				require.Zero(t, pings())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Equal(t, 1, pings(), "the time begins when OnConnection has returned")
				time.Sleep(opts.AliveTimeout/2 - 1)
				require.NotNil(t, r.srv.Realm().Client("slow"))
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Nil(t, r.srv.Realm().Client("slow"))
				p.conn.Close()
			})
		})
	}
}

// When HandshakeTimeout is over, OPEN goes out while OnConnection still runs. From then on the
// client gets messages, and is not read.
func TestAClientThatIsOpenBeforeOnConnectionHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRig(t, Options{HandshakeTimeout: 2 * time.Second}, 5*time.Second)
		other := r.connect("other")
		start := time.Now()
		p := r.dial("slow", "t")
		p.wantOpen()
		other.offer("slow", `1`)
		p.wantOffer("other", `1`)
		r.sendOwn("slow", "OWN")
		p.wantOwn("OWN")
		require.Equal(t, 2*time.Second, time.Since(start))
		go p.offer("other", `2`) // a pipe takes it when it is read
		other.wantOffer("slow", `2`)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.NoError(t, r.srv.realm.check())
	})
}

// A client is gone when the function of its OPEN timer has returned, or when the timer is stopped.
func TestAClientIsNotGoneBeforeItsOpenTimer(t *testing.T) {
	admitted := func(t *testing.T, timeout time.Duration) (*Server, *Client) {
		srv := NewServer(Options{AliveTimeout: -1, HandshakeTimeout: timeout})
		c := stubClient(t, srv, "a", "t")
		_, err := srv.realm.admit(c, nil, true)
		require.NoError(t, err)
		return srv, c
	}
	for name, wait := range map[string]time.Duration{"stopped": 0, "run": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, c := admitted(t, time.Second)
				timer := srv.openLater(c)
				gone := closedAfter(c.writers.Wait)
				wantWaiting(t, gone, "the timer is set")
				time.Sleep(wait)
				require.Equal(t, wait > 0, c.isOpen())
				srv.open(c, timer)
				<-gone
				require.True(t, c.isOpen())
				c.Close()
				srv.realm.remove(c)
				c.writers.Wait()
			})
		})
	}
	t.Run("at work", func(t *testing.T) {
		srv, c := admitted(t, time.Nanosecond)
		sh := srv.realm.shard("a")
		sh.mu.Lock() // which the function needs
		srv.openLater(c)
		gone := closedAfter(c.writers.Wait)
		wantWaiting(t, gone, "the function is at work")
		sh.mu.Unlock()
		<-gone
		require.True(t, c.isOpen())
		c.end(ReasonConnectionLost, nil, nil)
		c.writers.Wait()
	})
}

// A client may end while it is opened. What was held for it until then goes back with the rest.
func TestWhatWasHeldIsNotLostIfAClientEndsWhenItIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		c := stubClient(t, srv, "a", "t")
		_, err := srv.realm.admit(c, nil, true)
		require.NoError(t, err)
		c.Close()
		require.Zero(t, c.open([]parcel{sizedParcel(3, "src", keepUntilExpiry)}))
		kept, _ := c.takeUnwritten(nil, keepUntilExpiry)
		require.Len(t, kept, 1)
		c.writers.Wait()
	})
}

func TestANewClientIsNoClientBeforeItsOpen(t *testing.T) {
	var err error
	r := newRig(t, Options{AllowOverride: func(old, new *Client) bool {
		err = new.Send(Message{Type: "HELLO"})
		return true
	}})
	r.connect("a")
	young := r.dial("a", "another token")
	young.wantOpen()
	require.ErrorIs(t, err, ErrNotConnected)
	require.NoError(t, r.srv.Realm().Send("a", Message{Type: "X"}))
	young.want(`{"type":"X"}`)
}

func TestANewClientMayBeClosedBeforeItsOpen(t *testing.T) {
	srv := NewServer(Options{AllowOverride: func(old, new *Client) bool {
		new.Close()
		return true
	}})
	rec := watch(srv)
	r := serveRig(t, srv, nil)
	r.connect("a")
	young := r.dial("a", "another token")
	for young.next() != "" {
	}
	r.connect("b")
	closeServer(t, srv)
	ups := 0
	for _, line := range rec.all() {
		switch line[0] {
		case '+':
			ups++
		case '-':
			ups--
		}
	}
	require.Zero(t, ups, "%q", rec.all())
	wantNoGoroutines(t)
}

// What had no room before OPEN is not lost if the client ends at the moment when it is opened.
func TestNothingIsLostWhenAClientEndsAsItIsOpened(t *testing.T) {
	t.Parallel()
	for i := range 300 {
		opts := Options{MaxOutboxMessages: 1, AliveTimeout: -1}.withDefaults()
		r := newRealm(&opts)
		near, far := net.Pipe()
		c := newClient(nil, newSocket(near, nil, &r.partials), params{id: "a", token: "t", quoted: `"a"`}, "", netip.Addr{}, &opts, r.traffic("a"))
		_, err := r.admit(c, nil, true)
		require.NoError(t, err)
		for n := range 100 {
			out, d := r.route("a", parcel{frame: []byte("x"), src: fmt.Sprint("s", n), keep: keepUntilExpiry, deadline: time.Now().Add(time.Hour)})
			d.finish()
			require.NotEqual(t, notKept, out)
		}
		var wg sync.WaitGroup
		start := make(chan struct{})
		wg.Go(func() { <-start; r.open(c) })
		wg.Go(func() {
			<-start
			for range i % 50 {
				runtime.Gosched()
			}
			c.end(ReasonRemoved, nil, nil)
		})
		go func() { // read everything
			b := make([]byte, 1000)
			for {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		close(start)
		wg.Wait()
		c.stopReading()
		c.awaitEnd()
		c.mu.Lock()
		c.awaitLocked(func() bool { return c.outbox.inflight == 0 })
		kept := 0
		for _, p := range c.outbox.parcels {
			if p.keep == keepUntilExpiry {
				kept++
			}
		}
		c.mu.Unlock()
		require.GreaterOrEqual(t, kept+int(r.heldParcels.Load())+int(c.traffic.bytesOut.Load()), 100, "round %d", i)
		far.Close()
		r.close()
		c.writers.Wait()
	}
}
