// Package proxies runs what docs/proxies.md says against nginx and Caddy, where these are
// installed.
package proxies

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go of the root module
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// snippets returns the blocks of docs/proxies.md that are in a language and have this text.
func snippets(t *testing.T, language, having string) (found []string) {
	t.Helper()
	doc, err := os.ReadFile("../../../docs/proxies.md")
	require.NoError(t, err)
	for _, block := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		if strings.Contains(block[1], having) {
			found = append(found, block[1])
		}
	}
	require.NotEmpty(t, found)
	return found
}

// A host is a program with a server, which notes from where clients come and why they go.
type host struct {
	connected, gone chan string
}

func newHost(t *testing.T, l net.Listener, srv *peer.Server) *host {
	h := &host{make(chan string, 10), make(chan string, 10)}
	srv.OnConnection(func(c *peer.Client) { h.connected <- c.RemoteAddr() })
	srv.OnDisconnect(func(_ *peer.Client, why peer.DisconnectReason) { h.gone <- why.String() })
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	ts := httptest.NewUnstartedServer(mux)
	ts.Listener.Close()
	ts.Listener = l
	ts.Start()
	t.Cleanup(func() {
		assert.NoError(t, srv.Close())
		ts.Close()
	})
	return h
}

// overTCP returns a host behind a proxy on the same machine, and its address.
func overTCP(t *testing.T) (*host, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := peer.NewServer(peer.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	return newHost(t, l, srv), l.Addr().String()
}

// overUnix returns a host behind a Unix socket, and the path of that.
func overUnix(t *testing.T) (*host, string) {
	path := filepath.Join(tempDir(t), "s")
	l, err := listen(path)
	require.NoError(t, err)
	srv := peer.NewServer(peer.Options{TrustUnixProxy: true})
	return newHost(t, l, srv), path
}

func listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// tempDir is short: that of the test can be too long for a socket.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxies")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A proxy is a program and its configuration around the snippets.
type proxy struct{ name, config string }

var (
	nginx = proxy{"nginx", `
daemon off; master_process off; pid DIR/pid; error_log stderr;
events {}
http {
    log_format plain '$request'; OUTSIDE
    access_log /dev/stdout FORMAT; client_body_temp_path DIR/1; proxy_temp_path DIR/2;
    fastcgi_temp_path DIR/3; uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
    server {
        listen 127.0.0.1:PORT;
        INSIDE
    }
}`}
	caddy = proxy{"caddy", `
{
    admin off
    OUTSIDE
}
http://127.0.0.1:PORT {
    bind 127.0.0.1
    log
    INSIDE
}`}
)

func (p proxy) skipIfAbsent(t *testing.T) {
	if _, err := exec.LookPath(p.name); err != nil {
		t.Skip(p.name + " is not installed")
	}
}

// start runs the proxy with a snippet, and perhaps another one about its log. It returns
// the address of the proxy and what that says.
func (p proxy) start(t *testing.T, snippet, logs string) (addr string, out *lockedBuffer) {
	t.Helper()
	dir := tempDir(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr = free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(addr)
	file, format := filepath.Join(dir, "config"), "plain"
	if logs != "" {
		format = "quiet"
	}
	config := strings.NewReplacer("DIR", dir, "PORT", port, "FORMAT", format, "INSIDE", snippet, "OUTSIDE", logs).Replace(p.config)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))

	args := []string{"-c", file}
	if p.name == "caddy" {
		args = []string{"run", "--adapter", "caddyfile", "--config", file}
	}
	cmd := exec.Command(p.name, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out = new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, out)
		}
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, waitLimit, 20*time.Millisecond, "%s does not listen", p.name)
	return addr, out
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// client is where the clients of the tests come from, and forged what they say about it.
const client, forged = "127.0.0.2", "203.0.113.9"

// dial connects to the proxy and returns the status of the answer.
func dial(t *testing.T, addr, id, token string) (*websocket.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	ws, res, err := websocket.Dial(ctx, fmt.Sprintf("ws://%s/peerjs/peerjs?key=peerjs&id=%s&token=%s", addr, id, token), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}},
		HTTPHeader: http.Header{"X-Forwarded-For": {forged}},
	})
	if err != nil {
		require.NotNil(t, res, "%v", err)
		return nil, res.StatusCode
	}
	t.Cleanup(func() { ws.CloseNow() })
	want(t, ws, `{"type":"OPEN"}`)
	return ws, res.StatusCode
}

func want(t *testing.T, ws *websocket.Conn, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, data, err := ws.Read(ctx)
	require.NoError(t, err)
	require.JSONEq(t, message, string(data))
}

func next(t *testing.T, events chan string) string {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(waitLimit):
		t.Fatal("nothing happened")
		return ""
	}
}

func TestTheSnippetsIntroducePeers(t *testing.T) {
	for _, p := range []proxy{nginx, caddy} {
		for _, c := range []struct {
			to, having string
			host       func(*testing.T) (*host, string)
		}{
			{"127.0.0.1:8080", "127.0.0.1:8080", overTCP},
			{"/run/peer.sock", "/run/peer.sock", overUnix},
		} {
			t.Run(p.name+" to "+c.to, func(t *testing.T) {
				p.skipIfAbsent(t)
				h, place := c.host(t)
				snippet := snippets(t, p.name, c.having)
				require.Len(t, snippet, 1)
				addr, _ := p.start(t, strings.ReplaceAll(snippet[0], c.to, place), "")
				alice, _ := dial(t, addr, "alice", "1")
				bob, _ := dial(t, addr, "bob", "2")
				require.Equal(t, client, next(t, h.connected))
				require.Equal(t, client, next(t, h.connected))

				offer := `{"type":"OFFER","src":"alice","dst":"bob","payload":"` + strings.Repeat("x", 100_000) + `"}`
				bob.SetReadLimit(-1)
				require.NoError(t, alice.Write(t.Context(), websocket.MessageText, []byte(offer)))
				want(t, bob, offer)
				require.NoError(t, alice.Close(websocket.StatusNormalClosure, ""))
				require.Equal(t, "client closed", next(t, h.gone))
				bob.CloseNow()
				require.Equal(t, "connection lost", next(t, h.gone))
			})
		}
	}
}

// The longest id and token, each byte of which is escaped.
var (
	longID    = strings.Repeat("%C3%A4", 1<<10/2)
	longToken = strings.Repeat("%2B", peer.DefaultMaxTokenBytes)
)

func TestALongTokenPasses(t *testing.T) {
	for _, p := range []proxy{nginx, caddy} {
		t.Run(p.name, func(t *testing.T) {
			p.skipIfAbsent(t)
			_, place := overTCP(t)
			snippet := strings.ReplaceAll(snippets(t, p.name, "127.0.0.1:8080")[0], "127.0.0.1:8080", place)
			if p.name == "nginx" {
				addr, _ := p.start(t, snippet, "")
				_, status := dial(t, addr, "alice", strings.Repeat("x", peer.DefaultMaxTokenBytes))
				require.Equal(t, http.StatusRequestURITooLong, status)
				snippet += snippets(t, p.name, "large_client_header_buffers")[0]
			}
			addr, _ := p.start(t, snippet, "")
			_, status := dial(t, addr, longID, longToken)
			require.Equal(t, http.StatusSwitchingProtocols, status)
		})
	}
}

func TestTheLogHasNoToken(t *testing.T) {
	for _, p := range []proxy{nginx, caddy} {
		t.Run(p.name, func(t *testing.T) {
			p.skipIfAbsent(t)
			_, place := overTCP(t)
			snippet := strings.ReplaceAll(snippets(t, p.name, "127.0.0.1:8080")[0], "127.0.0.1:8080", place)
			for _, logs := range []string{"", snippets(t, p.name, "log")[0]} {
				addr, out := p.start(t, snippet, logs)
				ws, _ := dial(t, addr, "alice", "secret")
				ws.CloseNow()
				require.Eventually(t, func() bool { return strings.Contains(out.String(), "/peerjs/peerjs") }, waitLimit, 20*time.Millisecond)
				require.Equal(t, logs == "", strings.Contains(out.String(), "secret"), out.String())
			}
		})
	}
}

func TestTheGoOfTheDocumentIsCompiled(t *testing.T) {
	source, err := os.ReadFile("proxies_linux_test.go")
	require.NoError(t, err)
	for _, block := range snippets(t, "go", "") {
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(line, " //")
			require.Contains(t, string(source), strings.TrimSpace(line))
		}
	}
}
