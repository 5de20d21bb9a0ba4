package peer

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	ring *ring // nil: there is one server
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

func (pipeAddr) String() string { return "pipe" }

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

func mustQuery(t testing.TB, u string) url.Values {
	parsed, err := url.Parse(u)
	require.NoError(t, err)
	return parsed.Query()
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
	rec := newRecord()
	rec.watch(srv)
	return rec
}

func newRecord() *record { return &record{change: make(chan struct{})} }

func (rec *record) watch(srv *Server) {
	srv.OnConnection(func(c *Client) { rec.add("+" + c.ID()) })
	srv.OnDisconnect(func(c *Client, why DisconnectReason) { rec.add("-" + c.ID() + " " + why.String()) })
	srv.OnError(func(c *Client, err error) { rec.add("! " + err.Error()) })
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

// in returns the rig for a subtest.
func (r *rig) in(t testing.TB) *rig {
	c := *r
	c.t = t
	return &c
}

// about waits until what was told about one id is exactly this, in this order;
// the events of different ids have none. The id "!" stands for the errors.
func (r *record) about(t testing.TB, id string, lines ...string) {
	t.Helper()
	var got []string
	deadline := time.After(waitLimit)
	for {
		r.mu.Lock()
		change := r.change
		got = got[:0]
		for _, line := range r.lines {
			if line == "+"+id || strings.HasPrefix(line, "-"+id+" ") || strings.HasPrefix(line, id+" ") {
				got = append(got, line)
			}
		}
		r.mu.Unlock()
		if len(got) >= len(lines) {
			require.Equal(t, lines, got)
			return
		}
		select {
		case <-change:
		case <-deadline:
			require.Equal(t, lines, got)
		}
	}
}

// waitFor waits for what no event tells.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, waitLimit, time.Millisecond)
}

// wait waits until at least n lines have come.
func (r *record) wait(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(waitLimit)
	for {
		r.mu.Lock()
		lines, change := len(r.lines), r.change
		r.mu.Unlock()
		if lines >= n {
			return
		}
		select {
		case <-change:
		case <-deadline:
			require.GreaterOrEqual(t, len(r.all()), n, "%q", r.all())
		}
	}
}

// last waits until n lines have come and returns the last one of them.
func (r *record) last(t testing.TB, n int) string {
	t.Helper()
	r.wait(t, n)
	return r.all()[n-1]
}

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

// slow skips a test that takes about a second or more, if short tests are asked for.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}
