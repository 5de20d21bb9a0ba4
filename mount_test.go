package peer

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page is what builds addresses as a PeerJS client 1.5.5 with these options
// does.
type page struct {
	*rig
	path, key string
}

func newPage(r *rig, path, key string) page {
	if key == "" {
		key = "peerjs"
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return page{r, path, key}
}

// browserEscape escapes what a browser escapes by itself in an address.
func browserEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"<>'`, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// ask makes one of the client's requests and returns status and body.
func (p page) ask(method string) (int, string) {
	p.t.Helper()
	res, body := p.get("GET", browserEscape(p.path+p.key+"/"+method)+fmt.Sprintf("?ts=%d0.123&version=1.5.5", time.Now().UnixMilli()))
	return res.StatusCode, body
}

// open opens the client's socket and wants OPEN.
func (p page) open(id string) *testPeer {
	p.t.Helper()
	peer := p.dialURL(p.url+browserEscape(p.path+"peerjs?key="+p.key+"&id="+id+"&token=t"+id)+"&version=1.5.5", nil)
	peer.wantOpen()
	return peer
}

// wantIntroduced wants that an offer and its answer pass between two peers.
func wantIntroduced(a, b *testPeer) {
	a.t.Helper()
	a.offer(b.id, `{"sdp":"v=0"}`)
	b.wantOffer(a.id, `{"sdp":"v=0"}`)
	b.send(fmt.Sprintf(`{"type":"ANSWER","dst":%q,"payload":{}}`, a.id))
	a.want(fmt.Sprintf(`{"type":"ANSWER","src":%q,"dst":%q,"payload":{}}`, b.id, a.id))
}

// on mounts a server in a ServeMux under each of the patterns.
func on(patterns ...string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		for _, p := range patterns {
			mux.Handle(p, h)
		}
		return mux
	}
}

// below passes everything below a prefix on as it came, as a router of chi, gin
// or echo does, and notes pattern in the request, as some of them do.
func below(prefix, pattern string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != prefix && !strings.HasPrefix(r.URL.Path, prefix+"/") {
				http.NotFound(w, r)
				return
			}
			r.Pattern = pattern
			h.ServeHTTP(w, r)
		})
	}
}

func stripped(prefix string, patterns ...string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return on(patterns...)(http.StripPrefix(prefix, h)) }
}

// muxInMux mounts a mux in a mux.
func muxInMux(h http.Handler) http.Handler {
	return on("/app/")(http.StripPrefix("/app", on("/peerjs/")(h)))
}

var mounts = []struct {
	name       string
	opts       Options
	mount      func(http.Handler) http.Handler
	path       string // of the client
	socketOnly bool   // no id can be fetched
	info       []string
}{
	// DESIGN.md's table.
	{name: "a subtree", mount: on("/peerjs/"), path: "/peerjs", info: []string{"/peerjs/", "/peerjs"}},
	{name: "one address", mount: on("/peerjs"), path: "/", socketOnly: true},
	{name: "both, client at the root", mount: on("/peerjs", "/peerjs/"), path: "/", info: []string{"/peerjs/"}},
	{name: "both, client below", mount: on("/peerjs", "/peerjs/"), path: "/peerjs", info: []string{"/peerjs/"}},
	{name: "the root of a mux", mount: on("/"), path: "/", info: []string{"/", ""}},
	{name: "a stripped prefix", mount: stripped("/a/b", "/a/b/"), path: "/a/b", info: []string{"/a/b/", "/a/b"}},
	{name: "the Path option", opts: Options{Path: "/myapp"}, mount: on("/peerjs/"), path: "/peerjs/myapp", info: []string{"/peerjs/myapp", "/peerjs/myapp/"}},

	// And what else a host may do.
	{name: "no mux", mount: func(h http.Handler) http.Handler { return h }, path: "/", info: []string{"/", ""}},
	{name: "path without slashes", mount: on("/peerjs/"), path: "peerjs", info: []string{"/peerjs/"}},
	{name: "another name", mount: on("/sig", "/sig/"), path: "/sig/", info: []string{"/sig", "/sig/"}},
	{name: "a stripped prefix and its bare address", mount: stripped("/a", "/a", "/a/"), path: "/a", info: []string{"/a", "/a/"}},
	{name: "pattern with a method", mount: on("GET /sig/"), path: "/sig", info: []string{"/sig/"}},
	{name: "pattern with a host", mount: on("127.0.0.1/sig/"), path: "/sig", info: []string{"/sig/"}},
	{name: "pattern with a wildcard", mount: on("/sig/{rest...}"), path: "/sig", info: []string{"/sig/"}},
	{name: "pattern with a wildcard before", mount: on("/{tenant}/sig/"), path: "/acme/sig", info: []string{"/acme/sig/"}},
	{name: "a mux in a mux", mount: muxInMux, path: "/app/peerjs", info: []string{"/app/peerjs/"}},
	{name: "prefix router", mount: below("/sig", ""), path: "/sig", info: []string{"/sig/"}},
	{name: "prefix router with its pattern", mount: below("/v1/sig", "/v1/sig/*"), path: "/v1/sig", info: []string{"/v1/sig/", "/v1/sig"}},
	{name: "prefix router, Path option", opts: Options{Path: "a/b/"}, mount: below("/sig", ""), path: "/sig/a/b", info: []string{"/sig/a/b", "/sig/a/b/"}},
	{name: "Path option with slashes around", opts: Options{Path: "/a/"}, mount: on("/"), path: "/a", info: []string{"/a", "/a/"}},
}

func TestMountedAnywhere(t *testing.T) {
	for _, m := range mounts {
		t.Run(m.name, func(t *testing.T) {
			srv := NewServer(m.opts)
			p := newPage(serveRig(t, srv, m.mount(srv)), m.path, "")
			ids := []string{"alice", "bob"}
			for i := range ids {
				status, body := p.ask("id")
				if m.socketOnly {
					require.Equal(t, 404, status)
					continue
				}
				require.Equal(t, 200, status, body)
				require.Len(t, body, 36)
				ids[i] = body
			}
			wantIntroduced(p.open(ids[0]), p.open(ids[1]))
			require.ElementsMatch(t, ids, srv.Realm().ClientIDs())
		})
	}
}

// unwrapper is a middleware's ResponseWriter that can do nothing but be seen
// through.
type unwrapper struct{ inner http.ResponseWriter }

func (w unwrapper) Header() http.Header { return w.inner.Header() }

func (w unwrapper) Write(b []byte) (int, error) { return w.inner.Write(b) }

func (w unwrapper) WriteHeader(status int) { w.inner.WriteHeader(status) }

func (w unwrapper) Unwrap() http.ResponseWriter { return w.inner }

// sealed is one that cannot be seen through.
type sealed struct{ http.ResponseWriter }

func TestMiddlewareThatUnwraps(t *testing.T) {
	srv := NewServer(Options{})
	r := serveRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(unwrapper{unwrapper{w}}, r)
	}))
	wantIntroduced(r.connect("alice"), r.connect("bob"))
}

func TestMiddlewareThatCannotUpgrade(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"sealed": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(sealed{w}, r) })
		},
		"sealed below one that unwraps": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapper{sealed{w}}, r) })
		},
		"http.TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where a goroutine that is left over is noticed
				srv := NewServer(Options{})
				rec := watch(srv)
				r := serveBubbleRig(t, srv, wrap(srv))
				res, body := r.get("GET", "/peerjs?key=peerjs&id=a&token=t", "Connection", "Upgrade", "Upgrade", "websocket",
					"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
				require.Equal(t, 501, res.StatusCode)
				require.Equal(t, "text/plain; charset=utf-8", res.Header.Get("Content-Type"))
				require.Contains(t, body, "upgrade")
				require.Empty(t, res.Header.Get("Sec-WebSocket-Accept"))
				require.Zero(t, srv.Realm().Len())
				require.Empty(t, rec.all())
				require.EqualValues(t, 1, srv.Stats().Refused["bad upgrade"])

				res, _ = r.get("GET", "/peerjs/id")
				require.Equal(t, 200, res.StatusCode, "what needs no upgrade works")
			})
		})
	}
}

// brokenHijacker promises what the ResponseWriter below it does not keep, as
// many a middleware for logging does.
type brokenHijacker struct{ http.ResponseWriter }

func (brokenHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("not supported")
}

func TestMiddlewareWhoseHijackFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{})
		rec := watch(srv)
		r := serveBubbleRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Language", "de")
			srv.ServeHTTP(brokenHijacker{w}, r)
		}))
		p := r.rawOpen()
		res := p.handshake("a")
		require.Equal(t, 501, res.StatusCode)
		require.Equal(t, "de", res.Header.Get("Content-Language"))
		require.Equal(t, "text/plain; charset=utf-8", res.Header.Get("Content-Type"))
		for _, name := range []string{"Upgrade", "Connection", "Sec-WebSocket-Accept"} {
			require.Empty(t, res.Header.Get(name), name)
		}
		require.Empty(t, rec.all())
		require.EqualValues(t, 1, srv.Stats().Refused["bad upgrade"])
	})
}

// holding is middleware that holds the status back until it knows the body, as those do
// that compress. What is flushed before that is nothing.
type holding struct {
	http.ResponseWriter
	code int
}

func (w *holding) WriteHeader(code int) { w.code = code }

func (w *holding) Flush() {}

func (w *holding) Write(p []byte) (int, error) {
	if w.code != 0 {
		w.ResponseWriter.WriteHeader(w.code)
		w.code = 0
	}
	return w.ResponseWriter.Write(p)
}

func (w *holding) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func TestMiddlewareThatHoldsTheStatusBack(t *testing.T) {
	srv := NewServer(Options{})
	r := serveRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &holding{ResponseWriter: w}
		srv.ServeHTTP(h, r)
		if h.code != 0 {
			w.WriteHeader(h.code)
		}
	}))
	wantIntroduced(r.connect("alice"), r.connect("bob"))
	p := r.rawOpen()
	p.write([]byte(strings.Replace(handshakeFor(socketTarget("carol", "t")), "Version: 13", "Version: 12", 1)))
	res := p.response()
	require.Equal(t, 400, res.StatusCode, "the library's refusal goes the way of every answer")
	require.Equal(t, "13", res.Header.Get("Sec-WebSocket-Version"))
}

// The answer to a handshake has the fields that the host and its middleware have set, but
// none about a body, and it goes past middleware, which would interpret it.
func TestTheUpgradeHasTheFieldsOfTheHost(t *testing.T) {
	srv := NewServer(Options{})
	seen := make(chan *statusWriter, 1)
	r := serveRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w}
		h := w.Header()
		h.Set("X-Request-Id", "7")
		h.Set("X-Break", "a\r\nInjected: b")
		h.Set("Content-Type", "text/html")
		h.Set("Content-Length", "5")
		h.Set("Content-Encoding", "gzip")
		h.Set("Transfer-Encoding", "chunked")
		h.Set("Connection", "close")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		srv.ServeHTTP(sw, r)
		seen <- sw
	}))
	p := r.rawOpen()
	res := p.handshake("a")
	require.Equal(t, "HTTP/1.1 101 Switching Protocols", res.Proto+" "+res.Status)
	res.Header.Del("Vary") // of CORS
	require.Equal(t, http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		"X-Request-Id": {"7"}, "X-Break": {"a  Injected: b"}, "Set-Cookie": {"a=1", "b=2"},
	}, res.Header)
	p.want(`{"type":"OPEN"}`)
	sw := <-seen
	require.Empty(t, sw.codes, "middleware sees no status")
	require.Equal(t, "text/html", sw.Header().Get("Content-Type"), "its header stays as it was")
	require.Empty(t, sw.Header().Get("Sec-WebSocket-Accept"))
}

// A client that does not read delays its own handshake only, and that not for ever.
func TestTheAnswerToAHandshakeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawOpen()
		start := time.Now()
		p.write([]byte(handshakeFor(socketTarget("a", "t")))) // a pipe takes nothing that nobody reads
		synctest.Wait()
		require.Zero(t, r.srv.Stats().Refused["bad upgrade"])
		time.Sleep(DefaultWriteTimeout + time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, r.srv.Stats().Refused["bad upgrade"])
		p.wantGone()
		require.Equal(t, DefaultWriteTimeout+time.Second, time.Since(start))
	})
}

// statusWriter is middleware for an access log.
type statusWriter struct {
	http.ResponseWriter
	codes []int
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) WriteHeader(code int) {
	w.codes = append(w.codes, code)
	w.ResponseWriter.WriteHeader(code)
}

func TestABrokenUpgradeIsRefused(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	for _, header := range [][]string{
		{"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "short"},
		{"Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		res, _ := r.get("GET", "/peerjs?key=peerjs&id=a&token=t", append(header, "Connection", "keep-alive, Upgrade", "Upgrade", "WebSocket")...)
		assert.Equal(t, 400, res.StatusCode)
	}
	require.Empty(t, rec.all())
	require.Zero(t, r.srv.Realm().Len())
}
