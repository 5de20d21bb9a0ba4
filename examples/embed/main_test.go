package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// A rig is the application, with a look at its count after each event.
type rig struct {
	*peertest.Host
	t     testing.TB
	site  http.Handler
	srv   *peer.Server
	steps chan string // "+alice: 1 online"
}

func newRig(t testing.TB) *rig {
	site, srv := newSite(slog.New(slog.DiscardHandler))
	r := &rig{t: t, site: site, srv: srv, steps: make(chan string, 10000)}
	// Registered after the application's own functions, so called after these.
	srv.OnConnection(func(c *peer.Client) { r.steps <- "+" + c.ID() + ": " + r.online() })
	srv.OnDisconnect(func(c *peer.Client, _ peer.DisconnectReason) { r.steps <- "-" + c.ID() + ": " + r.online() })
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	r.Host = peertest.New(t, site, "/peerjs")
	return r
}

func (r *rig) online() string {
	res := httptest.NewRecorder()
	r.site.ServeHTTP(res, httptest.NewRequest("GET", "/online", nil))
	return strings.TrimSuffix(res.Body.String(), "\n")
}

// want wants these events next, with the count after each.
func (r *rig) want(steps ...string) {
	r.t.Helper()
	for _, step := range steps {
		select {
		case got := <-r.steps:
			require.Equal(r.t, step, got)
		case <-time.After(waitLimit):
			r.t.Fatalf("nothing happened; want %s", step)
		}
	}
	require.True(r.t, strings.HasSuffix(steps[len(steps)-1], ": "+r.online()))
}

func TestTheCountIsExactAfterEveryStep(t *testing.T) {
	r := newRig(t)
	require.Equal(t, "0 online", r.online())
	r.Dial("alice")
	r.want("+alice: 1 online")
	bob := r.Dial("bob")
	r.want("+bob: 2 online")
	carol := r.Dial("carol")
	r.want("+carol: 3 online")

	// The same peer again.
	again := r.Dial("alice")
	r.want("-alice: 2 online", "+alice: 3 online")
	// Somebody else who wants the id of a peer is not online.
	require.Equal(t, peer.TypeIDTaken, r.DialRefused("alice", peertest.Token("other")).Type)
	require.Equal(t, "3 online", r.online())

	bob.Vanish()
	r.want("-bob: 2 online")
	carol.Close()
	r.want("-carol: 1 online")
	again.Leave()
	r.want("-alice: 0 online")

	r.Dial("dave")
	r.want("+dave: 1 online")
	r.srv.Realm().RemoveClient("dave")
	r.want("-dave: 0 online")
}

func TestTheCountIsExactInACrowd(t *testing.T) {
	const ids, rounds, each = 8, 10, 3
	r := newRig(t)
	var crowd sync.WaitGroup
	for i := range ids {
		for range each { // they take the id over from each other
			crowd.Go(func() {
				for range rounds {
					if c, err := r.TryDial(fmt.Sprintf("peer%d", i)); err == nil {
						c.Vanish()
					} else {
						assert.ErrorContains(t, err, "but the server closed the connection with 4002") // the next one came
					}
				}
			})
		}
	}
	crowd.Wait()
	require.NoError(t, r.srv.Close())
	require.Equal(t, "0 online", r.online())
	close(r.steps)
	live := map[string]int{}
	for step := range r.steps {
		id, count, _ := strings.Cut(step[1:], ":")
		live[id] += map[byte]int{'+': 1, '-': -1}[step[0]]
		require.Contains(t, []int{0, 1}, live[id], step)
		n := 0
		_, err := fmt.Sscanf(count, "%d online", &n)
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 0)
		require.LessOrEqual(t, n, ids)
	}
}

func TestTheOtherRoutesAreThere(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]struct {
		status int
		kind   string
	}{
		"/":                         {200, "text/html; charset=utf-8"},
		"/look.css":                 {200, "text/css; charset=utf-8"},
		"/online":                   {200, "text/plain; charset=utf-8"},
		"/peerjs/":                  {200, "application/json"},
		"/peerjs/web/peerjs.min.js": {200, "text/javascript; charset=utf-8"},
		"/peerjs/peerjs/id":         {200, "text/html; charset=utf-8"},
		"/nothing":                  {404, "text/plain; charset=utf-8"},
	} {
		res, err := r.HTTPClient().Get(r.URL + path)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want.status, res.StatusCode, path)
		require.Equal(t, want.kind, res.Header.Get("Content-Type"), path)
	}
}

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

func (l lines) want(t *testing.T, pattern string) []string {
	t.Helper()
	select {
	case line := <-l:
		parts := regexp.MustCompile(pattern).FindStringSubmatch(line)
		require.NotNil(t, parts, "want %s, have %s", pattern, line)
		return parts[1:]
	case <-time.After(waitLimit):
		t.Fatalf("no line came; want %s", pattern)
		return nil
	}
}

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	for range 10 {
		if live(t) {
			return
		}
	}
	t.Fatal("a request that was under way was never answered")
}

// live runs the program to its end. It reports whether the request that was to be under
// way then was answered: nobody can tell whether the program had read it.
func live(t *testing.T) (answered bool) {
	ctx, quit := context.WithCancel(t.Context())
	log := make(lines)
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", slog.New(slog.NewTextHandler(log, nil))) }()
	addr := log.want(t, `msg=listening url=http://(127\.0\.0\.1:[1-9][0-9]*)/$`)[0]
	connected := make(chan *websocket.Conn, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, waitLimit)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, "http://"+addr+"/peerjs/peerjs?key=peerjs&id=alice&token=1", nil)
		if assert.NoError(t, err) {
			_, data, err := ws.Read(ctx)
			assert.NoError(t, err)
			assert.JSONEq(t, `{"type":"OPEN"}`, string(data))
		}
		connected <- ws
	}()
	log.want(t, `connected.*id=alice`)
	ws := <-connected
	defer ws.CloseNow()

	online := func() string {
		res, err := http.Get("http://" + addr + "/online")
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return string(body)
	}
	for late := time.Now().Add(waitLimit); online() != "1 online\n"; { // the event may come after OPEN
		require.True(t, time.Now().Before(late))
	}

	// A request that is under way holds up the end, but not the end of the sockets.
	slow, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer slow.Close()
	_, err = io.WriteString(slow, "GET /online HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	require.NoError(t, err)
	online() // it should have been read
	quit()
	_, _, err = ws.Read(t.Context())
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
	io.WriteString(slow, "0123456789")
	answer, err := io.ReadAll(slow)
	if answered = err == nil && len(answer) > 0; answered {
		require.Contains(t, string(answer), "1 online\n")
	}

	// So does an event: this one wants to log.
	select {
	case err := <-done:
		t.Fatalf("the program ended before its last event: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	log.want(t, `disconnected.*id=alice`)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}
	return answered
}

func TestTheProgramSaysIfItCannotListen(t *testing.T) {
	require.Error(t, run(t.Context(), "127.0.0.1:-1", slog.New(slog.DiscardHandler)))
}
