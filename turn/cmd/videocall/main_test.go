package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/turn"
	"github.com/pion/logging"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 The server uses this module too.
	"nhooyr.io/websocket"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

// onLoopback is what the flags say by default, at free ports.
func onLoopback() config {
	return config{
		addr: "127.0.0.1:0", publicIP: netip.MustParseAddr("127.0.0.1"), turnsPort: -1,
		minPort: turn.DefaultMinPort, maxPort: turn.DefaultMaxPort,
	}
}

func TestAPageGetsARelayOfTheSameProgram(t *testing.T) {
	log := make(lines, 100)
	ctx, quit := context.WithCancel(t.Context())
	defer quit()
	done := make(chan error, 1)
	go func() { done <- run(ctx, onLoopback(), slog.New(slog.NewTextHandler(log, nil))) }()
	require.Regexp(t, `turn:127\.0\.0\.1:\d+\?transport=udp turn:127\.0\.0\.1:\d+\?transport=tcp`, <-log)
	url := regexp.MustCompile(`http://127\.0\.0\.1:[1-9][0-9]*`).FindString(<-log)

	limited, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodGet, url+"/room/x", nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)

	ada, _, err := websocket.Dial(limited, url+"/peerjs/peerjs?key=peerjs&id=ada&token=1", nil)
	require.NoError(t, err)
	defer ada.CloseNow()
	_, data, err := ada.Read(limited)
	require.NoError(t, err)
	var first struct {
		Type    peer.MessageType
		Payload struct{ ICEServers []peer.ICEServer }
	}
	require.NoError(t, json.Unmarshal(data, &first))
	require.Equal(t, peer.TypeICEServers, first.Type)
	require.Len(t, first.Payload.ICEServers, 1)
	server := first.Payload.ICEServers[0]
	require.Len(t, server.URLs, 2)

	port := regexp.MustCompile(`^turn:127\.0\.0\.1:(\d+)\?transport=udp$`).FindStringSubmatch(server.URLs[0])
	require.NotNil(t, port, server.URLs)
	relay := allocate(t, "127.0.0.1:"+port[1], server)
	require.Equal(t, "127.0.0.1", relay.(*net.UDPAddr).IP.String())

	quit()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}
}

func TestThePageAndTURNHaveTheCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(encode("CERTIFICATE", cert)))

	c := onLoopback()
	c.https, c.turnsPort = true, 0
	c.cert, c.key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(c.cert, encode("CERTIFICATE", cert), 0o600))
	require.NoError(t, os.WriteFile(c.key, encode("PRIVATE KEY", pkcs8), 0o600))
	log := make(lines, 100)
	ctx, quit := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	for _, pattern := range []string{`turns:(127\.0\.0\.1:\d+)\?transport=tcp`, `https://(127\.0\.0\.1:\d+)/`} {
		line := <-log
		at := regexp.MustCompile(pattern).FindStringSubmatch(line)
		require.NotNil(t, at, line)
		conn, err := tls.Dial("tcp", at[1], &tls.Config{RootCAs: roots})
		require.NoError(t, err)
		conn.Close()
	}
	quit()
	require.NoError(t, <-done)

	c.turnsHost = "turn.example.com:443"
	ctx, quit = context.WithCancel(t.Context())
	go func() { done <- run(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	for line := range log {
		if strings.Contains(line, "urls=") {
			require.Contains(t, line, "turns:turn.example.com:443?transport=tcp")
			break
		}
	}
	quit()
	require.NoError(t, <-done)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// allocate makes a relay and returns its address.
func allocate(t *testing.T, addr string, server peer.ICEServer) net.Addr {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	client, err := pion.NewClient(&pion.ClientConfig{
		TURNServerAddr: addr, Conn: pc, Username: server.Username, Password: server.Credential,
		LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled},
	})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.Listen())
	relay, err := client.Allocate()
	require.NoError(t, err)
	t.Cleanup(func() { relay.Close() })
	return relay.LocalAddr()
}

func TestWrongFlagsAreRefused(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for want, change := range map[string]func(*config){
		"-min-port":      func(c *config) { c.minPort = 0 },
		"-max-port":      func(c *config) { c.maxPort = 1 << 16 },
		"above MaxPort":  func(c *config) { c.minPort, c.maxPort = 2, 1 },
		"PublicIP":       func(c *config) { c.publicIP = netip.Addr{} },
		"-cert and -key": func(c *config) { c.turnsPort = 0 },
		"no such file":   func(c *config) { c.https, c.cert = true, filepath.Join(t.TempDir(), "cert.pem") },
		"address":        func(c *config) { c.turnPort = taken.LocalAddr().(*net.UDPAddr).Port },
		"invalid port":   func(c *config) { c.addr = "127.0.0.1:-1" },
	} {
		c := onLoopback()
		change(&c)
		require.ErrorContains(t, run(t.Context(), c, slog.New(slog.DiscardHandler)), want)
	}
}
