package turn

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStrangersDoNotUseUpTheBandwidthOfAUser(t *testing.T) {
	const packet, sent = 1000, 100
	r := newRig(t, Options{
		UserBytesPerSecond: packet, // in bursts, one packet of the largest size
		AllowPeer:          func(a netip.Addr) bool { return a != loopback },
	})
	friend, stranger := peerAt(t, "127.0.0.2"), peerAt(t, "127.0.0.3")
	alice := r.user("udp", "alice")
	relay := alice.relay()
	require.NoError(t, alice.CreatePermission(friend.LocalAddr()))
	for i := range sent {
		send(t, stranger, string(make([]byte, packet)), relay.LocalAddr())
		require.Eventually(t, func() bool { return r.Usage("alice").DeniedPackets == uint64(i+1) }, wait, tick)
	}
	send(t, friend, "hello", relay.LocalAddr())
	require.Equal(t, friend.LocalAddr(), wantPacket(t, relay, "hello"))
	require.Zero(t, r.Usage("alice").DroppedPackets)
	require.EqualValues(t, 1, r.Usage("alice").PacketsFromPeers)
}
