package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// version is set by the linker where an archive or an image is built: -X main.version=v1.2.3.
var version string

// versionLine returns what --version prints. After "go install" with a version, the module knows it.
func versionLine() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	return fmt.Sprintf("peerjs %s (%s %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// healthTimeout is shorter than the timeouts that deploy/ gives to the check.
const healthTimeout = 3 * time.Second

// checkHealth asks the server that runs on this machine with the configuration cfg. The address without a
// key answers without a client or an id.
func checkHealth(ctx context.Context, cfg config) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	network, addr := "tcp", net.JoinHostPort(reachable(cfg.host), strconv.Itoa(cfg.port))
	if path, ok := strings.CutPrefix(cfg.host, unixPrefix); ok {
		network, addr = "unix", path
	}
	u := url.URL{Scheme: "http", Host: "localhost", Path: "/" + strings.Trim(cfg.opts.Path, "/")}
	if cfg.sslcert != "" {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
		// The certificate is for the name by which clients know the server. Whether it is valid is not asked.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req) // a redirection would be the answer of another program
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", addr, res.Status)
	}
	return nil
}

// reachable returns a host at which a program on this machine reaches a server that listens on host. It is
// no name: an image may have no file of names. A server on all addresses listens on those of IPv4 too.
func reachable(host string) string {
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}
