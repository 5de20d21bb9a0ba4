package turn

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

// A flow is a client's address and that of the socket at which it is served.
type flow struct{ client, server netip.AddrPort }

func flowOf(client, server net.Addr) (f flow, ok bool) {
	var known bool
	f.client, known = addrPortOf(client)
	f.server, ok = addrPortOf(server)
	return f, ok && known
}

// The kinds of a STUN message (RFC 8489, section 5).
const (
	classRequest = 0
	classError   = 3
)

// bindingSuccess is the type of the answer that anybody gets who asks for a binding.
var bindingSuccess = stun.BindingSuccess.Value()

// stunClass returns the class of a STUN message, or a negative number if p is none.
func stunClass(p []byte) int {
	if len(p) < stunHeader || p[0]>>6 != 0 {
		return -1
	}
	t := binary.BigEndian.Uint16(p)
	return int(t>>7&2 | t>>4&1)
}

// A packetConn is a UDP socket at which clients are served. It lets neither a flood of wrong credentials reach
// pion, nor pion answer floods from forged addresses, and it outlives errors.
type packetConn struct {
	s     *Server
	conn  net.PacketConn
	udp   *net.UDPConn // conn, or nil if it is of another type
	local net.Addr
	ended sync.Once
	addrs [numAddrs]knownAddr // by hash; owned by the goroutine that reads
}

// numAddrs is how many clients' addresses a packetConn keeps ready. Another one is made for each packet.
const numAddrs = 1 << 10

// A knownAddr is an address in the form that pion needs. To make one takes memory.
type knownAddr struct {
	ap   netip.AddrPort
	addr *net.UDPAddr
}

func newPacketConn(s *Server, conn net.PacketConn) *packetConn {
	c := &packetConn{s: s, conn: conn, local: conn.LocalAddr()}
	c.udp, _ = conn.(*net.UDPConn)
	if ap, ok := addrPortOf(c.local); ok {
		c.local = wideUDPAddr(ap)
	}
	return c
}

// wideUDPAddr returns an address whose IP has 16 bytes. pion would make these for each packet.
func wideUDPAddr(ap netip.AddrPort) *net.UDPAddr {
	ip := ap.Addr().As16()
	return &net.UDPAddr{IP: ip[:], Port: int(ap.Port()), Zone: ap.Addr().Zone()}
}

// read reads a packet.
func (c *packetConn) read(p []byte) (int, net.Addr, error) {
	if c.udp == nil {
		return c.conn.ReadFrom(p)
	}
	n, ap, err := c.udp.ReadFromUDPAddrPort(p)
	if err != nil {
		return n, nil, err
	}
	known := &c.addrs[maphash.Comparable(c.s.users.seed, ap)%numAddrs]
	if known.ap != ap {
		*known = knownAddr{ap, wideUDPAddr(ap)}
	}
	return n, known.addr, nil
}

// ReadFrom returns the next packet. It returns an error only when the server closes.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for failed := 0; ; {
		n, addr, err := c.read(p)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || c.s.isClosed() {
				c.ended.Do(c.s.running.Done)
				return 0, nil, err
			}
			c.s.failed(err)
			if failed++; failed > fewErrors {
				c.s.pause()
			}
			continue
		}
		failed = 0
		if stunClass(p[:n]) != classRequest || !c.refuses(addr) {
			return n, addr, nil
		}
	}
}

// refuses reports whether a request belongs to a flood of wrong credentials. A client that has a relay is
// heard, so that somebody behind the same NAT cannot end its call.
func (c *packetConn) refuses(client net.Addr) bool {
	f, ok := flowOf(client, c.local)
	if ok && !c.s.wrongUDP.over(groupOf(f.client.Addr())) {
		return false
	}
	if _, known := c.s.flows.Load(f); known {
		return false
	}
	c.s.refusals.count(refusedFlood)
	return true
}

// WriteTo sends a packet to a client. Whoever sends a request gets an error or a binding, so their number is
// bounded for each address: requests with a forged source make no flood of answers.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if class := stunClass(p); class == classError || class >= 0 && binary.BigEndian.Uint16(p) == bindingSuccess {
		if ap, ok := addrPortOf(addr); ok && !c.s.answers.take(groupOf(ap.Addr())) {
			c.s.refusals.count(refusedFlood)
			return len(p), nil
		}
	}
	return c.conn.WriteTo(p, addr)
}

func (c *packetConn) Close() error        { return c.conn.Close() }
func (c *packetConn) LocalAddr() net.Addr { return c.local }

func (c *packetConn) SetDeadline(t time.Time) error      { return c.conn.SetDeadline(t) }
func (c *packetConn) SetReadDeadline(t time.Time) error  { return c.conn.SetReadDeadline(t) }
func (c *packetConn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }
