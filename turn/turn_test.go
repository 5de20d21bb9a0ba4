package turn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

// talk sends packets both ways between two relays.
func talk(t *testing.T, a, b *party, relayA, relayB net.PacketConn) {
	t.Helper()
	require.NoError(t, a.CreatePermission(relayB.LocalAddr()))
	send(t, relayB, "hello", relayA.LocalAddr())
	require.Equal(t, relayB.LocalAddr(), wantPacket(t, relayA, "hello"))
	send(t, relayA, "and back", relayB.LocalAddr())
	require.Equal(t, relayA.LocalAddr(), wantPacket(t, relayB, "and back"))
}

func TestTwoClientsReachEachOtherByTheirRelays(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, Options{})
			alice, bob := r.user(network, "alice"), r.user("udp", "bob")
			a, b := alice.relay(), bob.relay()
			talk(t, alice, bob, a, b)
			// A packet is counted when it has been sent. It may have arrived by then.
			require.Eventually(t, func() bool { return r.Stats().PacketsToPeers == 2 }, wait, tick)
			require.Equal(t, Usage{
				Relays: 1, BytesToPeers: 8, BytesFromPeers: 5, PacketsToPeers: 1, PacketsFromPeers: 1,
			}, r.Usage("alice"))
			require.Equal(t, Usage{
				Relays: 2, BytesToPeers: 13, BytesFromPeers: 13, PacketsToPeers: 2, PacketsFromPeers: 2,
			}, r.Stats().Usage)
			require.Equal(t, 2, r.Stats().Users)
			require.EqualValues(t, 2, r.Stats().Allocated)
		})
	}
}

// The whole way: a page gets credentials, makes a relay, and is removed.
func TestAPageGetsARelayUntilItIsRemoved(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		r := newRig(t, Options{})
		issued := make(chan peer.ICEServer, 1)
		srv := peer.NewServer(peer.Options{ICEServers: func(c *peer.Client) []peer.ICEServer {
			servers := r.ICEServers(c)
			issued <- servers[0]
			return servers
		}})
		r.Bind(srv)
		t.Cleanup(func() { srv.Close() })
		peertest.New(t, srv, "/", peertest.Ignore(peer.TypeICEServers)).Dial("alice")
		server := <-issued
		require.Equal(t, []string{
			"turn:" + r.udp + "?transport=udp", "turn:" + r.tcp + "?transport=tcp",
		}, server.URLs)
		alice, bob := r.party(network, server.Username, server.Credential), r.user("udp", "bob")
		a, b := alice.relay(), bob.relay()
		talk(t, alice, bob, a, b)

		require.True(t, srv.Realm().RemoveClient("alice"))
		require.Eventually(t, func() bool { return r.Usage("alice").Relays == 0 }, wait, tick)
		require.Equal(t, 1, r.Usage("bob").Relays)
		_, err := r.party(network, server.Username, server.Credential).Allocate()
		require.Error(t, err)
		require.NotZero(t, r.refused("revoked"))
	}
}

// The machine does not have its public address, and nothing sends a packet for it back.
func TestBehindNATRelaysReachEachOtherWithoutAHairpin(t *testing.T) {
	public := netip.MustParseAddr("198.51.100.7")
	for _, bind := range []string{"127.0.0.1", "127.0.0.3", "0.0.0.0"} {
		t.Run(bind, func(t *testing.T) {
			r := newRig(t, Options{PublicIP: public, BindIP: netip.MustParseAddr(bind)})
			alice, bob := r.user("udp", "alice"), r.user("tcp", "bob")
			a, b := alice.relay(), bob.relay()
			require.Equal(t, "198.51.100.7", a.LocalAddr().(*net.UDPAddr).IP.String())
			talk(t, alice, bob, a, b)
		})
	}
}

func TestIPv6(t *testing.T) {
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	s, err := New(Options{PublicIP: netip.IPv6Loopback(), UDP: []net.PacketConn{pc}})
	require.NoError(t, err)
	defer s.Close()
	r := &rig{t: t, Server: s, udp: pc.LocalAddr().String()}
	dial := func(id string) *party {
		username, credential := s.credentials(id, nil)
		conn, err := net.ListenPacket("udp6", "[::1]:0")
		require.NoError(t, err)
		c, err := pion.NewClient(&pion.ClientConfig{
			STUNServerAddr: r.udp, TURNServerAddr: r.udp, Conn: conn, Username: username, Password: credential,
			LoggerFactory: silent(),
		})
		require.NoError(t, err)
		require.NoError(t, c.Listen())
		t.Cleanup(func() { c.Close(); conn.Close() })
		return &party{c, t}
	}
	alice, bob := dial("alice"), dial("bob")
	talk(t, alice, bob, alice.relay(), bob.relay())
}

// Browsers do not say of which family the relay is to be, whatever the way is on which they reach the server.
func TestAClientOverIPv6GetsARelayOfPublicIP(t *testing.T) {
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	r := newRig(t, Options{UDP: []net.PacketConn{pc}})
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	require.NoError(t, err)
	defer conn.Close()
	username, credential := r.credentials("alice", nil)
	c := &raw{t: t, conn: conn, server: pc.LocalAddr(), username: username, credential: credential}
	require.Zero(t, c.allocate())
}

func TestAConnectionKnowsWhetherItHasARelay(t *testing.T) {
	r := newRig(t, Options{})
	c := r.raw("tcp", "127.0.0.1", "alice")
	relays := func() int32 {
		r.conns.mu.Lock()
		defer r.conns.mu.Unlock()
		require.Len(t, r.conns.remotes, 1)
		for _, c := range r.conns.remotes {
			return c.relays.Load()
		}
		return -1
	}
	for range 2 {
		require.Zero(t, c.allocate())
		require.EqualValues(t, 1, relays())
		require.Zero(t, c.ask(stun.MethodRefresh, seconds(0)))
		require.EqualValues(t, 0, relays())
	}
	require.Zero(t, c.allocate())
	r.Revoke("alice")
	require.Eventually(t, func() bool { return relays() == 0 }, wait, tick)
}

// certificate is one for 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestClientsConnectByTLS(t *testing.T) {
	cert, pool := certificate(t)
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	ln := tls.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{cert}})
	r := newRig(t, Options{TCP: []net.Listener{ln}})
	require.Contains(t, r.opts.URLs, "turns:"+inner.Addr().String()+"?transport=tcp")
	require.Contains(t, r.opts.URLs, "turn:"+r.tcp+"?transport=tcp")
	require.Contains(t, r.opts.URLs, "turn:"+r.udp+"?transport=udp")

	conn, err := tls.Dial("tcp", inner.Addr().String(), &tls.Config{RootCAs: pool})
	require.NoError(t, err)
	username, credential := r.credentials("alice", nil)
	client, err := pion.NewClient(&pion.ClientConfig{
		STUNServerAddr: r.udp, TURNServerAddr: r.udp, Conn: pion.NewSTUNConn(conn), Username: username,
		Password: credential, LoggerFactory: silent(),
	})
	require.NoError(t, err)
	require.NoError(t, client.Listen())
	defer client.Close()
	alice, bob := &party{client, t}, r.user("udp", "bob")
	talk(t, alice, bob, alice.relay(), bob.relay())

	plain, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer plain.Close()
	_, err = plain.Write([]byte("GET / HTTP/1.1\r\nHost: turn\r\n\r\n"))
	require.NoError(t, err)
	wantEnd(t, plain)
	require.EqualValues(t, 1, r.refused("handshake"))
}

// wantEnd waits until the server has closed a connection.
func wantEnd(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	buf := make([]byte, 1000)
	for {
		_, err := c.Read(buf)
		if err != nil {
			ne, ok := err.(net.Error)
			require.False(t, ok && ne.Timeout(), "the server has not closed the connection")
			return
		}
	}
}

func TestTheEndOfAConnectionEndsItsRelay(t *testing.T) {
	r := newRig(t, Options{})
	c := r.raw("tcp", "127.0.0.1", "alice")
	require.Zero(t, c.allocate())
	require.Equal(t, 1, r.Stats().Relays)
	require.NoError(t, c.conn.Close())
	require.Eventually(t, func() bool { return r.Stats().Relays == 0 && r.Stats().Conns == 0 }, wait, tick)
}

func TestCloseEndsAllConnectionsAndGoroutines(t *testing.T) {
	r := newRig(t, Options{})
	idle, err := net.Dial("tcp", r.tcp) // has sent nothing
	require.NoError(t, err)
	defer idle.Close()
	alice, bob := r.raw("udp", "127.0.0.1", "alice"), r.raw("tcp", "127.0.0.1", "bob")
	require.Zero(t, alice.allocate())
	require.Zero(t, bob.allocate())
	require.Zero(t, bob.ask(stun.MethodCreatePermission, peerOf("9.9.9.9:9")))
	require.NoError(t, r.Close())
	wantEnd(t, idle)
	wantEnd(t, bob.conn.(*pion.STUNConn).Conn())
	require.NoError(t, r.Close())
	require.NoError(t, r.Shutdown(t.Context()))
	require.Empty(t, r.ICEServers(nil))
	// What pion still does after its last call of ours takes no time worth mentioning.
	require.Eventually(t, func() bool { return goroutines() == "" }, 10*time.Second, time.Millisecond, goroutines)
}

// goroutines returns the stacks of those that run code of pion's server or of this package's.
func goroutines() string {
	buf := make([]byte, 1<<20)
	var found []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		server := strings.Contains(stack, "turn/v5.(*Server)") || strings.Contains(stack, "internal/allocation.") ||
			strings.Contains(stack, "peer/turn.(*listener)")
		if server && !strings.Contains(stack, "turn.goroutines") {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

func TestShutdownWaitsForRelays(t *testing.T) {
	r := newRig(t, Options{})
	alice, bob := r.raw("udp", "127.0.0.1", "alice"), r.raw("udp", "127.0.0.1", "bob")
	bob.hello()
	require.Zero(t, alice.allocate())
	ended := make(chan error)
	go func() { ended <- r.Shutdown(context.Background()) }()
	require.Eventually(t, r.users.isClosing, 10*time.Second, time.Millisecond)
	require.NotZero(t, bob.allocate())
	require.Empty(t, r.ICEServers(nil))
	select {
	case <-ended:
		t.Fatal("Shutdown did not wait")
	default:
	}
	require.Zero(t, alice.ask(stun.MethodRefresh, seconds(600))) // a relay that exists lives on
	alice.write(stun.MethodRefresh, stun.ClassRequest, seconds(0))
	require.NoError(t, <-ended)
	require.NotZero(t, r.refused("shutdown"))
}

func TestShutdownCutsRelaysAtTheEndOfItsContext(t *testing.T) {
	r := newRig(t, Options{})
	require.Zero(t, r.raw("udp", "127.0.0.1", "alice").allocate())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.Shutdown(ctx), context.Canceled)
	require.Zero(t, r.Stats().Relays)
}
