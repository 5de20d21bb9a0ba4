package turn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

// What docs/turnserver.md says is checked here.

func page(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../docs/turnserver.md")
	require.NoError(t, err)
	return string(b)
}

// find returns what the groups of a pattern match, for each match.
func find(t *testing.T, pattern, text string) [][]string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1)
	require.NotEmpty(t, found, pattern)
	for i := range found {
		found[i] = found[i][1:]
	}
	return found
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	return n
}

func TestTheTableOfCostsIsCalculatedFromTheBoundsOfTheVideoCall(t *testing.T) {
	b, err := os.ReadFile("../examples/videocall/call/web/quality.js")
	require.NoError(t, err)
	steps := find(t, `\{ height: \d+, fps: \d+, kbps: (\d+) \}`, string(b))
	// The first bounds that the number of others is below; the last step has none.
	limits := find(t, `others < (\d+) \? \d`, string(b))
	for _, row := range find(t, `(?m)^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$`, page(t)) {
		others := number(t, row[0]) - 1
		step := 0
		for step < len(limits) && others >= number(t, limits[step][0]) {
			step++
		}
		kbps := number(t, steps[step][0])
		require.Equal(t, kbps, number(t, row[1]), row)
		one, all := 2*others*kbps, (others+1)*others*kbps
		require.InDelta(t, one/1000, number(t, row[2]), 0.05, row)
		require.InDelta(t, all/1000, number(t, row[3]), 0.05, row)
	}
}

func TestTheCountersOfThePageExist(t *testing.T) {
	_, table, found := strings.Cut(page(t), "| look at | because |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range find(t, "(?m)^\\| (`.+?) \\|", table) {
		for _, name := range find(t, "`(\\w+)`", row[0]) {
			_, ok := reflect.TypeFor[Stats]().FieldByName(name[0])
			require.True(t, ok, name)
		}
	}
	for _, cause := range find(t, `"([a-z ]+)"`, table) {
		require.Contains(t, refusalNames, cause[0])
	}
}

// HAProxy, with the configuration of the page, leads each name to its server, and TURN works through it.
func TestHAProxySplitsByName(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed (the package haproxy of Debian)")
	}
	cert, roots := certificateFor(t, "turn.example.com", "www.example.com")
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	secure, err := tls.Listen("tcp4", "127.0.0.1:0", config)
	require.NoError(t, err)
	r := newRig(t, Options{TCP: []net.Listener{secure}})
	pages, err := tls.Listen("tcp4", "127.0.0.1:0", config)
	require.NoError(t, err)
	defer pages.Close()
	go func() {
		for {
			c, err := pages.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "the pages")
			c.Close()
		}
	}()

	front := startHAProxy(t, haproxy, secure.Addr().String(), pages.Addr().String())
	conn, err := tls.Dial("tcp4", front, &tls.Config{RootCAs: roots, ServerName: "www.example.com"})
	require.NoError(t, err)
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "the pages", string(text))
	conn.Close()

	conn, err = tls.Dial("tcp4", front, &tls.Config{RootCAs: roots, ServerName: "turn.example.com"})
	require.NoError(t, err)
	c := r.raw("udp", "127.0.0.1", "alice")
	c.conn = pion.NewSTUNConn(conn)
	defer conn.Close()
	require.Zero(t, c.allocate())
	require.Equal(t, 1, r.Stats().Relays)
}

// startHAProxy starts HAProxy with the configuration of the page, and returns where it listens.
func startHAProxy(t *testing.T, haproxy, turn, pages string) string {
	t.Helper()
	config := find(t, "(?s)```haproxy\n(.*?)```", page(t))[0][0]
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	front := probe.Addr().String()
	probe.Close()
	for at, test := range map[string]string{"bind :443": "bind " + front, "127.0.0.1:5349": turn, "127.0.0.1:8443": pages} {
		require.Equal(t, 1, strings.Count(config, at), at)
		config = strings.Replace(config, at, test, 1)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	var output bytes.Buffer
	cmd := exec.Command(haproxy, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			t.Fatal("haproxy ended: " + output.String())
		default:
		}
		c, err := net.Dial("tcp4", front)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, wait, tick)
	return front
}

// certificateFor makes a certificate for names, and a pool that trusts it.
func certificateFor(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
