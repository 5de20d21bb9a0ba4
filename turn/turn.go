package turn

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer"
	pion "github.com/pion/turn/v5"
)

// The paces of floods, for one address. All people behind one NAT have the same address, so they are far above
// what clients need.
var (
	wrongPace  = pace{perSecond: 100, burst: 1000}    // requests with wrong credentials
	answerPace = pace{perSecond: 1000, burst: 10_000} // over UDP to those who may have forged their address
)

const (
	errorPause = 5 * time.Millisecond // after an error of a socket that may stay: it is not to take a processor
	fewErrors  = 100                  // of reads in a row, without a pause. On Windows, strangers can cause them
)

// A Server is a TURN server. Its methods may be called concurrently. Make one with [New].
type Server struct {
	opts  Options
	pion  *pion.Server
	peers peers
	clock clock

	ports *ports
	users *users
	conns *conns
	flows sync.Map // flow -> nil: clients with a relay over UDP

	// The source of a UDP packet may be forged, so what comes over UDP shuts nobody out over TCP.
	wrongUDP, wrongTCP *limiter
	answers            *limiter

	allocated, errors atomic.Uint64
	refusals          refusals
	logged            atomic.Int64 // on clock, when an error of a socket was logged

	running sync.WaitGroup // what pion does: sockets, connections and allocations
	own     sync.WaitGroup // goroutines of this package
	closed  chan struct{}
	closing sync.Once

	bindMu  sync.Mutex // guards the following
	unbind  []func()   // ends what Bind has begun
	isBound bool
}

// New starts a TURN server on the sockets of the options. Its error names each option that is wrong; then the
// sockets are still the caller's, and nothing has been started.
func New(opts Options) (*Server, error) {
	return newServer(opts, wrongPace, answerPace)
}

func newServer(opts Options, wrong, answers pace) (*Server, error) {
	opts, err := opts.prepare()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, clock: clock{time.Now()}, closed: make(chan struct{})}
	s.wrongUDP, s.wrongTCP = newLimiter(s.clock, wrong), newLimiter(s.clock, wrong)
	s.answers = newLimiter(s.clock, answers)
	s.ports = newPorts(opts.MinPort, opts.MaxPort)
	s.users, s.conns = newUsers(&s.opts), newConns(&s.opts)
	machine, err := machineAddrs()
	if err != nil {
		return nil, fmt.Errorf("turn: reading the addresses of this machine: %w", err)
	}
	s.peers = peers{
		public: opts.PublicIP, local: localOf(opts.BindIP), machine: machine,
		allowed: opts.AllowPeer, isRelay: s.ports.isRelay,
	}
	probe, _, ok := s.bind(s.network())
	if !ok {
		return nil, fmt.Errorf("turn: Options.BindIP: no port from %d to %d of %v can be bound",
			opts.MinPort, opts.MaxPort, opts.BindIP)
	}
	probe.Close()
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// localOf returns where a socket at bind can be reached from the machine itself.
func localOf(bind netip.Addr) netip.Addr {
	switch {
	case bind == netip.IPv4Unspecified():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case bind == netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	}
	return bind
}

func (s *Server) network() string {
	if s.opts.PublicIP.Is4() {
		return "udp4"
	}
	return "udp6"
}

func (s *Server) start() error {
	config := pion.ServerConfig{
		Realm: realm, AuthHandler: s.authenticate, QuotaHandler: s.quota, EventHandler: s.events(),
		LoggerFactory: pionLog{s.opts.Logger}, InboundMTU: maxDatagram,
		// A client that does not say what it wants gets the family of PublicIP, however it is connected.
		StrictAddressFamily: s.opts.PublicIP.Is4(),
	}
	for _, pc := range s.opts.UDP {
		config.PacketConnConfigs = append(config.PacketConnConfigs, pion.PacketConnConfig{
			PacketConn:            newPacketConn(s, pc),
			RelayAddressGenerator: generator{s}, PermissionHandler: s.permit,
		})
	}
	var listeners []*listener
	for _, ln := range s.opts.TCP {
		l := &listener{s: s, ln: ln, ready: make(chan *conn)}
		listeners = append(listeners, l)
		config.ListenerConfigs = append(config.ListenerConfigs, pion.ListenerConfig{
			Listener: l, RelayAddressGenerator: generator{s}, PermissionHandler: s.permit,
		})
	}
	s.running.Add(len(s.opts.UDP) + len(listeners))
	var err error
	if s.pion, err = pion.NewServer(config); err != nil {
		return fmt.Errorf("turn: starting: %w", err)
	}
	for _, l := range listeners {
		s.own.Go(l.accept)
	}
	return nil
}

// ICEServers returns this server with credentials for a client. It is the value of peer.Options.ICEServers, so
// only connected clients get credentials. It returns nothing when the server is shutting down.
func (s *Server) ICEServers(c *peer.Client) []peer.ICEServer {
	if s.users.isClosing() {
		return nil
	}
	tracked := c
	s.bindMu.Lock()
	if !s.isBound {
		tracked = nil
	}
	s.bindMu.Unlock()
	username, credential := s.credentials(c.ID(), tracked)
	return []peer.ICEServer{{URLs: slices.Clone(s.opts.URLs), Username: username, Credential: credential}}
}

// Bind makes the server listen to the ends of a signalling server's clients. It is called once for each, before
// clients connect. An id is one user: it should not be that of two people on two servers.
//
// When the host has removed a client, or an override has given its id to another one, its relays end at once and
// its credentials make no other. When a client has gone for another reason, its relays go on: a call outlives a
// lost socket. One minute later its credentials make no relay any more, unless it is back with the same token. A
// client that is connected to another server by now is not known here, and keeps its credentials.
func (s *Server) Bind(srv *peer.Server) {
	remove := srv.OnDisconnect(s.disconnected)
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	s.isBound = true
	s.unbind = append(s.unbind, remove)
}

func (s *Server) disconnected(c *peer.Client, why peer.DisconnectReason) {
	name, now := nameOf(c.ID()), time.Now()
	switch why {
	case peer.ReasonRemoved, peer.ReasonOverridden:
		s.endAll(s.users.revoke(name, c, now), c.ID(), why.String())
	case peer.ReasonReplaced:
		if c.Successor() == nil {
			s.users.move(name, c)
		}
	default:
		s.users.leave(name, c, now)
	}
}

func (s *Server) endAll(relays []*relay, id, why string) {
	for _, r := range relays {
		r.end()
	}
	if len(relays) > 0 {
		s.opts.Logger.Info("relays ended", "id", id, "relays", len(relays), "reason", why)
	}
}

// Revoke ends all relays of an id, and returns how many. The credentials that the id has got make no relay any
// more. A client that stays connected gets new ones when peer.Options.ICERefresh asks again: remove it from its
// server to keep it out.
func (s *Server) Revoke(id string) int {
	relays := s.users.revoke(nameOf(id), nil, time.Now())
	s.endAll(relays, id, "revoked")
	return len(relays)
}

// Usage returns what was relayed for an id. It counts from the first relay on, until the id has no relay, is not
// connected, and nothing is remembered of it.
func (s *Server) Usage(id string) Usage { return s.users.usage(nameOf(id)) }

// Stats returns the counters. It looks at each relay, so it may be called every second.
func (s *Server) Stats() Stats {
	st := Stats{
		Conns: s.conns.len(), MaxRelays: s.opts.MaxRelays, MaxConns: s.opts.MaxConns,
		Allocated: s.allocated.Load(), Errors: s.errors.Load(), Refused: make(map[string]uint64),
	}
	s.users.snapshot(&st, time.Now())
	for why := none + 1; why < numRefusals; why++ {
		st.Refused[refusalNames[why]] = s.refusals[why].Load()
	}
	return st
}

// Shutdown lets no relay be made any more, and waits until all have ended or ctx is done. Then it closes the
// server as [Server.Close] does. It returns the error of ctx if relays were cut.
func (s *Server) Shutdown(ctx context.Context) error {
	select {
	case <-s.users.close():
		s.Close()
		return nil
	case <-s.closed:
		s.Close()
		return nil
	case <-ctx.Done():
		s.Close()
		return ctx.Err()
	}
}

// Close ends all relays, and closes the sockets and all connections. When it returns, no goroutine of the server
// is left. The sockets of Options are closed too. It returns nil.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.users.close()
		close(s.closed)
		s.bindMu.Lock()
		for _, remove := range s.unbind {
			remove()
		}
		s.bindMu.Unlock()
		s.pion.Close()
		for _, c := range s.conns.close() {
			c.end()
		}
		for i := range s.ports.slots {
			if r := s.ports.slots[i].Load(); r != nil {
				r.end()
			}
		}
	})
	s.own.Wait()
	s.running.Wait()
	return nil
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// failed notes an error of a socket that does not end it.
func (s *Server) failed(err error) {
	s.errors.Add(1)
	now, last := int64(s.clock.now()), s.logged.Load()
	if (last == 0 || now-last > int64(time.Minute)) && s.logged.CompareAndSwap(last, now) {
		s.opts.Logger.Warn("a socket failed, and goes on", "error", err)
	}
}

// pause waits a little.
func (s *Server) pause() {
	t := time.NewTimer(errorPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.closed:
	}
}
