package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	p := start(t)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/$`, p.url)
	status, id := p.get("/peerjs/id")
	require.Equal(t, 200, status)
	require.Len(t, id, 36)
	status, _ = p.get("/peerjs/peers")
	require.Equal(t, 401, status)

	a := p.dial("peerjs", "alice", "1")
	a.want(open)
	p.out.want(`peerjs: connected "alice" from "127\.0\.0\.1:\d+"`)
	b := p.dial("peerjs", "bob", "2")
	b.want(open)
	p.out.want(`peerjs: connected "bob" from "127\.0\.0\.1:\d+"`)
	a.send(`{"type":"OFFER","dst":"bob","payload":{"sdp":"v=0"}}`)
	b.want(`{"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"v=0"}}`)
	a.send(`{"type":"LEAVE"}`)
	a.wantEnd(1000)
	p.out.want(`peerjs: disconnected "alice": left`)
	c := p.dial("peerjs", "carol", "3")
	c.want(open)
	p.out.want(`peerjs: connected "carol" .*`)

	p.quit()
	p.out.want("peerjs: shutting down; a second signal ends at once")
	b.wantEnd(1001)
	c.wantEnd(1001)
	p.out.wantAny(`peerjs: disconnected "bob": server shutdown`, `peerjs: disconnected "carol": server shutdown`)
	p.wantEnd(0)
	p.out.wantNothing()
	p.errs.wantNothing()
	_, err := p.browser.Get(p.url)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// What is printed can be opened, and the line for clients has the options of one.
func TestTheGreetingIsAnAddressThatWorks(t *testing.T) {
	for _, c := range []struct {
		addr string
		cfg  config
		want []string
	}{
		{"[::]:9000", config{}, []string{"listening on http://localhost:9000/", `clients are made with new Peer({host: "localhost", port: 9000, path: "/"})`}},
		{"0.0.0.0:80", config{}, []string{"listening on http://localhost:80/", `clients are made with new Peer({host: "localhost", port: 80, path: "/"})`}},
		{"[::1]:9000", config{}, []string{"listening on http://[::1]:9000/", `clients are made with new Peer({host: "::1", port: 9000, path: "/"})`}},
		{"192.0.2.1:443", config{sslcert: "c", opts: peer.Options{Path: "my app/", Key: "open"}},
			[]string{"listening on https://192.0.2.1:443/my%20app", `clients are made with new Peer({host: "192.0.2.1", port: 443, path: "/my app", key: "open", secure: true})`}},
	} {
		addr, err := net.ResolveTCPAddr("tcp", c.addr)
		require.NoError(t, err)
		require.Equal(t, c.want, greeting(&addrListener{addr}, c.cfg), c.addr)
	}
	p := start(t)
	require.Regexp(t, `^host: "127\.0\.0\.1", port: \d+, path: "/"$`, p.options)
}

type addrListener struct{ addr net.Addr }

func (l *addrListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (l *addrListener) Close() error              { return nil }
func (l *addrListener) Addr() net.Addr            { return l.addr }

func TestAUnixSocketIsForAProxy(t *testing.T) {
	dir, err := os.MkdirTemp("", "peerjs") // that of the test can be too long for a socket
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	left, err := net.Listen("unix", path) // by a program that was killed
	require.NoError(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()

	ctx, quit := context.WithCancel(t.Context())
	out, errs, code := newLines(t), newLines(t), make(chan int, 1)
	go func() { code <- run(ctx, []string{"--host", "unix:" + path, "--proxied"}, noEnv, out, errs) }()
	out.want("peerjs: listening on unix:" + regexp.QuoteMeta(path) + ", for a reverse proxy")
	proxy := &http.Client{Timeout: waitLimit, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer proxy.CloseIdleConnections()
	a := dial(t, proxy, "http://peer.test/peerjs?key=peerjs&id=alice&token=1", "X-Forwarded-For", "203.0.113.9")
	a.want(open)
	out.want(`peerjs: connected "alice" from "203\.0\.113\.9"`)

	var second bytes.Buffer // does not take the socket of one that runs
	require.Equal(t, 1, run(t.Context(), []string{"--host", "unix:" + path}, noEnv, io.Discard, &second))
	require.Contains(t, second.String(), "address already in use")
	quit()
	require.Zero(t, <-code)
	require.NoFileExists(t, path)
	errs.wantNothing()

	require.NoError(t, os.WriteFile(path, []byte("data"), 0o600))
	require.Equal(t, 1, run(t.Context(), []string{"--host", "unix:" + path}, noEnv, io.Discard, io.Discard))
	require.FileExists(t, path, "it is no socket")
}

// A login in a token, with its escapes, fits into the header that the program reads.
func TestALongTokenFitsIntoTheHeader(t *testing.T) {
	p := start(t)
	p.dial("peerjs", "alice", strings.Repeat("%2B", peer.DefaultMaxTokenBytes)).want(open)
}

func TestFlagsReachTheServer(t *testing.T) {
	t.Run("path, key and discovery", func(t *testing.T) {
		p := start(t, "--path", "my app/", "-k", "open", "--allow_discovery")
		require.True(t, strings.HasSuffix(p.url, "/my%20app"), p.url)
		p.dial("open", "alice", "1").want(open)
		_, body := p.get("/open/peers")
		require.JSONEq(t, `["alice"]`, body)
		p.dial("peerjs", "bob", "2").want(`{"type":"ERROR","payload":{"msg":"Invalid key provided"}}`)
	})
	t.Run("concurrent_limit", func(t *testing.T) {
		p := start(t, "-c", "1")
		p.dial("peerjs", "alice", "1").want(open)
		p.dial("peerjs", "bob", "2").want(`{"type":"ERROR","payload":{"msg":"Server has reached its concurrent user limit"}}`)
	})
	t.Run("expire_timeout", func(t *testing.T) {
		p := start(t, "-t", "1")
		a := p.dial("peerjs", "alice", "1")
		a.want(open)
		a.send(`{"type":"OFFER","dst":"bob"}`)
		a.want(`{"type":"EXPIRE","src":"bob","dst":"alice"}`)
	})
	t.Run("alive_timeout", func(t *testing.T) {
		p := start(t, "--alive_timeout", "50")
		p.dial("peerjs", "alice", "1") // never reads, so it answers no ping
		p.out.want(`peerjs: connected "alice" .*`)
		p.out.want(`peerjs: disconnected "alice": alive timeout`)
	})
	t.Run("override", func(t *testing.T) {
		p := start(t, "--allow_override_connect")
		p.dial("peerjs", "alice", "1").want(open)
		p.out.want(`peerjs: connected "alice" .*`)
		p.dial("peerjs", "alice", "2").want(open)
		p.out.want(`peerjs: disconnected "alice": overridden`)
		p.out.want(`peerjs: connected "alice" .*`)
	})
	t.Run("no override", func(t *testing.T) {
		p := start(t)
		p.dial("peerjs", "alice", "1").want(open)
		p.dial("peerjs", "alice", "2").want(`{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`)
	})
	t.Run("cors", func(t *testing.T) {
		p := start(t, "--cors", "https://a.example", "--cors", "https://b.example")
		for origin, want := range map[string]string{
			"https://a.example": "https://a.example",
			"https://b.example": "https://b.example",
			"https://c.example": "",
		} {
			req, _ := http.NewRequest("GET", p.url+"peerjs/id", nil)
			req.Header.Set("Origin", origin)
			res, err := p.browser.Do(req)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, want, res.Header.Get("Access-Control-Allow-Origin"))
		}
	})
	t.Run("proxied", func(t *testing.T) {
		p := start(t, "--proxied")
		p.dial("peerjs", "alice", "1", "X-Forwarded-For", "198.51.100.9, 203.0.113.7").want(open)
		p.out.want(`peerjs: connected "alice" from "203\.0\.113\.7"`)
	})
	t.Run("not proxied", func(t *testing.T) {
		p := start(t)
		p.dial("peerjs", "alice", "1", "X-Forwarded-For", "203.0.113.7").want(open)
		p.out.want(`peerjs: connected "alice" from "127\.0\.0\.1:\d+"`)
	})
}

func TestAnIDCannotSteerTheTerminal(t *testing.T) {
	p := start(t)
	// What turns the direction of writing is not a control character, so it may
	// be in an id.
	p.dial("peerjs", "a\u202eb\"", "1").want(open)
	p.out.want(`peerjs: connected "a\\u202eb\\"" from .*`)
	p.dial("peerjs", "a\x1b[2J", "2").want(`{"type":"ERROR","payload":{"msg":"The id is not valid"}}`)
}

func TestTLS(t *testing.T) {
	key, cert, roots := newCertificate(t)
	p := start(t, "--sslkey", key, "--sslcert", cert)
	require.Regexp(t, `^https://`, p.url)
	p.browser = newBrowser(t, roots)
	status, _ := p.get("/peerjs/id")
	require.Equal(t, 200, status)
	a := p.dial("peerjs", "alice", "1")
	a.want(open)
	p.out.want(`peerjs: connected "alice" .*`)
	p.quit()
	a.wantEnd(1001)
	p.wantEnd(0)
}

// A process is the program as a process of its own.
type process struct {
	*program
	cmd   *exec.Cmd
	ended chan error
}

func startProcess(t *testing.T) *process {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent a signal here")
	}
	p := &process{cmd: exec.Command(os.Args[0], "-H", "127.0.0.1", "-p", "0"), ended: make(chan error, 1)}
	p.program = &program{t: t, out: newLines(t), browser: newBrowser(t, nil)}
	p.cmd.Env = append(os.Environ(), "PEERJS_TEST_MAIN=1")
	p.cmd.Stderr = os.Stderr
	p.cmd.Stdout = p.out
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill() })
	go func() { p.ended <- p.cmd.Wait() }()
	p.url = p.out.want(`peerjs: listening on (http://.*)`)[0]
	p.out.want("peerjs: clients are made with .*")
	return p
}

func (p *process) wait() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(waitLimit):
		p.t.Fatal("the process did not end")
		return nil
	}
}

func TestASignalDrains(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := startProcess(t)
			a := p.dial("peerjs", "alice", "1")
			a.want(open)
			p.out.want(`peerjs: connected "alice" .*`)
			require.NoError(t, p.cmd.Process.Signal(sig))
			a.wantEnd(1001)
			require.NoError(t, p.wait())
			p.out.want("peerjs: shutting down; a second signal ends at once")
			p.out.want(`peerjs: disconnected "alice": server shutdown`)
			p.out.wantNothing()
		})
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	p := startProcess(t)
	// A connection that has not asked for anything yet holds the drain up for 5 s.
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(p.url, "http://"), "/"))
	require.NoError(t, err)
	defer conn.Close()
	p.get("/peerjs/id") // connections are accepted in their order
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.out.want("peerjs: shutting down; a second signal ends at once")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, p.wait(), &exit)
	require.Equal(t, "signal: terminated", exit.Error())
}
