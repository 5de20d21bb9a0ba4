package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"
)

const (
	// throughLimit is how long after the new process listens every pair must have
	// got messages through again. Nearly all of it is patience with a busy machine.
	throughLimit = 3 * time.Second
	// rejoinInterval is how long a client waits before it tries again to connect.
	rejoinInterval = 50 * time.Millisecond
	// rejoinLimit bounds how often it tries in a row.
	rejoinLimit = int(waitLimit / rejoinInterval)
)

// restartHost returns the address to listen on. The port must not get lost between
// two processes: where all of 127.0.0.0/8 is this machine, nobody else who looks for a
// free port is at the same address.
func restartHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(255), 1+rand.IntN(254))
}

// launch starts a process and returns it when it listens, and nil if it ended because
// another one has the port.
func launch(t *testing.T, host, port string) *process {
	t.Helper()
	var stderr bytes.Buffer // read after the end
	p := &process{cmd: exec.Command(os.Args[0], "-H", host, "-p", port), ended: make(chan error, 1)}
	p.program = &program{t: t, out: newLines(t), browser: newBrowser(t, nil)}
	// The race detector would wait for a second at the end of each process.
	p.cmd.Env = append(os.Environ(), "PEERJS_TEST_MAIN=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Stderr = &stderr
	p.cmd.Stdout = p.out
	require.NoError(t, p.cmd.Start())
	gone := make(chan struct{})
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Logf("a process said: %s", stderr.String())
		}
	})
	go func() {
		p.ended <- p.cmd.Wait()
		close(gone)
	}()
	select {
	case line := <-p.out.all:
		url, ok := strings.CutPrefix(line, "peerjs: listening on ")
		require.True(t, ok, line)
		p.url = url
		return p
	case err := <-p.ended:
		require.Error(t, err)
		require.Contains(t, stderr.String(), "address already in use")
		return nil
	case <-time.After(waitLimit):
		t.Fatal("the process neither listens nor ends")
		return nil
	}
}

// launchInstead starts a process on the port of another one as soon as that lets it.
func launchInstead(t *testing.T, host, port string) *process {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); {
		if p := launch(t, host, port); p != nil {
			return p
		}
	}
	t.Fatal("the port did not become free")
	return nil
}

// A rejoiner is one of a pair that sends an OFFER back and forth. As a PeerJS client
// whose page calls reconnect, it comes back with its id and token whenever its socket
// ends.
type rejoiner struct {
	url     string // of its socket
	other   string // the id of the other one
	leads   bool   // it begins, and again after each reconnect: what was under way may be lost
	browser *http.Client

	joined int // how often it got OPEN
	round  int // how often its OFFER has been sent anew; the leader's

	pair    int
	through chan<- passage // where the leader tells of the first answer on each connection
	ends    chan<- websocket.StatusCode
}

// A passage says that a pair got messages through in both directions.
type passage struct{ pair, joined int }

type offer struct {
	Type    string `json:"type"`
	Src     string `json:"src,omitempty"`
	Dst     string `json:"dst"`
	Payload int    `json:"payload"`
}

// run lives until ctx ends, or until it gives up, which is an error.
func (r *rejoiner) run(ctx context.Context) error {
	var err error
	for range rejoinLimit {
		joined := r.joined
		err = r.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r.joined > joined { // connected for a while
			r.ends <- websocket.CloseStatus(err)
			return r.run(ctx)
		}
		select {
		case <-time.After(rejoinInterval):
		case <-ctx.Done():
			return nil
		}
	}
	return fmt.Errorf("no way back in: %w", err)
}

// connect lives for one connection.
func (r *rejoiner) connect(ctx context.Context) error {
	ws, _, err := websocket.Dial(ctx, r.url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: r.browser.Transport}})
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	_, first, err := ws.Read(ctx)
	if err != nil || string(first) != open {
		return fmt.Errorf("%s instead of OPEN: %w", first, err)
	}
	r.joined++
	told := !r.leads
	for begin := r.leads; ; {
		if begin {
			r.round++
			if err := r.send(ctx, ws, r.round); err != nil {
				return err
			}
		}
		_, data, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		var m offer
		if err := json.Unmarshal(data, &m); err != nil {
			return err
		}
		switch begin = false; {
		case m.Src != r.other:
			return fmt.Errorf("a message of somebody else: %s", data)
		case m.Type == "EXPIRE":
			begin = r.leads
		case m.Type != "OFFER":
			return fmt.Errorf("not an OFFER: %s", data)
		case !r.leads:
			if err := r.send(ctx, ws, m.Payload); err != nil {
				return err
			}
		case m.Payload == r.round: // not the answer to an earlier one
			if begin = true; !told {
				told = true
				r.through <- passage{r.pair, r.joined}
			}
		}
	}
}

func (r *rejoiner) send(ctx context.Context, ws *websocket.Conn, n int) error {
	data, err := json.Marshal(offer{Type: "OFFER", Dst: r.other, Payload: n})
	if err != nil {
		return err
	}
	return ws.Write(ctx, websocket.MessageText, data)
}

// wantThrough wants one passage of each pair, on its nth connection, within limit.
func wantThrough(t *testing.T, through <-chan passage, failed <-chan error, pairs, joined int, limit time.Duration) {
	t.Helper()
	seen := make(map[int]bool)
	late := time.After(limit)
	for len(seen) < pairs {
		select {
		case p := <-through:
			require.Equal(t, joined, p.joined, "pair %d", p.pair)
			require.False(t, seen[p.pair], "pair %d", p.pair)
			seen[p.pair] = true
		case err := <-failed:
			t.Fatalf("a client has given up: %v", err)
		case <-late:
			t.Fatalf("only %d of %d pairs got messages through in %v", len(seen), pairs, limit)
		}
	}
}

// printed returns how many of the lines that are left begin and end like this.
func (l *lines) printed(prefix, suffix string) (n int) {
	for len(l.all) > 0 {
		if line := <-l.all; strings.HasPrefix(line, prefix) && strings.HasSuffix(line, suffix) {
			n++
		}
	}
	return n
}

func TestARollingRestartLosesNoPair(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent a signal here")
	}
	const pairs, clients = 20, 2 * 20
	host := restartHost()
	old := launch(t, host, "0")
	require.NotNil(t, old)
	_, port, err := net.SplitHostPort(strings.Trim(strings.TrimPrefix(old.url, "http://"), "/"))
	require.NoError(t, err)

	// Deferred and not a Cleanup: the clients end before the processes do.
	ctx, cancel := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer cancel()
	through := make(chan passage, 100*clients)
	ends := make(chan websocket.StatusCode, 100*clients)
	failed := make(chan error, clients)
	for pair := range pairs {
		left, right := "left"+strconv.Itoa(pair), "right"+strconv.Itoa(pair)
		for _, id := range []string{left, right} {
			r := &rejoiner{
				url:   old.url + "peerjs?key=peerjs&id=" + id + "&token=token-of-" + id,
				other: map[string]string{left: right, right: left}[id], leads: id == left,
				browser: old.browser, pair: pair, through: through, ends: ends,
			}
			crowd.Go(func() { failed <- r.run(ctx) })
		}
	}
	wantThrough(t, through, failed, pairs, 1, waitLimit)

	// The new process is started while the old one still has clients to tell.
	require.NoError(t, old.cmd.Process.Signal(syscall.SIGTERM))
	next := launchInstead(t, host, port)
	require.Equal(t, old.url, next.url)
	listening := time.Now()
	wantThrough(t, through, failed, pairs, 2, throughLimit)
	t.Logf("all pairs were through again %v after the new process listened", time.Since(listening))
	require.NoError(t, old.wait())
	require.Equal(t, clients, old.out.printed(`peerjs: disconnected "`, ": server shutdown"))

	cancel()
	crowd.Wait()
	for range clients {
		require.NoError(t, <-failed)
	}
	require.Len(t, ends, clients, "each client has lost one connection")
	for range clients {
		require.Equal(t, websocket.StatusGoingAway, <-ends)
	}
	require.NoError(t, next.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, next.wait())
	require.Equal(t, clients, next.out.printed(`peerjs: connected "`, ""))
}
