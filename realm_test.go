package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// claimed is a server with a client that has claimed an id and is read by nobody: it stays in the
// realm when it ends.
func claimed(t *testing.T, opts Options) (srv *Server, c *Client) {
	opts.AliveTimeout = -1
	srv = NewServer(opts)
	c = stubClient(t, srv, "a", "t")
	require.Nil(t, srv.claim(t.Context(), c))
	return srv, c
}

func TestAClientThatHasEndedIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c := claimed(t, Options{})
		require.Equal(t, []string{"a"}, srv.Realm().ClientIDs())
		c.Close()
		require.Equal(t, 1, srv.Realm().Len(), "its id is not free yet")
		require.Nil(t, srv.Realm().Client("a"))
		require.Empty(t, srv.Realm().ClientIDs())
		for range srv.Realm().Clients() {
			t.Error("it has ended")
		}
		require.False(t, srv.Realm().RemoveClient("a"), "nobody is connected")
		require.ErrorIs(t, srv.Realm().Send("a", Message{Type: "X"}), ErrNotConnected)
		srv.realm.remove(c)
		srv.realm.finish(c)
		require.NoError(t, srv.realm.check())
	})
}

func TestAnIDIsFreeWhenItsClientHasBeenRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c := claimed(t, Options{ConcurrentLimit: 1})
		require.True(t, srv.Realm().RemoveClient("a"))
		require.Zero(t, srv.Realm().Len())
		require.Equal(t, ReasonRemoved, c.Reason())
		next := stubClient(t, srv, "a", "another")
		require.Nil(t, srv.claim(t.Context(), next))
		require.Same(t, next, srv.Realm().Client("a"))
		require.Nil(t, c.Successor(), "it came later")
		srv.realm.finish(c)
		srv.Realm().RemoveClient("a")
		srv.realm.finish(next)
		require.NoError(t, srv.realm.check())
	})
}

func TestALoopOverTheClientsMayEndEarly(t *testing.T) {
	r := newRig(t, Options{})
	for i := range 20 {
		r.connect(fmt.Sprint(i))
	}
	for want := 1; want <= 20; want++ {
		n := 0
		for c := range r.srv.Realm().Clients() {
			require.NotNil(t, c)
			if n++; n == want {
				break
			}
		}
		require.Equal(t, want, n)
	}
}

// forgotten wants nothing in the server to refer to any of these clients.
func forgotten(t *testing.T, clients []weak.Pointer[Client]) {
	t.Helper()
	require.NotEmpty(t, clients)
	for i, c := range clients {
		for start := time.Now(); c.Value() != nil; runtime.GC() {
			require.Less(t, time.Since(start), waitLimit/4, "client %d is held", i)
			forgetTimers()
		}
	}
}

// forgetTimers lets Go's runtime forget the timers that were stopped. It keeps them, and what they
// refer to, until they are a quarter of the timers of a processor.
func forgetTimers() {
	parallel(4*runtime.GOMAXPROCS(0), func(int) {
		for range 64 {
			time.AfterFunc(time.Hour, func() {}).Stop()
		}
		runtime.Gosched()
	})
}

// A server that is up for months must not keep those that were connected once, nor may timers
// that have nothing more to do.
func TestAClientThatHasGoneIsForgotten(t *testing.T) {
	for name, opts := range map[string]Options{
		"no options":          {},
		"no timeouts":         {AliveTimeout: -1, HandshakeTimeout: -1, WriteTimeout: -1},
		"long timeouts":       {AliveTimeout: time.Hour, HandshakeTimeout: time.Hour, WriteTimeout: time.Hour},
		"a limit per address": {ConcurrentLimitPerAddr: 10},
		"authenticated": {HandshakeTimeout: time.Hour, Authenticate: func(*http.Request, string, string) (any, error) {
			return nil, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			opts.AllowOverride = func(old, new *Client) bool { return new.Token() == "override" }
			opts.AllowJoin = anyRoom
			r := newRig(t, opts)
			var all []weak.Pointer[Client]
			r.srv.OnConnection(func(c *Client) { all = append(all, weak.Make(c)) })
			left := make(chan string, 100)
			r.srv.OnDisconnect(func(c *Client, _ DisconnectReason) { left <- c.ID() })
			connect := func(token string) *testPeer {
				p := r.dial("a", token)
				p.wantOpen()
				p.join("room")
				p.wantMembers("room", "a")
				return p
			}
			for range 3 { // of which each takes the id over from the last one
				connect("same")
			}
			connect("override")
			r.dial("a", "refused").wantRefused(TypeIDTaken, "ID is taken")
			connect("override").close()
			for range all {
				<-left
			}
			last := connect("another")
			waitFor(t, func() bool { return len(ownGoroutines()) == 1 })
			forgotten(t, all[:len(all)-1])
			last.send(`{"type":"LEAVE"}`)
			last.wantEnd()
			closeServer(t, r.srv)
			forgotten(t, all[len(all)-1:])
		})
	}
}

// What a host keeps in the context of a request is not kept by a server that asks about it.
func TestTheContextOfAHandshakeIsForgotten(t *testing.T) {
	type key struct{}
	type large struct{ _ [1 << 10]int }
	var kept weak.Pointer[large]
	srv := NewServer(Options{Authenticate: func(r *http.Request, _, _ string) (any, error) {
		kept = weak.Make(r.Context().Value(key{}).(*large))
		return nil, nil
	}})
	r := serveRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, new(large))))
	}))
	r.connect("a")
	for start := time.Now(); kept.Value() != nil; runtime.GC() {
		require.Less(t, time.Since(start), waitLimit/4)
	}
}

// The tests of this file are about steps that must not come apart: to find a destination or hold the message, and to
// find the server open and be counted.

// inTurns runs two functions that need a mutex. Each time that one of them gives it back, the other one has it next: a
// mutex does so when somebody has waited for it for a millisecond, and has found it taken again then.
func inTurns(mu *sync.Mutex, first, second func()) {
	const starve = 3 * time.Millisecond
	var both sync.WaitGroup
	mu.Lock()
	both.Go(first)
	time.Sleep(starve)
	both.Go(second)
	time.Sleep(starve)
	mu.Unlock()
	mu.Lock() // before first has woken up
	time.Sleep(starve)
	mu.Unlock()
	both.Wait()
}

func TestNoMessageWaitsWhileItsDestinationIsConnected(t *testing.T) {
	const rounds = 10
	srv := NewServer(Options{AliveTimeout: -1})
	defer closeServer(t, srv)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	sh, deadline := srv.realm.shard("a"), time.Now().Add(time.Hour)
	for round := range 2 * rounds {
		c := benchClient(srv, near, "a", "t")
		admit := func() {
			_, err := srv.realm.admit(c, nil, true)
			assert.NoError(t, err)
		}
		route := func() {
			srv.realm.route("a", parcel{frame: []byte("f"), src: "b", deadline: deadline, keep: keepUntilExpiry})
		}
		if round < rounds {
			inTurns(&sh.mu, route, admit)
		} else {
			inTurns(&sh.mu, admit, route)
		}
		sh.mu.Lock()
		waits := sh.queues["a"] != nil
		sh.mu.Unlock()
		require.False(t, waits, "a message waits for a client that is there")
		require.Len(t, c.outbox.parcels, 2, "OPEN and the message")
		c.writer = busy // nothing is written
		c.end(ReasonRemoved, nil, nil)
		srv.realm.remove(c)
		require.Equal(t, 1, srv.Realm().ClearMessageQueue("a"))
	}
}

// Nothing of a server begins after Shutdown has returned: not even an upgrade, to say so.
func TestAHandshakeAfterTheEndIsAnsweredWithoutAnUpgrade(t *testing.T) {
	r := newRig(t, Options{})
	closeServer(t, r.srv)
	_, res, err := r.tryDial(r.socketURL("/", "a", "t"), nil)
	require.Error(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.EqualValues(t, 1, r.srv.Stats().Refused["shutdown"])
}

// The host can close a newcomer in AllowOverride and let it have the id all the same. It is announced then, and has ended.
func TestAClientThatEndsBeforeItIsAdmittedStaysEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AllowOverride: func(_, newcomer *Client) bool {
			newcomer.Close()
			return true
		}})
		r := serveBubbleRig(t, srv, nil)
		r.connect("a")
		synctest.Wait()
		told := make(chan *Client, 1)
		srv.OnConnection(func(c *Client) {
			assert.Equal(t, ReasonRemoved, c.Reason())
			assert.ErrorIs(t, c.Send(Message{Type: "X"}), ErrNotConnected)
			assert.ErrorIs(t, srv.Realm().Send("a", Message{Type: "X"}), ErrNotConnected)
			assert.ErrorIs(t, srv.Realm().Join("x", c), ErrNotConnected)
			assert.Nil(t, srv.Realm().Client("a"))
			told <- c
		})
		require.Equal(t, CloseRemoved, r.dial("a", "another").wantEnd())
		require.Nil(t, (<-told).alive, "nobody is asked for a sign of life any more")
		synctest.Wait()
		require.Zero(t, srv.Realm().Len())
	})
}

// check recomputes from the maps what is kept beside them and returns what does
// not agree. It is for tests, at a moment when nothing is under way.
func (r *Realm) check() error {
	var errs []error
	live, bytes, parcels, expired := 0, 0, 0, 0
	addrs := make(map[netip.Addr]int)
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for id, c := range sh.clients {
			live++
			addrs[c.limitAddr]++
			if c.id != id || sh.queues[id] != nil && c.isOpen() { // before OPEN there may be no room for them
				errs = append(errs, errors.New("a connected id has messages waiting: "+id))
			}
		}
		for id, w := range sh.queues {
			n := size(w.all())
			bytes += n
			parcels += w.parcels
			for _, p := range w.pairs {
				if p.expired {
					expired++
				}
			}
			if n != w.bytes || len(w.all()) != w.parcels || len(w.pairs) == 0 {
				errs = append(errs, errors.New("a queue is empty or miscounts what it holds: "+id))
			} else if w.timer == nil || !w.at.Equal(w.soonest().deadline) {
				errs = append(errs, errors.New("the timer of a queue is not set to its first deadline: "+id))
			}
		}
		sh.mu.Unlock()
	}
	r.rooms.mu.Lock()
	seats := 0
	for name, rm := range r.rooms.rooms {
		listed := 0
		for c, data := range rm.members {
			listed += listedSize(len(c.quoted), data)
			if !slices.Contains(c.Rooms(), name) || c.Reason() != 0 {
				errs = append(errs, errors.New("a room and its members do not agree: "+name))
			}
		}
		if listed != rm.listed || len(rm.members) == 0 {
			errs = append(errs, errors.New("a room is empty, or miscounts its list: "+name))
		}
		seats += len(rm.members)
	}
	if seats != r.rooms.seats {
		errs = append(errs, errors.New("the members of all rooms are miscounted"))
	}
	r.rooms.mu.Unlock()
	if live != r.Len() || bytes != int(r.heldBytes.Load()) || parcels != int(r.heldParcels.Load()) || expired != int(r.expiredPairs.Load()) {
		errs = append(errs, errors.New("clients, held bytes, held messages or expired pairs are miscounted"))
	}
	if r.opts.ConcurrentLimitPerAddr > 0 && len(addrs) != len(r.addrs) {
		errs = append(errs, errors.New("addresses are miscounted"))
	}
	return errors.Join(errs...)
}
