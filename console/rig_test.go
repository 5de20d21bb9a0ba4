//lint:file-ignore SA1019 See upgrade.go of the root package.

package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// everybody is an Authorize that lets everybody in.
func everybody(*http.Request) error { return nil }

// A rig is a server and its console on a listener in memory, which works in a synctest bubble.
type rig struct {
	t       testing.TB
	srv     *peer.Server
	console *console
	hs      *http.Server
	client  *http.Client
	log     *lockedBuffer
}

// newRig serves a server below /peerjs/ and its console below /console/, until the test ends.
func newRig(t testing.TB, opts Options) *rig {
	return newRigWith(t, peer.Options{}, opts, nil)
}

func newRigWith(t testing.TB, serverOpts peer.Options, opts Options, hs *http.Server) *rig {
	t.Helper()
	log := new(lockedBuffer)
	opts.Logger = slog.New(slog.NewTextHandler(log, nil))
	srv := peer.NewServer(serverOpts)
	c := New(srv, opts).(*console)
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/console/", c)
	if hs == nil {
		hs = new(http.Server)
	}
	hs.Handler = mux
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		hs.Serve(l)
	}()
	transport := &http.Transport{DialContext: l.dial}
	r := &rig{t, srv, c, hs, &http.Client{Transport: transport, CheckRedirect: noRedirect}, log}
	t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
		hs.Close()
		<-served
	})
	return r
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// A lockedBuffer keeps what is logged.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
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

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// request makes a request to an address below /console/. Header fields come in pairs.
func (r *rig) request(method, address, body string, header ...string) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://peer.test/console/"+address, strings.NewReader(body))
	require.NoError(r.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// do makes a request and reads the whole answer.
func (r *rig) do(method, address, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	res, err := r.client.Do(r.request(method, address, body, header...))
	require.NoError(r.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	return res, string(b)
}

// connect connects a client and returns its socket when it has read OPEN.
func (r *rig) connect(id, token string) *websocket.Conn {
	r.t.Helper()
	ws := r.dial(id, token)
	require.JSONEq(r.t, `{"type":"OPEN"}`, readText(r.t, ws))
	return ws
}

func (r *rig) dial(id, token string) *websocket.Conn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	query := url.Values{"key": {"peerjs"}, "id": {id}, "token": {token}}
	ws, _, err := websocket.Dial(ctx, "http://peer.test/peerjs/peerjs?"+query.Encode(), &websocket.DialOptions{HTTPClient: r.client})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { ws.CloseNow() })
	return ws
}

func readText(t testing.TB, ws *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, b, err := ws.Read(ctx)
	require.NoError(t, err)
	return string(b)
}

// A stream is an open page, as the server sees it.
type stream struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Scanner
	raw   bytes.Buffer // all that came
}

// open opens a stream, which the test must close before its bubble ends.
func (r *rig) open(query string) *stream {
	r.t.Helper()
	res, err := r.client.Do(r.request("GET", "stream?"+query, ""))
	require.NoError(r.t, err)
	require.Equal(r.t, 200, res.StatusCode)
	require.Equal(r.t, "text/event-stream; charset=utf-8", res.Header.Get("Content-Type"))
	s := &stream{t: r.t, body: res.Body, lines: bufio.NewScanner(res.Body)}
	s.lines.Buffer(nil, 1<<22)
	r.t.Cleanup(s.close)
	return s
}

func (s *stream) close() { s.body.Close() }

// next returns the next event, and "" at the end of the stream.
func (s *stream) next() (name string, data []byte) {
	for s.lines.Scan() {
		line := s.lines.Text()
		s.raw.WriteString(line + "\n")
		if line == "" {
			return name, data
		}
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			data = []byte(v)
		}
	}
	return "", nil
}

// want wants the next event to have this name, and decodes its data.
func (s *stream) want(name string, into any) {
	s.t.Helper()
	got, data := s.next()
	require.Equal(s.t, name, got, "%s", data)
	if into != nil {
		require.NoError(s.t, json.Unmarshal(data, into))
	}
}

// wantView wants the next event to be a snapshot, and returns it.
func (s *stream) wantView() (v view) {
	s.t.Helper()
	s.want("snapshot", &v)
	return v
}

func (v view) ids() (ids []string) {
	for _, c := range v.Clients {
		ids = append(ids, c.ID)
	}
	return ids
}
