package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 See upgrade.go of the root module.
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer/peerredis/redistest"
)

const waitLimit = 20 * time.Second

// node runs the program on a port of its own and returns its address. The function stop ends it as a
// signal does.
func node(t *testing.T, url string) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg, err := parse([]string{"--redis", url}, func(string) string { return "" })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l, cfg, log.New(io.Discard, "", 0)) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			assert.NoError(t, <-ended)
		}
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func status(t *testing.T, addr, path string) int {
	t.Helper()
	res, err := http.Get("http://" + addr + path)
	require.NoError(t, err)
	res.Body.Close()
	return res.StatusCode
}

func connect(t *testing.T, ctx context.Context, addr, id string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(ctx, "ws://"+addr+"/peerjs?key=peerjs&token=t&id="+id, nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.CloseNow() })
	require.Contains(t, read(t, ctx, c), `"OPEN"`)
	return c
}

func read(t *testing.T, ctx context.Context, c *websocket.Conn) string {
	t.Helper()
	_, text, err := c.Read(ctx)
	require.NoError(t, err)
	return string(text)
}

func TestAClientReachesAClientOfAnotherNode(t *testing.T) {
	url := "redis://" + redistest.Start(t).Addr()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	one, stop := node(t, url)
	two, _ := node(t, url)
	for _, addr := range []string{one, two} {
		require.Equal(t, http.StatusOK, status(t, addr, "/healthz"))
		require.Equal(t, http.StatusOK, status(t, addr, "/readyz"))
	}
	a, b := connect(t, ctx, one, "a"), connect(t, ctx, two, "b")
	require.NoError(t, a.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"b","payload":1}`)))
	require.JSONEq(t, `{"type":"OFFER","src":"a","dst":"b","payload":1}`, read(t, ctx, b))
	require.NoError(t, b.Write(ctx, websocket.MessageText, []byte(`{"type":"ANSWER","dst":"a","payload":2}`)))
	require.JSONEq(t, `{"type":"ANSWER","src":"b","dst":"a","payload":2}`, read(t, ctx, a))

	closed := make(chan error, 1)
	go func() {
		_, _, err := a.Read(ctx)
		closed <- err
	}()
	stop()
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(<-closed))
	again := connect(t, ctx, two, "a")
	require.NoError(t, b.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"a","payload":3}`)))
	require.Contains(t, read(t, ctx, again), `"payload":3`)
}

func TestANodeWithoutRedisLivesAndIsNotReady(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	addr, _ := node(t, "redis://"+l.Addr().String())
	require.Equal(t, http.StatusOK, status(t, addr, "/healthz"))
	require.Equal(t, http.StatusServiceUnavailable, status(t, addr, "/readyz"))
}

func TestRedisURLs(t *testing.T) {
	for url, want := range map[string]redis.UniversalOptions{
		"redis://localhost":             {Addrs: []string{"localhost:6379"}},
		"redis://u:p%40@h:1/2":          {Addrs: []string{"h:1"}, Username: "u", Password: "p@", DB: 2},
		"redis://a,b:7":                 {Addrs: []string{"a:6379", "b:7"}},
		"redis://:p@a:1,redis://b:7":    {Addrs: []string{"a:1", "b:7"}, Password: "p"},
		"redis://[::1]:7":               {Addrs: []string{"[::1]:7"}},
		"redis+sentinel://a:1,b/main":   {Addrs: []string{"a:1", "b:26379"}, MasterName: "main"},
		"redis+sentinel://u:p@a/main/3": {Addrs: []string{"a:26379"}, MasterName: "main", Username: "u", Password: "p", DB: 3},
	} {
		got, err := redisOptions(url)
		if assert.NoError(t, err, url) {
			assert.Equal(t, want, got, url)
		}
	}
	got, err := redisOptions("rediss://a,b")
	require.NoError(t, err)
	require.NotNil(t, got.TLSConfig)
	require.Empty(t, got.TLSConfig.ServerName)
	for _, url := range []string{"", "localhost:6379", "http://a", "redis://", "redis://a,", "redis://a,b/1", "redis://a/x",
		"redis+sentinel://a", "redis://u:secret@a,redis://u:secret@b", "redis://u:secret%@a"} {
		_, err := redisOptions(url)
		if assert.Error(t, err, url) {
			assert.NotContains(t, err.Error(), "secret")
		}
	}
}

func TestTheCommandLine(t *testing.T) {
	env := func(string) string { return "redis://from-env" }
	none := func(string) string { return "" }
	cfg, err := parse(strings.Fields("-p 1 --host h --path /x -k y --allow_discovery --prefix z --redis_cluster"), env)
	require.NoError(t, err)
	require.Equal(t, []string{"from-env:6379"}, cfg.redis.Addrs)
	require.True(t, cfg.redis.IsClusterMode)
	require.Equal(t, []any{1, "h", "/x", "y", true, "z"},
		[]any{cfg.port, cfg.host, cfg.opts.Path, cfg.opts.Key, cfg.opts.AllowDiscovery, cfg.prefix})
	var out strings.Builder
	require.Equal(t, 0, run(t.Context(), []string{"--help"}, none, &out, io.Discard))
	require.Equal(t, usage, out.String())
	for _, args := range []string{"--version", "--redis redis://a,b:1 --version"} {
		out.Reset()
		require.Equal(t, 0, run(t.Context(), strings.Fields(args), none, &out, io.Discard))
		require.Regexp(t, `^cluster .*\(go1\..*\)\n$`, out.String())
	}
	for _, args := range []string{"--version --redis x", "", "--redis x", "--redis redis://a more", "--port x"} {
		require.Equal(t, 2, run(t.Context(), strings.Fields(args), none, io.Discard, io.Discard), args)
	}
}
