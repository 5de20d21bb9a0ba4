package turn

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	pion "github.com/pion/turn/v5"
)

const (
	meterBurst  = 250 * time.Millisecond
	maxDatagram = 1600 // bytes: pion's buffer. What fills it may have been cut, and is dropped

	maxBinds       = 32  // ports that are tried for one relay and turn out to be taken by other programs
	maxPermissions = 256 // of one relay. A page has one for each address that its peer may have
	maxChannels    = 256 // of one relay. pion looks through all of them for each packet
)

// A meter bounds what is relayed for one user.
type meter struct {
	perSecond int // bytes; negative: no bound
	burst     time.Duration
	bucket    bucket
}

func newMeter(perSecond int) *meter {
	m := &meter{perSecond: perSecond}
	m.burst = max(meterBurst, m.cost(maxDatagram))
	return m
}

func (m *meter) cost(bytes int) time.Duration {
	return time.Duration(bytes) * time.Second / time.Duration(m.perSecond)
}

// take reports whether a packet may pass at a time.
func (m *meter) take(c clock, bytes int) bool {
	return m.perSecond < 0 || m.bucket.take(c.now(), m.cost(bytes), m.burst)
}

// A counter is what a relay has passed on in one direction.
type counter struct{ packets, bytes atomic.Uint64 }

func (c *counter) add(bytes int) {
	c.packets.Add(1)
	c.bytes.Add(uint64(bytes))
}

// A relay is the socket of one allocation. pion reads and writes it like any socket; it passes on only what
// is from and to peers that are allowed.
type relay struct {
	s    *Server
	port uint16
	conn *net.UDPConn
	addr *net.UDPAddr // public; the pointer tells this relay from a later one at the same port
	user *user        // set by users.add
	once sync.Once

	toPeers, fromPeers counter
	denied, dropped    atomic.Uint64
	permitted          permitted
	channels           atomic.Int32

	// Owned by the goroutine that reads.
	source netip.AddrPort // of the packet before
	from   *net.UDPAddr   // what pion was told of it
}

// WriteTo sends a packet of the client to a peer. A packet that is dropped is no error: the client cannot be
// told, as UDP has no answers.
func (r *relay) WriteTo(p []byte, peer net.Addr) (int, error) {
	ap, _ := addrPortOf(peer)
	dst, ok := r.s.peers.to(ap)
	if !ok {
		r.denied.Add(1)
		return len(p), nil
	}
	if !r.user.meter.take(r.s.clock, len(p)) {
		r.dropped.Add(1)
		return len(p), nil
	}
	n, err := r.conn.WriteToUDPAddrPort(p, dst)
	if err == nil {
		r.toPeers.add(n)
	}
	return n, err
}

// ReadFrom returns the next packet of a peer for the client. It returns an error only when the relay has
// ended: pion ends the allocation then.
func (r *relay) ReadFrom(p []byte) (int, net.Addr, error) {
	for failed := 0; ; {
		n, source, err := r.conn.ReadFromUDPAddrPort(p)
		if errors.Is(err, net.ErrClosed) {
			return 0, nil, err
		}
		if err != nil {
			r.s.failed(err)
			if failed++; failed > fewErrors {
				r.s.pause()
			}
			continue
		}
		failed = 0
		if n == len(p) {
			continue // pion's buffer has cut it
		}
		peer, ok := r.s.peers.from(source)
		if !ok || !r.permitted.has(peer.Addr()) { // pion drops it too, but strangers must not use up the meter
			r.denied.Add(1)
			continue
		}
		if !r.user.meter.take(r.s.clock, n) {
			r.dropped.Add(1)
			continue
		}
		r.fromPeers.add(n)
		if source != r.source || r.from == nil {
			r.source, r.from = source, wideUDPAddr(peer)
		}
		return n, r.from, nil
	}
}

// Close ends the relay: pion calls it when the allocation ends, and end when the user is revoked. pion stops
// at the first error of a Close, so there is none.
func (r *relay) Close() error {
	r.end()
	return nil
}

func (r *relay) end() {
	r.once.Do(func() {
		// From now on the port is nobody's. Only then can another relay get it.
		r.s.ports.slot(r.port).CompareAndSwap(r, nil)
		r.conn.Close()
		if r.user != nil {
			r.s.users.remove(r)
		}
	})
}

// LocalAddr returns the public address.
func (r *relay) LocalAddr() net.Addr { return r.addr }

// SetDeadline is of no use for a relay, and pion does not call it.
func (r *relay) SetDeadline(t time.Time) error { return r.conn.SetDeadline(t) }

// SetReadDeadline is like SetDeadline.
func (r *relay) SetReadDeadline(t time.Time) error { return r.conn.SetReadDeadline(t) }

// SetWriteDeadline is like SetDeadline.
func (r *relay) SetWriteDeadline(t time.Time) error { return r.conn.SetWriteDeadline(t) }

// usage returns what the relay has passed on so far.
func (r *relay) usage() Usage {
	return Usage{
		BytesToPeers: r.toPeers.bytes.Load(), PacketsToPeers: r.toPeers.packets.Load(),
		BytesFromPeers: r.fromPeers.bytes.Load(), PacketsFromPeers: r.fromPeers.packets.Load(),
		DeniedPackets: r.denied.Load(), DroppedPackets: r.dropped.Load(),
	}
}

// ports are the relays by their port. Each packet between relays looks here, so there is no lock.
type ports struct {
	first uint16
	slots []atomic.Pointer[relay] // nil: the port is not that of a relay
}

func newPorts(first, last uint16) *ports {
	return &ports{first: first, slots: make([]atomic.Pointer[relay], int(last)-int(first)+1)}
}

// slot returns the place of a port, or nil for a port that no relay can have.
func (ps *ports) slot(port uint16) *atomic.Pointer[relay] {
	if i := int(port) - int(ps.first); i >= 0 && i < len(ps.slots) {
		return &ps.slots[i]
	}
	return nil
}

func (ps *ports) isRelay(port uint16) bool {
	slot := ps.slot(port)
	return slot != nil && slot.Load() != nil
}

// get returns the relay with exactly this address, or nil.
func (ps *ports) get(addr net.Addr) *relay {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return nil
	}
	if slot := ps.slot(uint16(ua.Port)); slot != nil {
		if r := slot.Load(); r != nil && r.addr == ua {
			return r
		}
	}
	return nil
}

// A generator makes relays for pion.
type generator struct{ s *Server }

// Validate has nothing to check: New has checked the options.
func (generator) Validate() error { return nil }

// AllocatePacketConn makes a relay for an authenticated user. A client that asks for an even port (EVEN-PORT) gets
// none, and so can reserve no port either: browsers do not ask, and pion would bind up to 128 sockets to find one.
func (g generator) AllocatePacketConn(c pion.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	r, why := g.s.allocate(c)
	if why != none {
		g.s.refusals.count(why)
		return nil, nil, why
	}
	return r, r.addr, nil
}

// AllocateListener refuses to relay to TCP (RFC 6062). No browser uses it, and it would make this server a
// proxy to every TCP service.
func (g generator) AllocateListener(pion.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	g.s.refusals.count(refusedTCP)
	return nil, nil, refusedTCP
}

// AllocateConn refuses like AllocateListener.
func (g generator) AllocateConn(pion.AllocateConnConfig) (net.Conn, error) {
	g.s.refusals.count(refusedTCP)
	return nil, refusedTCP
}

func (s *Server) allocate(c pion.AllocateListenerConfig) (*relay, refusal) {
	expiry, name, ok := parseUsername(c.UserID)
	if !ok { // pion looks for an even port, and has no user
		return nil, refusedPort
	}
	if c.Network != s.network() {
		return nil, refusedFamily
	}
	conn, port, ok := s.bind(c.Network)
	if !ok {
		return nil, refusedNoPort
	}
	r := &relay{s: s, port: port, conn: conn, addr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.opts.PublicIP, port))}
	s.ports.slot(port).Store(r)
	if why := s.users.add(r, name, expiry, time.Now()); why != none {
		r.end()
		return nil, why
	}
	s.allocated.Add(1)
	s.running.Add(1) // until OnAllocationDeleted
	return r, none
}

// bind binds a free port. It begins at a random one, so that nobody can guess the next.
func (s *Server) bind(network string) (*net.UDPConn, uint16, bool) {
	n := len(s.ports.slots)
	start := rand.IntN(n)
	for i, binds := 0, 0; i < n && binds < maxBinds; i++ {
		port := s.ports.first + uint16((start+i)%n)
		if s.ports.isRelay(port) {
			continue
		}
		binds++
		conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.opts.BindIP, port)))
		if err == nil {
			return conn, port, true
		}
	}
	return nil, 0, false
}
