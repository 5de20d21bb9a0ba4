package turn

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The times of TCP connections.
const (
	authTimeout  = 10 * time.Second // from the connection, or from the end of its relay, to a relay
	idleTimeout  = 11 * time.Minute // of a connection with a relay: it has to be refreshed within 10 minutes
	writeTimeout = 10 * time.Second // in which a client has to take what is written to it
	idleGrain    = time.Minute      // how exact idleTimeout is: setting a deadline costs more than reading a packet
	writeGrain   = time.Second      // how exact writeTimeout is
)

// conns are the TCP connections of clients, of all listeners.
type conns struct {
	opts *Options

	mu      sync.Mutex         // guards the following
	all     map[*conn]struct{} // all that are open
	remotes map[net.Addr]*conn // by the pointer that pion is given: a later connection has the same address
	perAddr map[netip.Addr]int // group -> its connections; absent: none
	closed  bool
}

func newConns(opts *Options) *conns {
	return &conns{
		opts: opts, all: make(map[*conn]struct{}), remotes: make(map[net.Addr]*conn), perAddr: make(map[netip.Addr]int),
	}
}

// add admits a connection, or says why not.
func (cs *conns) add(c *conn) refusal {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed:
		return refusedClosing
	case full(len(cs.all), cs.opts.MaxConns):
		return refusedConns
	case full(cs.perAddr[c.group], cs.opts.MaxConnsPerAddr):
		return refusedConnsPerAddr
	}
	cs.all[c] = struct{}{}
	cs.remotes[c.remote] = c
	cs.perAddr[c.group]++
	return none
}

func (cs *conns) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.all, c)
	delete(cs.remotes, c.remote)
	if cs.perAddr[c.group]--; cs.perAddr[c.group] == 0 {
		delete(cs.perAddr, c.group)
	}
}

// get returns the open connection with exactly this remote address, or nil.
func (cs *conns) get(remote net.Addr) *conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.remotes[remote]
}

func (cs *conns) len() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.all)
}

// close admits no connection any more, and returns those that are open.
func (cs *conns) close() (open []*conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.all {
		open = append(open, c)
	}
	return open
}

// A listener accepts connections for pion. pion itself stops at the first error, keeps no count of
// connections, and does not close them when the server closes.
type listener struct {
	s     *Server
	ln    net.Listener
	ready chan *conn
	ended sync.Once
}

// accept runs until the listener is closed.
func (l *listener) accept() {
	for {
		raw, err := l.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.s.isClosed() {
				return
			}
			l.s.failed(err)
			l.s.pause()
			continue
		}
		if c := l.admit(raw); c != nil {
			l.s.own.Go(func() { l.serve(c) })
		}
	}
}

func (l *listener) admit(raw net.Conn) *conn {
	c := &conn{Conn: raw, s: l.s, base: raw, in: bufio.NewReaderSize(raw, maxDatagram)}
	if under, ok := raw.(interface{ NetConn() net.Conn }); ok {
		c.base = under.NetConn()
	}
	f, ok := flowOf(raw.RemoteAddr(), raw.LocalAddr())
	if !ok {
		c.base.Close()
		return nil
	}
	c.group = groupOf(f.client.Addr())
	c.local, c.remote = (*net.TCPAddr)(wideUDPAddr(f.server)), (*net.TCPAddr)(wideUDPAddr(f.client))
	why := refusedFlood
	if !l.s.wrongTCP.over(c.group) {
		why = l.s.conns.add(c)
	}
	if why != none {
		l.s.refusals.count(why)
		c.base.Close()
		return nil
	}
	raw.SetDeadline(time.Now().Add(authTimeout))
	return c
}

// serve hands a connection to pion, after the handshake of TLS. It has a goroutine of its own, so that a
// client which does not finish it delays nobody.
func (l *listener) serve(c *conn) {
	if secure, ok := c.Conn.(interface{ HandshakeContext(context.Context) error }); ok {
		if err := secure.HandshakeContext(context.Background()); err != nil { // the deadline of admit ends it
			l.s.refusals.count(refusedHandshake)
			c.end()
			return
		}
	}
	l.s.running.Add(1) // until Close. The caller is waited for before running is
	select {
	case l.ready <- c:
	case <-l.s.closed:
		c.Close()
	}
}

// Accept returns the next connection. It returns an error only when the server closes.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.s.closed:
		l.ended.Do(l.s.running.Done)
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { return l.ln.Close() }
func (l *listener) Addr() net.Addr { return l.ln.Addr() }

// A conn is the TCP connection of a client.
type conn struct {
	net.Conn
	s     *Server
	base  net.Conn // below TLS: closing it does not wait for the client
	in    *bufio.Reader
	group netip.Addr

	local, remote *net.TCPAddr // with IPs of 16 bytes, which pion would make for each packet

	relays   atomic.Int32 // allocations; pion lets a connection have one
	readAt   atomic.Int64 // on the server's clock, when the deadline of reading was set
	writeAt  atomic.Int64 // the same for writing
	ending   sync.Once
	released sync.Once
}

// The headers of what comes over TCP.
const (
	stunHeader    = 20
	channelHeader = 4
)

var errFrame = errors.New("turn: neither a STUN message nor ChannelData that fits a datagram")

// Read reads one frame, a STUN message or ChannelData, as a whole: pion calls itself for each part of one that it
// gets, so bytes that come one by one would take a lot of memory for its stack. A client without a relay has
// authTimeout in all, and no more of it after too many wrong credentials from its address over TCP.
func (c *conn) Read(p []byte) (int, error) {
	if c.relays.Load() > 0 {
		c.renew(&c.readAt, idleGrain, func() { c.Conn.SetReadDeadline(time.Now().Add(idleTimeout)) })
		if c.relays.Load() == 0 { // it ended meanwhile: its deadline counts
			c.expire()
		}
	} else if c.s.wrongTCP.over(c.group) {
		c.s.refusals.count(refusedFlood)
		return 0, refusedFlood
	}
	head, err := c.in.Peek(channelHeader)
	if err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	switch head[0] >> 6 {
	case 0:
		n += stunHeader
	case 1:
		n = (channelHeader + n + 3) &^ 3 // over TCP it is padded to a multiple of 4
	default:
		return 0, errFrame
	}
	if n > len(p) {
		return 0, errFrame
	}
	return io.ReadFull(c.in, p[:n])
}

// Write writes to the client. What was written in part can be followed by nothing, so an error ends the
// connection.
func (c *conn) Write(p []byte) (int, error) {
	if c.relays.Load() > 0 {
		c.renew(&c.writeAt, writeGrain, func() { c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout + writeGrain)) })
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		c.end()
	}
	return n, err
}

// renew calls set if the last time is long ago.
func (c *conn) renew(last *atomic.Int64, grain time.Duration, set func()) {
	now := int64(c.s.clock.now())
	if before := last.Load(); (before == 0 || now-before > int64(grain)) && last.CompareAndSwap(before, now) {
		set()
	}
}

// allocated notes that the connection has a relay, or one less.
func (c *conn) allocated(n int32) {
	if c.relays.Add(n) <= 0 {
		c.expire()
	}
}

// expire gives the client of a connection without a relay the time for another one.
func (c *conn) expire() {
	c.readAt.Store(0)
	c.Conn.SetDeadline(time.Now().Add(authTimeout))
	c.writeAt.Store(0)
}

// LocalAddr returns the address of the server.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the client.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// Close is called by pion when it does not read any more.
func (c *conn) Close() error {
	c.end()
	c.released.Do(c.s.running.Done)
	return nil
}

// end closes the connection.
func (c *conn) end() {
	c.ending.Do(func() {
		c.base.Close()
		c.s.conns.remove(c)
	})
}
