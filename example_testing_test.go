//lint:file-ignore SA1019 See client.go.

package peer_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
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

// openSocket opens the socket that PeerJS opens for new Peer(id, {host, port, path, token}). base
// is the URL of the place where the server is mounted.
func openSocket(t *testing.T, client *http.Client, base, id, token string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	query := url.Values{"key": {"peerjs"}, "id": {id}, "token": {token}, "version": {"1.5.5"}}
	ws, _, err := websocket.Dial(ctx, base+"/peerjs?"+query.Encode(), &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// wantMessage waits for the next message of a socket.
func wantMessage(t *testing.T, ws *websocket.Conn, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, message, err := ws.Read(ctx)
	require.NoError(t, err)
	require.JSONEq(t, want, string(message))
}

func TestAHostTestsItsHooks(t *testing.T) {
	p, srv := new(presence), peer.NewServer(peer.Options{})
	p.mount(srv)
	gone := make(chan peer.DisconnectReason, 10)
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { gone <- why }) // registered last: runs last
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close() // before ts.Close, which does not close sockets

	alice := openSocket(t, nil, ts.URL, "alice", "t1")
	wantMessage(t, alice, `{"type":"OPEN"}`)
	require.True(t, p.has("alice")) // OPEN comes after OnConnection: nothing to wait for
	bob := openSocket(t, nil, ts.URL, "bob", "t2")
	wantMessage(t, bob, `{"type":"OPEN"}`)
	offer := []byte(`{"type":"OFFER","dst":"bob","payload":{"sdp":"v=0"}}`)
	require.NoError(t, alice.Write(t.Context(), websocket.MessageText, offer))
	wantMessage(t, bob, `{"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"v=0"}}`)

	bob.Close(websocket.StatusNormalClosure, "") // sends a close frame, as peer.destroy() does
	select {
	case why := <-gone:
		require.Equal(t, peer.ReasonClientClosed, why)
	case <-time.After(10 * time.Second):
		t.Fatal("OnDisconnect did not run")
	}

	alice.CloseRead(t.Context())    // reads on, and so answers the close frame of the server
	require.NoError(t, srv.Close()) // returns when every OnDisconnect has returned
	require.Len(t, gone, 1)         // for alice; a second one for bob would be here, too
	require.Equal(t, peer.ReasonShutdown, <-gone)
}

// A pipeListener is a [net.Listener] whose connections are in memory.
type pipeListener chan net.Conn

func (l pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	l <- far
	return near, nil
}

func (l pipeListener) Accept() (net.Conn, error) {
	if conn, open := <-l; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l pipeListener) Close() error   { close(l); return nil } // http.Server calls it once
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func TestAHostTestsTimeWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, srv := &presence{grace: 10 * time.Second}, peer.NewServer(peer.Options{})
		p.mount(srv)
		l, hs := make(pipeListener), &http.Server{Handler: srv}
		client := &http.Client{Transport: &http.Transport{DialContext: l.dial, DisableKeepAlives: true}}
		go hs.Serve(l)
		defer hs.Close()
		defer srv.Close()

		alice := openSocket(t, client, "http://peer.test", "alice", "t1")
		wantMessage(t, alice, `{"type":"OPEN"}`)
		offer := []byte(`{"type":"OFFER","dst":"bob"}`)
		require.NoError(t, alice.Write(t.Context(), websocket.MessageText, offer))
		start := time.Now()
		wantMessage(t, alice, `{"type":"EXPIRE","src":"bob","dst":"alice"}`)
		assert.Equal(t, peer.DefaultExpireTimeout, time.Since(start)) // 5 seconds in the bubble, none outside

		alice.CloseNow() // as if the network of the client is lost
		time.Sleep(p.grace - time.Second)
		alice = openSocket(t, client, "http://peer.test", "alice", "t1")
		wantMessage(t, alice, `{"type":"OPEN"}`)
		time.Sleep(p.grace)
		synctest.Wait() // until all goroutines of the bubble wait for something
		assert.True(t, p.has("alice"), "the client was back within the grace time")

		alice.CloseNow()
		synctest.Wait()
		time.Sleep(p.grace - 1)
		assert.True(t, p.has("alice"))
		time.Sleep(1)
		synctest.Wait()
		assert.False(t, p.has("alice"))
	})
}
