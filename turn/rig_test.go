package turn

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// allow2 opens 127.0.0.2, where the peers of the tests are: 127.0.0.1 is the server's own address.
func allow2(addr netip.Addr) bool { return addr == netip.MustParseAddr("127.0.0.2") }

// A rig is a server with one UDP socket and one TCP listener on 127.0.0.1.
type rig struct {
	t *testing.T
	*Server
	udp, tcp string
}

func newRig(t *testing.T, opts Options) *rig {
	return newRigAt(t, opts, wrongPace, answerPace)
}

func newRigAt(t *testing.T, opts Options, wrong, answers pace) *rig {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	if !opts.PublicIP.IsValid() {
		opts.PublicIP = loopback
	}
	if !opts.BindIP.IsValid() {
		opts.BindIP = loopback
	}
	opts.UDP, opts.TCP = append(opts.UDP, pc), append(opts.TCP, ln)
	s, err := newServer(opts, wrong, answers)
	require.NoError(t, err)
	r := &rig{t: t, Server: s, udp: pc.LocalAddr().String(), tcp: ln.Addr().String()}
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		st := s.Stats()
		require.Zero(t, st.Relays)
		require.Zero(t, st.Conns)
	})
	return r
}

// A party is a client of TURN, by pion.
type party struct {
	*pion.Client
	t *testing.T
}

// silent lets pion log nothing.
func silent() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled}
}

func (r *rig) dial(network, from string) net.PacketConn {
	r.t.Helper()
	if network == "udp" {
		pc, err := net.ListenPacket("udp4", from+":0")
		require.NoError(r.t, err)
		return pc
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp4", r.tcp)
	require.NoError(r.t, err)
	return pion.NewSTUNConn(c)
}

// party connects a client with these credentials.
func (r *rig) party(network, username, credential string) *party {
	r.t.Helper()
	addr := r.udp
	if network == "tcp" {
		addr = r.tcp
	}
	conn := r.dial(network, "127.0.0.1")
	c, err := pion.NewClient(&pion.ClientConfig{
		STUNServerAddr: addr, TURNServerAddr: addr, Conn: conn, Username: username, Password: credential,
		LoggerFactory: silent(),
	})
	require.NoError(r.t, err)
	require.NoError(r.t, c.Listen())
	r.t.Cleanup(func() {
		c.Close()
		conn.Close()
	})
	return &party{c, r.t}
}

// user connects a client with good credentials for an id.
func (r *rig) user(network, id string) *party {
	username, credential := peer.TURNCredentials(r.opts.Secret, id, r.opts.TTL)
	return r.party(network, username, credential)
}

// relay makes a relay.
func (p *party) relay() net.PacketConn {
	p.t.Helper()
	relay, err := p.Allocate()
	require.NoError(p.t, err)
	p.t.Cleanup(func() { relay.Close() })
	return relay
}

// peerAt is a UDP socket of somebody who uses no TURN server.
func peerAt(t *testing.T, ip string) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp4", ip+":0")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc
}

// wantPacket waits until a packet arrives, and returns where it came from.
func wantPacket(t *testing.T, pc net.PacketConn, text string) net.Addr {
	t.Helper()
	buf := make([]byte, 2000)
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, addr, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, text, string(buf[:n]))
	return addr
}

func send(t *testing.T, pc net.PacketConn, text string, to net.Addr) {
	t.Helper()
	_, err := pc.WriteTo([]byte(text), to)
	require.NoError(t, err)
}

// A raw is a client that speaks STUN by hand, so that it can say what pion's client would not.
type raw struct {
	t                    *testing.T
	conn                 net.PacketConn
	server               net.Addr
	username, credential string
	nonce                stun.Nonce
}

func (r *rig) raw(network, from, id string) *raw {
	r.t.Helper()
	conn := r.dial(network, from)
	r.t.Cleanup(func() { conn.Close() })
	server, err := net.ResolveUDPAddr("udp", r.udp)
	require.NoError(r.t, err)
	username, credential := peer.TURNCredentials(r.opts.Secret, id, r.opts.TTL)
	return &raw{t: r.t, conn: conn, server: server, username: username, credential: credential}
}

// write sends a message, signed if there is a nonce already.
func (c *raw) write(method stun.Method, class stun.MessageClass, attrs ...stun.Setter) {
	c.t.Helper()
	require.NoError(c.t, c.tryWrite(method, class, attrs...))
}

// tryWrite is write over a connection that the server may have closed.
func (c *raw) tryWrite(method stun.Method, class stun.MessageClass, attrs ...stun.Setter) error {
	c.t.Helper()
	attrs = append([]stun.Setter{stun.TransactionID, stun.NewType(method, class)}, attrs...)
	if c.nonce != nil && class == stun.ClassRequest {
		attrs = append(attrs, stun.NewUsername(c.username), stun.NewRealm(realm), c.nonce,
			stun.NewLongTermIntegrity(c.username, realm, c.credential))
	}
	m, err := stun.Build(attrs...)
	require.NoError(c.t, err)
	_, err = c.conn.WriteTo(m.Raw, c.server)
	return err
}

// read returns the next message.
func (c *raw) read() *stun.Message {
	c.t.Helper()
	buf := make([]byte, 2000)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, _, err := c.conn.ReadFrom(buf)
	require.NoError(c.t, err)
	m := &stun.Message{Raw: buf[:n]}
	require.NoError(c.t, m.Decode())
	return m
}

// ask sends a request and returns the code of the answer: 0 for success.
func (c *raw) ask(method stun.Method, attrs ...stun.Setter) stun.ErrorCode {
	c.t.Helper()
	c.write(method, stun.ClassRequest, attrs...)
	return c.answer()
}

func (c *raw) answer() stun.ErrorCode {
	c.t.Helper()
	m := c.read()
	var code stun.ErrorCodeAttribute
	if m.Type.Class == stun.ClassSuccessResponse {
		return 0
	}
	require.Equal(c.t, stun.ClassErrorResponse, m.Type.Class)
	require.NoError(c.t, code.GetFrom(m))
	return code.Code
}

// hello gets a nonce.
func (c *raw) hello() {
	c.t.Helper()
	c.write(stun.MethodAllocate, stun.ClassRequest)
	m := c.read()
	c.nonce = nil
	require.NoError(c.t, c.nonce.GetFrom(m))
}

// transport is REQUESTED-TRANSPORT.
func transport(protocol byte) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{protocol, 0, 0, 0}}
}

var overUDP = transport(17)

// allocate makes a relay, and returns the code of the answer.
func (c *raw) allocate(attrs ...stun.Setter) stun.ErrorCode {
	c.t.Helper()
	if c.nonce == nil {
		c.hello()
	}
	if len(attrs) == 0 {
		attrs = append(attrs, overUDP)
	}
	return c.ask(stun.MethodAllocate, attrs...)
}

// A peerAddress is XOR-PEER-ADDRESS in the family of its address. pion writes IPv4-mapped addresses as IPv4.
type peerAddress netip.AddrPort

func (a peerAddress) AddTo(m *stun.Message) error {
	const cookie = 0x2112A442
	ap := netip.AddrPort(a)
	family, ip := byte(1), ap.Addr().AsSlice()
	if len(ip) == net.IPv6len {
		family = 2
	}
	mask := binary.BigEndian.AppendUint32(nil, cookie)
	mask = append(mask, m.TransactionID[:]...)
	v := binary.BigEndian.AppendUint16([]byte{0, family}, ap.Port()^cookie>>16)
	for i := range ip {
		v = append(v, ip[i]^mask[i])
	}
	m.Add(stun.AttrXORPeerAddress, v)
	return nil
}

func peerOf(text string) peerAddress { return peerAddress(netip.MustParseAddrPort(text)) }

func channel(n uint16) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrChannelNumber, Value: append(binary.BigEndian.AppendUint16(nil, n), 0, 0)}
}

func data(text string) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrData, Value: []byte(text)}
}

func seconds(n uint32) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrLifetime, Value: binary.BigEndian.AppendUint32(nil, n)}
}

func (r *rig) refused(cause string) uint64 {
	n, ok := r.Stats().Refused[cause]
	require.True(r.t, ok, fmt.Sprintf("%q is no cause", cause))
	return n
}

// How long and how often a test looks for something that happens on another goroutine.
const (
	wait = 10 * time.Second
	tick = time.Millisecond
)
