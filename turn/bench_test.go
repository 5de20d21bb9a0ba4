package turn

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

// BenchmarkRelay sends a packet through a relay to a peer and back, one after the other: the time is that of two
// ways through the server and four through the kernel. The command turnbench measures throughput.
func BenchmarkRelay(b *testing.B) {
	for _, network := range []string{"udp", "tcp"} {
		b.Run(network, func(b *testing.B) {
			pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
			require.NoError(b, err)
			ln, err := net.Listen("tcp4", "127.0.0.1:0")
			require.NoError(b, err)
			s, err := New(Options{
				PublicIP: loopback, BindIP: loopback, UDP: []net.PacketConn{pc}, TCP: []net.Listener{ln},
				UserBytesPerSecond: 1 << 40, AllowPeer: allow2,
			})
			require.NoError(b, err)
			defer s.Close()
			r := &rig{t: &testing.T{}, Server: s, udp: pc.LocalAddr().String(), tcp: ln.Addr().String()}
			c := r.raw(network, "127.0.0.1", "alice")
			defer c.conn.Close()
			far, err := net.ListenPacket("udp4", "127.0.0.2:0")
			require.NoError(b, err)
			defer far.Close()
			go func() {
				buf := make([]byte, 2000)
				for {
					n, addr, err := far.ReadFrom(buf)
					if err != nil {
						return
					}
					far.WriteTo(buf[:n], addr)
				}
			}()
			require.Zero(b, c.allocate())
			require.Zero(b, c.ask(stun.MethodChannelBind, peerOf(far.LocalAddr().String()), channel(0x4000)))
			frame := append([]byte{0x40, 0, 1200 >> 8, 1200 & 0xff}, make([]byte, 1200)...)
			buf := make([]byte, len(frame))
			var conn net.Conn
			if network == "tcp" {
				conn = c.conn.(*pion.STUNConn).Conn()
			}
			b.SetBytes(2 * 1200)
			b.ReportAllocs()
			for b.Loop() {
				if conn != nil {
					conn.Write(frame)
					_, err = io.ReadFull(conn, buf)
				} else {
					c.conn.WriteTo(frame, c.server)
					_, _, err = c.conn.ReadFrom(buf)
				}
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkPeers is what the filter costs for one packet.
func BenchmarkPeers(b *testing.B) {
	p := filterFor("8.8.4.4", "0.0.0.0", nil)
	for _, text := range []string{"1.1.1.1:9", "198.51.99.1:9", "[2a00::1]:9", "10.0.0.1:9"} {
		ap := netip.MustParseAddrPort(text)
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				p.to(ap)
			}
		})
	}
}
