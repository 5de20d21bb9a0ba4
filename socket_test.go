package peer

import (
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever system calls the host brings, and however little they do at a time, a
// client reads the same.
func TestAHostBringsItsOwnSystemCalls(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there, sockets are not read like files")
	}
	var reads, writes atomic.Int64
	r := newRig(t, Options{
		ReadSocket: func(fd uintptr, p []byte) (int, error) {
			if reads.Add(1)%3 == 0 {
				return -1, syscall.EINTR
			}
			return readSocket(fd, p[:min(len(p), 100)])
		},
		WriteSocket: func(fd uintptr, p []byte) (int, error) {
			switch writes.Add(1) % 3 {
			case 0:
				return -1, syscall.EINTR
			case 1:
				return -1, syscall.EAGAIN
			}
			return writeSocket(fd, p[:min(len(p), 100)])
		},
	})
	by := r.bystanders()
	long := string(quoted(strings.Repeat("x", 5000)))
	for range 20 {
		by.a.offer("bob", long)
		by.a.offer("bob", `1`)
		by.b.wantOffer("alice", long)
		by.b.wantOffer("alice", `1`)
	}
	require.GreaterOrEqual(t, reads.Load(), int64(20*len(long)/100))
	require.GreaterOrEqual(t, writes.Load(), int64(20))
}

func TestSystemCallsThatFailEndOneConnection(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there, sockets are not read like files")
	}
	for name, failing := range map[string]func(opts *Options, fails *atomic.Bool){
		"read": func(opts *Options, fails *atomic.Bool) {
			opts.ReadSocket = func(fd uintptr, p []byte) (int, error) {
				if fails.Load() {
					return -1, syscall.EIO
				}
				return readSocket(fd, p)
			}
		},
		"read of more than there is room for": func(opts *Options, fails *atomic.Bool) {
			opts.ReadSocket = func(fd uintptr, p []byte) (int, error) {
				if fails.Load() {
					return 2 * len(p), syscall.EIO
				}
				return readSocket(fd, p)
			}
		},
		"write": func(opts *Options, fails *atomic.Bool) {
			opts.WriteSocket = func(fd uintptr, p []byte) (int, error) {
				if fails.Load() {
					return -1, syscall.EPIPE
				}
				return writeSocket(fd, p)
			}
		},
		"write of more than there is": func(opts *Options, fails *atomic.Bool) {
			opts.WriteSocket = func(fd uintptr, p []byte) (int, error) {
				if fails.Load() {
					return 2 * len(p), syscall.EPIPE
				}
				return writeSocket(fd, p)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var opts Options
			var fails atomic.Bool
			failing(&opts, &fails)
			r := newRig(t, opts)
			rec := watch(r.srv)
			p := r.rawConnect("mallory")
			rec.wait(t, 1)
			fails.Store(true)
			p.write(rawFrame(rawFin|rawPing, "?"))
			require.Equal(t, "-mallory connection lost", rec.last(t, 2))
			fails.Store(false)
			r.bystanders().talk()
		})
	}
}

func TestSystemCallsThatMiscountHarmNobodyElse(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there, sockets are not read like files")
	}
	var reading, writing atomic.Bool // is to be miscounted, once
	r := newRig(t, Options{
		ReadSocket: func(fd uintptr, p []byte) (int, error) {
			n, err := readSocket(fd, p)
			if n > 0 && reading.CompareAndSwap(true, false) {
				n = len(p) + 1
			}
			return n, err
		},
		WriteSocket: func(fd uintptr, p []byte) (int, error) {
			n, err := writeSocket(fd, p)
			if n > 0 && writing.CompareAndSwap(true, false) {
				n = len(p) + 1
			}
			return n, err
		},
	})
	rec := watch(r.srv)
	by, p := r.bystanders(), r.rawConnect("mallory")
	rec.wait(t, 3)
	writing.Store(true)
	offer := `{"type":"OFFER","src":"mallory","dst":"mallory"}`
	for range 2 {
		p.text(offer)
		p.want(offer)
	}
	reading.Store(true)
	p.write(rawFrame(rawFin|rawPing, "?"))
	require.Contains(t, rec.last(t, 4), "-mallory ")
	by.talk()
}

// A connection that the host has wrapped is to pass the wrapper with every byte.
func TestAWrappedConnectionIsNotReadPastItsWrapper(t *testing.T) {
	var wrapped atomic.Int64
	r := &rig{t: t, dialer: new(net.Dialer).DialContext}
	r.srv = NewServer(Options{
		ReadSocket:  func(uintptr, []byte) (int, error) { panic("read past the wrapper") },
		WriteSocket: func(uintptr, []byte) (int, error) { panic("written past the wrapper") },
	})
	ts := httptest.NewUnstartedServer(r.srv)
	ts.Listener = countingListener{ts.Listener, &wrapped}
	ts.Start()
	t.Cleanup(ts.Close)
	t.Cleanup(func() { closeServer(t, r.srv) })
	r.url = ts.URL
	p := r.rawConnect("a")
	offer := `{"type":"OFFER","src":"a","dst":"a"}`
	p.text(offer)
	p.want(offer)
	waitFor(t, func() bool { return wrapped.Load() > int64(len(openFrame)+2*len(offer)) })
}

type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn.(*net.TCPConn), l.n}, nil
}

type countingConn struct {
	*net.TCPConn
	n *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.n.Add(int64(n))
	return n, err
}
