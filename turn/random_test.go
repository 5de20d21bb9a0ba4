package turn

import (
	"math/rand/v2"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// Somebody with good credentials sends what no browser would. A panic of pion would end the process, and each
// relay must end with its client.
func TestRandomRequestsDoNoHarm(t *testing.T) {
	const seeds, messages = 20, 100
	methods := []stun.Method{
		stun.MethodBinding, stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission,
		stun.MethodChannelBind, stun.MethodConnect, stun.MethodConnectionBind, stun.MethodSend, stun.MethodData,
		stun.MethodConnectionAttempt,
	}
	classes := []stun.MessageClass{
		stun.ClassRequest, stun.ClassRequest, stun.ClassRequest, stun.ClassIndication, stun.ClassSuccessResponse,
	}
	types := []stun.AttrType{
		stun.AttrXORPeerAddress, stun.AttrChannelNumber, stun.AttrLifetime, stun.AttrRequestedTransport, stun.AttrData,
		stun.AttrEvenPort, stun.AttrReservationToken, stun.AttrRequestedAddressFamily, stun.AttrDontFragment,
		stun.AttrConnectionID, stun.AttrNonce, stun.AttrRealm, stun.AttrUsername, stun.AttrErrorCode, 0x7fff,
	}
	r := newRigAt(t, Options{AllowPeer: allow2}, pace{perSecond: 1e6, burst: 1e6}, pace{perSecond: 1e6, burst: 1e6})
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 2))
		c := r.raw([]string{"udp", "tcp"}[seed%2], "127.0.0.1", "mallory")
		require.Zero(t, c.allocate())
		go discard(c)
		for range messages {
			var attrs []stun.Setter
			for range rng.IntN(5) {
				value := make([]byte, rng.IntN(28))
				for i := range value {
					value[i] = byte(rng.IntN(256) >> (8 * rng.IntN(2))) // half of them are 0
				}
				attrs = append(attrs, stun.RawAttribute{Type: types[rng.IntN(len(types))], Value: value})
			}
			if rng.IntN(2) == 0 {
				attrs = append(attrs, overUDP, peerOf("127.0.0.2:9"), channel(uint16(0x4000+rng.IntN(3))))
			}
			// The server may have closed a connection over which something came that it cannot read.
			c.tryWrite(methods[rng.IntN(len(methods))], classes[rng.IntN(len(classes))], attrs...)
		}
		require.NoError(t, c.conn.Close())
	}
	require.Zero(t, r.raw("udp", "127.0.0.1", "alice").allocate())
	require.Zero(t, r.raw("tcp", "127.0.0.1", "alice").allocate())
	r.Revoke("mallory")
	require.Eventually(t, func() bool { return r.Usage("mallory").Relays == 0 }, wait, tick)
	r.check(t)
}

// discard reads what a client is sent, until its end.
func discard(c *raw) {
	buf := make([]byte, 2000)
	for {
		if _, _, err := c.conn.ReadFrom(buf); err != nil {
			return
		}
	}
}
