package peer

import (
	"bufio"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are about the two goroutines that use a socket at the end of a client: its reader, and the
// writer, which ends the stream.

// endingClient is a client that is connected, and the far end of its connection. Its reader is in the socket.
func endingClient(t *testing.T) (c *Client, far net.Conn) {
	srv := NewServer(Options{AliveTimeout: -1})
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	c = benchClient(srv, near, "a", "t")
	_, err := srv.realm.admit(c, nil, true)
	require.NoError(t, err)
	c.writer = idle // as after OPEN
	c.outbox = outbox{}
	c.setReader(reading)
	return c, far
}

// The writer leaves the buffers of a socket alone, and reads nothing, as long as the reader may use the socket.
func TestTheStreamEndsWhenTheReaderIsOutOfTheSocket(t *testing.T) {
	for name, c := range map[string]struct {
		why   DisconnectReason
		reads bool // whether the writer waits for the client's close frame
	}{
		"without a close frame":                           {ReasonConnectionLost, false},
		"with a close frame that is to be answered":       {ReasonRemoved, true},
		"with a close frame behind which nothing is read": {ReasonProtocolError, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, far := endingClient(t)
				unread := []byte{rawFin | rawText}
				client.socket.own, client.socket.unread = unread, unread
				go client.end(c.why, nil, nil)
				peer := &rawPeer{t: t, conn: far, br: bufio.NewReader(far)}
				if c.reads {
					first, _ := peer.next()
					require.EqualValues(t, rawFin|rawClose, first)
				}
				said := make(chan error, 1)
				go func() { said <- peer.tryWrite(rawCloseFrame(1000, "")) }()
				synctest.Wait()
				if c.reads {
					require.Empty(t, said, "nobody reads beside the reader")
				}
				require.Equal(t, unread, client.socket.unread)
				gone := closedAfter(client.writers.Wait)
				wantWaiting(t, gone, "the reader is in the socket")
				client.stopReading()
				<-gone
				require.Equal(t, !c.reads, <-said != nil)
				require.Empty(t, client.socket.unread)
				require.Nil(t, client.socket.own)
			})
		})
	}
}

// A function of the host that holds up the reader may end after the stream. The message that the
// reader has read last is still needed then, so its buffer does not go back to a pool.
func TestAReaderThatIsHeldUpKeepsTheBufferOfItsMessage(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil)
			srv := NewServer(Options{AliveTimeout: -1})
			c := benchClient(srv, w.conn, "a", "t")
			c.socket = w.socket
			go w.far.Write(rawTextFrame(textOf(500)))
			_, payload, err := w.next(-1)
			require.NoError(t, err)
			c.setReader(paused)
			c.takeSocket()
			if w.buf != nil { // the socket gives it back, and the next connection writes to it
				clear(*w.buf)
			}
			require.Equal(t, textOf(500), string(payload))
		})
	}
}

// A client whose connection is lost does not answer, so the server does not wait for its close
// frame. OPEN is written all the same if it has not been: the connection may be closed in one
// direction only.
func TestNobodyWaitsForTheCloseFrameOfALostClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := endingClient(t)
		c.stopReading()
		c.writer = unopened
		start := time.Now()
		c.end(ReasonConnectionLost, nil, nil)
		p := &rawPeer{t: t, conn: far, br: bufio.NewReader(far)}
		p.want(`{"type":"OPEN"}`)
		p.wantEOF(0)
		c.writers.Wait()
		require.Zero(t, time.Since(start))
	})
}

// A message that came with another one is put off, so that both go out in one write. It is
// delivered also if its sender ends before the other one is read.
func TestWhatWasPutOffIsDeliveredThoughItsSenderEnds(t *testing.T) {
	r := newRig(t, Options{})
	b, p := r.connect("b"), r.rawOpen().open("a")
	c, sh := r.srv.Realm().Client("a"), r.srv.realm.shard("b")
	two := rawTextFrame(`{"type":"OFFER","dst":"b","payload":1}`)
	before := c.traffic.bytesIn.Load()
	sh.mu.Lock() // so the reader gets no further than the first message
	p.write(append(two, two...))
	waitFor(t, func() bool { return c.traffic.bytesIn.Load() > before })
	c.Close()
	sh.mu.Unlock()
	b.wantOffer("a", `1`)
	r.sendOwn("b", "LAST")
	b.wantOwn("LAST")
}

// When a client has ended while a function of the host ran, the socket is not its reader's any more.
func TestASessionDoesNotLookIntoASocketThatItHasLost(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(ss *session, f func())
		ends bool
	}{
		"a decision":               {func(ss *session, f func()) { ss.call(f) }, true},
		"a decision, well":         {func(ss *session, f func()) { ss.call(f) }, false},
		"a mistake is told":        {func(ss *session, f func()) { ss.OnError(func(*Client, error) { f() }); ss.fail(ErrBadMessage) }, true},
		"a mistake is told, well":  {func(ss *session, f func()) { ss.OnError(func(*Client, error) { f() }); ss.fail(ErrBadMessage) }, false},
		"no function has been run": {func(*session, func()) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, far := endingClient(t)
				ss := newSession(NewServer(Options{}), client)
				frame := rawTextFrame(`{}`)
				client.socket.own, client.socket.unread = frame, frame
				require.True(t, ss.hasMore())
				c.run(ss, func() {
					if c.ends {
						client.mu.Lock()
						client.reason = ReasonRemoved
						client.mu.Unlock()
					}
				})
				require.Equal(t, !c.ends, ss.hasMore())
				far.Close()
			})
		})
	}
}

// A session keeps neither a client that it has sent something to, nor the room for a burst.
func TestASessionKeepsNothingOfWhatItHasPutOff(t *testing.T) {
	srv, c := quietClient(t, "pipe", Options{})
	for _, n := range []int{1, 8, 9, 100} {
		ss := newSession(srv, c)
		for range n {
			ss.pending = append(ss.pending, delivery{to: c})
		}
		ss.flush()
		require.Empty(t, ss.pending)
		require.LessOrEqual(t, cap(ss.pending), 8, "%d messages", n)
		for _, d := range ss.pending[:cap(ss.pending)] {
			require.Nil(t, d.to)
		}
	}
}

// A client has a reason before everybody is woken who waits for its end. Its last event comes after that.
func TestTheEndIsOverWhenEverybodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := endingClient(t)
		go io.Copy(io.Discard, far)
		ctx := c.Context()
		c.mu.Lock()
		left := c.endLocked(ReasonRemoved, nil, nil)
		c.mu.Unlock()
		known := closedAfter(c.awaitEnd)
		synctest.Wait()
		wantWaiting(t, known, "nobody has been woken")
		require.NoError(t, ctx.Err())
		c.do(left)
		<-known
		require.Error(t, ctx.Err())
		c.stopReading()
		far.Close()
		c.writers.Wait()
	})
}

// A writer that is at work when its client ends writes the last frames when the deadlines of the
// end are set: they would cut off what it writes.
func TestTheLastFramesAreWrittenWhenEverybodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := endingClient(t)
		c.stopReading()
		c.mu.Lock()
		c.writer = busy
		left := c.endLocked(ReasonRemoved, nil, nil)
		c.mu.Unlock()
		gone := closedAfter(c.part)
		p := &rawPeer{t: t, conn: far, br: bufio.NewReader(far)}
		_, _, err := p.readWithin(time.Second)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		c.do(left)
		p.wantClose(CloseRemoved)
		<-gone
	})
}

// A client may end just before a function of the host begins. The end of the stream does not wait for that function.
func TestTheStreamEndsThoughTheReaderIsHeldUpThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := endingClient(t)
		go c.Close()
		p := &rawPeer{t: t, conn: far, br: bufio.NewReader(far)}
		first, _ := p.next()
		require.EqualValues(t, rawFin|rawClose, first)
		synctest.Wait() // the writer waits for the socket
		go c.pauseReading(func() { time.Sleep(busyFor) }, nil)
		start := time.Now()
		p.answerClose()
		p.wantEOF(0)
		require.Zero(t, time.Since(start))
		time.Sleep(busyFor)
		c.writers.Wait()
	})
}

// A client that reads nothing delays the end of its stream by the time that the last frames have.
func TestTheLastFramesHaveATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := endingClient(t)
		c.stopReading()
		start := time.Now()
		c.Close()
		gone := closedAfter(c.writers.Wait)
		select {
		case <-gone:
			require.Equal(t, farewellTimeout, time.Since(start))
		case <-time.After(time.Minute):
			t.Error("the writer is stuck")
		}
	})
}

// Who said goodbye has nothing more to say. So the server closes its side at once,
// without waiting for the client to hang up.
func TestNobodyWaitsForAClientThatSaidGoodbye(t *testing.T) {
	r := newRig(t, Options{})
	const tries = 5 // the machine may be slow, but not each time
	var took time.Duration
	for range tries {
		p := r.rawOpen().open("a")
		p.write(rawCloseFrame(1000, "bye"))
		p.wantClose(1000)
		start := time.Now()
		c := r.srv.Realm().Client("a")
		require.Nil(t, c)
		waitFor(t, func() bool { return serving() == 0 })
		p.conn.Close()
		if took = time.Since(start); took < lingerTimeout/2 {
			return
		}
	}
	t.Errorf("the server has waited for %v", took)
}

// A page sees its socket closed when the stream ends. That does not wait for what the
// host does about it.
func TestTheStreamEndsBeforeTheEvents(t *testing.T) {
	r := newRig(t, Options{})
	release := make(chan struct{})
	r.srv.OnDisconnect(func(*Client, DisconnectReason) { <-release })
	for name, end := range map[string]func(p *rawPeer){
		"goodbye":        writing(rawCloseFrame(1000, "bye")),
		"protocol error": writing(rawFrame(rawFin|rawCont, "")),
		"removed":        func(p *rawPeer) { r.srv.Realm().RemoveClient(p.id) },
	} {
		p := r.rawOpen().open(name)
		end(p)
		p.skipToEnd()
		p.conn.Close()
	}
	close(release)
}

// serving returns how many connections have a goroutine.
func serving() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "peer.(*Server).serve(")
}

// A client that has sent its close frame answers a ping still (RFC 6455, section
// 5.5.2), and so must not find the connection reset when it does.
func TestAPongMayCrossTheGoodbye(t *testing.T) {
	r := newRig(t, Options{})
	p := r.rawOpen().open("a")
	c := r.srv.Realm().Client("a")
	go c.probe(waitLimit)
	first, _ := p.next()
	require.Equal(t, byte(rawFin|rawPing), first)
	p.write(rawCloseFrame(1000, ""))
	first, _ = p.next()
	require.Equal(t, byte(rawFin|rawClose), first)
	_, _, err := p.read()
	require.ErrorIs(t, err, io.EOF)
	p.write(rawFrame(rawFin|rawPong, ""))
	p.write(rawFrame(rawFin|rawPong, "")) // after a reset this could not be written
	_, err = p.conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// A host may hold on to a client that has ended, for a log or a list. That must not
// be a buffer too.
func TestAClientThatHasEndedHoldsNoBuffer(t *testing.T) {
	for name, frames := range map[string][]byte{
		"closed":              rawCloseFrame(1000, ""),
		"closed, and more":    slices.Concat(rawCloseFrame(1000, ""), rawTextFrame(`{}`)),
		"broken in a message": rawTextFrame(`{"type":"HEARTBEAT"}`)[:9],
		"broken in fragments": rawFrame(rawText, strings.Repeat("x", 300<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			p := r.rawOpen().open("a")
			c := r.srv.Realm().Client("a")
			p.write(frames)
			p.halfClose()
			p.skipToEnd()
			p.conn.Close()
			closeServer(t, r.srv)
			require.Nil(t, c.socket.buf)
			require.Empty(t, c.socket.unread)
			require.Nil(t, c.socket.own)
			require.Nil(t, c.socket.pieces)
			require.Zero(t, r.srv.realm.partials.used.Load())
		})
	}
}

// The server waits for a client that may answer a ping still. OnDisconnect does not wait for that.
func TestTheEventsDoNotWaitForAPong(t *testing.T) {
	const tries = 5 // the machine may be slow, but not each time
	var took time.Duration
	for range tries {
		r := newRig(t, Options{})
		rec := watch(r.srv)
		p := r.rawOpen().open("a")
		rec.want(t, "+a")
		c := r.srv.Realm().Client("a")
		c.mu.Lock()
		left := c.pingLocked()
		c.mu.Unlock()
		c.do(left)
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawPing), first)
		start := time.Now()
		p.write(rawCloseFrame(1000, ""))
		rec.want(t, "+a", "-a client closed")
		took = time.Since(start)
		p.conn.Close()
		if took < lingerTimeout/2 {
			return
		}
	}
	t.Errorf("OnDisconnect has waited for %v", took)
}

// A frame that never comes whole behind the server's close frame does not keep the server from
// ending.
func TestHalfAFrameBehindTheCloseFrameDelaysNobody(t *testing.T) {
	slow(t)
	t.Parallel()
	for where, newRig := range map[string]func(*testing.T, Options) *rig{"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig} {
		t.Run(where, func(t *testing.T) {
			r := newRig(t, Options{})
			p := r.rawOpen().open("a")
			p.text(`{"type":"LEAVE"}`)
			first, _ := p.next()
			require.Equal(t, byte(rawFin|rawClose), first)
			p.write(append(rawHeader(rawFin|rawText, 100_000), make([]byte, 5000)...))
			closeServer(t, r.srv)
		})
	}
}

// A client that was pinged may still send a pong behind its close frame. Nobody waits for that.
func TestAGoodbyeAfterAPingFreesTheIDAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	p := r.rawOpen().open("a")
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
