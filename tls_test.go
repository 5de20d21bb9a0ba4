package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// testCertificate is that of httptest.
func testCertificate() *tls.Config {
	ts := httptest.NewTLSServer(nil)
	defer ts.Close()
	return &tls.Config{Certificates: ts.TLS.Certificates}
}

// newTLSBubbleRig is newBubbleRig behind TLS. Connections have no buffers: a write
// lasts until the other side has read it.
func newTLSBubbleRig(t *testing.T, config *tls.Config, opts Options) *rig {
	t.Helper()
	r := bubbleRig(t, NewServer(opts), nil, func(l net.Listener) net.Listener { return tls.NewListener(l, config) })
	dial := r.dialer
	r.dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		sealed := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // it is this process
		return sealed, sealed.HandshakeContext(ctx)
	}
	return r
}

// longText takes several TLS records.
var longText = strings.Repeat("x", 40<<10)

// A TLS connection whose write was cut off takes no other. So a write that is
// under way when a client ends is finished, and the client reads why it ends.
func TestAWriteUnderWayOverTLSIsFinished(t *testing.T) {
	config := testCertificate()
	for name, end := range map[string]func(r *rig){
		"removed":  func(r *rig) { r.srv.Realm().RemoveClient("a") },
		"shutdown": func(r *rig) { closeServer(r.t, r.srv) },
		"overridden": func(r *rig) {
			r.dial("a", "another").wantOpen()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTLSBubbleRig(t, config, Options{AllowOverride: OverrideAlways})
				p := r.rawOpen().open("a")
				require.NoError(t, r.srv.Realm().Send("a", Message{Type: "APP", Payload: quoted(longText)}))
				synctest.Wait() // the server is in the middle of the message
				var ending sync.WaitGroup
				ending.Go(func() { end(r) })
				synctest.Wait()
				_, payload := p.next()
				require.Contains(t, string(payload), longText)
				code := p.skipToEnd()
				require.NotZero(t, code, "a close frame, at the end of the stream")
				p.conn.Close()
				ending.Wait()
			})
		})
	}
}

func quoted(s string) []byte { return []byte(quote(s)) }

// Who does not read is not waited for, beyond a moment, and what was being
// written to it is not lost.
func TestAStuckTLSClientIsNotWaitedFor(t *testing.T) {
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{})
		sender, p := r.connect("b"), r.rawOpen().open("a")
		sender.offer("a", string(quoted(longText)))
		sender.offer("b", `"done"`)
		sender.wantOffer("b", `"done"`)
		synctest.Wait()
		start := time.Now()
		r.srv.Realm().RemoveClient("a")
		require.LessOrEqual(t, time.Since(start), farewellTimeout)
		require.Nil(t, r.srv.Realm().Client("a"))
		p.conn.Close()

		next := r.connect("a")
		next.wantOffer("b", string(quoted(longText)))
	})
}

func TestANewcomerDoesNotWaitForAStuckTLSClient(t *testing.T) {
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{})
		p := r.rawOpen().open("a")
		require.NoError(t, r.srv.Realm().Send("a", Message{Type: "APP", Payload: quoted(longText)}))
		synctest.Wait()
		start := time.Now()
		next := r.dial("a", p.token)
		next.wantOpen()
		require.Zero(t, time.Since(start))
		require.Contains(t, next.next(), longText)
		p.conn.Close()
	})
}

// crypto/tls takes five seconds to say that nothing more will come to who does not
// read that.
func TestAStuckTLSClientDoesNotHoldUpTheEnd(t *testing.T) {
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{})
		p := r.rawOpen().open("a")
		start := time.Now()
		done := make(chan struct{})
		go func() {
			closeServer(t, r.srv)
			close(done)
		}()
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawClose), first)
		<-done // reading no further
		require.LessOrEqual(t, time.Since(start), 2*farewellTimeout+lingerTimeout)
		p.conn.Close()
	})
}

// While an overridden client gets its moment, what comes for the id is bounded as
// ever, in order, and not for the old client.
func TestWhatComesDuringAnOverrideIsBounded(t *testing.T) {
	const limit = 5
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{AllowOverride: OverrideAlways, MaxOutboxMessages: limit})
		sender, p := r.connect("sender"), r.rawOpen().open("a")
		sender.offer("a", string(quoted(longText))) // of which p reads nothing
		synctest.Wait()
		old := r.srv.Realm().Client("a")
		next := make(chan *testPeer)
		go func() { next <- r.dial("a", "another") }()
		synctest.Wait()
		require.Equal(t, ReasonOverridden, old.Reason())
		require.ErrorIs(t, old.Send(Message{Type: "APP"}), ErrNotConnected)
		for i := range 3 * limit {
			sender.offer("a", strconv.Itoa(i))
		}
		synctest.Wait()
		old.mu.Lock()
		require.Len(t, old.outbox.parcels, limit)
		old.mu.Unlock()
		by := <-next
		by.wantOpen()
		by.wantOffer("sender", string(quoted(longText)))
		for i := range 3 * limit {
			by.wantOffer("sender", strconv.Itoa(i))
		}
		p.conn.Close()
	})
}

// TLS says goodbye after the close frame has been answered, and that must be read.
func TestAClientOverTLSIsLeftToHangUp(t *testing.T) {
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{})
		p := r.rawOpen().open("a")
		p.write(rawCloseFrame(1000, ""))
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawClose), first)
		p.wantGone()
		synctest.Wait()
		p.write(rawFrame(rawFin|rawPong, "")) // nobody has closed the connection
		require.NoError(t, p.conn.Close())
	})
}

// A page may send a long offer in the moment in which the server ends its connection. Only a part
// of the offer fits into a buffer.
func TestALongMessageMayCrossTheEndOfItsConnection(t *testing.T) {
	config := testCertificate()
	for name, newRig := range map[string]func(*testing.T) *rig{
		"over TLS":       func(t *testing.T) *rig { return newTLSBubbleRig(t, config, Options{}) },
		"through a pipe": func(t *testing.T) *rig { return newBubbleRig(t, Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				p := r.rawOpen().open("a")
				start := time.Now()
				go r.srv.Realm().RemoveClient("a")
				first, _ := p.next()
				require.Equal(t, byte(rawFin|rawClose), first)
				offer, _ := offerOfSize("b", 3*smallBuffer)
				for range 3 {
					p.text(offer)
				}
				p.answerClose()
				p.wantGone()
				require.Zero(t, time.Since(start), "the close frame was found behind the offers")
				p.conn.Close()
			})
		})
	}
}

// A client may close right after a ping, and still gets its pong (RFC 6455, section 5.5.2).
func TestAPingBeforeTheCloseFrameIsAnswered(t *testing.T) {
	config := testCertificate()
	for _, pings := range []int{1, 2, 10} {
		synctest.Test(t, func(t *testing.T) {
			r := newTLSBubbleRig(t, config, Options{})
			for range 10 {
				p := r.rawOpen().open("a")
				var frames []byte
				for i := range pings {
					frames = append(frames, rawFrame(rawFin|rawPing, fmt.Sprint(i))...)
				}
				p.write(slices.Concat(frames, rawCloseFrame(3333, "")))
				for i := range pings {
					first, payload := p.next()
					require.Equal(t, byte(rawFin|rawPong), first)
					require.Equal(t, fmt.Sprint(i), string(payload))
				}
				first, payload := p.next()
				require.Equal(t, byte(rawFin|rawClose), first)
				require.EqualValues(t, 3333, binary.BigEndian.Uint16(payload))
				p.wantEOF(0)
				synctest.Wait()
			}
		})
	}
}

// A pong that is being written when the close frame comes is finished, and not written again.
func TestAPongUnderWayOverTLSIsFinished(t *testing.T) {
	config := testCertificate()
	synctest.Test(t, func(t *testing.T) {
		r := newTLSBubbleRig(t, config, Options{})
		p := r.rawOpen().open("a")
		for _, payload := range []string{"0", "1"} {
			p.write(rawFrame(rawFin|rawPing, payload))
			synctest.Wait()
		}
		p.write(rawCloseFrame(1000, ""))
		synctest.Wait()
		for _, want := range []string{"0", "1"} {
			first, payload := p.next()
			require.Equal(t, byte(rawFin|rawPong), first)
			require.Equal(t, want, string(payload))
		}
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawClose), first)
		_, _, err := p.read()
		require.Equal(t, io.EOF, err)
	})
}

// A recordedConn remembers all that was read.
type recordedConn struct {
	net.Conn
	read []byte
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read = append(c.read, p[:n]...)
	return n, err
}

// alerts returns how many of the TLS records that were read are alerts (RFC 5246, section 6.2.1).
func (c *recordedConn) alerts() (n int) {
	const alert = 21
	for b := c.read; len(b) >= 5; b = b[5+int(binary.BigEndian.Uint16(b[3:])):] {
		if b[0] == alert {
			n++
		}
	}
	return n
}

// A TLS stream ends with an alert that says so: without it, a client cannot tell the end from an
// attack (RFC 5246, section 7.2.1). A client that still owes its close frame is given time for that
// before.
func TestAStreamOverTLSSaysThatItEnds(t *testing.T) {
	config := testCertificate()
	config.MaxVersion = tls.VersionTLS12 // later versions encrypt the type of a record
	for name, c := range map[string]struct {
		end           func(r *rig, p *rawPeer)
		owes, answers bool // the client's close frame
	}{
		"removed":                    {func(r *rig, _ *rawPeer) { r.srv.Realm().RemoveClient("a") }, true, true},
		"removed and never answered": {func(r *rig, _ *rawPeer) { r.srv.Realm().RemoveClient("a") }, true, false},
		"goodbye":                    {func(_ *rig, p *rawPeer) { p.write(rawCloseFrame(1000, "")) }, false, false},
		"a breach":                   {func(_ *rig, p *rawPeer) { p.write(rawFrame(rawFin|rawCont, "")) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bubbleRig(t, NewServer(Options{}), nil, func(l net.Listener) net.Listener { return tls.NewListener(l, config) })
				below := new(recordedConn)
				dial := r.dialer
				r.dialer = func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
					below.Conn, err = dial(ctx, network, addr)
					return tls.Client(below, &tls.Config{InsecureSkipVerify: true}), err // it is this process
				}
				p := r.rawOpen().open("a")
				c.end(r, p)
				first, _ := p.next()
				require.EqualValues(t, rawFin|rawClose, first)
				if c.owes {
					_, _, err := p.readWithin(lingerTimeout - 1)
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.Zero(t, below.alerts())
				}
				if c.answers {
					p.answerClose()
				}
				_, _, err := p.read()
				require.Equal(t, io.EOF, err)
				require.Equal(t, 1, below.alerts())
				p.conn.Close()
			})
		})
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
	r.rawOpen().open("a").conn.Close()
	waitFor(t, func() bool { return srv.Realm().Len() == 0 })
	require.NoError(t, srv.Close())
	require.Zero(t, open.Load())
}
