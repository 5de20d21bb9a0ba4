package turn

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// Addresses of each special-purpose network of IANA's registries, the first and the last of each, and others in
// disguise.
var specialAddrs = []string{
	"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.2",
	"127.255.255.255", "169.254.0.0", "169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255",
	"192.0.0.0", "192.0.0.192", "192.0.0.255", "192.0.2.0", "192.0.2.255", "192.31.196.1", "192.52.193.1",
	"192.88.99.1", "192.168.0.0", "192.168.255.255", "192.175.48.1", "198.18.0.0", "198.19.255.255", "198.51.100.0",
	"198.51.100.255", "203.0.113.0", "203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255",
	"::", "::1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1",
	"2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1",
	"2001:20::1", "2001:30::1", "2001:1ff:ffff::", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2620:4f:8000::1",
	"3fff::1", "3fff:fff:ffff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff::1", "fe80::1", "febf::1", "fec0::1",
	"ff02::1", "ff0e::1", "4000::1", "8000::1",
}

var globalAddrs = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
	"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0",
	"192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255",
	"203.0.114.0", "223.255.255.255", "2001:200::1", "2001:4860:4860::8888", "2606:4700::1111", "2620:4f:7fff::1",
	"2a00::1", "3ffe::1",
}

func filterFor(public, bind string, allow func(netip.Addr) bool) *peers {
	b := netip.MustParseAddr(bind)
	return &peers{
		public: netip.MustParseAddr(public), local: localOf(b), allowed: guarded(allow),
		isRelay: func(port uint16) bool { return port == 50000 },
	}
}

func mapped(addr netip.Addr) netip.Addr { return netip.AddrFrom16(addr.As16()) }

func TestSpecialPurposeAddressesAreDenied(t *testing.T) {
	p := filterFor("8.8.4.4", "0.0.0.0", nil)
	for _, text := range specialAddrs {
		addr := netip.MustParseAddr(text)
		for _, a := range []netip.Addr{addr, mapped(addr)} {
			require.False(t, p.allowsAddr(a), a)
			_, ok := p.to(netip.AddrPortFrom(a, 50000))
			require.False(t, ok, "to %v", a)
			if addr != p.local { // from there come the server's own relays
				_, ok = p.from(netip.AddrPortFrom(a, 50000))
				require.False(t, ok, "from %v", a)
			}
		}
	}
	for _, text := range globalAddrs {
		addr := netip.MustParseAddr(text)
		for _, a := range []netip.Addr{addr, mapped(addr)} {
			require.True(t, p.allowsAddr(a), a)
			to, ok := p.to(netip.AddrPortFrom(a, 9))
			require.True(t, ok, "to %v", a)
			require.Equal(t, netip.AddrPortFrom(addr, 9), to)
			from, ok := p.from(netip.AddrPortFrom(a, 9))
			require.True(t, ok, "from %v", a)
			require.Equal(t, netip.AddrPortFrom(addr, 9), from)
		}
		_, ok := p.to(netip.AddrPortFrom(addr, 0))
		require.False(t, ok, "port 0")
	}
	require.False(t, p.allowsAddr(netip.MustParseAddr("fe80::1%eth0")))
	require.False(t, p.allowsAddr(netip.MustParseAddr("2a00::1%eth0")))
	require.False(t, p.allowsAddr(netip.Addr{}))
}

func TestAllowPeerOpensOnlyWhatCanBeAPeer(t *testing.T) {
	var asked []netip.Addr
	p := filterFor("8.8.4.4", "10.0.0.5", func(a netip.Addr) bool {
		asked = append(asked, a)
		return a != netip.MustParseAddr("10.0.0.9")
	})
	for text, want := range map[string]bool{
		"10.0.0.7": true, "::ffff:10.0.0.7": true, "10.0.0.9": false, "fd00::1": true, "64:ff9b::1": true,
		"0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"::ffff:255.255.255.255": false, "8.8.8.8": true,
	} {
		_, ok := p.to(netip.AddrPortFrom(netip.MustParseAddr(text), 9))
		require.Equal(t, want, ok, text)
	}
	require.NotContains(t, asked, netip.MustParseAddr("8.8.8.8"), "only what is special is asked for")
	require.Contains(t, asked, netip.MustParseAddr("10.0.0.7"))
	require.NotContains(t, asked, netip.MustParseAddr("::ffff:10.0.0.7"))
	for _, a := range asked {
		require.False(t, neverPeer(a), a)
	}
	// Where relays are bound, no service of the machine is open, whatever AllowPeer says.
	_, ok := p.to(netip.MustParseAddrPort("10.0.0.5:50000"))
	require.False(t, ok)
	_, ok = p.to(netip.MustParseAddrPort("10.0.0.5:9"))
	require.False(t, ok)

	p = filterFor("8.8.4.4", "0.0.0.0", func(netip.Addr) bool { panic("a mistake of the host") })
	require.False(t, p.allowsAddr(netip.MustParseAddr("10.0.0.7")))
}

func TestTheOwnAddressStandsForRelays(t *testing.T) {
	for bind, local := range map[string]string{"0.0.0.0": "127.0.0.1", "10.0.0.5": "10.0.0.5", "8.8.4.4": "8.8.4.4"} {
		p := filterFor("8.8.4.4", bind, nil)
		for _, own := range []string{"8.8.4.4", "::ffff:8.8.4.4"} {
			to, ok := p.to(netip.AddrPortFrom(netip.MustParseAddr(own), 50000))
			require.True(t, ok, bind)
			require.Equal(t, netip.AddrPortFrom(netip.MustParseAddr(local), 50000), to)
			_, ok = p.to(netip.AddrPortFrom(netip.MustParseAddr(own), 50001))
			require.False(t, ok, bind)
			require.True(t, p.allowsAddr(netip.MustParseAddr(own)))
		}
		from, ok := p.from(netip.AddrPortFrom(netip.MustParseAddr(local), 50000))
		require.True(t, ok, bind)
		require.Equal(t, netip.MustParseAddrPort("8.8.4.4:50000"), from)
		for _, port := range []uint16{0, 53, 49999, 50001} {
			_, ok = p.from(netip.AddrPortFrom(netip.MustParseAddr(local), port))
			require.False(t, ok, "%v: a service of the machine", port)
		}
	}
}

func TestNoAddressOfTheMachineIsAPeer(t *testing.T) {
	p := filterFor("8.8.4.4", "0.0.0.0", func(netip.Addr) bool { return true })
	for _, text := range []string{"10.0.0.5", "9.9.9.9", "fd00::5"} {
		addr := netip.MustParseAddr(text)
		require.True(t, p.allowsAddr(addr), text)
		p.machine = map[netip.Addr]struct{}{addr: {}}
		for _, a := range []netip.Addr{addr, mapped(addr)} {
			require.False(t, p.allowsAddr(a), a)
			_, ok := p.to(netip.AddrPortFrom(a, 50000))
			require.False(t, ok, "to %v", a)
			_, ok = p.from(netip.AddrPortFrom(a, 50000))
			require.False(t, ok, "from %v: only its public address stands for relays", a)
		}
	}

	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	require.NotEmpty(t, addrs)
	r := newRig(t, Options{
		PublicIP: netip.MustParseAddr("8.8.4.4"), BindIP: netip.MustParseAddr("127.0.0.3"),
		AllowPeer: func(netip.Addr) bool { return true },
	})
	for _, a := range addrs {
		addr, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		require.False(t, r.peers.allowsAddr(addr), addr)
	}
}

// Whatever the filter lets pass is outside of the special-purpose networks, or is a relay.
func FuzzPeers(f *testing.F) {
	for _, text := range append(specialAddrs, globalAddrs...) {
		addr := netip.MustParseAddr(text)
		f.Add(addr.AsSlice(), uint16(50000))
		f.Add(mapped(addr).AsSlice(), uint16(9))
	}
	p := filterFor("8.8.4.4", "0.0.0.0", nil)
	f.Fuzz(func(t *testing.T, ip []byte, port uint16) {
		ap, _ := addrPortOf(&net.UDPAddr{IP: ip, Port: int(port)})
		to, ok := p.to(ap)
		if !ok {
			return
		}
		if to.Addr() == p.local {
			require.EqualValues(t, 50000, to.Port())
			require.Equal(t, p.public, ap.Addr())
			return
		}
		require.True(t, p.allowsAddr(ap.Addr()), "a packet needs a permission")
		require.NotZero(t, to.Port())
		require.True(t, to.Addr().IsGlobalUnicast() && !to.Addr().IsPrivate() && !to.Addr().Is4In6())
		for _, n := range special {
			require.False(t, n.Contains(to.Addr()), to)
		}
		back, ok := p.from(to)
		require.True(t, ok)
		require.Equal(t, to, back)
	})
}

// forbidden are the peers of the tests from the outside. The first two groups are what coturn let pass:
// CVE-2020-26262 (0.0.0.0 and ::1, which reach the machine itself) and CVE-2026-27624 (IPv4-mapped addresses).
var forbidden = map[string][]string{
	"CVE-2020-26262": {"0.0.0.0", "0.0.0.1", "::", "::1"},
	"CVE-2026-27624": {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"},
	"loopback":       {"127.0.0.2", "::ffff:127.0.0.2"},
	"private":        {"10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1"},
	"link-local":     {"169.254.169.254", "fe80::1"},
	"multicast":      {"224.0.0.1", "255.255.255.255", "ff02::1"},
	"IPv4 in IPv6":   {"64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "2001:0:4136:e378:8000:63bf:80ff:fffe"},
	"ULA":            {"fd00::1"},
}

func TestNoPermissionForForbiddenPeers(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		r := newRig(t, Options{PublicIP: netip.MustParseAddr("198.51.100.7")})
		for name, addrs := range forbidden {
			for _, text := range addrs {
				c := r.raw(network, "127.0.0.1", "alice")
				require.Zero(t, c.allocate())
				peer := peerAddress(netip.AddrPortFrom(netip.MustParseAddr(text), 53))
				require.NotZero(t, c.ask(stun.MethodCreatePermission, peer), "%s: %s", name, text)
				require.NotZero(t, c.ask(stun.MethodChannelBind, peer, channel(0x4000)), "%s: %s", name, text)
				require.NotZero(t, c.ask(stun.MethodCreatePermission, peerOf("8.8.8.8:53"), peer), "%s: %s", name, text)
				require.Zero(t, c.ask(stun.MethodRefresh, seconds(0)))
			}
		}
		require.NotZero(t, r.refused("peer"))
	}
}

// A permission is for an address. The server's own has ports that are no relays.
func TestServicesOfTheMachineAreNotReached(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, own := range []string{"127.0.0.1", "::ffff:127.0.0.1"} {
			t.Run(network+" "+own, func(t *testing.T) {
				r := newRig(t, Options{AllowPeer: func(netip.Addr) bool { return true }})
				service := peerAt(t, "127.0.0.1")
				port := uint16(service.LocalAddr().(*net.UDPAddr).Port)
				secret := peerAddress(netip.AddrPortFrom(netip.MustParseAddr(own), port))
				c := r.raw(network, "127.0.0.1", "alice")
				require.Zero(t, c.allocate())
				require.Zero(t, c.ask(stun.MethodCreatePermission, secret))
				require.Zero(t, c.ask(stun.MethodChannelBind, secret, channel(0x4000)))
				c.write(stun.MethodSend, stun.ClassIndication, secret, data("by a Send indication"))
				_, err := c.conn.WriteTo(append([]byte{0x40, 0, 0, 4}, "chan"...), c.server)
				require.NoError(t, err)

				// The answer to a request comes after the packets before it have been dealt with.
				require.Zero(t, c.ask(stun.MethodRefresh, seconds(600)))
				require.EqualValues(t, 2, r.Usage("alice").DeniedPackets)
				require.Zero(t, r.Usage("alice").PacketsToPeers)

				// What the service sends does not reach the client either.
				var relayed *relay
				for relayed = range r.users.all["alice"].relays {
				}
				send(t, service, "spoofed", &net.UDPAddr{IP: loopback.AsSlice(), Port: int(relayed.port)})
				require.Eventually(t, func() bool { return r.Usage("alice").DeniedPackets == 3 }, wait, tick)
				require.Zero(t, r.Usage("alice").PacketsFromPeers)
			})
		}
	}
}

func TestOnlyPeersWithAPermissionAreHeard(t *testing.T) {
	r := newRig(t, Options{AllowPeer: func(a netip.Addr) bool { return a != netip.MustParseAddr("127.0.0.4") }})
	good, stranger, denied := peerAt(t, "127.0.0.2"), peerAt(t, "127.0.0.3"), peerAt(t, "127.0.0.4")
	for _, network := range []string{"udp", "tcp"} {
		alice := r.user(network, "alice")
		relay := alice.relay()
		require.NoError(t, alice.CreatePermission(good.LocalAddr()))
		require.Error(t, alice.CreatePermission(denied.LocalAddr()))
		before := r.Usage("alice")
		send(t, stranger, "not wanted", relay.LocalAddr())
		send(t, denied, "not wanted", relay.LocalAddr())
		send(t, good, "hello", relay.LocalAddr())
		require.Equal(t, good.LocalAddr(), wantPacket(t, relay, "hello"))
		require.EqualValues(t, 2, r.Usage("alice").DeniedPackets-before.DeniedPackets)
		require.EqualValues(t, 1, r.Usage("alice").PacketsFromPeers-before.PacketsFromPeers)
		send(t, relay, "and back", good.LocalAddr())
		require.Equal(t, relay.LocalAddr(), wantPacket(t, good, "and back"))
	}
}

func TestRelayingToTCPIsRefused(t *testing.T) {
	r := newRig(t, Options{AllowPeer: func(netip.Addr) bool { return true }})
	ln, err := net.Listen("tcp4", "127.0.0.2:0")
	require.NoError(t, err)
	defer ln.Close()
	for _, network := range []string{"udp", "tcp"} {
		c := r.raw(network, "127.0.0.1", "alice")
		require.Equal(t, stun.CodeInsufficientCapacity, c.allocate(transport(6)))
		require.Zero(t, c.allocate())
		require.Equal(t, stun.CodeConnTimeoutOrFailure, c.ask(stun.MethodConnect, peerOf(ln.Addr().String())))
	}
	require.EqualValues(t, 4, r.refused("relay to TCP"))
}

func TestNobodyChoosesAPort(t *testing.T) {
	r := newRig(t, Options{})
	even := stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0x80}}
	c := r.raw("udp", "127.0.0.1", "alice")
	require.Equal(t, stun.CodeInsufficientCapacity, c.allocate(overUDP, even))
	require.EqualValues(t, 1, r.refused("chosen port"))
	six := stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{2, 0, 0, 0}}
	require.Equal(t, stun.CodeInsufficientCapacity, c.allocate(overUDP, six))
	require.EqualValues(t, 1, r.refused("address family"))
	require.Zero(t, c.allocate())
}

// pion would pass on the first 1,600 bytes of it.
func TestADatagramThatIsTooLargeIsDropped(t *testing.T) {
	r := newRig(t, Options{AllowPeer: allow2})
	far := peerAt(t, "127.0.0.2")
	alice := r.user("udp", "alice")
	relay := alice.relay()
	require.NoError(t, alice.CreatePermission(far.LocalAddr()))
	send(t, far, string(make([]byte, maxDatagram)), relay.LocalAddr())
	send(t, far, string(make([]byte, maxDatagram+1)), relay.LocalAddr())
	send(t, far, "hello", relay.LocalAddr())
	wantPacket(t, relay, "hello")
	require.EqualValues(t, 1, r.Usage("alice").PacketsFromPeers)
}
