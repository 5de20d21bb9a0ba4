package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// TestMain lets a test start the program itself: it is this binary with a variable.
func TestMain(m *testing.M) {
	if os.Getenv("PEERJS_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// noEnv is an empty environment.
func noEnv(string) string { return "" }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFlagsSetWhatTheySay(t *testing.T) {
	for _, tc := range []struct {
		args string
		env  []string
		want config
	}{
		{args: "", want: config{port: 9000}},
		{args: "--port 80", want: config{port: 80}},
		{args: "-p 0", want: config{}},
		{args: "-port=65535", want: config{port: 65535}},
		{args: "", env: []string{"PORT", "81"}, want: config{port: 81}},
		{args: "--port 80", env: []string{"PORT", "no number"}, want: config{port: 80}},
		{args: "-p 0", env: []string{"PORT", "81"}, want: config{}},
		{args: "--host ::1", want: config{port: 9000, host: "::1"}},
		{args: "-H localhost", want: config{port: 9000, host: "localhost"}},
		{args: "--path /app", want: config{port: 9000, opts: peer.Options{Path: "/app"}}},
		{args: "", env: []string{"PEERSERVER_PATH", "/env"}, want: config{port: 9000, opts: peer.Options{Path: "/env"}}},
		{args: "--path /app", env: []string{"PEERSERVER_PATH", "/env"}, want: config{port: 9000, opts: peer.Options{Path: "/app"}}},
		{args: "--key open", want: config{port: 9000, opts: peer.Options{Key: "open"}}},
		{args: "-k open", want: config{port: 9000, opts: peer.Options{Key: "open"}}},
		{args: "--expire_timeout 1500", want: config{port: 9000, opts: peer.Options{ExpireTimeout: 1500 * time.Millisecond}}},
		{args: "-t -1", want: config{port: 9000, opts: peer.Options{ExpireTimeout: -time.Millisecond}}},
		{args: "--alive_timeout 90000", want: config{port: 9000, opts: peer.Options{AliveTimeout: 90 * time.Second}}},
		{args: "--concurrent_limit 7", want: config{port: 9000, opts: peer.Options{ConcurrentLimit: 7}}},
		{args: "-c -1", want: config{port: 9000, opts: peer.Options{ConcurrentLimit: -1}}},
		{args: "--allow_discovery", want: config{port: 9000, opts: peer.Options{AllowDiscovery: true}}},
		{args: "--allow_discovery=true", want: config{port: 9000, opts: peer.Options{AllowDiscovery: true}}},
		{args: "--allow_discovery=false", want: config{port: 9000}},
		{args: "--proxied", want: config{port: 9000, opts: peer.Options{TrustedProxies: privateNetworks(), TrustUnixProxy: true}}},
		{args: "--host unix:/run/peer.sock", want: config{port: 9000, host: "unix:/run/peer.sock"}},
		{args: "--proxied=false", want: config{port: 9000}},
		{args: "--cors https://a.example --cors *", want: config{port: 9000, opts: peer.Options{AllowedOrigins: []string{"https://a.example", "*"}}}},
		{args: "--cors http://localhost:3000/ --cors null --cors HTTPS://*.Example.com", want: config{port: 9000,
			opts: peer.Options{AllowedOrigins: []string{"http://localhost:3000/", "null", "HTTPS://*.Example.com"}}}},
		{args: "--sslkey k.pem --sslcert c.pem", want: config{port: 9000, sslkey: "k.pem", sslcert: "c.pem"}},
	} {
		t.Run(tc.args+strings.Join(tc.env, "="), func(t *testing.T) {
			got, err := parse(strings.Fields(tc.args), env(tc.env...))
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	for args, want := range map[string]bool{
		"":                               false,
		"--allow_override_connect":       true,
		"--allow_override_connect=true":  true,
		"--allow_override_connect=false": false,
	} {
		got, err := parse(strings.Fields(args), noEnv)
		require.NoError(t, err)
		require.Equal(t, want, got.opts.AllowOverride != nil, args)
	}
}

func TestMistakesAreTold(t *testing.T) {
	for _, tc := range []struct {
		args []string
		env  []string
		want string // on standard error, after "peerjs: "
	}{
		{args: []string{"--prot", "9000"}, want: "flag provided but not defined: -prot"},
		{args: []string{"--port"}, want: "flag needs an argument: -port"},
		{args: []string{"9000"}, want: `argument "9000" belongs to no flag`},
		{args: []string{"--port", "1", "\x1b[2J"}, want: `argument "\x1b[2J" belongs to no flag`},
		{args: []string{"--allow_discovery", "false", "-p", "1"}, want: `argument "false" belongs to no flag (a switch takes its value as in --allow_discovery=false)`},
		{args: []string{"--allow_discovery=maybe"}, want: `invalid boolean value "maybe" for -allow_discovery`},
		{args: []string{"--proxied=maybe"}, want: `invalid boolean value "maybe" for -proxied: it must be true or false`},
		{args: []string{"--port", "65536"}, want: `invalid value "65536" for flag -port: it must be a number from 0 to 65535`},
		{args: []string{"-p", "-1"}, want: `invalid value "-1" for flag -p: it must be a number from 0 to 65535`},
		{args: []string{"-p", "http"}, want: `invalid value "http" for flag -p: it must be a number from 0 to 65535`},
		{env: []string{"PORT", "70000"}, want: `invalid value "70000" for the variable PORT: it must be a number from 0 to 65535`},
		{args: []string{"-t", "5s"}, want: `invalid value "5s" for flag -t: it must be a number from 1 to 2147483647, or -1 for none`},
		{args: []string{"--alive_timeout", "0"}, want: `invalid value "0" for flag -alive_timeout: it must be a number from 1`},
		{args: []string{"--alive_timeout", "-2"}, want: `invalid value "-2" for flag -alive_timeout: it must be a number from 1`},
		{args: []string{"-c", "9999999999"}, want: `invalid value "9999999999" for flag -c: it must be a number from 1`},
		{args: []string{"--key", ""}, want: `invalid value "" for flag -key: it must not be empty`},
		{args: []string{"--cors", "example.com"}, want: `invalid value "example.com" for flag -cors: it must be an origin such as https://example.com`},
		{args: []string{"--cors", "https://example.com/page"}, want: `invalid value "https://example.com/page" for flag -cors`},
		{args: []string{"--cors", "https://a.example", "https://b.example"}, want: `argument "https://b.example" belongs to no flag`},
		{args: []string{"--sslkey", "k.pem"}, want: "--sslkey and --sslcert must be given together"},
		{args: []string{"--sslcert", "c.pem"}, want: "--sslkey and --sslcert must be given together"},
	} {
		t.Run(strings.Join(append(tc.args, tc.env...), " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 2, run(t.Context(), tc.args, env(tc.env...), &stdout, &stderr))
			require.Empty(t, stdout.String())
			require.True(t, strings.HasPrefix(stderr.String(), "peerjs: "+tc.want), stderr.String())
			require.True(t, strings.HasSuffix(stderr.String(), "\npeerjs: --help lists the flags\n"), stderr.String())
		})
	}
}

func TestHelpIsNoMistake(t *testing.T) {
	for _, arg := range []string{"--help", "-help", "-h"} {
		var stdout, stderr bytes.Buffer
		require.Zero(t, run(t.Context(), []string{arg}, noEnv, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
		require.Empty(t, stderr.String())
	}
}

func TestUsageAndFlagsAreTheSame(t *testing.T) {
	fs := newFlagSet(new(config))
	told := map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`(?m)^  (?:-(\w), |    )--(\w+)`).FindAllStringSubmatch(usage, -1) {
		for _, name := range m[1:] {
			told[name] = true
			require.True(t, name == "" || name == "help" || fs.Lookup(name) != nil, "there is no flag %s", name)
		}
	}
	for _, name := range []string{"port", "p", "host", "H", "path", "key", "k", "expire_timeout", "t", "alive_timeout",
		"concurrent_limit", "c", "allow_discovery", "allow_override_connect", "cors", "sslkey", "sslcert", "proxied", "console",
		"healthcheck", "version", "turn"} {
		require.NotNil(t, fs.Lookup(name), name)
		require.True(t, told[name], "usage does not tell of %s", name)
	}
	for _, line := range strings.Split(usage, "\n") {
		require.LessOrEqual(t, len(line), 88, line)
	}
	for _, network := range privateNetworks() {
		require.Contains(t, usage, strings.TrimSuffix(network.String(), "/128"))
	}
}

func TestWhatCannotBeDoneIsTold(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	key, _, _ := newCertificate(t)
	for _, tc := range []struct{ args, want string }{
		{"--host 127.0.0.1 --port " + port, "peerjs: listen tcp 127.0.0.1:" + port + ": "},
		{"--port 0 --sslkey no/key.pem --sslcert no/cert.pem", "peerjs: reading the TLS key and certificate: open no/cert.pem: "},
		{"--port 0 --sslkey " + key + " --sslcert " + key, "peerjs: reading the TLS key and certificate: tls: "},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 1, run(t.Context(), strings.Fields(tc.args), noEnv, &stdout, &stderr))
		require.Empty(t, stdout.String())
		require.True(t, strings.HasPrefix(stderr.String(), tc.want), stderr.String())
	}
}

// lines takes what is printed, a line at a time.
type lines struct {
	t    testing.TB
	all  chan string
	rest []byte
}

func newLines(t testing.TB) *lines { return &lines{t: t, all: make(chan string, 1000)} }

// Write is called by one writer at a time, as [log.Logger] does.
func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		l.all <- string(line)
		l.rest = rest
	}
}

// want waits for the next line, which must match a pattern as a whole, and
// returns the parts in parentheses.
func (l *lines) want(pattern string) []string {
	l.t.Helper()
	select {
	case line := <-l.all:
		parts := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(line)
		require.NotNil(l.t, parts, "want %s, have %s", pattern, line)
		return parts[1:]
	case <-time.After(waitLimit):
		l.t.Fatalf("no line came; want %s", pattern)
		return nil
	}
}

// wantAny is want for lines that may come in any order.
func (l *lines) wantAny(patterns ...string) {
	l.t.Helper()
	for n := len(patterns); n > 0; n-- {
		l.want("(?:" + strings.Join(patterns, "|") + ")")
	}
}

func (l *lines) wantNothing() {
	l.t.Helper()
	require.Empty(l.t, l.all)
	require.Empty(l.t, l.rest)
}

// A program is one that runs in this process.
type program struct {
	t       testing.TB
	url     string // as it printed it
	options string // of a client, likewise
	out     *lines
	errs    *lines
	quit    func() // what a signal does
	code    chan int
	browser *http.Client
}

// start runs the program on a free loopback port until it listens.
func start(t *testing.T, args ...string) *program {
	ctx, quit := context.WithCancel(context.Background())
	p := &program{t: t, out: newLines(t), errs: newLines(t), quit: quit, code: make(chan int, 1), browser: newBrowser(t, nil)}
	go func() {
		p.code <- run(ctx, append([]string{"--host", "127.0.0.1", "--port", "0"}, args...), noEnv, p.out, p.errs)
	}()
	p.url = p.out.want(`peerjs: listening on (https?://127\.0\.0\.1:[1-9][0-9]*/.*)`)[0]
	p.options = p.out.want(`peerjs: clients are made with new Peer\(\{(host: "127\.0\.0\.1", port: [1-9].*)\}\)`)[0]
	t.Cleanup(quit)
	return p
}

func newBrowser(t testing.TB, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: waitLimit}
}

// wantEnd wants the exit code of the program.
func (p *program) wantEnd(code int) {
	p.t.Helper()
	select {
	case got := <-p.code:
		require.Equal(p.t, code, got)
	case <-time.After(waitLimit):
		p.t.Fatal("the program did not end")
	}
}

func (p *program) get(path string) (int, string) {
	p.t.Helper()
	res, err := p.browser.Get(strings.TrimSuffix(p.url, "/") + path)
	require.NoError(p.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	return res.StatusCode, string(body)
}

// dial opens the socket of a client. Header fields come in pairs.
func (p *program) dial(key, id, token string, header ...string) *client {
	p.t.Helper()
	u := strings.TrimSuffix(p.url, "/") + "/peerjs?key=" + key + "&id=" + url.QueryEscape(id) + "&token=" + token
	return dial(p.t, p.browser, u, header...)
}

// A client is the client's side of a socket.
type client struct {
	t  testing.TB
	ws *websocket.Conn
}

func dial(t testing.TB, browser *http.Client, u string, header ...string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	opts := &websocket.DialOptions{HTTPClient: &http.Client{Transport: browser.Transport}, HTTPHeader: http.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		opts.HTTPHeader.Set(header[i], header[i+1])
	}
	ws, _, err := websocket.Dial(ctx, u, opts)
	require.NoError(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	return &client{t, ws}
}

// want wants the next frame, byte for byte.
func (c *client) want(frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	require.NoError(c.t, err)
	require.Equal(c.t, frame, string(data))
}

// wantEnd wants the close frame.
func (c *client) wantEnd(code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	require.Empty(c.t, data)
	require.EqualValues(c.t, code, websocket.CloseStatus(err), "%v", err)
}

func (c *client) send(frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	require.NoError(c.t, c.ws.Write(ctx, websocket.MessageText, []byte(frame)))
}

const open = `{"type":"OPEN"}`

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

// newCertificate makes a certificate for 127.0.0.1 and returns its files.
func newCertificate(t testing.TB) (keyFile, certFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	parsed, err := x509.ParseCertificate(cert)
	require.NoError(t, err)
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return write("key.pem", "PRIVATE KEY", secret), write("cert.pem", "CERTIFICATE", cert), roots
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

// inBubble serves on the ends of net.Pipe, in fake time. What serve returns comes
// from the channel.
func inBubble(t *testing.T, test func(t *testing.T, dial func() net.Conn, out *lines, quit func(), done <-chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, quit := context.WithCancel(t.Context())
		done := make(chan error, 1)
		out := newLines(t)
		go func() {
			done <- serve(ctx, l, config{}, log.New(out, "", 0), log.New(io.Discard, "", 0))
			close(done)
		}()
		out.want("listening on .*")
		out.want("clients are made with .*")
		test(t, l.dial, out, quit, done)
		quit()
		for range done {
		}
	})
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

func TestWhoIsSlowIsCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, sent string
		want       time.Duration
	}{
		{"before the request", "", 10 * time.Second},
		{"in the header", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nX-Slow: ", 10 * time.Second},
		{"in the body", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345", 20 * time.Second},
		{"between requests", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n", 60 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, _ func(), _ <-chan error) {
				conn := dial()
				began := time.Now()
				_, err := io.WriteString(conn, tc.sent)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, conn)
				require.NoError(t, err)
				require.Equal(t, tc.want, time.Since(began))
			})
		})
	}
}

func TestAnAnswerThatIsNotReadIsCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, _ func(), _ <-chan error) {
		conn := dial()
		began := time.Now()
		_, err := io.WriteString(conn, "GET /peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-time.After(21 * time.Second)
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 21*time.Second, time.Since(began))
	})
}

// dialPipes opens the socket of a client, and reads it as long as it lives.
func dialPipes(t *testing.T, dialPipe func() net.Conn, id string) (a *client, frames <-chan string) {
	browser := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialPipe(), nil },
	}}
	a = dial(t, browser, "http://peer.test/peerjs?key=peerjs&token=1&id="+id)
	read := make(chan string, 100)
	go func() {
		defer close(read)
		for {
			_, data, err := a.ws.Read(context.Background()) // answers pings too
			if err != nil {
				return
			}
			read <- string(data)
		}
	}()
	require.Equal(t, open, <-read)
	return a, read
}

func TestALongSocketIsNotCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, out *lines, quit func(), _ <-chan error) {
		a, frames := dialPipes(t, dial, "alice")
		out.want(`connected "alice" .*`)
		<-time.After(time.Hour)
		a.send(`{"type":"OFFER","dst":"alice"}`)
		require.Equal(t, `{"type":"OFFER","src":"alice","dst":"alice"}`, <-frames)
		quit()
		require.Empty(t, <-frames)
		out.want("shutting down.*")
		out.want(`disconnected "alice": server shutdown`)
	})
}

func TestADrainHasAnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, quit func(), done <-chan error) {
		_, frames := dialPipes(t, dial, "alice")
		conn := dial()
		_, err := io.WriteString(conn, "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
		require.NoError(t, err)
		go io.Copy(io.Discard, conn)
		synctest.Wait()
		began := time.Now()
		quit()
		require.Empty(t, <-frames)
		require.Zero(t, time.Since(began), "sockets do not wait for a request")
		require.EqualError(t, <-done, "shutting down: clients or requests were left after 8s")
		require.Equal(t, drainTimeout, time.Since(began))
	})
}
