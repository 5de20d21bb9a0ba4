package peer_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// This file is what docs/testing.md shows: the tests of a host. The host is presence.

// presence is the code under test. It notes which ids are online. An id whose client has gone
// counts as online until the grace time is over.
type presence struct {
	grace time.Duration
	mu    sync.Mutex              // guards last
	last  map[string]*peer.Client // id -> its newest client; absent: the id is not online
}

func (p *presence) mount(srv *peer.Server) {
	p.last = make(map[string]*peer.Client)
	srv.OnConnection(func(c *peer.Client) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.last[c.ID()] = c
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		time.AfterFunc(p.grace, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.last[c.ID()] == c { // the id has no newer client
				delete(p.last, c.ID())
			}
		})
	})
}

func (p *presence) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[id] != nil
}

func TestAHostTestsItsHooks(t *testing.T) {
	p, srv := new(presence), peer.NewServer(peer.Options{})
	t.Cleanup(func() { srv.Close() }) // before peertest.New: cleanup functions run in reverse order
	p.mount(srv)
	gone := make(chan peer.DisconnectReason, 10)
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { gone <- why }) // registered last: runs last

	h := peertest.New(t, srv, "/")
	alice := h.Dial("alice")
	require.True(t, p.has("alice")) // OPEN comes after OnConnection: nothing to wait for
	bob := h.Dial("bob")
	alice.Send(peer.TypeOffer, "bob", map[string]string{"sdp": "v=0"})
	m := bob.Expect(peer.TypeOffer)
	require.Equal(t, "alice", m.Src)
	require.JSONEq(t, `{"sdp":"v=0"}`, string(m.Payload))

	bob.Close() // sends a close frame, as peer.destroy() does
	require.Equal(t, peer.ReasonClientClosed, <-gone)
	require.NoError(t, srv.Close()) // returns when every OnDisconnect has returned
	require.Len(t, gone, 1)         // for alice; a second one for bob would be here, too
	require.Equal(t, peer.ReasonShutdown, <-gone)
	code, _ := alice.ExpectClosed()
	require.Equal(t, 1001, code)
}

func TestAHostTestsTimeWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, srv := &presence{grace: 10 * time.Second}, peer.NewServer(peer.Options{})
		t.Cleanup(func() { srv.Close() })
		p.mount(srv)
		h := peertest.New(t, srv, "/")

		alice, start := h.Dial("alice"), time.Now()
		alice.Send(peer.TypeOffer, "bob", nil)
		alice.Expect(peer.TypeExpire)
		assert.Equal(t, peer.DefaultExpireTimeout, time.Since(start)) // 5 seconds in the bubble, none outside

		alice.Vanish() // the network of the client is lost
		time.Sleep(p.grace - time.Second)
		alice = h.Dial("alice") // as peer.reconnect() does: the token is the same
		time.Sleep(p.grace)
		synctest.Wait() // until all goroutines of the bubble wait for something
		assert.True(t, p.has("alice"), "the client was back within the grace time")

		alice.Vanish()
		synctest.Wait()
		time.Sleep(p.grace - time.Nanosecond)
		assert.True(t, p.has("alice"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.False(t, p.has("alice"))
	})
}

// The token of a user is checked, and the page reads the text.
func TestAHostTestsWhoMayConnect(t *testing.T) {
	srv := peer.NewServer(peer.Options{Authenticate: authenticateUser})
	t.Cleanup(func() { srv.Close() })
	h := peertest.New(t, srv, "/")
	h.Dial("alice", peertest.Token("let alice in"))
	refusal := h.DialRefused("bob", peertest.Token("let alice in"))
	require.Equal(t, "Please log in again", refusal.Text)
}

func authenticateUser(_ *http.Request, id, token string) (user any, err error) {
	if token != "let "+id+" in" {
		return nil, &peer.Reject{Message: "Please log in again"}
	}
	return id, nil
}
