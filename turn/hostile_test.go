package turn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// A pipeListener hands out the ends of pipes, so that a server works inside of a bubble.
type pipeListener struct {
	conns  chan net.Conn
	failed chan error
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: loopback.AsSlice(), Port: 3478} }

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

type pipeEnd struct {
	net.Conn
	local, remote net.Addr
}

func (c pipeEnd) LocalAddr() net.Addr  { return c.local }
func (c pipeEnd) RemoteAddr() net.Addr { return c.remote }

// dial connects from an address.
func (l *pipeListener) dial(from string) net.Conn {
	near, far := net.Pipe()
	l.conns <- pipeEnd{far, l.Addr(), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	return near
}

func newPipeServer(t *testing.T, wrap func(net.Listener) net.Listener, opts Options) (*Server, *pipeListener) {
	t.Helper()
	l := newPipeListener()
	opts.PublicIP, opts.BindIP, opts.TCP = loopback, loopback, []net.Listener{wrap(l)}
	s, err := New(opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.Close()
		require.Zero(t, s.Stats().Conns)
	})
	return s, l
}

// connFrom returns the open connection from an address.
func (s *Server) connFrom(addr string) *conn {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	for c := range s.conns.all {
		if ap, _ := addrPortOf(c.remote); ap.String() == addr {
			return c
		}
	}
	return nil
}

func plain(l net.Listener) net.Listener { return l }

// lifetime returns after which time the server closes a connection.
func lifetime(c net.Conn) time.Duration {
	start := time.Now()
	buf := make([]byte, 1000)
	for {
		if _, err := c.Read(buf); err != nil {
			return time.Since(start)
		}
	}
}

func TestAConnectionWithoutARelayEnds(t *testing.T) {
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	for name, write := range map[string]func(net.Conn){
		"it sends nothing": func(net.Conn) {},
		"it sends a part":  func(c net.Conn) { c.Write(binding[:7]) },
		"it sends bindings for ever": func(c net.Conn) {
			for {
				if _, err := c.Write(binding); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
		"it sends one byte a second": func(c net.Conn) {
			for _, b := range bytes.Repeat(binding, 10) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := newPipeServer(t, plain, Options{})
				c := l.dial("192.0.2.1:1000")
				var writer sync.WaitGroup
				writer.Go(func() { write(c) })
				require.Equal(t, authTimeout, lifetime(c))
				writer.Wait()
				synctest.Wait()
				require.Zero(t, s.Stats().Conns)
			})
		})
	}
}

func TestAClientThatReadsNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{})
		c := l.dial("192.0.2.1:1000")
		start := time.Now()
		binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
		for {
			if _, err := c.Write(binding); err != nil {
				break
			}
		}
		require.Equal(t, authTimeout, time.Since(start))
		synctest.Wait()
		require.Zero(t, s.Stats().Conns)
	})
}

func TestCloseDoesNotWaitForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{})
		c := l.dial("192.0.2.1:1000")
		synctest.Wait()
		start := time.Now()
		require.NoError(t, s.Close())
		require.Zero(t, lifetime(c))
		require.Zero(t, time.Since(start))
	})
}

func TestGarbageEndsAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := newPipeServer(t, plain, Options{})
		c := l.dial("192.0.2.1:1000")
		go c.Write(bytes.Repeat([]byte{0xff}, 100))
		require.Zero(t, lifetime(c))
	})
}

func TestAHandshakeOfTLSThatDoesNotEnd(t *testing.T) {
	cert, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, func(l net.Listener) net.Listener {
			return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
		}, Options{})
		stuck := l.dial("192.0.2.1:1000")
		garbage := l.dial("192.0.2.1:1001") // the one before delays nobody
		go garbage.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.Zero(t, lifetime(garbage))
		require.Equal(t, authTimeout, lifetime(stuck))
		synctest.Wait()
		require.EqualValues(t, 2, s.Stats().Refused["handshake"])
		require.Zero(t, s.Stats().Conns)
		last := l.dial("192.0.2.1:1002")
		synctest.Wait()
		start := time.Now()
		require.NoError(t, s.Close())
		require.Zero(t, lifetime(last))
		require.Zero(t, time.Since(start), "Close does not wait for the handshake")
	})
}

func TestAConnectionWithARelayMayBeIdleUntilItsRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{})
		c := l.dial("192.0.2.1:1000")
		synctest.Wait()
		ours := s.connFrom("192.0.2.1:1000")
		ours.allocated(1)
		binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
		ask := func() {
			_, err := c.Write(binding)
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1000))
			require.NoError(t, err)
			synctest.Wait()
		}
		for range 10 {
			ask() // this ends the read that has the first deadline
			time.Sleep(10 * time.Minute)
		}
		ask()
		require.InDelta(t, idleTimeout, lifetime(c), float64(idleGrain))

		c = l.dial("192.0.2.1:1000")
		synctest.Wait()
		ours = s.connFrom("192.0.2.1:1000")
		ours.allocated(1)
		ask()
		ours.allocated(-1)
		require.Equal(t, authTimeout, lifetime(c), "its relay has ended")
	})
}

func TestAClientWithARelayThatReadsNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{})
		c := l.dial("192.0.2.1:1000")
		synctest.Wait()
		ours := s.connFrom("192.0.2.1:1000")
		ours.allocated(1)
		_, err := c.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1000))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		start := time.Now()
		_, err = ours.Write([]byte("what a peer has sent"))
		require.Error(t, err)
		require.Equal(t, writeTimeout+writeGrain, time.Since(start))
		require.Zero(t, lifetime(c))
		require.Zero(t, s.Stats().Conns)
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{MaxConns: 5, MaxConnsPerAddr: 2})
		var kept []net.Conn
		for _, from := range []string{
			"192.0.2.1:1", "192.0.2.1:2", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1",
		} {
			kept = append(kept, l.dial(from))
			synctest.Wait()
			require.Equal(t, len(kept), s.Stats().Conns, from)
		}
		require.Zero(t, lifetime(l.dial("192.0.2.9:1")))
		require.EqualValues(t, 1, s.Stats().Refused["connection limit"])
		kept[4].Close()
		synctest.Wait()
		require.Zero(t, lifetime(l.dial("192.0.2.1:3")))
		require.Zero(t, lifetime(l.dial("[::ffff:192.0.2.1]:3")))
		require.Zero(t, lifetime(l.dial("[2001:db8::3]:1")))
		require.EqualValues(t, 3, s.Stats().Refused["address limit"])
		kept[0].Close()
		synctest.Wait()
		l.dial("192.0.2.1:4")
		synctest.Wait()
		require.Equal(t, 4, s.Stats().Conns)
	})
}

// pion's own loops would end at the first error, and the server would be deaf.
func TestAnErrorOfAcceptEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, l := newPipeServer(t, plain, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for range 10 {
			l.failed <- errors.New("too many open files")
		}
		c := l.dial("192.0.2.1:1000")
		require.Equal(t, authTimeout, lifetime(c))
		require.EqualValues(t, 10, s.Stats().Errors)
		require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("too many open files")), "once a minute")
	})
}

type failingConn struct {
	*deafConn
	errors atomic.Int32
}

func (c *failingConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.errors.Add(-1) >= 0 {
		return 0, nil, errors.New("connection reset by peer")
	}
	return c.deafConn.ReadFrom(p)
}

func TestAnErrorOfAReadEndsNothing(t *testing.T) {
	for _, n := range []int32{1, fewErrors, fewErrors + 10} {
		synctest.Test(t, func(t *testing.T) {
			c := &failingConn{deafConn: newDeafConn()}
			c.errors.Store(n)
			start := time.Now()
			s, err := New(Options{PublicIP: loopback, BindIP: loopback, UDP: []net.PacketConn{c}})
			require.NoError(t, err)
			for c.errors.Load() >= 0 {
				time.Sleep(errorPause)
				synctest.Wait()
			}
			require.EqualValues(t, n, s.Stats().Errors)
			pauses := max(1, n-fewErrors) // the test itself makes one
			require.InDelta(t, time.Duration(pauses)*errorPause, time.Since(start), float64(errorPause))
			require.NoError(t, s.Close())
		})
	}
}
