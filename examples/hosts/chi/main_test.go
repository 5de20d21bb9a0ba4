package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go of the root module
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// A rig is the application on a loopback socket, and what its events have seen.
type rig struct {
	t      *testing.T
	url    string
	events chan string
}

func newRig(t *testing.T) *rig {
	site, srv := newSite(slog.New(slog.DiscardHandler))
	r := &rig{t: t, events: make(chan string, 100)}
	srv.OnConnection(func(c *peer.Client) { r.events <- "+" + c.ID() + " of " + c.User().(string) })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		r.events <- "-" + c.ID() + " of " + c.User().(string) + ": " + why.String()
	})
	ts := httptest.NewServer(site)
	r.url = ts.URL
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		ts.Close()
	})
	return r
}

func (r *rig) wantEvent(event string) {
	r.t.Helper()
	select {
	case got := <-r.events:
		require.Equal(r.t, event, got)
	case <-time.After(waitLimit):
		r.t.Fatalf("nothing happened; want %s", event)
	}
}

// dial opens a socket through the router and wants this message first.
func (r *rig) dial(team, id, first string) *websocket.Conn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, r.url+"/teams/"+team+"/peerjs/peerjs?key=peerjs&id="+id+"&token=1", nil)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { ws.CloseNow() })
	_, data, err := ws.Read(ctx)
	require.NoError(r.t, err)
	require.JSONEq(r.t, first, string(data))
	return ws
}

func (r *rig) get(path string) string {
	r.t.Helper()
	res, err := http.Get(r.url + path)
	require.NoError(r.t, err)
	defer res.Body.Close()
	require.Equal(r.t, http.StatusOK, res.StatusCode, path)
	body, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	return string(body)
}

const open = `{"type":"OPEN"}`

func TestEventsKnowTheParameterOfTheRoute(t *testing.T) {
	r := newRig(t)
	alice := r.dial("red", "alice", open)
	r.wantEvent("+alice of red")
	bob := r.dial("blue", "bob", open)
	r.wantEvent("+bob of blue")
	require.Equal(t, "2 online\n", r.get("/online"))
	require.Equal(t, "1 online\n", r.get("/teams/red/online"))

	require.NoError(t, alice.Close(websocket.StatusNormalClosure, ""))
	r.wantEvent("-alice of red: client closed")
	bob.CloseNow()
	r.wantEvent("-bob of blue: connection lost")
	require.Equal(t, "0 online\n", r.get("/online"))
}

func TestAnUnknownTeamIsTurnedAway(t *testing.T) {
	r := newRig(t)
	r.dial("green", "alice", `{"type":"ERROR","payload":{"msg":"There is no team \"green\""}}`)
	require.Equal(t, "0 online\n", r.get("/online"))
}

func TestAPageGetsAnIDThroughTheRouter(t *testing.T) {
	r := newRig(t)
	require.Len(t, r.get("/teams/red/peerjs/peerjs/id"), 36)
}

func TestThePageAndItsFilesAreThere(t *testing.T) {
	r := newRig(t)
	require.Contains(t, r.get("/"), "<title>chi</title>")
	require.Contains(t, r.get("/look.css"), ":root")
	require.Contains(t, r.get("/web/peerjs.min.js"), "window.Peer=")
	for _, team := range []string{"red", "blue"} {
		require.Contains(t, r.get("/"), `"?team=`+team+`"`)
		require.Equal(t, "0 online\n", r.get("/teams/"+team+"/online"))
	}
}
