package peer

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever is ended by the server gets its last message and a close frame; then the server waits
// for the client's own close frame, and only then ends the stream.

// An ending is a way in which a server ends a connection.
type ending struct {
	end  func(r *rig, p *rawPeer)
	last string // the last message; "": none
	code int
}

// endings are those of a client "a" on a rig with endingOptions.
var endings = map[string]ending{
	"refused": {nil, `{"type":"ERROR","payload":{"msg":"Invalid key provided"}}`, 1008},
	"overridden": {func(r *rig, _ *rawPeer) { r.dial("a", "another") },
		`{"type":"OVERRIDE_CONNECTION","payload":{"msg":"Your id was taken over by another connection"}}`, CloseOverridden},
	"replaced": {func(r *rig, p *rawPeer) { r.dial("a", p.token) }, "", CloseReplaced},
	"removed":  {func(r *rig, _ *rawPeer) { r.srv.Realm().Client("a").Close() }, "", CloseRemoved},
	"slow consumer": {func(r *rig, _ *rawPeer) {
		for range endingOptions.MaxOutboxMessages + 1 {
			r.srv.Realm().Send("a", Message{Type: "OWN"})
		}
	}, "", 1008},
	"shutdown": {func(r *rig, _ *rawPeer) { go r.srv.Close() }, "", 1001},
	"message too big": {func(_ *rig, p *rawPeer) {
		go p.tryWrite(rawTextFrame(strings.Repeat("x", endingOptions.MaxMessageSize+1)))
	}, "", 1009},
	"alive timeout": {func(*rig, *rawPeer) {}, "", CloseUnresponsive},
	"left":          {func(_ *rig, p *rawPeer) { p.write(rawTextFrame(`{"type":"LEAVE"}`)) }, "", 1000},
}

var endingOptions = Options{
	AllowOverride: OverrideAlways, MaxOutboxMessages: 3, MaxMessageSize: 4000, AliveTimeout: 4 * time.Second,
}

// onBothStreams runs f for every ending in a bubble, plain and over TLS.
func onBothStreams(t *testing.T, f func(t *testing.T, r *rig, e ending)) {
	config := testCertificate()
	for name, e := range endings {
		for stream, newRig := range map[string]func(t *testing.T) *rig{
			"plain": func(t *testing.T) *rig { return newBubbleRig(t, endingOptions) },
			"TLS":   func(t *testing.T) *rig { return newTLSBubbleRig(t, config, endingOptions) },
		} {
			t.Run(name+", "+stream, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { f(t, newRig(t), e) })
			})
		}
	}
}

// meetEnd connects a client, sends before, lets the server end it, and reads up to the close frame.
func (r *rig) meetEnd(e ending, before []byte) *rawPeer {
	r.t.Helper()
	p := r.rawOpen()
	if e.end == nil {
		p.write([]byte(handshakeFor("/peerjs?key=wrong&id=a&token=t")))
		p.response()
	} else {
		p.open("a")
	}
	if len(before) > 0 { // of an empty write a pipe makes a read of nothing
		go p.tryWrite(before)
	}
	synctest.Wait()
	c := r.srv.Realm().Client("a")
	if e.end != nil {
		e.end(r, p)
	}
	if p.wantLast(e); c != nil {
		require.NotSame(r.t, c, r.srv.Realm().Client("a"), "the id is free before that")
	}
	return p
}

// wantLast reads up to the close frame of an ending. Before its last message there may be what
// was being written, and pings.
func (p *rawPeer) wantLast(e ending) {
	p.t.Helper()
	last := ""
	for {
		switch first, payload := p.next(); first {
		case rawFin | rawText:
			last = string(payload)
		case rawFin | rawClose:
			require.EqualValues(p.t, e.code, binary.BigEndian.Uint16(payload))
			if e.last != "" {
				require.Equal(p.t, e.last, last)
			}
			return
		}
	}
}

// wantEOF wants the stream to end in good order after d, with nothing before.
func (p *rawPeer) wantEOF(d time.Duration) {
	p.t.Helper()
	start := time.Now()
	first, payload, err := p.read()
	require.Equal(p.t, io.EOF, err, "%x %q", first, payload)
	require.Equal(p.t, d, time.Since(start))
	p.conn.Close()
}

// wantEndAfterAnswer answers the close frame, and wants the server to read that and to end the
// stream at once.
func (p *rawPeer) wantEndAfterAnswer() {
	p.t.Helper()
	start := time.Now()
	p.write(rawCloseFrame(1000, "")) // this could not be written if the stream had ended
	p.wantEOF(0)
	require.Zero(p.t, time.Since(start))
}

func TestTheStreamEndsAfterTheClientsCloseFrame(t *testing.T) {
	t.Parallel()
	onBothStreams(t, func(t *testing.T, r *rig, e ending) {
		p := r.meetEnd(e, nil)
		time.Sleep(lingerTimeout - 1)
		p.wantEndAfterAnswer()
	})
}

func TestTheStreamEndsWithoutTheClientsCloseFrame(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string][]byte{
		"nothing comes":       nil,
		"pings come":          rawFrame(rawFin|rawPing, "x"),
		"messages come":       rawTextFrame(`{"type":"OFFER","dst":"b"}`),
		"a frame has no end":  append(rawHeader(rawFin|rawText, 1<<40), "some"...),
		"no frames come":      []byte("GET / HTTP/1.1\r\n"),
		"half a close frame":  rawCloseFrame(1000, "")[:7],
		"a close frame in it": rawFrame(rawFin|rawText, string(rawCloseFrame(1000, ""))),
	} {
		t.Run(name, func(t *testing.T) {
			onBothStreams(t, func(t *testing.T, r *rig, e ending) {
				p := r.meetEnd(e, nil)
				start := time.Now()
				const often = 10
				go func() { // it is not waited for longer if something comes
					for range often {
						if meanwhile != nil {
							p.tryWrite(meanwhile)
						}
						time.Sleep(lingerTimeout / often)
						if name == "half a close frame" {
							return
						}
					}
				}()
				_, _, err := p.read()
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Error(t, err)
				require.Equal(t, lingerTimeout, time.Since(start))
				p.conn.Close()
			})
		})
	}
}

// What comes after the end is not dealt with, however much it is, and whatever it began in.
func TestWhatComesAfterTheEndIsIgnored(t *testing.T) {
	t.Parallel()
	offer := rawTextFrame(`{"type":"OFFER","dst":"b","payload":"` + strings.Repeat("x", 2000) + `"}`)
	flood := func(n int) []byte {
		return slices.Concat(
			rawFrame(rawFin|rawPing, "x"), rawTextFrame(`{"type":"OFFER","dst":"b"}`), rawFrame(rawText, "begun"),
			rawTextFrame(strings.Repeat("x", n)),
		)
	}
	little, much := flood(20_000), flood(1<<20)
	onBothStreams(t, func(t *testing.T, r *rig, e ending) {
		for _, begun := range []int{0, 1, 5, 1000, len(offer) - 1} {
			if (e.code == 1009 || e.code == 1000) && begun > 0 {
				continue // the client asks for its end with a frame of its own
			}
			r := r.in(t)
			var b *testPeer
			if e.code != 1001 {
				b = r.connect("b")
			}
			p := r.meetEnd(e, offer[:begun])
			in := r.srv.Stats().BytesIn
			start := time.Now()
			p.write(offer[begun:])
			if p.write(little); begun == 0 {
				p.write(much)
			}
			p.write(rawCloseFrame(1000, ""))
			p.wantEOF(0)
			require.Zero(t, time.Since(start))
			require.Equal(t, in, r.srv.Stats().BytesIn)
			if e.code == 1001 {
				return // there is no server any more
			}
			synctest.Wait()
			require.Empty(t, b.frames)
			b.close()
			r.srv.Realm().RemoveClient("a")
			require.Zero(t, r.srv.realm.partials.used.Load())
			time.Sleep(2 * lingerTimeout)
		}
	})
}

// The page need not wait for what the host does about the end.
func TestTheStreamDoesNotWaitForOnDisconnect(t *testing.T) {
	const takes = 5 * time.Second
	onBothStreams(t, func(t *testing.T, r *rig, e ending) {
		if e.end == nil {
			return
		}
		told := make(chan DisconnectReason, 10)
		r.srv.OnDisconnect(func(_ *Client, why DisconnectReason) {
			told <- why
			time.Sleep(takes)
		})
		p := r.meetEnd(e, nil)
		synctest.Wait()
		require.Len(t, told, 1, "nor does the host wait for the page")
		p.wantEndAfterAnswer()
	})
}

// The same holds for a function that was running when another goroutine ended the client.
func TestTheStreamOfABusyClientEnds(t *testing.T) {
	for name, way := range busyWays {
		for _, answers := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, p := way(t, Options{HandshakeTimeout: -1}, func(c *Client) {
						if c.ID() == "busy" {
							time.Sleep(busyFor)
						}
					})
					synctest.Wait()
					start := time.Now()
					r.srv.Realm().Client("busy").Close()
					p.wantLast(ending{code: CloseRemoved})
					p.write(slices.Concat(rawTextFrame(`{}`), rawFrame(rawFin|rawPing, "")))
					require.Zero(t, time.Since(start))
					if answers {
						p.wantEndAfterAnswer()
					} else {
						p.wantEOF(lingerTimeout)
					}
					time.Sleep(2 * busyFor)
				})
			})
		}
	}
}

// While the stream of a client is being ended, its reader, which comes back from a function of the
// host, leaves the socket alone.
func TestAReaderThatComesBackAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{Authorize: func(c *Client, _ Message) error {
			if c.ID() == "busy" {
				time.Sleep(lingerTimeout / 2)
			}
			return nil
		}})
		b := r.connect("b")
		p := r.rawOpen().open("busy")
		two := rawTextFrame(`{"type":"OFFER","dst":"b"}`)
		p.write(slices.Concat(two, two))
		synctest.Wait()
		r.srv.Realm().Client("busy").Close()
		p.wantLast(ending{code: CloseRemoved})
		for range 10 {
			p.write(rawFrame(rawFin|rawPing, strings.Repeat("x", 100)))
			time.Sleep(lingerTimeout / 15)
		}
		b.wantOfferFrom("busy") // it had been read when the client ended
		p.wantEndAfterAnswer()
		require.Empty(t, b.frames)
	})
}

// An error in OnError ends the client too, and the other functions learn of it meanwhile.
func TestTheStreamDoesNotWaitForOnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{})
		srv.OnError(func(_ *Client, err error) { panic("of the host") })
		srv.OnError(func(_ *Client, err error) {
			if strings.HasPrefix(err.Error(), panicText) {
				time.Sleep(busyFor)
			}
		})
		p := serveBubbleRig(t, srv, nil).rawOpen().open("a")
		p.text(`no message`)
		p.wantLast(ending{code: 1011})
		p.wantEndAfterAnswer()
		time.Sleep(busyFor)
	})
}

// On a plain socket too the end comes in good order, after data that nobody has asked for.
func TestDataAfterTheEndDoesNotResetTheConnection(t *testing.T) {
	r := newRig(t, Options{})
	p := r.rawOpen().open("a")
	half := rawTextFrame(`{"type":"OFFER","dst":"b"}`)
	p.write(half[:10])
	r.srv.Realm().RemoveClient("a")
	p.wantLast(ending{code: CloseRemoved})
	p.write(slices.Concat(half[10:], rawTextFrame(strings.Repeat("x", 64<<10)), rawCloseFrame(1000, "")))
	_, _, err := p.read()
	require.Equal(t, io.EOF, err)
}

// countedReads is a connection of a host that counts how often it is read.
type countedReads struct {
	net.Conn
	n *atomic.Int64
}

func (c countedReads) Read(p []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Read(p)
}

func (l readCounter) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countedReads{conn, l.n}, err
}

type readCounter struct {
	net.Listener
	n *atomic.Int64
}

// What is skipped at the end is read in large pieces: it may be much.
func TestWhatIsSkippedAtTheEndCostsFewReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		var reads atomic.Int64
		r := bubbleRig(t, NewServer(Options{}), nil, func(l net.Listener) net.Listener { return readCounter{l, &reads} })
		p := r.rawOpen().open("a")
		r.srv.Realm().RemoveClient("a")
		p.wantLast(ending{code: CloseRemoved})
		p.write(rawTextFrame(strings.Repeat("x", size)))
		p.wantEndAfterAnswer()
		require.Less(t, reads.Load(), int64(3*size/smallBuffer))
	})
}
