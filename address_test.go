package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// from makes every request come from addr, as if a real connection did.
func from(addr string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = addr
		h.ServeHTTP(w, r)
	})
}

func prefixes(ps ...string) (out []netip.Prefix) {
	for _, p := range ps {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestRemoteAddr(t *testing.T) {
	xff := func(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }
	forwarded := func(lines ...string) http.Header { return http.Header{"Forwarded": lines} }
	ten := prefixes("10.0.0.0/8", "fd00::/8")
	for _, c := range []struct {
		name   string
		trust  []netip.Prefix
		direct string
		header http.Header
		want   string
	}{
		{"no proxies", nil, "10.0.0.1:1", nil, "10.0.0.1:1"},
		{"no proxies, header ignored", nil, "10.0.0.1:1", xff("203.0.113.1"), "10.0.0.1:1"},
		{"no proxies, Forwarded ignored", nil, "10.0.0.1:1", forwarded("for=203.0.113.1"), "10.0.0.1:1"},
		{"not from a proxy", ten, "192.0.2.1:1", xff("203.0.113.1"), "192.0.2.1:1"},
		{"not from a proxy, Forwarded", ten, "192.0.2.1:1", forwarded("for=203.0.113.1"), "192.0.2.1:1"},
		{"not from a proxy, IPv6", ten, "[2001:db8::1]:1", xff("203.0.113.1"), "[2001:db8::1]:1"},
		{"no address", ten, "@", xff("203.0.113.1"), "@"},
		{"no port, as middleware leaves it", ten, "10.0.0.1", xff("203.0.113.1"), "203.0.113.1"},
		{"no port, not from a proxy", ten, "192.0.2.1", xff("203.0.113.1"), "192.0.2.1"},
		{"a proxy that says nothing", ten, "10.0.0.1:1", nil, "10.0.0.1"},
		{"a proxy that says nothing in words", ten, "10.0.0.1:1", xff(""), "10.0.0.1"},

		{"one proxy", ten, "10.0.0.1:1", xff("203.0.113.1"), "203.0.113.1"},
		{"left part is spoofed", ten, "10.0.0.1:1", xff("198.51.100.9, 203.0.113.1"), "203.0.113.1"},
		{"left line is spoofed", ten, "10.0.0.1:1", xff("198.51.100.9", "203.0.113.1"), "203.0.113.1"},
		{"a proxy's address is spoofed", ten, "10.0.0.1:1", xff("10.0.0.7, 203.0.113.1"), "203.0.113.1"},
		{"nonsense is spoofed", ten, "10.0.0.1:1", xff("<script>, , 203.0.113.1"), "203.0.113.1"},
		{"three proxies", ten, "10.0.0.1:1", xff("198.51.100.9, 203.0.113.1, 10.0.0.3,10.0.0.2"), "203.0.113.1"},
		{"three proxies, three lines", ten, "10.0.0.1:1", xff("203.0.113.1", "10.0.0.3", "10.0.0.2"), "203.0.113.1"},
		{"a proxy is the client", ten, "10.0.0.1:1", xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"},
		{"nonsense behind a proxy", ten, "10.0.0.1:1", xff("203.0.113.1, unknown, 10.0.0.2"), "10.0.0.2"},
		{"nonsense", ten, "10.0.0.1:1", xff("203.0.113.1, unknown"), "10.0.0.1"},
		{"no comma", ten, "10.0.0.1:1", xff("203.0.113.1 198.51.100.9"), "10.0.0.1"},
		{"spaces", ten, "10.0.0.1:1", xff(" \t203.0.113.1\t "), "203.0.113.1"},
		{"port", ten, "10.0.0.1:1", xff("203.0.113.1:4711"), "203.0.113.1"},
		{"IPv6", ten, "10.0.0.1:1", xff("2001:db8::1"), "2001:db8::1"},
		{"IPv6 in brackets", ten, "10.0.0.1:1", xff("[2001:db8::1]"), "2001:db8::1"},
		{"IPv6 with a port", ten, "10.0.0.1:1", xff("[2001:db8::1]:4711"), "2001:db8::1"},
		{"IPv6 proxies", ten, "[fd00::1]:1", xff("2001:db8::1, fd00::2, [fd00::3]:80"), "2001:db8::1"},
		{"IPv6 with a zone", ten, "10.0.0.1:1", xff("fe80::1%any text"), "fe80::1"},
		{"IPv4 in IPv6", ten, "[::ffff:10.0.0.1]:1", xff("::ffff:203.0.113.1, ::ffff:10.0.0.2"), "203.0.113.1"},

		{"Forwarded", ten, "10.0.0.1:1", forwarded("for=203.0.113.1"), "203.0.113.1"},
		{"Forwarded with all", ten, "10.0.0.1:1", forwarded(`by=10.0.0.1;FOR="203.0.113.1:4711" ; proto=https;host=example.com`), "203.0.113.1"},
		{"Forwarded, spoofed left part", ten, "10.0.0.1:1", forwarded("for=198.51.100.9, for=203.0.113.1;by=10.0.0.2, for=10.0.0.2"), "203.0.113.1"},
		{"Forwarded, spoofed left line", ten, "10.0.0.1:1", forwarded("for=198.51.100.9", "for=203.0.113.1"), "203.0.113.1"},
		{"Forwarded, IPv6", ten, "10.0.0.1:1", forwarded(`for="[2001:db8::1]"`), "2001:db8::1"},
		{"Forwarded, IPv6 with a port", ten, "10.0.0.1:1", forwarded(`for="[2001:db8::1]:4711"`), "2001:db8::1"},
		{"Forwarded, hidden", ten, "10.0.0.1:1", forwarded("for=203.0.113.1, for=_hidden, for=10.0.0.2"), "10.0.0.2"},
		{"Forwarded, unknown", ten, "10.0.0.1:1", forwarded("for=203.0.113.1, for=unknown"), "10.0.0.1"},
		{"Forwarded without for", ten, "10.0.0.1:1", forwarded("for=203.0.113.1, proto=https"), "10.0.0.1"},
		{"both", ten, "10.0.0.1:1", http.Header{"Forwarded": {"for=198.51.100.9"}, "X-Forwarded-For": {"203.0.113.1"}}, "203.0.113.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := NewServer(Options{TrustedProxies: c.trust})
			r := serveRig(t, srv, from(c.direct, srv))
			r.dialURL(r.socketURL("/", "a", "t"), c.header).wantOpen()
			require.Equal(t, c.want, srv.Realm().Client("a").RemoteAddr())
		})
	}
}

func TestTheLimitPerAddress(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimitPerAddr: 2, TrustedProxies: prefixes("127.0.0.0/8")})
	rec := watch(r.srv)
	dial := func(id, token, addr string) *testPeer {
		return r.dialURL(r.socketURL("/", id, token), http.Header{"X-Forwarded-For": {addr}})
	}
	a := dial("a", "t", "203.0.113.1")
	a.wantOpen()
	dial("b", "t", "203.0.113.1:80").wantOpen()
	dial("c", "t", "::ffff:203.0.113.1").wantRefused(TypeError, isFull)
	dial("c", "t", "203.0.113.2").wantOpen()
	dial("d", "t", "203.0.113.1").wantRefused(TypeError, isFull)
	dial("d", "t", "198.51.100.9, 203.0.113.1").wantRefused(TypeError, isFull) // whatever it says of itself
	dial("c", "other", "203.0.113.3").wantRefused(TypeIDTaken, isTaken)
	rec.about(t, "c", "+c")

	a2 := dial("a", "t", "203.0.113.1") // takes the place of its own
	a2.wantOpen()
	require.Equal(t, CloseReplaced, a.wantEnd())
	rec.about(t, "a", "+a", "-a replaced by its own token", "+a")

	a3 := dial("a", "t", "203.0.113.2") // and moves
	a3.wantOpen()
	require.Equal(t, CloseReplaced, a2.wantEnd())
	dial("d", "t", "203.0.113.1").wantOpen()
	dial("e", "t", "203.0.113.2").wantRefused(TypeError, isFull)
	a3.close()
	waitFor(t, func() bool { return r.srv.Realm().Len() == 3 })
	dial("e", "t", "203.0.113.2").wantOpen()
}

func TestSites(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1",
		"::ffff:192.0.2.1":     "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
		"::1":                  "::",
		"fe80::1%eth0":         "fe80::1", // all of a LAN is in one such network
		"64:ff9b::192.0.2.1":   "64:ff9b::c000:201",
	} {
		require.Equal(t, want, limitAddrOf(plainAddr(netip.MustParseAddr(addr))).String(), addr)
	}
	require.Equal(t, netip.Addr{}, limitAddrOf(netip.Addr{}))
}

func TestTheLimitPerAddressIsForANetworkOfIPv6(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimitPerAddr: 1, TrustedProxies: prefixes("127.0.0.0/8")})
	dial := func(id, addr string) *testPeer {
		return r.dialURL(r.socketURL("/", id, "t"), http.Header{"X-Forwarded-For": {addr}})
	}
	dial("a", "2001:db8:1:2::1").wantOpen()
	dial("b", "2001:db8:1:2:ffff::").wantRefused(TypeError, isFull)
	dial("b", "2001:db8:1:3::1").wantOpen()
	dial("c", "203.0.113.1").wantOpen()
	dial("d", "203.0.113.2").wantOpen()
	require.Equal(t, "2001:db8:1:2::1", r.srv.Realm().Client("a").RemoteAddr())
}

// Somebody who cannot be admitted must not end anybody on the way.
func TestWhoHasNoRoomTakesNoIDOver(t *testing.T) {
	for _, c := range []struct{ name, token string }{{"override", "another"}, {"own token", "t"}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{ConcurrentLimitPerAddr: 1, AllowOverride: OverrideAlways, TrustedProxies: prefixes("127.0.0.0/8")})
			rec := watch(r.srv)
			dial := func(id, token, addr string) *testPeer {
				return r.dialURL(r.socketURL("/", id, token), http.Header{"X-Forwarded-For": {addr}})
			}
			dial("busy", "t", "203.0.113.1").wantOpen()
			holder := dial("a", "t", "203.0.113.2")
			holder.wantOpen()
			dial("a", c.token, "203.0.113.1").wantRefused(TypeError, isFull)
			holder.offer("a", `1`)
			holder.wantOffer("a", `1`)
			rec.about(t, "a", "+a")
		})
	}
}

func TestTheLimitPerAddressNeedsAnAddress(t *testing.T) {
	log := &syncBuffer{}
	srv := NewServer(Options{ConcurrentLimitPerAddr: 1, Logger: slog.New(slog.NewTextHandler(log, nil))})
	r := serveRig(t, srv, from("@", srv)) // as behind a Unix socket
	for i := range 3 {
		r.connect(fmt.Sprint("peer", i))
	}
	require.Equal(t, 3, srv.Realm().Len())
	require.Equal(t, 1, strings.Count(log.take(), "level=WARN"), "once, and not for each of them")
}

// unixRig serves srv on a Unix socket.
func unixRig(t *testing.T, srv *Server) *rig {
	dir, err := os.MkdirTemp("", "peer") // that of the test can be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	ts := httptest.NewUnstartedServer(srv)
	ts.Listener.Close()
	ts.Listener = l
	ts.Start()
	t.Cleanup(func() {
		closeServer(t, srv)
		ts.Close()
	})
	return &rig{t: t, srv: srv, url: "http://peer.test", dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
}

func TestAProxyOnAUnixSocket(t *testing.T) {
	everywhere := prefixes("0.0.0.0/0", "::/0")
	for _, c := range []struct {
		name  string
		opts  Options
		chain string
		want  string
	}{
		{"trusted", Options{TrustUnixProxy: true}, "203.0.113.9", "203.0.113.9"},
		{"trusted, the client lies", Options{TrustUnixProxy: true}, "198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{"trusted, behind another proxy", Options{TrustUnixProxy: true, TrustedProxies: prefixes("10.0.0.0/8")}, "203.0.113.9, 10.0.0.1", "203.0.113.9"},
		{"trusted, but it says nothing", Options{TrustUnixProxy: true}, "", "@"},
		{"not trusted", Options{TrustedProxies: everywhere}, "203.0.113.9", "@"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := NewServer(c.opts)
			r := unixRig(t, srv)
			r.dialURL(r.socketURL("/", "a", "t"), http.Header{"X-Forwarded-For": {c.chain}}).wantOpen()
			if got := srv.Realm().Client("a").RemoteAddr(); c.want != "@" || got != "" { // how a system calls a socket without a name
				require.Equal(t, c.want, got)
			}
		})
	}
	t.Run("over TCP the option means nothing", func(t *testing.T) {
		r := newRig(t, Options{TrustUnixProxy: true})
		r.dialURL(r.socketURL("/", "a", "t"), http.Header{"X-Forwarded-For": {"203.0.113.9"}}).wantOpen()
		require.Contains(t, r.srv.Realm().Client("a").RemoteAddr(), "127.0.0.1:")
	})
	t.Run("limit per address", func(t *testing.T) {
		r := unixRig(t, NewServer(Options{TrustUnixProxy: true, ConcurrentLimitPerAddr: 1}))
		dial := func(id, addr string) *testPeer {
			return r.dialURL(r.socketURL("/", id, "t"), http.Header{"X-Forwarded-For": {addr}})
		}
		dial("a", "203.0.113.1").wantOpen()
		dial("b", "203.0.113.1").wantRefused(TypeError, isFull)
		dial("b", "203.0.113.2").wantOpen()
	})
}
