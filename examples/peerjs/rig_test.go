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
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"
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
