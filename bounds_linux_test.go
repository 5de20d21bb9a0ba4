package peer

import (
	"net"
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
		c.wire.Conn.Close() // or Close would wait for these peers, who do not hang up
	}
	closeServer(t, r.srv)
	require.EqualValues(t, 4, r.srv.Stats().Refused["limit"])
	require.Empty(t, r.srv.realm.addrs)
}
