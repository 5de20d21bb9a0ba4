package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A wire is a connection with a socket at the near end. The test writes every byte of the far
// end.
type wire struct {
	*socket
	t        testing.TB
	far      net.Conn
	partials budget
	got      chan incident // what the reader has read
	end      chan error    // why the reader has ended; empty while there is one
}

// wireKinds are the connections that a socket treats differently.
var wireKinds = map[string]func(testing.TB) (near, far net.Conn){
	"plain": tcpPair,
	"pipe":  func(testing.TB) (near, far net.Conn) { return net.Pipe() },
	"TLS": func(t testing.TB) (near, far net.Conn) {
		near, far = net.Pipe()
		return sealedPair(t, near, far)
	},
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	far, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	near, err = l.Accept()
	require.NoError(t, err)
	return near, far
}

// sealedPair makes a TLS connection of one that is not.
func sealedPair(t testing.TB, near, far net.Conn) (net.Conn, net.Conn) {
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true}) // it is this process
	server := tls.Server(near, testCertificate())
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-shaken)
	return server, client
}

// newWire returns a wire of which early has been read with the handshake.
func newWire(t testing.TB, kind string, early []byte) *wire {
	near, far := wireKinds[kind](t)
	w := &wire{t: t, far: far, partials: budget{limit: -1}, got: make(chan incident, 1000), end: make(chan error, 1)}
	w.socket = newSocket(near, early, &w.partials)
	t.Cleanup(w.cut)
	return w
}

// cut ends the connection.
func (w *wire) cut() {
	w.shut()
	w.far.Close()
}

// read reads on a goroutine until the end.
func (w *wire) read() *wire {
	go func() {
		for {
			op, payload, err := w.next(-1)
			if err != nil {
				w.end <- err
				return
			}
			w.got <- incident{op, string(payload)}
		}
	}()
	return w
}

// write writes bytes as they are.
func (w *wire) write(b []byte) {
	w.t.Helper()
	w.far.SetWriteDeadline(time.Now().Add(waitLimit))
	_, err := w.far.Write(b)
	require.NoError(w.t, err)
}

// push is write that returns when the reader has read something of it and waits for more. A write
// to a connection that is not plain lasts until all of it has been read.
func (w *wire) push(b []byte) {
	w.t.Helper()
	before := w.lastSeen()
	w.write(b)
	for w.raw != nil {
		change := w.watchActivity()
		if w.lastSeen() != before && w.waits() {
			return
		}
		w.await(change)
	}
}

func (w *wire) await(change <-chan struct{}) {
	w.t.Helper()
	select {
	case <-change:
	case <-time.After(waitLimit):
		w.t.Fatal("the reader is stuck")
	}
}

// want wants the reader to have read this next.
func (w *wire) want(op byte, payload string) {
	w.t.Helper()
	select {
	case got := <-w.got:
		require.Equal(w.t, op, got.op)
		require.True(w.t, payload == got.payload, "%d bytes: %.20q, not %d: %.20q", len(got.payload), got.payload, len(payload), payload)
	case <-time.After(waitLimit):
		w.t.Fatalf("nothing was read, but %d bytes were to be", len(payload))
	}
}

// wantEnd wants the reader to end with nothing before, and returns why.
func (w *wire) wantEnd() (err error) {
	w.t.Helper()
	select {
	case err = <-w.end:
	case <-time.After(waitLimit):
		w.t.Fatal("the reader goes on")
	}
	require.Empty(w.t, w.got)
	return err
}

// wantIdle waits until the reader waits for a frame to begin, and wants it to hold nothing
// meanwhile. The reader is stopped for that, and goes on.
func (w *wire) wantIdle() {
	w.t.Helper()
	for change := w.watchActivity(); !w.waits(); change = w.watchActivity() {
		w.await(change)
	}
	require.NoError(w.t, w.conn.SetReadDeadline(past))
	require.ErrorIs(w.t, w.wantEnd(), os.ErrDeadlineExceeded)
	w.wantNothingKept()
	require.NoError(w.t, w.conn.SetReadDeadline(time.Time{}))
	w.read()
}

func (w *wire) wantNothingKept() {
	w.t.Helper()
	require.True(w.t, w.buf == nil, "a pooled buffer")
	require.True(w.t, w.own == nil, "a buffer of its own")
	require.Zero(w.t, len(w.unread))
	require.Zero(w.t, cap(w.pieces), "fragments")
	require.Zero(w.t, w.counted)
	require.Zero(w.t, w.partials.used.Load())
}

// textOf returns a text of n bytes, each of which tells where it is.
func textOf(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + (i+i/26+i/700)%26)
	}
	return string(b)
}

// frameOf returns a text frame that is n bytes long in all, and its payload. There is none of 132
// or 65,544 to 65,549 bytes: the header is longer behind them.
func frameOf(n int) (frame []byte, payload string) {
	head := 6
	switch {
	case n > 65_549:
		head = 14
	case n > 132:
		head = 8
	}
	payload = textOf(n - head)
	return rawTextFrame(payload), payload
}

// boundarySizes are payloads around each bound in the reading of a frame: those of the form of
// its length, and those of its buffers.
func boundarySizes() (sizes []int) {
	sizes = []int{0, 1, 2, 7, 8, 9, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537}
	for _, bound := range []int{pooledFrame, smallBuffer, 2 * smallBuffer, 4 * smallBuffer, readBuffer, 2 * readBuffer, 4 * readBuffer} {
		for d := -2; d <= 2; d++ {
			sizes = append(sizes, bound+d)
			_, payload := frameOf(max(bound+d, 65_550)) // bound+d in all, where there is such a frame
			if bound < 65_536 {
				_, payload = frameOf(bound + d)
			}
			sizes = append(sizes, len(payload))
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

func TestFramesOfEveryBoundarySizeAreRead(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			w.wantIdle()
			for _, n := range boundarySizes() {
				payload := textOf(n)
				w.write(rawTextFrame(payload))
				w.want(opText, payload)
				w.wantIdle()
				w.write(slices.Concat(rawTextFrame(payload), rawFrame(rawFin|rawBinary, "behind")))
				w.want(opText, payload)
				w.want(opBinary, "behind")
				w.wantIdle()
			}
			w.far.Close()
			require.ErrorIs(t, w.wantEnd(), errHungUp)
		})
	}
}

// cutsOf returns where to cut a stream of n bytes: everywhere, or around the bounds if it is long.
func cutsOf(n int) (cuts []int) {
	for cut := 1; cut < n; cut++ {
		near := func(at int) bool { return cut >= at-2 && cut <= at+2 }
		if n < 200 || cut < 17 || near(smallBuffer) || near(2*smallBuffer) || near(readBuffer) || near(n-1) {
			cuts = append(cuts, cut)
		}
	}
	return cuts
}

func TestAFrameMayBeCutAnywhere(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			for _, n := range []int{0, 1, 125, 126, smallBuffer - 8, smallBuffer - 7, smallBuffer, 3 * smallBuffer, 65_535, 65_536, readBuffer + 100} {
				payload := textOf(n)
				stream := slices.Concat(rawTextFrame(payload), rawFrame(rawFin|rawPing, "?"))
				for _, cut := range cutsOf(len(stream)) {
					w.push(stream[:cut])
					w.write(stream[cut:])
					w.want(opText, payload)
					w.want(opPing, "?")
				}
				w.wantIdle()
			}
		})
	}
}

func TestFramesMayComeByteByByte(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			stream := slices.Concat(rawTextFrame(textOf(130)), rawFrame(rawText, "frag"), rawFrame(rawFin|rawPing, "?"), rawFrame(rawFin|rawCont, "ment"))
			for i := range stream {
				w.push(stream[i : i+1])
			}
			w.want(opText, textOf(130))
			w.want(opPing, "?")
			w.want(opText, "fragment")
			w.wantIdle()
		})
	}
}

// What came with the handshake lies in a buffer that is just as long.
func TestAFrameMayBeginWithTheHandshake(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			stream := slices.Concat(rawTextFrame(textOf(130)), rawTextFrame("second"))
			for cut := 1; cut <= len(stream); cut++ {
				if kind == "TLS" && cut > 3 && cut < len(stream)-1 {
					continue // a TLS handshake takes long
				}
				w := newWire(t, kind, slices.Clone(stream[:cut])).read()
				if cut < len(stream) {
					w.write(stream[cut:])
				}
				w.want(opText, textOf(130))
				w.want(opText, "second")
				w.wantIdle()
				w.cut()
			}
		})
	}
}

// In the middle of a frame a socket keeps no more than smallBuffer, or twice what has come, and
// the budget knows of what is beyond smallBuffer.
func TestAPartOfAFrameIsKeptInLittleMemory(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			for _, n := range []int{200, smallBuffer - 8, smallBuffer, 3 * smallBuffer, readBuffer + 100, 4 * readBuffer} {
				frame := rawTextFrame(textOf(n))
				for _, cut := range []int{1, 2, 5, 14, 199, smallBuffer - 1, smallBuffer, smallBuffer + 1, 3 * smallBuffer, readBuffer, readBuffer + 1} {
					if cut >= len(frame) {
						continue
					}
					w := newWire(t, kind, nil).read()
					w.push(frame[:cut])
					if kind == "plain" { // it is read in its own time
						waitFor(t, func() bool { return w.waits() && w.partials.used.Load() >= int64(max(0, cut-smallBuffer)) })
					}
					used := w.partials.used.Load()
					require.LessOrEqual(t, used, int64(max(0, max(smallBuffer, 2*cut)-smallBuffer)), "%d of %d", cut, len(frame))
					require.GreaterOrEqual(t, used, int64(cut-smallBuffer-2*smallBuffer), "%d of %d", cut, len(frame))
					w.write(frame[cut:])
					w.want(opText, textOf(n))
					w.wantIdle()
					w.cut()
				}
			}
		})
	}
}

func TestFragmentsAreKeptUntilTheMessageIsWhole(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			for _, sizes := range [][]int{{0, 0}, {1, 0, 1}, {smallBuffer, 0}, {smallBuffer, 1}, {1, smallBuffer}, {5, readBuffer, 5}, {readBuffer, readBuffer}, {100, 100, 100, 3 * smallBuffer}} {
				whole := ""
				for i, n := range sizes {
					first := byte(rawCont)
					if i == 0 {
						first = rawBinary
					}
					if i == len(sizes)-1 {
						first |= rawFin
					}
					part := textOf(n + i)[i:]
					whole += part
					w.write(rawFrame(first, part))
					w.write(rawFrame(rawFin|rawPong, "between"))
					if first&rawFin == 0 {
						w.want(opPong, "between")
						require.GreaterOrEqual(t, w.partials.used.Load(), int64(len(whole)-smallBuffer), "%d", sizes)
					}
				}
				w.want(opBinary, whole)
				w.want(opPong, "between")
				w.wantIdle()
			}
		})
	}
}

func TestABudgetIsNotExceeded(t *testing.T) {
	b := budget{limit: 10}
	for _, c := range []struct {
		n    int
		want bool
		used int64
	}{
		{9, true, 9}, {2, false, 9}, {1, true, 10}, {1, false, 10}, {0, true, 10}, {-4, true, 6}, {5, false, 6}, {4, true, 10}, {-10, true, 0}, {11, false, 0}, {10, true, 10},
	} {
		require.Equal(t, c.want, b.take(c.n), "%+v", c)
		require.Equal(t, c.used, b.used.Load(), "%+v", c)
	}
	none := budget{limit: 0}
	require.False(t, none.take(1))
	require.True(t, none.take(0))
	unlimited := budget{limit: -1}
	require.True(t, unlimited.take(1<<40))
	require.EqualValues(t, 1<<40, unlimited.used.Load())
}

// A frame of which smallBuffer is enough never counts. One byte more does.
func TestSmallFramesDoNotCountForTheBudget(t *testing.T) {
	for kind := range wireKinds {
		for n, fits := range map[int]bool{smallBuffer: true, smallBuffer + 1: false} {
			t.Run(fmt.Sprint(kind, " ", n), func(t *testing.T) {
				w := newWire(t, kind, nil)
				w.partials.limit = 0
				w.read()
				frame, payload := frameOf(n)
				w.push(frame[:1])
				go w.far.Write(frame[1:]) // which may not be read to its end
				if fits {
					w.want(opText, payload)
					w.wantIdle()
					return
				}
				require.Equal(t, errPartials, w.wantEnd())
				require.Zero(t, w.partials.used.Load(), "what was refused is not counted")
			})
		}
	}
}

// Who comes when the budget is used up is refused, and nobody else.
func TestTheBudgetIsForAllSocketsTogether(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			first, second := newWire(t, kind, nil), newWire(t, kind, nil)
			second.socket.partials = &first.partials
			first.partials.limit = 10 * smallBuffer
			first.read()
			second.read()
			begin := rawFrame(rawText, textOf(5*smallBuffer))
			first.push(begin)
			first.write(rawFrame(rawFin|rawPing, "?"))
			first.want(opPing, "?")
			require.GreaterOrEqual(t, first.partials.used.Load(), int64(4*smallBuffer))
			go second.far.Write(rawFrame(rawText, textOf(12*smallBuffer)))
			require.Equal(t, errPartials, second.wantEnd())
			second.discard()
			require.Zero(t, second.counted)
			first.write(rawFrame(rawFin|rawCont, "end"))
			first.want(opText, textOf(5*smallBuffer)+"end")
			first.wantIdle()
		})
	}
}

func TestASocketKnowsWhetherAMessageIsAtHand(t *testing.T) {
	for _, c := range []struct {
		stream []byte
		want   bool // when all of it is there
	}{
		{rawTextFrame(""), true},
		{rawTextFrame("hello"), true},
		{rawTextFrame(textOf(126)), true},
		{rawFrame(rawFin|rawBinary, "hello"), true},
		{rawFrame(rawText, "hello"), false},
		{rawFrame(rawFin|rawPing, "hello"), false},
		{rawCloseFrame(1000, ""), false},
		{[]byte{0xff, 0xff, 0xff}, false},
	} {
		for n := range len(c.stream) {
			s := &socket{unread: c.stream[:n]}
			require.False(t, s.hasMessage(), "%x", c.stream[:n])
		}
		s := &socket{unread: c.stream}
		require.Equal(t, c.want, s.hasMessage(), "%x", c.stream)
		require.Equal(t, c.want, s.hasMessage(), "as often as one asks")
		s.unread = append(slices.Clone(c.stream), rawTextFrame("more")...)
		require.Equal(t, c.want, s.hasMessage(), "%x and more", c.stream)
	}
}

// A wrapper of the host's must see the bytes, so only a plain socket is read with system calls.
func TestOnlyPlainSocketsAreReadDirectly(t *testing.T) {
	for kind := range wireKinds {
		w := newWire(t, kind, nil)
		require.Equal(t, kind == "plain", w.raw != nil, kind)
		require.Equal(t, kind == "TLS", w.sealed, kind)
	}
	near, far := tcpPair(t)
	defer near.Close()
	defer far.Close()
	require.Nil(t, rawConn(struct{ *net.TCPConn }{near.(*net.TCPConn)}), "a wrapper")
}

// A page that is behind a proxy may never read: what the server holds for it is bounded by the
// outbox, not by what the system takes.
func TestAWriteTakesWhatThereIsRoomFor(t *testing.T) {
	w := newWire(t, "plain", nil)
	data := []byte(strings.Repeat("0123456789", 1<<20))
	written := 0
	for written < len(data) {
		n, err := w.tryWrite(data[written:])
		require.NoError(t, err)
		written += n
		if n == 0 {
			break
		}
	}
	require.Less(t, written, len(data), "there is no room for all of it")
	got := make([]byte, written)
	_, err := io.ReadFull(w.far, got)
	require.NoError(t, err)
	require.True(t, string(got) == string(data[:written]))
	require.Nil(t, w.writing, "a buffer that may be used again is not held")

	require.NoError(t, w.conn.SetWriteDeadline(past))
	n, err := w.tryWrite(data[:1])
	require.NoError(t, err, "a deadline that has passed is for others")
	require.Zero(t, n)
	require.NoError(t, w.conn.SetWriteDeadline(time.Time{}))
	w.conn.Close()
	n, err = w.tryWrite(data[:1])
	require.True(t, errors.Is(err, net.ErrClosed), "%v", err)
	require.Zero(t, n)
}

func TestTheActivityIsToldToThoseThatWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, "pipe", nil).read()
		synctest.Wait()
		require.True(t, w.waits())
		change := w.watchActivity()
		require.Equal(t, change, w.watchActivity(), "all watch the same channel")
		time.Sleep(time.Minute)
		select {
		case <-change:
			t.Fatal("nothing has happened")
		default:
		}
		w.write(rawTextFrame("x"))
		<-change
		w.want(opText, "x")
		synctest.Wait()
		require.True(t, w.waits())
		require.InDelta(t, time.Minute, w.lastSeen(), 2)
		change = w.watchActivity()
		w.heard()
		<-change
		w.heard() // nobody watches
	})
}
