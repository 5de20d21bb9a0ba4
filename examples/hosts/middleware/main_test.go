package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
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

func newRig(t *testing.T) (url string, srv *peer.Server, log lines) {
	log = make(lines, 100)
	site, srv := newSite(slog.New(slog.NewTextHandler(log, nil)))
	ts := httptest.NewServer(site)
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		ts.Close()
	})
	return ts.URL, srv, log
}

func dial(t *testing.T, url string, header http.Header) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url+"/peerjs/peerjs?key=peerjs&id=alice&token=secret", &websocket.DialOptions{HTTPHeader: header})
	require.NoError(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	_, data, err := ws.Read(ctx)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"OPEN"}`, string(data))
	return ws
}

func TestASocketGoesThroughTheStack(t *testing.T) {
	url, srv, log := newRig(t)
	res, err := http.Get(url + "/")
	require.NoError(t, err)
	res.Body.Close()
	require.Len(t, res.Cookies(), 1)
	cookie := res.Cookies()[0]
	log.want(t, `msg=request method=GET path=/ status=200`)

	ws := dial(t, url, http.Header{"Cookie": {cookie.String()}})
	log.want(t, `msg=request method=GET path=/peerjs/peerjs status=101`, `msg=online peer=alice visitor=`+cookie.Value)
	require.Equal(t, cookie.Value, srv.Realm().Client("alice").User())
	require.NoError(t, ws.Close(websocket.StatusNormalClosure, ""))
	log.want(t, `msg=offline peer=alice visitor=`+cookie.Value+` why="client closed"`)

	// Who comes with a socket first is a visitor, too, and gets the cookie with the answer.
	dial(t, url, nil).CloseNow()
	log.want(t, `msg=request .*status=101`, `msg=online peer=alice visitor=[A-Z2-7]+$`, `msg=offline peer=alice .*why="connection lost"`)
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	url, _, log := newRig(t)
	res, err := http.Get(url + "/broken")
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)
	log.want(t, `msg=panic path=/broken value=broken`, `msg=request .*path=/broken status=500`)
}

func TestTheTokenOfAClientIsNotLogged(t *testing.T) {
	url, srv, log := newRig(t)
	dial(t, url, nil)
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
	url := regexp.MustCompile(`http://[0-9.:]+`).FindString(<-log)
	ws := dial(t, url, nil)
	quit()
	_, _, err := ws.Read(t.Context())
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}
	require.Error(t, run(t.Context(), "127.0.0.1:-1", slog.New(slog.DiscardHandler)))
}
