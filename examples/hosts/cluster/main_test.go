package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 See upgrade.go of the root module.
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer/peerredis/redistest"
)

const waitLimit = 20 * time.Second

// TestMain is the program itself in a child process.
func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs the program and returns its address. The function stop ends it as a signal does.
func start(t *testing.T, args ...string) (url string, stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--port", "0", "--concurrent_limit", "-1"}, args...)...)
	cmd.Env = append(os.Environ(), "CLUSTER_CHILD=1")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() }) // has no effect when it has ended
	lines := bufio.NewReader(said)
	url, err = lines.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(url), func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait(), "%s", rest)
	}
}

// connect returns a client that has read its OPEN.
func connect(t *testing.T, ctx context.Context, url, id string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(ctx, url+"peerjs?key=peerjs&token=t&id="+id, nil)
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

func TestTwoNodesRelayUntilTheyAreAskedToEnd(t *testing.T) {
	redis := "redis://" + redistest.Start(t).Addr()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	one, stopOne := start(t, "--redis", redis)
	two, stopTwo := start(t, "--redis", redis)
	alice, bob := connect(t, ctx, one, "alice"), connect(t, ctx, two, "bob")
	require.NoError(t, alice.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"bob","payload":1}`)))
	require.JSONEq(t, `{"type":"OFFER","src":"alice","dst":"bob","payload":1}`, read(t, ctx, bob))
	go alice.Read(ctx) // answers the close frame
	go bob.Read(ctx)
	stopOne()
	stopTwo()
}

func TestWithoutRedisItIsOneServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	url, stop := start(t)
	alice, bob := connect(t, ctx, url, "alice"), connect(t, ctx, url, "bob")
	require.NoError(t, alice.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"bob","payload":1}`)))
	require.JSONEq(t, `{"type":"OFFER","src":"alice","dst":"bob","payload":1}`, read(t, ctx, bob))
	go alice.Read(ctx)
	go bob.Read(ctx)
	stop()
}

func TestAnInvalidURLEndsTheProgram(t *testing.T) {
	cmd := exec.Command(os.Args[0], "--redis", "http://x")
	cmd.Env = append(os.Environ(), "CLUSTER_CHILD=1")
	said, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "--redis: ")
}
