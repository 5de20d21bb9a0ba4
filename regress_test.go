package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A frame that never comes whole behind the server's close frame does not keep the server from
// ending.
func TestHalfAFrameBehindTheCloseFrameDelaysNobody(t *testing.T) {
	for where, newRig := range map[string]func(*testing.T, Options) *rig{"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig} {
		t.Run(where, func(t *testing.T) {
			r := newRig(t, Options{})
			p := r.rawConnect("a")
			p.text(`{"type":"LEAVE"}`)
			first, _ := p.next()
			require.Equal(t, byte(rawFin|rawClose), first)
			p.write(append(rawHeader(rawFin|rawText, 100_000), make([]byte, 5000)...))
			closeServer(t, r.srv)
		})
	}
}

// What a client has sent is neither kept nor counted once the message has been dealt with.
func TestAnIdleClientKeepsNothingOfItsLastMessage(t *testing.T) {
	text := `{"type":"HEARTBEAT","payload":"` + strings.Repeat("x", 200<<10) + `"}`
	for where, newRig := range map[string]func(*testing.T, Options) *rig{"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig} {
		for how, frames := range map[string][]byte{
			"frame":     rawTextFrame(text),
			"fragments": append(rawFrame(rawText, text[:1000]), rawFrame(rawFin|rawCont, text[1000:])...),
		} {
			t.Run(where+", "+how, func(t *testing.T) {
				r := newRig(t, Options{MaxPartialBytes: 1 << 20})
				for i := range 10 { // together more than the bound
					r.rawConnect(fmt.Sprint("p", i)).write(frames)
					waitFor(t, func() bool { return r.srv.Stats().BytesIn >= uint64((i+1)*len(text)) })
				}
				waitFor(t, func() bool { return r.srv.realm.partials.used.Load() == 0 })
				require.Zero(t, r.srv.Stats().Disconnects[ReasonOverloaded])
			})
		}
	}
}

// What had no room before OPEN is not lost if the client ends at the moment when it is opened.
func TestNothingIsLostWhenAClientEndsAsItIsOpened(t *testing.T) {
	for i := range 300 {
		opts := Options{MaxOutboxMessages: 1, AliveTimeout: -1}.withDefaults()
		r := newRealm(&opts)
		near, far := net.Pipe()
		c := newClient(nil, newSocket(near, nil, &r.partials), params{id: "a", token: "t", quoted: `"a"`}, "", netip.Addr{}, &opts, r.traffic("a"))
		_, err := r.admit(c, nil, true)
		require.NoError(t, err)
		for n := range 100 {
			out, d := r.route("a", parcel{frame: []byte("x"), src: fmt.Sprint("s", n), keep: keepUntilExpiry, deadline: time.Now().Add(time.Hour)})
			d.finish()
			require.NotEqual(t, notKept, out)
		}
		var wg sync.WaitGroup
		start := make(chan struct{})
		wg.Go(func() { <-start; r.open(c) })
		wg.Go(func() {
			<-start
			for range i % 50 {
				runtime.Gosched()
			}
			c.end(ReasonRemoved, nil, nil)
		})
		go func() { // read everything
			b := make([]byte, 1000)
			for {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		close(start)
		wg.Wait()
		c.stopReading()
		c.awaitEnd()
		c.mu.Lock()
		c.awaitLocked(func() bool { return c.outbox.inflight == 0 })
		kept := 0
		for _, p := range c.outbox.parcels {
			if p.keep == keepUntilExpiry {
				kept++
			}
		}
		c.mu.Unlock()
		require.GreaterOrEqual(t, kept+int(r.heldParcels.Load())+int(c.traffic.bytesOut.Load()), 100, "round %d", i)
		far.Close()
		r.close()
		c.writers.Wait()
	}
}

// A client that was pinged may still send a pong behind its close frame. Nobody waits for that.
func TestAGoodbyeAfterAPingFreesTheIDAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	p := r.rawConnect("a")
	rec.want(t, "+a")
	c := r.srv.Realm().Client("a")
	go c.probe(waitLimit)
	first, _ := p.next()
	require.Equal(t, byte(rawFin|rawPing), first)
	start := time.Now()
	p.write(rawCloseFrame(1000, ""))
	rec.want(t, "+a", "-a client closed")
	require.Less(t, time.Since(start), lingerTimeout)
}

// exitHandler is a log handler that ends the goroutine of a handshake that is refused.
type exitHandler struct{ slog.Handler }

func (exitHandler) Enabled(context.Context, slog.Level) bool { return true }
func (exitHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "peer: connection refused" {
		runtime.Goexit()
	}
	return nil
}

func TestARefusalIsToldWhateverTheLogDoes(t *testing.T) {
	r := newRig(t, Options{Logger: slog.New(exitHandler{})})
	r.connect("a")
	r.dial("a", "another token").wantRefused(TypeIDTaken, isTaken)
}

// A member whose id changes hands by its own token misses nothing that the room is told.
func TestABroadcastDuringATakeoverReachesTheMember(t *testing.T) {
	srv := NewServer(Options{MaxOutboxMessages: -1, MaxOutboxBytes: -1})
	srv.OnConnection(func(c *Client) {})
	r := serveRig(t, srv, nil)
	p := r.connect("a")
	require.NoError(t, srv.Realm().Join("room", srv.Realm().Client("a")))
	p.next()
	var mu sync.Mutex
	got := map[string]int{}
	var readers sync.WaitGroup
	collect := func(p *testPeer) {
		for f := range p.frames {
			mu.Lock()
			got[f]++
			mu.Unlock()
		}
	}
	first := p
	readers.Go(func() { collect(first) })
	stop := make(chan struct{})
	sent := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, err := srv.Realm().Broadcast("room", Message{Type: "N", Payload: fmt.Append(nil, sent)})
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
			if sent++; sent%50 == 0 {
				runtime.Gosched()
			}
		}
	})
	for range 60 {
		p := r.dial("a", "token-of-a")
		readers.Go(func() { collect(p) })
	}
	close(stop)
	wg.Wait()
	waitFor(t, func() bool {
		c := srv.Realm().Client("a")
		if c == nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.stage == online && c.writer == idle && len(c.outbox.parcels) == 0
	})
	closeServer(t, srv)
	readers.Wait()
	for n := range sent {
		require.Equal(t, 1, got[fmt.Sprintf(`{"type":"N","payload":%d}`, n)], "message %d of %d", n, sent)
	}
}

// closeCounter is a wrapper of the host's around TLS that notices its end.
type closeCounter struct {
	*tls.Conn
	closed func()
}

func (c closeCounter) Close() error { c.closed(); return c.Conn.Close() }

type countingListener struct {
	net.Listener
	open *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	var once sync.Once
	return closeCounter{c.(*tls.Conn), func() { once.Do(func() { l.open.Add(-1) }) }}, nil
}

func TestAWrapperOfTLSIsClosed(t *testing.T) {
	srv := NewServer(Options{})
	var open atomic.Int64
	base, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	hs := &http.Server{Handler: srv}
	go hs.Serve(countingListener{tls.NewListener(base, testCertificate()), &open})
	defer hs.Close()
	r := &rig{t: t, srv: srv, url: "http://" + base.Addr().String()}
	r.dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		return d.DialContext(ctx, network, addr)
	}
	r.rawConnect("a").conn.Close()
	waitFor(t, func() bool { return srv.Realm().Len() == 0 })
	require.NoError(t, srv.Close())
	require.Zero(t, open.Load())
}
