package peer

import (
	"crypto/tls"
	"net"
	"os"
	"slices"
	"sync"
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
	if n <= len(theText()) {
		return theText()[:n]
	}
	return makeText(n)
}

// theText is as long as most texts need: to make each anew takes long under the race detector.
var theText = sync.OnceValue(func() string { return makeText(4*readBuffer + 10) })

func makeText(n int) string {
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

// awaiting runs awaitClose, and returns a channel that is closed when it returns.
func (w *wire) awaiting() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.awaitClose()
	}()
	return done
}

// wantAwaiting wants a channel of awaiting not to be closed when nothing else happens.
func wantAwaiting(t *testing.T, done <-chan struct{}) {
	t.Helper()
	synctest.Wait()
	select {
	case <-done:
		t.Fatal("it has not waited for the close frame")
	default:
	}
}

// stopInside lets a reader read a part of a stream, and stops it there.
func (w *wire) stopInside(part []byte) {
	w.t.Helper()
	w.read()
	if len(part) > 0 {
		w.push(part)
	}
	synctest.Wait()
	require.NoError(w.t, w.conn.SetReadDeadline(past))
	for len(w.got) > 0 {
		<-w.got
	}
	require.ErrorIs(w.t, w.wantEnd(), os.ErrDeadlineExceeded)
	require.NoError(w.t, w.conn.SetReadDeadline(time.Time{}))
}

// The tests of this file are about a socket that no client reads: before its handshake is over,
// and after its client has ended.

// inBubble runs a test with each kind of connection that works in a bubble.
func inBubble(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{"pipe", "TLS"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, kind) })
		})
	}
}
