package deploy

import (
	"bufio"
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
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	client = "127.0.0.2" // where the clients of the tests come from
	token  = "a-secret-token"
)

func newBrowser(t *testing.T, roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       waitLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// requireSocket opens the socket of alice through a proxy, as PeerJS does by default, and reads OPEN.
func requireSocket(t *testing.T, browser *http.Client, base string, server *process) {
	t.Helper()
	require.Equal(t, http.StatusOK, status(t, browser, base+"/peerjs/id"))
	req, err := http.NewRequest(http.MethodGet, base+"/peerjs?key=peerjs&id=alice&token="+token, nil)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", // lies
	} {
		req.Header.Set(name, value)
	}
	res, err := browser.Transport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	const open = `{"type":"OPEN"}`
	frame := make([]byte, 2+len(open))
	_, err = io.ReadFull(bufio.NewReader(res.Body), frame)
	require.NoError(t, err)
	require.Equal(t, "\x81\x0f"+open, string(frame))
	server.want(t, `connected "alice" from "`+regexp.QuoteMeta(client)+`"`)
}

// requireNoToken ends the server, connects, and wants the proxy to write no token about it.
func requireNoToken(t *testing.T, browser *http.Client, base string, server, proxy *process, refused string) {
	t.Helper()
	server.cmd.Process.Kill()
	server.cmd.Wait()
	require.Equal(t, http.StatusBadGateway, status(t, browser, base+"/peerjs?key=peerjs&id=bob&token="+token))
	proxy.want(t, refused)
	require.NotContains(t, proxy.said(), token)
}

func TestCaddyReachesTheServer(t *testing.T) {
	skipIfAbsent(t, "caddy")
	const file = "Caddyfile"
	domain := "DOMAIN=peer.test"
	adapt := exec.Command("caddy", "adapt", "--adapter", "caddyfile", "--config", file)
	adapt.Env = append(os.Environ(), domain)
	out, err := adapt.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), `"host":["peer.test"]`)

	// The same file without TLS, with the server on loopback.
	server, addr := startServer(t, "peerjs", []string{"--proxied"}, nil)
	place := freeAddr(t)
	dir := t.TempDir()
	text := "{\n\tadmin off\n" + strings.TrimPrefix(strings.ReplaceAll(readText(t, file), "peer:9000", addr), "{\n")
	copied := filepath.Join(dir, file)
	require.NoError(t, os.WriteFile(copied, []byte(text), 0o600))
	env := []string{"DOMAIN=http://" + place, "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	caddy := start(t, env, "caddy", "run", "--adapter", "caddyfile", "--config", copied)
	browser := newBrowser(t, nil)
	requireSocket(t, browser, "http://"+place, server)
	require.Contains(t, caddy.want(t, `.*alice.*`)[0], "REDACTED")
	requireNoToken(t, browser, "http://"+place, server, caddy, `connection refused.*bob`)
}

func TestNginxReachesTheServer(t *testing.T) {
	skipIfAbsent(t, "nginx")
	key, cert, roots := newCertificate(t)
	server, addr := startServer(t, "peerjs", []string{"--proxied"}, nil)
	plain, secure := freeAddr(t), freeAddr(t)
	text := readText(t, "nginx.conf")
	replace := func(old, new string) {
		require.Contains(t, text, old)
		text = strings.ReplaceAll(text, old, new)
	}
	replace("    listen [::]:80;\n", "")
	replace("    listen [::]:443 ssl;\n", "")
	replace("listen 80;", "listen "+plain+";")
	replace("listen 443 ssl;", "listen "+secure+" ssl;")
	replace("/etc/letsencrypt/live/peer.example.com/fullchain.pem", cert)
	replace("/etc/letsencrypt/live/peer.example.com/privkey.pem", key)
	replace("/var/log/nginx/peerjs.log", "/dev/stdout")
	replace("/var/log/nginx/peerjs-error.log", "stderr")
	replace("127.0.0.1:9000", addr)
	dir := t.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(`
daemon off; master_process off; pid DIR/pid; error_log stderr;
events {}
http {
    client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3; uwsgi_temp_path DIR/4;
    scgi_temp_path DIR/5;
`, "DIR", dir)+text+"}\n"), 0o600))
	out, err := exec.Command("nginx", "-t", "-c", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "[warn]")

	nginx := start(t, nil, "nginx", "-c", file)
	browser := newBrowser(t, roots)
	require.Equal(t, http.StatusMovedPermanently, status(t, browser, "http://"+plain+"/"))
	requireSocket(t, browser, "https://"+secure, server)
	nginx.want(t, `"GET /peerjs" 101 `)
	requireNoToken(t, browser, "https://"+secure, server, nginx, `"GET /peerjs" 502 `)
}

// newCertificate makes a certificate for 127.0.0.1 and returns its files.
func newCertificate(t *testing.T) (keyFile, certFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	keyFile, certFile = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for file, block := range map[string]*pem.Block{
		keyFile: {Type: "PRIVATE KEY", Bytes: secret}, certFile: {Type: "CERTIFICATE", Bytes: der},
	} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	return keyFile, certFile, roots
}
