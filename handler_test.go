//lint:file-ignore SA1019 See client.go.

package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// waitLimit bounds every wait of a test for something that must happen. It is
// never reached by a test that passes.
const waitLimit = 20 * time.Second

// A rig is a server under test, mounted at the root of an http.Server.
type rig struct {
	t   testing.TB
	srv *Server
	url string // http://…
	dialer
}

// dialer opens connections to the server under test.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// newRig serves opts on a loopback socket and checks at the end of the test that
// the server's books are in order and that it shuts down.
func newRig(t testing.TB, opts Options) *rig {
	t.Helper()
	return serveRig(t, NewServer(opts), nil)
}

// serveRig serves h, or srv itself if h is nil.
func serveRig(t testing.TB, srv *Server, h http.Handler) *rig {
	t.Helper()
	if h == nil {
		h = srv
	}
	ts := httptest.NewServer(h)
	r := &rig{t: t, srv: srv, url: ts.URL, dialer: new(net.Dialer).DialContext}
	t.Cleanup(func() {
		closeServer(t, srv)
		ts.Close()
	})
	return r
}

func closeServer(t testing.TB, srv *Server) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	// Books that do not agree now have not agreed before.
	if err := srv.realm.check(); err != nil {
		t.Error(err)
	}
}

// newBubbleRig is newRig for a synctest bubble: an http.Server on a listener
// that hands out the ends of net.Pipe, so that time is fake and every goroutine
// must end with the test.
func newBubbleRig(t testing.TB, opts Options) *rig {
	t.Helper()
	return serveBubbleRig(t, NewServer(opts), nil)
}

func serveBubbleRig(t testing.TB, srv *Server, h http.Handler) *rig {
	t.Helper()
	return bubbleRig(t, srv, h, func(l net.Listener) net.Listener { return l })
}

// bubbleRig is serveBubbleRig with something around the listener.
func bubbleRig(t testing.TB, srv *Server, h http.Handler, wrap func(net.Listener) net.Listener) *rig {
	t.Helper()
	if h == nil {
		h = srv
	}
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	hs := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		hs.Serve(wrap(l))
	}()
	t.Cleanup(func() {
		closeServer(t, srv)
		hs.Close()
		<-served
	})
	return &rig{t: t, srv: srv, url: "http://peer.test", dialer: l.dial}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// http returns a client that dials the rig and keeps no connection.
func (r *rig) http() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: r.dialer, DisableKeepAlives: true},
		Timeout:   waitLimit,
	}
}

// socketURL is the address that a PeerJS client with this path, which ends with
// a slash, opens for its socket.
func (r *rig) socketURL(path, id, token string) string {
	return r.url + path + "peerjs?key=peerjs&id=" + url.QueryEscape(id) + "&token=" + url.QueryEscape(token) + "&version=1.5.5"
}

// A testPeer is the client side of a signalling socket. A goroutine reads it all
// the time, as a browser does.
type testPeer struct {
	t      testing.TB
	id     string
	ws     *websocket.Conn
	frames chan string   // closed at the end of the socket
	ended  chan struct{} // closed then too
	err    error         // why, set before that
}

// dial opens a socket with an id and token and does not wait for OPEN.
func (r *rig) dial(id, token string) *testPeer {
	r.t.Helper()
	return r.dialURL(r.socketURL("/", id, token), nil)
}

func (r *rig) dialURL(u string, header http.Header) *testPeer {
	r.t.Helper()
	p, res, err := r.tryDial(u, header)
	if err != nil {
		status := ""
		if res != nil {
			status = res.Status
		}
		r.t.Fatalf("dial %s: %v %s", u, err, status)
	}
	p.id = mustQuery(r.t, u).Get("id")
	return p
}

func mustQuery(t testing.TB, u string) url.Values {
	parsed, err := url.Parse(u)
	require.NoError(t, err)
	return parsed.Query()
}

// tryDial opens a socket, or returns the answer that refused the upgrade.
func (r *rig) tryDial(u string, header http.Header) (*testPeer, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, u, &websocket.DialOptions{HTTPClient: r.http(), HTTPHeader: header})
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(-1)
	p := &testPeer{t: r.t, ws: ws, frames: make(chan string, 4096), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer close(p.frames)
		for {
			_, data, err := ws.Read(context.Background())
			if err != nil {
				p.err = err
				return
			}
			p.frames <- string(data)
		}
	}()
	r.t.Cleanup(p.drop)
	return p, res, nil
}

// connect dials and waits for OPEN.
func (r *rig) connect(id string) *testPeer {
	r.t.Helper()
	p := r.dial(id, "token-of-"+id)
	p.wantOpen()
	return p
}

// next returns the next frame, or "" at the end of the socket.
func (p *testPeer) next() string {
	p.t.Helper()
	select {
	case f := <-p.frames:
		return f
	case <-time.After(waitLimit):
		p.t.Fatalf("%s: no frame came", p.id)
		return ""
	}
}

// want fails the test unless the next frame is this one, byte for byte.
func (p *testPeer) want(frame string) {
	p.t.Helper()
	require.Equal(p.t, frame, p.next(), "frame for %s", p.id)
}

func (p *testPeer) wantOpen() {
	p.t.Helper()
	p.want(`{"type":"OPEN"}`)
}

// wantRefused wants a message for people of this type, then the end.
func (p *testPeer) wantRefused(t MessageType, msg string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":%q,"payload":{"msg":%q}}`, t, msg))
	p.wantEnd()
}

// wantEnd wants the socket to end with nothing before, and returns the close
// code, or -1 if there was none.
func (p *testPeer) wantEnd() int {
	p.t.Helper()
	require.Equal(p.t, "", p.next(), "frame for %s before its end", p.id)
	<-p.ended
	return int(websocket.CloseStatus(p.err))
}

// wantExpire wants the EXPIRE for what was sent to the absent id dst.
func (p *testPeer) wantExpire(dst string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"EXPIRE","src":%q,"dst":%q}`, dst, p.id))
}

// send sends a text frame.
func (p *testPeer) send(frame string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	require.NoError(p.t, p.ws.Write(ctx, websocket.MessageText, []byte(frame)))
}

// offer sends an OFFER with a payload to dst.
func (p *testPeer) offer(dst, payload string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":%s}`, dst, payload))
}

// wantOffer wants the OFFER that src sent with offer.
func (p *testPeer) wantOffer(src, payload string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"OFFER","src":%q,"dst":%q,"payload":%s}`, src, p.id, payload))
}

// close ends the socket as a page that is left does.
func (p *testPeer) close() {
	p.ws.Close(websocket.StatusNormalClosure, "")
	<-p.ended
}

// drop ends the TCP connection without a word.
func (p *testPeer) drop() {
	p.ws.CloseNow()
	<-p.ended
}

// get makes a request and returns the answer with its body.
func (r *rig) get(method, path string, header ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, nil)
	require.NoError(r.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := r.http().Do(req)
	require.NoError(r.t, err)
	defer res.Body.Close()
	var b strings.Builder
	_, err = bufio.NewReader(res.Body).WriteTo(&b)
	require.NoError(r.t, err)
	return res, b.String()
}

// A record keeps what a server tells its host.
type record struct {
	mu     sync.Mutex
	lines  []string
	change chan struct{}
}

// watch registers a record for all events of srv but messages.
func watch(srv *Server) *record {
	rec := &record{change: make(chan struct{})}
	srv.OnConnection(func(c *Client) { rec.add("+" + c.ID()) })
	srv.OnDisconnect(func(c *Client, why DisconnectReason) { rec.add("-" + c.ID() + " " + why.String()) })
	srv.OnError(func(c *Client, err error) { rec.add("! " + err.Error()) })
	return rec
}

func (r *record) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	close(r.change)
	r.change = make(chan struct{})
}

// all returns what has happened so far.
func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// want waits until exactly these lines have come, in this order.
func (r *record) want(t testing.TB, lines ...string) {
	t.Helper()
	deadline := time.After(waitLimit)
	for {
		r.mu.Lock()
		n, change := len(r.lines), r.change
		r.mu.Unlock()
		if n >= len(lines) {
			break
		}
		select {
		case <-change:
		case <-deadline:
			require.Equal(t, lines, r.all())
		}
	}
	require.Equal(t, lines, r.all())
}

func TestTwoPeersIntroduceThemselves(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	a := r.connect("alice")
	rec.want(t, "+alice") // events of different ids have no order
	b := r.connect("bob")
	a.send(`{"type":"OFFER","src":"mallory","dst":"bob","payload":{"sdp":"v=0\r\n","n":12345678901234567890},"extra":1}`)
	b.want(`{"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"v=0\r\n","n":12345678901234567890}}`)
	b.send(`{"type":"ANSWER","dst":"alice","payload":null}`)
	a.want(`{"type":"ANSWER","src":"bob","dst":"alice","payload":null}`)
	a.send(`{"type":"CANDIDATE","dst":"bob"}`)
	b.want(`{"type":"CANDIDATE","src":"alice","dst":"bob"}`)
	a.close()
	rec.want(t, "+alice", "+bob", "-alice client closed")
	require.Equal(t, []string{"bob"}, r.srv.Realm().ClientIDs())
}

func TestAnIDComesFromTheServer(t *testing.T) {
	r := newRig(t, Options{})
	res, body := r.get("GET", "/peerjs/id?ts=1&version=1.5.5")
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, body)
}

func TestPeersAreListed(t *testing.T) {
	r := newRig(t, Options{AllowDiscovery: true})
	_, body := r.get("GET", "/peerjs/peers")
	require.JSONEq(t, `[]`, body)
	r.connect("bob")
	r.connect("alice")
	_, body = r.get("GET", "/peerjs/peers")
	var ids []string
	require.NoError(t, json.Unmarshal([]byte(body), &ids))
	require.Equal(t, []string{"alice", "bob"}, ids)
}
