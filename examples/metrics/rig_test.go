package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go of the root module
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

const open = `{"type":"OPEN"}`

// bounded has every bound that has a series.
var bounded = peer.Options{ConcurrentLimit: 10, MaxRooms: 20, MaxHeldBytes: 30_000, MaxPartialBytes: 40_000}

// A rig is the application on a loopback socket.
type rig struct {
	t    testing.TB
	srv  *peer.Server
	url  string
	left chan string // "alice: left", after it has been counted
}

func newRig(t testing.TB, opts peer.Options) *rig {
	site, srv := newSite(opts)
	r := &rig{t: t, srv: srv, left: make(chan string, 1000)}
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { r.left <- c.ID() + ": " + why.String() })
	ts := httptest.NewServer(site)
	r.url = ts.URL
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		ts.Close()
	})
	return r
}

func (r *rig) wantLeft(line string) {
	r.t.Helper()
	select {
	case got := <-r.left:
		require.Equal(r.t, line, got)
	case <-time.After(waitLimit):
		r.t.Fatalf("nobody left; want %s", line)
	}
}

// A scrape is what Prometheus sees: the value of each series, with its labels as they
// are written.
type scrape map[string]float64

func (r *rig) scrape() scrape {
	r.t.Helper()
	res, err := http.Get(r.url + "/metrics")
	require.NoError(r.t, err)
	defer res.Body.Close()
	require.Equal(r.t, http.StatusOK, res.StatusCode)
	require.Contains(r.t, res.Header.Get("Content-Type"), "text/plain")
	text, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	return parse(r.t, string(text))
}

func parse(t testing.TB, text string) scrape {
	s := make(scrape)
	for line := range strings.Lines(text) {
		if line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		require.NoError(t, err, line)
		s[line[:i]] = v
	}
	return s
}

// fixed are the series that do not depend on what clients do, and the times of handshakes.
var fixed = regexp.MustCompile(
	`^peer_(\w+_limit(_bytes)?|start_time_seconds|build_info|handshake_duration_seconds_(bucket|sum))\b`)

// ours returns the series of the server that are not 0, without the fixed ones.
func (s scrape) ours() scrape {
	some := make(scrape)
	for series, v := range s {
		if strings.HasPrefix(series, "peer_") && v != 0 && !fixed.MatchString(series) {
			some[series] = v
		}
	}
	return some
}

// names returns the names of all series.
func (s scrape) names() map[string]bool {
	names := make(map[string]bool)
	for series := range s {
		name, _, _ := strings.Cut(series, "{")
		names[name] = true
	}
	return names
}

// A client counts the bytes that pass, as the server should.
type client struct {
	t         testing.TB
	ws        *websocket.Conn
	sent, got int
}

func (r *rig) dial(key, id, token string) *client {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, r.url+"/peerjs/peerjs?key="+key+"&id="+id+"&token="+token, nil)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { ws.CloseNow() })
	return &client{t: r.t, ws: ws}
}

func (c *client) send(frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	require.NoError(c.t, c.ws.Write(ctx, websocket.MessageText, []byte(frame)))
	c.sent += len(frame)
}

// want wants the next frame, byte for byte.
func (c *client) want(frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	require.NoError(c.t, err)
	require.Equal(c.t, frame, string(data))
	require.Less(c.t, len(data), 126, "the header would be longer")
	c.got += 2 + len(data)
}

// wantEnd wants the close frame.
func (c *client) wantEnd(code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	require.Empty(c.t, data)
	var end websocket.CloseError
	require.True(c.t, errors.As(err, &end), "%v", err)
	require.EqualValues(c.t, code, end.Code)
	c.got += 2 + 2 + len(end.Reason)
}
