package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

// want wants these lines next, in any order, and returns them: the events of a client and
// the access log do not wait for each other.
func (l lines) want(t *testing.T, patterns ...string) (got []string) {
	t.Helper()
	for range patterns {
		select {
		case line := <-l:
			got = append(got, line)
		case <-time.After(waitLimit):
			t.Fatalf("no line came after %q; want %q", got, patterns)
		}
	}
	for _, p := range patterns {
		require.Condition(t, func() bool {
			for _, line := range got {
				if regexp.MustCompile(p).MatchString(line) {
					return true
				}
			}
			return false
		}, "want %s among %q", p, got)
	}
	return got
}

func newRig(t *testing.T) (*peertest.Host, *peer.Server, lines) {
	log := make(lines, 100)
	site, srv := newSite(slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return peertest.New(t, site, "/peerjs", peertest.Token("secret")), srv, log
}

func TestASocketGoesThroughTheStack(t *testing.T) {
	h, srv, log := newRig(t)
	browser := h.HTTPClient()
	res, err := browser.Get(h.URL + "/")
	require.NoError(t, err)
	res.Body.Close()
	require.Len(t, res.Cookies(), 1)
	visitor := res.Cookies()[0].Value
	log.want(t, `msg=request method=GET path=/ status=200`)

	alice := h.Dial("alice", peertest.Jar(browser.Jar))
	log.want(t, `msg=request method=GET path=/peerjs/peerjs status=101`, `msg=online peer=alice visitor=`+visitor)
	require.Equal(t, visitor, srv.Realm().Client("alice").User())
	alice.Close()
	log.want(t, `msg=offline peer=alice visitor=`+visitor+` why="client closed"`)

	// Who comes with a socket first is a visitor, too, and gets the cookie with the answer.
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	h.Dial("alice", peertest.Jar(jar)).Vanish()
	got := log.want(t, `msg=request .*status=101`, `msg=online peer=alice visitor=[A-Z2-7]+$`, `msg=offline peer=alice .*why="connection lost"`)
	cookies := jar.Cookies(&url.URL{Scheme: "http", Host: "example.com", Path: "/"})
	require.Len(t, cookies, 1)
	require.Contains(t, strings.Join(got, "\n"), "msg=online peer=alice visitor="+cookies[0].Value)
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	h, _, log := newRig(t)
	res, err := h.HTTPClient().Get(h.URL + "/broken")
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)
	log.want(t, `msg=panic path=/broken value=broken`, `msg=request .*path=/broken status=500`)
}

func TestTheTokenOfAClientIsNotLogged(t *testing.T) {
	h, srv, log := newRig(t)
	h.Dial("alice")
	require.NoError(t, srv.Close())
	for _, line := range log.want(t, `msg=request .*status=101`, `msg=online`, `msg=offline`) {
		require.NotContains(t, line, "secret")
	}
}

func TestTheProgramEndsWithItsSockets(t *testing.T) {
	log := make(lines, 100)
	ctx, quit := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", slog.New(slog.NewTextHandler(log, nil))) }()
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(<-log)
	limited, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(limited, address+"/peerjs/peerjs?key=peerjs&id=alice&token=1", nil)
	require.NoError(t, err)
	defer ws.CloseNow()
	_, data, err := ws.Read(limited)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"OPEN"}`, string(data))
	quit()
	_, _, err = ws.Read(limited)
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}
	require.Error(t, run(t.Context(), "127.0.0.1:-1", slog.New(slog.DiscardHandler)))
}
