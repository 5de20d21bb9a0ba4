package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// health runs a check with these flags and returns its exit code and what it says.
func health(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append(args, "--healthcheck"), noEnv, &out, &errs)
	require.Empty(t, out.String())
	return code, errs.String()
}

func TestTheHealthOfAServerThatAnswers(t *testing.T) {
	key, cert, _ := newCertificate(t)
	for name, args := range map[string][]string{
		"by default":   nil,
		"below a path": {"--path", "/my app/"},
		"with a key":   {"--key", "mine"},
		"over TLS":     {"--sslkey", key, "--sslcert", cert},
	} {
		t.Run(name, func(t *testing.T) {
			host := restartHost() // nobody else takes the port there
			l, err := listen(config{host: host})
			require.NoError(t, err)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			l.Close()
			args := append(args, "--host", host, "--port", port)
			code, errs := health(t, args...)
			require.Equal(t, 1, code)
			require.True(t, strings.HasPrefix(errs, "peerjs: the server is not healthy: "), errs)

			p := startAt(t, args...)
			code, errs = health(t, args...)
			require.Zero(t, code, errs)
			require.Empty(t, errs)
			p.quit()
			p.wantEnd(0)
			code, _ = health(t, args...)
			require.Equal(t, 1, code)
		})
	}
}

func TestAServerOnAllAddressesIsReachedOnLoopback(t *testing.T) {
	for host, want := range map[string]string{
		"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1", "::1": "::1", "10.0.0.1": "10.0.0.1", "peer.test": "peer.test",
	} {
		require.Equal(t, want, reachable(host), host)
	}
}

func TestTheHealthOfAServerOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if len(path) > 100 {
		t.Skip("the path is too long for a socket")
	}
	code, _ := health(t, "--host", "unix:"+path)
	require.Equal(t, 1, code)
	p := startAt(t, "--host", "unix:"+path)
	code, errs := health(t, "--host", "unix:"+path)
	require.Zero(t, code, errs)
	p.quit()
	p.wantEnd(0)
}

func TestTheHealthOfAnotherProgram(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusFound, http.StatusInternalServerError} {
		other := httptest.NewServer(http.RedirectHandler("/", status))
		defer other.Close()
		_, port, _ := net.SplitHostPort(other.Listener.Addr().String())
		code, errs := health(t, "--host", "127.0.0.1", "--port", port)
		require.Equal(t, 1, code)
		require.Contains(t, errs, http.StatusText(status))
	}
}

func TestTheVersionIsThatOfTheLinkerElseOfTheModule(t *testing.T) {
	line := func() string {
		var out bytes.Buffer
		require.Zero(t, run(t.Context(), []string{"--version"}, noEnv, &out, &out))
		return out.String()
	}
	rest := " (" + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + ")\n"
	require.Regexp(t, `^peerjs \S* ?\(`, line())
	defer func(was string) { version = was }(version)
	version = "v1.2.3"
	require.Equal(t, "peerjs v1.2.3"+rest, line())

	// Mistakes are told all the same.
	require.Equal(t, 2, run(t.Context(), []string{"--version", "--prot", "1"}, noEnv, new(bytes.Buffer), new(bytes.Buffer)))
}

// startAt runs the program with just these flags until it listens.
func startAt(t *testing.T, args ...string) *program {
	p := &program{t: t, out: newLines(t), errs: newLines(t), code: make(chan int, 1)}
	ctx, quit := context.WithCancel(t.Context())
	p.quit = quit
	go func() { p.code <- run(ctx, args, noEnv, p.out, p.errs) }()
	p.out.want("peerjs: listening on .*")
	return p
}
