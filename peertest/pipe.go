package peertest

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// A pipeListener is a network in memory. It accepts the far ends of the connections that its dialers make. Sockets of
// the system do not work in a bubble of testing/synctest: a goroutine that waits for them keeps the bubble's clock from
// moving.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close

	mu     sync.Mutex // guards the following
	closed bool
	opened []*conn // the clients' ends of all connections
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends all connections, also those that the host has hijacked.
func (l *pipeListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	for _, c := range l.opened {
		c.Close()
	}
	return nil
}

// hostAddr is where the host listens.
var hostAddr = netip.MustParseAddrPort("192.0.2.80:80")

func (l *pipeListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(hostAddr) }

// The ports that clients connect from (RFC 6335, section 6).
const firstPort, numPorts = 49152, 16384

// dial connects from an address and returns the end of the client.
func (l *pipeListener) dial(ctx context.Context, from netip.Addr) (*conn, error) {
	near, far, err := l.open(from)
	if err != nil {
		return nil, err
	}
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open makes a connection that is not accepted yet.
func (l *pipeListener) open(from netip.Addr) (near, far *conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, net.ErrClosed
	}
	client := net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, uint16(firstPort+len(l.opened)%numPorts)))
	host := net.TCPAddrFromAddrPort(hostAddr)
	up, down := newStream(), newStream()
	near = &conn{in: down, out: up, local: client, remote: host}
	l.opened = append(l.opened, near)
	return near, &conn{in: up, out: down, local: host, remote: client}, nil
}
