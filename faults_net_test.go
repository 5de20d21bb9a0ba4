package peer

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// cuts are the ways in which a connection can be lost.
var cuts = map[string]func(p *rawPeer){
	"FIN": func(p *rawPeer) { p.conn.Close() },
	"RST": (*rawPeer).reset,
}

// total adds counters up.
func total[K comparable](counters map[K]uint64) (n uint64) {
	for _, c := range counters {
		n += c
	}
	return n
}

func TestAHandshakeMayBreakOffAnywhere(t *testing.T) {
	for how, cut := range cuts {
		t.Run(how, func(t *testing.T) {
			srv := NewServer(Options{})
			tl := followEvents(srv)
			r := serveRig(t, srv, nil)
			by := r.bystanders()
			request := handshakeFor(socketTarget("mallory", "t"))
			for n := range len(request) + 1 {
				p := r.rawOpen()
				p.write([]byte(request[:n]))
				cut(p)
				if n%50 == 0 {
					by.talk()
				}
			}
			last := r.connect("last")
			by.a.offer("last", `1`)
			last.wantOffer("alice", `1`)
			by.talk()
			last.drop()
			closeServer(t, srv)
			tl.check(t)
			st := srv.Stats()
			require.Equal(t, st.Accepted, total(st.Disconnects))
			wantNoGoroutines(t)
		})
	}
}

func TestAMessageMayBreakOffAnywhere(t *testing.T) {
	long := `{"type":"OFFER","dst":"bob","payload":"` + strings.Repeat("x", 200) + `"}`
	for how, cut := range cuts {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			by := r.bystanders()
			rec.wait(t, 2)
			frame := rawTextFrame(long)
			for n := range len(frame) {
				p := r.rawConnect(fmt.Sprint("mallory", n))
				p.write(frame[:n])
				cut(p)
			}
			rec.wait(t, 2+2*len(frame))
			for _, line := range rec.all()[2:] {
				if line[0] != '+' {
					require.Regexp(t, `^-mallory\d+ connection lost$`, line)
				}
			}
			by.talk()
			require.EqualValues(t, len(frame), r.srv.Stats().Disconnects[ReasonConnectionLost])
		})
	}
}

// What a client had read of a frame when it went is known to the byte on a pipe.
// Unless it had all of it, the frame goes whole to the one who comes next.
func TestADeliveryMayBreakOffAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a")
		size := len(textFrame([]byte(`{"type":"OFFER","src":"a","dst":"b00","payload":"0123456789"}`)))
		for n := range size + 1 {
			id := fmt.Sprintf("b%02d", n)
			text := `{"type":"OFFER","src":"a","dst":"` + id + `","payload":"0123456789"}`
			p := r.rawConnect(id)
			a.offer(id, `"0123456789"`)
			synctest.Wait() // it is in the outbox
			part := make([]byte, n)
			_, err := io.ReadFull(p.conn, part)
			require.NoError(t, err)
			require.Equal(t, string(textFrame([]byte(text))[:n]), string(part))
			p.conn.Close()
			synctest.Wait()
			a.send(`{"type":"ANSWER","dst":"` + id + `"}`)
			p = r.rawConnect(id)
			if n < size {
				p.want(text)
			}
			p.want(`{"type":"ANSWER","src":"a","dst":"` + id + `"}`)
			p.conn.Close()
		}
		time.Sleep(time.Minute)
		require.Empty(t, a.frames)
		require.EqualValues(t, size, r.srv.Stats().Returned)
	})
}

// A client that is ended while it reads a frame must not take what follows for
// the rest of that frame.
func TestNothingFollowsAFrameThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a")
		text := `{"type":"OFFER","src":"a","dst":"b","payload":"0123456789"}`
		frame := textFrame([]byte(text))
		for n := 1; n < len(frame); n++ {
			p := r.rawConnect("b")
			a.offer("b", `"0123456789"`)
			synctest.Wait()
			got := make([]byte, n)
			_, err := io.ReadFull(p.conn, got)
			require.NoError(t, err)
			require.True(t, r.srv.Realm().RemoveClient("b"))
			rest, err := io.ReadAll(p.conn)
			require.NoError(t, err)
			require.Equal(t, string(frame[:n]), string(got)+string(rest))
			p = r.rawConnect("b")
			p.want(text)
			p.conn.Close()
			synctest.Wait()
		}
	})
}

// A socket whose buffers are full takes a part of a frame; the rest goes on from
// there.
func TestFramesThatGoOutInPiecesArriveWhole(t *testing.T) {
	const n, size = 40, 200_000 // more than the systems of both sides take
	r := newRig(t, Options{MaxOutboxBytes: -1})
	rec := watch(r.srv)
	a, b := r.rawConnect("a"), r.rawConnect("b")
	rec.wait(t, 2)
	r.srv.Realm().Client("b").socket.conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
	_, payload := offerOfSize("b", size)
	for i := range n {
		a.text(fmt.Sprintf(`{"type":"OFFER","dst":"b","payload":[%d,%s]}`, i, payload))
	}
	for i := range n {
		b.want(fmt.Sprintf(`{"type":"OFFER","src":"a","dst":"b","payload":[%d,%s]}`, i, payload))
	}
}
