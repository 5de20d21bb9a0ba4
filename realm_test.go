package peer

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

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
		}
	}
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
