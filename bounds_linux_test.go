package peer

import (
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSoManyMayBeConnectedFromOneAddress(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimitPerAddr: 2})
	rec := watch(r.srv)
	one, two := net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)
	refused := func(ip net.IP, id string) {
		p := r.rawOpenFrom(ip)
		p.upgrade(id)
		p.want(`{"type":"ERROR","payload":{"msg":"` + limitText + `"}}`)
		p.wantClose(1008)
		p.conn.Close()
	}
	a := r.rawOpenFrom(one).open("a")
	b := r.rawOpenFrom(one).open("b")
	refused(one, "c")
	r.rawOpenFrom(two).open("c")
	refused(one, "d")
	r.rawOpenFrom(two).open("d")
	refused(two, "e")
	r.connect("e") // from 127.0.0.1
	rec.wait(t, 5)

	// Who takes an id over at the same address needs no more room there.
	again := r.rawOpenFrom(one)
	again.write([]byte(handshakeFor(socketTarget("a", a.token))))
	require.Equal(t, 101, again.response().StatusCode)
	again.want(`{"type":"OPEN"}`)
	a.wantClose(CloseReplaced)
	a.conn.Close()
	refused(one, "f")

	b.write(rawCloseFrame(1000, ""))
	b.wantClose(1000)
	b.conn.Close()
	rec.wait(t, 8) // five came, one twice; "a" and "b" went
	r.rawOpenFrom(one).open("f")
	for c := range r.srv.Realm().Clients() {
		c.socket.conn.Close() // or Close would wait for these peers, who do not hang up
	}
	closeServer(t, r.srv)
	require.EqualValues(t, 4, r.srv.Stats().Refused["limit"])
	require.Empty(t, r.srv.realm.addrs)
}

// libraryGoroutines returns how many connections the WebSocket library has. No
// test runs beside this one, and a rawPeer does without the library.
func libraryGoroutines() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "created by nhooyr.io/websocket.newConn")
}

// A plain socket that is silent costs nothing of the library, whatever had to be
// read with it before.
func TestTheLibraryHoldsNothingOfASilentClient(t *testing.T) {
	waitFor(t, func() bool { return libraryGoroutines() == 0 }) // of tests before
	r := newRig(t, Options{})
	p := r.rawConnect("a")
	waitFor(t, func() bool { return libraryGoroutines() == 0 })
	long := `{"type":"OFFER","src":"a","dst":"a","payload":"` + strings.Repeat("x", 2*readBuffer) + `"}`
	ping := rawFrame(rawFin|rawPing, "?")
	for _, frames := range [][]byte{
		rawFrame(rawFin|rawPong, ""),
		rawTextFrame(long),
		append(rawFrame(rawText, long[:9]), rawFrame(rawFin|rawCont, long[9:])...),
	} {
		p.write(slices.Concat(frames, ping))
		if len(frames) > len(long) {
			p.want(long)
		}
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawPong), first)
		waitFor(t, func() bool { return libraryGoroutines() == 0 })
	}
}
