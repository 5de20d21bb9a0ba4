package turn

import (
	"bytes"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

func TestRelaysOfAUserAreBounded(t *testing.T) {
	r := newRig(t, Options{MaxPerUser: 2, MaxRelays: 3})
	var alice [3]*raw
	for i, network := range []string{"udp", "tcp", "udp"} {
		alice[i] = r.raw(network, "127.0.0.1", "alice")
	}
	require.Zero(t, alice[0].allocate())
	require.Zero(t, alice[1].allocate())
	require.Equal(t, stun.CodeAllocQuotaReached, alice[2].allocate())
	require.EqualValues(t, 1, r.refused("user limit"))
	require.Zero(t, r.raw("udp", "127.0.0.1", "bob").allocate())
	require.Equal(t, stun.CodeAllocQuotaReached, r.raw("udp", "127.0.0.1", "carol").allocate())
	require.EqualValues(t, 1, r.refused("relay limit"))
	require.Zero(t, alice[1].ask(stun.MethodRefresh, seconds(0)))
	require.Zero(t, alice[2].allocate())
	require.Equal(t, 3, r.Stats().Relays)
	require.Equal(t, 3, r.Stats().PeakRelays)
}

func TestPortsAreThoseOfTheRange(t *testing.T) {
	first := freePorts(t, 3)
	r := newRig(t, Options{MinPort: first, MaxPort: first + 2})
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice(), Port: int(first) + 1})
	require.NoError(t, err)
	defer taken.Close()
	got := map[int]bool{}
	for range 2 {
		got[r.user("udp", "alice").relay().LocalAddr().(*net.UDPAddr).Port] = true
	}
	require.Equal(t, map[int]bool{int(first): true, int(first) + 2: true}, got)
	require.Equal(t, stun.CodeInsufficientCapacity, r.raw("udp", "127.0.0.1", "alice").allocate())
	require.EqualValues(t, 1, r.refused("no port"))
}

// freePorts returns the first of n ports that nobody uses.
func freePorts(t *testing.T, n uint16) uint16 {
	t.Helper()
search:
	for first := uint16(20000); first < math.MaxUint16-n; first += n {
		for port := first; port < first+n; port++ {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice(), Port: int(port)})
			if err != nil {
				continue search
			}
			c.Close()
		}
		return first
	}
	t.Fatal("no free ports")
	return 0
}

func TestAUserOverItsBandwidthLosesPackets(t *testing.T) {
	const packet = 1000
	r := newRig(t, Options{UserBytesPerSecond: 4 * packet, AllowPeer: allow2})
	far := peerAt(t, "127.0.0.2")
	c, other := r.raw("tcp", "127.0.0.1", "alice"), r.raw("tcp", "127.0.0.1", "alice") // TCP loses nothing before
	peer := peerOf(far.LocalAddr().String())
	for _, c := range []*raw{c, other} {
		require.Zero(t, c.allocate())
		require.Zero(t, c.ask(stun.MethodCreatePermission, peer))
	}
	const sent = 200 // at this pace it would take 50 seconds to relay all of them
	for i := range sent {
		from := c
		if i%2 == 1 {
			from = other // the bound is that of the user, not that of a relay
		}
		from.write(stun.MethodSend, stun.ClassIndication, peer, data(string(make([]byte, packet))))
	}
	require.Zero(t, c.ask(stun.MethodRefresh, seconds(600)))
	require.Zero(t, other.ask(stun.MethodRefresh, seconds(600)))
	u := r.Usage("alice")
	require.EqualValues(t, sent, u.PacketsToPeers+u.DroppedPackets)
	require.GreaterOrEqual(t, u.PacketsToPeers, uint64(1))
	require.NotZero(t, u.DroppedPackets)
	require.EqualValues(t, packet*u.PacketsToPeers, u.BytesToPeers)

	// Another user has a bandwidth of its own.
	bob := r.raw("udp", "127.0.0.1", "bob")
	require.Zero(t, bob.allocate())
	require.Zero(t, bob.ask(stun.MethodCreatePermission, peer))
	bob.write(stun.MethodSend, stun.ClassIndication, peer, data("hello"))
	require.Zero(t, bob.ask(stun.MethodRefresh, seconds(600)))
	require.EqualValues(t, 1, r.Usage("bob").PacketsToPeers)
}

func TestBuckets(t *testing.T) {
	m := newMeter(80_000)
	taken := func(now time.Duration) (n int) {
		for m.bucket.take(now, m.cost(1000), m.burst) {
			n++
		}
		return n
	}
	require.Equal(t, 20, taken(time.Hour))
	require.Equal(t, 0, taken(time.Hour))
	require.Equal(t, 8, taken(time.Hour+100*time.Millisecond))
	require.Equal(t, 20, taken(2*time.Hour))
	require.True(t, newMeter(1).take(clock{time.Now()}, maxDatagram), "one packet always fits")
	require.True(t, newMeter(-1).take(clock{time.Now()}, math.MaxInt32))
}

func TestAFloodOfOneAddressIsItsOwn(t *testing.T) {
	l := newLimiter(clock{time.Now().Add(-time.Hour)}, pace{perSecond: 1, burst: 10})
	flood := netip.MustParseAddr("192.0.2.1")
	for range 10 {
		require.False(t, l.over(flood))
		require.True(t, l.take(flood))
	}
	require.True(t, l.over(flood))
	require.False(t, l.take(flood))
	l.clock.start = l.clock.start.Add(-time.Second)
	require.False(t, l.over(flood), "when it stops, the address is heard again")

	// Of 200 floods, each of the two tables has 5 % of its buckets full: 0.25 % of the others have two such buckets.
	for i := range 200 {
		for range 11 {
			l.take(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
		}
	}
	over, refused := 0, 0
	for i := range 1000 {
		other := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		if l.over(other) {
			over++
		}
		if !l.take(other) {
			refused++
		}
	}
	require.Less(t, over, 30)
	require.Less(t, refused, 30)

	require.Equal(t, groupOf(netip.MustParseAddr("2001:db8::1")), groupOf(netip.MustParseAddr("2001:db8::2")))
	require.NotEqual(t, groupOf(netip.MustParseAddr("2001:db8::1")), groupOf(netip.MustParseAddr("2001:db8:0:1::1")))
	require.NotEqual(t, groupOf(netip.MustParseAddr("64:ff9b::1")), groupOf(netip.MustParseAddr("64:ff9b::2")))
	require.Equal(t, groupOf(netip.MustParseAddr("192.0.2.1")), groupOf(netip.MustParseAddr("::ffff:192.0.2.1")))
}

// slow is a pace that does not recover while a test runs.
var slow = pace{perSecond: 1, burst: 50}

func TestAFloodOfWrongCredentialsIsNotHeard(t *testing.T) {
	r := newRigAt(t, Options{}, slow, answerPace)
	inCall, other := r.raw("udp", "127.0.0.1", "alice"), r.raw("udp", "127.0.0.2", "bob")
	require.Zero(t, inCall.allocate())

	guesser, idle := r.raw("udp", "127.0.0.1", "mallory"), r.raw("tcp", "127.0.0.1", "mallory")
	guesser.credential, idle.credential = "wrong", "wrong"
	for i, c := range []*raw{guesser, idle} {
		c.hello()
		for range slow.burst {
			require.Equal(t, stun.CodeUnauthorized, c.ask(stun.MethodAllocate, overUDP))
		}
		require.EqualValues(t, (i+1)*slow.burst, r.refused("wrong credentials"), "what came over UDP may be forged")
	}

	// The connection ends, and the address gets no other one. Its packets are not heard.
	wantEnd(t, idle.conn.(*pion.STUNConn).Conn())
	require.EqualValues(t, 1, r.refused("flood"), "not the deadline has ended it")
	guesser.write(stun.MethodAllocate, stun.ClassRequest, overUDP)
	require.Eventually(t, func() bool { return r.refused("flood") == 2 }, wait, tick)
	require.EqualValues(t, 2*slow.burst, r.refused("wrong credentials"), "pion has not seen it")
	_, late := net.Pipe()
	local := &net.TCPAddr{IP: loopback.AsSlice(), Port: 3478}
	c := (&listener{s: r.Server}).admit(pipeEnd{late, local, guesser.conn.LocalAddr()})
	require.Nil(t, c, "there is no handshake")
	require.EqualValues(t, 3, r.refused("flood"))

	require.Zero(t, inCall.ask(stun.MethodRefresh, seconds(600)), "a call behind the same NAT goes on")
	require.Zero(t, other.allocate(), "other addresses are heard")
}

// hello0 sends a request and waits for nothing.
func (c *raw) hello0() {
	m := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest))
	c.conn.WriteTo(m.Raw, c.server)
}

func TestAnswersToForgedAddressesAreBounded(t *testing.T) {
	r := newRigAt(t, Options{}, wrongPace, slow)
	victim, other := r.raw("udp", "127.0.0.1", "alice"), r.raw("udp", "127.0.0.2", "bob")
	for range slow.burst {
		victim.hello()
		victim.nonce = nil
	}
	victim.hello0()
	require.Eventually(t, func() bool { return r.refused("flood") == 1 }, wait, tick)
	require.Zero(t, other.allocate())
}

func TestBindingsForForgedAddressesAreBounded(t *testing.T) {
	r := newRigAt(t, Options{}, wrongPace, slow)
	victim, other := r.raw("udp", "127.0.0.1", "alice"), r.raw("udp", "127.0.0.2", "bob")
	require.Zero(t, victim.allocate())
	for range slow.burst - 1 { // hello was the first answer
		require.Zero(t, victim.ask(stun.MethodBinding))
	}
	victim.write(stun.MethodBinding, stun.ClassRequest)
	require.Eventually(t, func() bool { return r.refused("flood") == 1 }, wait, tick)
	require.Zero(t, victim.ask(stun.MethodRefresh, seconds(600)), "who has credentials has no forged address")
	require.Zero(t, other.ask(stun.MethodBinding))
}

func TestPermissionsAndChannelsAreBounded(t *testing.T) {
	for name, ask := range map[string]func(c *raw, i int) stun.ErrorCode{
		"permissions": func(c *raw, i int) stun.ErrorCode {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, byte(i >> 8), byte(i)}), 9)
			return c.ask(stun.MethodCreatePermission, peerAddress(addr))
		},
		"channels": func(c *raw, i int) stun.ErrorCode {
			addr := netip.AddrPortFrom(netip.MustParseAddr("9.9.9.9"), uint16(1+i))
			return c.ask(stun.MethodChannelBind, peerAddress(addr), channel(uint16(0x4000+i)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			c := r.raw("udp", "127.0.0.1", "alice")
			require.Zero(t, c.allocate())
			for range 2 { // to refresh one does not count
				for i := range maxChannels {
					require.Zero(t, ask(c, i))
				}
			}
			require.Equal(t, 1, r.Stats().Relays)
			ask(c, maxChannels)
			require.Eventually(t, func() bool { return r.Stats().Relays == 0 }, wait, tick)
			require.EqualValues(t, 1, r.refused("too many peers"))
		})
	}
	require.Equal(t, maxChannels, maxPermissions)
}

// What is left when a relay has ended does not count against the next one at its port.
func TestALaterRelayAtAPortIsAnotherOne(t *testing.T) {
	first := freePorts(t, 1)
	r := newRig(t, Options{MinPort: first, MaxPort: first})
	for range 3 {
		c := r.raw("udp", "127.0.0.1", "alice")
		require.Zero(t, c.allocate())
		require.Zero(t, c.ask(stun.MethodCreatePermission, peerOf("9.9.9.9:9")))
		r.users.mu.Lock()
		for relay := range r.users.all["alice"].relays {
			require.Len(t, relay.permitted.load(), 1)
			require.Nil(t, r.ports.get(net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, first))))
			require.Equal(t, relay, r.ports.get(relay.addr))
		}
		r.users.mu.Unlock()
		require.Equal(t, 1, r.Revoke("alice"))
		r.users.forget("alice")
	}
}

// forget makes the credentials good again that were revoked.
func (us *users) forget(name string) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.all[name]; u != nil && u.memory != nil {
		us.forgetLocked(u)
	}
}

func TestTheLogHasNoCredentials(t *testing.T) {
	var log bytes.Buffer
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	r := newRig(t, Options{Secret: []byte("a secret of sixteen bytes"), Logger: slog.New(handler)})
	alice, mallory := r.raw("udp", "127.0.0.1", "alice"), r.raw("tcp", "127.0.0.1", "alice")
	mallory.credential = "guessed"
	require.NotZero(t, mallory.allocate())
	require.Zero(t, alice.allocate())
	require.NotZero(t, alice.ask(stun.MethodCreatePermission, peerOf("10.0.0.1:9")))
	require.NotZero(t, alice.ask(stun.MethodCreatePermission, peerOf("[2a00::1]:9")))
	unknown := stun.RawAttribute{Type: 0x7ffe, Value: []byte{1, 2, 3, 4}}
	require.NotZero(t, alice.ask(stun.MethodRefresh, unknown))
	r.Revoke("alice")
	require.NoError(t, r.Close())
	text := log.String()
	require.Contains(t, text, "permission denied for client")
	require.Contains(t, text, "relays ended")
	for _, secret := range []string{"guessed", alice.credential, "a secret", alice.nonce.String()} {
		require.NotContains(t, text, secret)
	}
}

// Of permissions and channels that have expired, pion tells, and they do not count.
func TestExpiredPermissionsAndChannelsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice")
		r := h.relay(h.last("alice"))
		defer r.Close()
		on := h.ts.events()
		for i := range 2 * maxPermissions {
			ip := net.IPv4(9, 9, byte(i>>8), byte(i))
			on.OnPermissionCreated(nil, nil, "", "", "", r.addr, ip)
			on.OnPermissionDeleted(nil, nil, "", "", "", r.addr, ip)
			on.OnPermissionDeleted(nil, nil, "", "", "", r.addr, ip) // when the relay ends meanwhile
			on.OnChannelCreated(nil, nil, "", "", "", r.addr, nil, 0x4000)
			on.OnChannelDeleted(nil, nil, "", "", "", r.addr, nil, 0x4000)
		}
		require.True(t, r.isOpen())
		for i := range maxPermissions + 1 { // what was told twice counts once
			require.True(t, r.isOpen(), i)
			on.OnPermissionCreated(nil, nil, "", "", "", r.addr, net.IPv4(9, 9, byte(i>>8), byte(i)))
		}
		require.False(t, r.isOpen())
	})
}
