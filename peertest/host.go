package peertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// origin is the address of the host, and the origin of its pages. The name is that of [net/http/httptest.NewRequest].
const origin = "http://example.com"

// A Host is the application under test, on a server in memory. [New] makes one; the zero value cannot be used.
//
// The methods may be called concurrently. When [Host.Dial], [Host.DialRefused], [Host.NewID] and [Host.IDs] fail, they
// call FailNow, which only the goroutine of the test may do (see [testing.T.FailNow]). So on other goroutines use
// [Host.TryDial] and [Host.HTTPClient].
type Host struct {
	// URL is the address of the application without a path, "http://example.com". Only the clients of this Host reach
	// the application. They reach it under any other name too.
	URL string

	t        testing.TB
	base     string // path of the signalling server, with a slash at both ends
	cfg      config
	listener *pipeListener
	server   *http.Server
	served   chan struct{}   // closed when Serve has returned
	ended    context.Context // ends with the test
	end      context.CancelFunc
	requests sync.WaitGroup // connections that are not hijacked, and calls of the handler

	mu      sync.Mutex // guards the following
	clients []*Client  // none is added after the end
}

// New serves the handler of a whole application until the end of the test. The path is the option "path" of the PeerJS
// clients, so for a server that is mounted at "/peerjs/" it is "/peerjs". The options are the defaults of all clients.
//
// At the end of the test all connections end without close frames. The test fails if the handler does not return
// within the [Timeout] after that. The [peer.Server] in the handler is not closed; see the package comment.
//
// For a test in a bubble of [testing/synctest], call New inside the bubble, with the T of the bubble.
func New(t testing.TB, handler http.Handler, path string, opts ...Option) *Host {
	h := &Host{
		URL:      origin,
		t:        t,
		base:     strings.TrimSuffix("/"+strings.TrimPrefix(path, "/"), "/") + "/",
		cfg:      config{}.with(opts),
		listener: newPipeListener(),
		served:   make(chan struct{}),
	}
	h.ended, h.end = context.WithCancel(context.Background())
	h.server = &http.Server{Handler: h.counted(handler), ConnState: h.countConn}
	go func() {
		defer close(h.served)
		h.server.Serve(h.listener) // always returns http.ErrServerClosed
	}()
	t.Cleanup(h.close)
	return h
}

// counted makes requests count the calls of a handler.
func (h *Host) counted(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1) // the connection is counted too, so this is never the first one
		defer h.requests.Done()
		handler.ServeHTTP(w, r)
	})
}

// countConn makes requests count connections, until they end or are hijacked.
func (h *Host) countConn(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		h.requests.Add(1)
	case http.StateHijacked, http.StateClosed:
		h.requests.Done()
	}
}

func (h *Host) close() {
	h.mu.Lock()
	h.end()
	clients := h.clients
	h.mu.Unlock()
	for _, c := range clients {
		c.Vanish()
	}
	h.server.Close()
	<-h.served
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.requests.Wait()
	}()
	timer := time.NewTimer(h.cfg.timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		h.t.Errorf("peertest: the handler has not returned for %v after the connections were closed", h.cfg.timeout)
	}
}

var errEnded = errors.New("the test has ended")

// add notes a client, whose connection ends with the test.
func (h *Host) add(c *Client) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended.Err() != nil {
		return errEnded
	}
	h.clients = append(h.clients, c)
	return nil
}

// HTTPClient returns a new HTTP client for all routes of the application. It has a cookie jar of its own, unless the
// option [Jar] gives it one. To connect a signalling socket with the same cookies, give its Jar to [Host.Dial]. Its own
// jar sends Secure cookies too, although the address begins with "http:", as browsers do for localhost. The client
// uses the options [Header], [From] and [Timeout]. The Timeout bounds a request with the body of its answer. The
// client keeps no connection open, and its requests end with the test.
func (h *Host) HTTPClient(opts ...Option) *http.Client {
	cfg := h.cfg.with(opts)
	if cfg.jar == nil {
		jar, _ := cookiejar.New(nil) // has no error
		cfg.jar = secureJar{jar}
	}
	return &http.Client{Transport: newTransport(h, cfg, nil), Jar: cfg.jar}
}

// A secureJar takes every address for one with TLS.
type secureJar struct{ jar http.CookieJar }

func (j secureJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.jar.SetCookies(secure(u), cookies)
}
func (j secureJar) Cookies(u *url.URL) []*http.Cookie { return j.jar.Cookies(secure(u)) }

func secure(u *url.URL) *url.URL {
	u2 := *u
	u2.Scheme = "https"
	return &u2
}

// NewID asks the server for a new id, as new Peer() without an id does. The test fails unless the server answers with
// 200.
func (h *Host) NewID(opts ...Option) string {
	h.t.Helper()
	id, err := h.get("id", opts)
	if err != nil {
		h.t.Fatal(fmt.Errorf("peertest: NewID %w", err))
	}
	return string(id)
}

// IDs asks the server for the connected ids, as peer.listAllPeers() does. The test fails unless the server answers with
// 200 and a list, which needs AllowDiscovery of [peer.Options].
func (h *Host) IDs(opts ...Option) (ids []string) {
	h.t.Helper()
	body, err := h.get("peers", opts)
	if err == nil && json.Unmarshal(body, &ids) != nil {
		err = fmt.Errorf("expected a list of ids, but got %q", body)
	}
	if err != nil {
		h.t.Fatal(fmt.Errorf("peertest: IDs %w", err))
	}
	return ids
}

// get makes a request for one of the addresses below the key.
func (h *Host) get(what string, opts []Option) ([]byte, error) {
	cfg := h.cfg.with(opts)
	res, err := h.HTTPClient(opts...).Get(h.URL + h.base + url.PathEscape(cfg.key) + "/" + what + "?version=" + version)
	if err != nil {
		return nil, fmt.Errorf("expected 200 OK, but the request failed: %w", withoutURL(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("expected the body of the answer, but reading it failed: %w", withoutURL(err))
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("expected 200 OK, but got %s: %q", res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}
