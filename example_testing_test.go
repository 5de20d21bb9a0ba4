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

func sendMessage(t *testing.T, ws *websocket.Conn, message string) {
	t.Helper()
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(message)))
}

func TestAHostTestsItsHooks(t *testing.T) {
	p, srv := new(presence), peer.NewServer(peer.Options{})
	p.mount(srv)
	gone := make(chan peer.DisconnectReason, 10) // registered last: when it has a value, the host's functions have returned
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { gone <- why })
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	ts := httptest.NewServer(mux)
	defer ts.Close()
	defer srv.Close() // before ts.Close, which does not close sockets

	alice := openSocket(t, nil, ts.URL+"/peerjs", "alice", "t1")
	wantMessage(t, alice, `{"type":"OPEN"}`)
	require.True(t, p.has("alice")) // OPEN comes after OnConnection: nothing to wait for
	bob := openSocket(t, nil, ts.URL+"/peerjs", "bob", "t2")
	wantMessage(t, bob, `{"type":"OPEN"}`)

	sendMessage(t, alice, `{"type":"OFFER","dst":"bob","payload":{"sdp":"v=0"}}`)
	wantMessage(t, bob, `{"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"v=0"}}`)

	bob.Close(websocket.StatusNormalClosure, "") // as PeerJS does in peer.disconnect() and peer.destroy()
	select {
	case why := <-gone:
		require.Equal(t, peer.ReasonClientClosed, why)
	case <-time.After(10 * time.Second):
		t.Fatal("OnDisconnect did not run")
	}

	alice.CloseRead(t.Context())    // a client that reads answers the close frame, so that Close need not wait for it
	require.NoError(t, srv.Close()) // returns when every OnDisconnect has returned
	require.Equal(t, peer.ReasonShutdown, <-gone)
	require.Empty(t, gone, "OnDisconnect ran more than once for a client")
}

// A pipeListener is a [net.Listener] whose connections are in memory.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once // closes done
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// client returns an HTTP client that connects to the listener, whatever the address.
func (l *pipeListener) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			near, far := net.Pipe()
			select {
			case l.conns <- far:
				return near, nil
			case <-l.done:
				return nil, net.ErrClosed
			}
		},
	}}
}

func TestAHostTestsTimeWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, srv := &presence{grace: 10 * time.Second}, peer.NewServer(peer.Options{})
		p.mount(srv)
		l, hs := newPipeListener(), &http.Server{Handler: srv}
		go hs.Serve(l)
		defer hs.Close()
		defer srv.Close()

		alice := openSocket(t, l.client(), "http://peer.test", "alice", "t1")
		wantMessage(t, alice, `{"type":"OPEN"}`)
		sendMessage(t, alice, `{"type":"OFFER","dst":"bob"}`)
		sent := time.Now()
		wantMessage(t, alice, `{"type":"EXPIRE","src":"bob","dst":"alice"}`)
		assert.Equal(t, peer.DefaultExpireTimeout, time.Since(sent)) // 5 seconds in the bubble, none outside

		alice.CloseNow()            // the network of the client is lost
		time.Sleep(9 * time.Second) // in the bubble, too
		alice = openSocket(t, l.client(), "http://peer.test", "alice", "t1")
		wantMessage(t, alice, `{"type":"OPEN"}`)
		time.Sleep(p.grace)
		synctest.Wait() // until no goroutine of the bubble can go on
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
