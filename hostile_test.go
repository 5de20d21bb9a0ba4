package peer

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// allocated returns how many bytes f allocates in all, those of the test's own
// side included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// An attack is what a client sends beside the protocol, and what becomes of it.
type attack struct {
	name string
	send func(p *rawPeer) // may end the connection
	why  DisconnectReason
	code int // what the close frame says, 0: there is none to be read
}

// run wants the attack to end its own connection for the right reason, to cost
// little, and to be noticed by nobody else: bob in particular gets nothing of it.
func (a attack) run(t *testing.T, opts Options) {
	const enough = 3 << 20
	r, rec, by, p := victims(t, opts)
	cost := allocated(func() {
		a.send(p)
		require.Equal(t, a.code, p.skipToEnd())
		p.conn.Close()
		require.Equal(t, "-mallory "+a.why.String(), rec.last(t, 4))
	})
	require.Less(t, cost, uint64(enough))
	require.Nil(t, r.srv.Realm().Client("mallory"))
	by.talk()
	require.Len(t, rec.all(), 4, "nobody else has noticed anything: %q", rec.all())
}

func runAttacks(t *testing.T, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { a.run(t, Options{}) })
	}
}

// writing returns an attack that is one write.
func writing(parts ...[]byte) func(p *rawPeer) {
	var b []byte
	for _, part := range parts {
		b = append(b, part...)
	}
	return func(p *rawPeer) { p.tryWrite(b) } // the server may refuse it from its first bytes
}

// cutAfter is writing and then half-closing.
func cutAfter(parts ...[]byte) func(p *rawPeer) {
	return func(p *rawPeer) {
		writing(parts...)(p)
		p.halfClose()
	}
}

// offerToBob is a message that nobody may get unless it is whole.
const offerToBob = `{"type":"OFFER","dst":"bob","payload":"of mallory"}`

func TestWhoBreaksTheFramingIsClosedAlone(t *testing.T) {
	const protocol, text, lost = ReasonProtocolError, ReasonInvalidText, ReasonConnectionLost
	long := strings.Repeat("x", 126)
	attacks := []attack{
		{"unmasked frame", writing([]byte{rawFin | rawText, 2, '{', '}'}), protocol, 1002},
		{"another protocol", writing([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")), protocol, 1002},
		{"continuation of nothing", writing(rawFrame(rawFin|rawCont, offerToBob)), protocol, 1002},
		{"message in a message", writing(rawFrame(rawText, `{"type":`), rawTextFrame(offerToBob)), protocol, 1002},
		{"ping in fragments", writing(rawFrame(rawPing, "x")), protocol, 1002},
		{"pong in fragments", writing(rawFrame(rawPong, "x")), protocol, 1002},
		{"ping of 126 bytes", writing(rawFrame(rawFin|rawPing, long)), protocol, 1002},
		{"ping that announces 126 bytes", writing(rawHeader(rawFin|rawPing, 126)), protocol, 1002},
		{"pong that announces 2^63-1 bytes", writing(rawHeader(rawFin|rawPong, 1<<63-1)), protocol, 1002},
		{"header that announces 2^63 bytes", writing(rawHeader(rawFin|rawText, 1<<63)), protocol, 1002},
		{"header that announces 2^64-1 bytes", writing(rawHeader(rawFin|rawBinary, 1<<64-1)), protocol, 1002},
		{"header that announces 2^63-1 bytes", cutAfter(rawHeader(rawFin|rawText, 1<<63-1), []byte("some")), ReasonMessageTooBig, 1009},
		{"not UTF-8", writing(rawTextFrame(`{"type":"OFFER","dst":"bob","payload":"` + "\xff" + `"}`)), text, 1007},
		{"not UTF-8 behind a pong", writing(rawFrame(rawFin|rawPong, ""), rawTextFrame("\xff")), text, 1007},
		{"surrogate", writing(rawTextFrame(`{"type":"OFFER","dst":"bob","payload":"` + "\xed\xa0\x80" + `"}`)), text, 1007},
		{"overlong", writing(rawTextFrame(`{"type":"OFFER","dst":"b` + "\xc1\xaf" + `b"}`)), text, 1007},
		{"half a character", writing(rawFrame(rawText, `"`+"\xe2\x82"), rawFrame(rawFin|rawCont, "")), text, 1007},
	}
	for rsv := byte(0x10); rsv <= 0x70; rsv += 0x10 {
		f := rawFrame(rawFin|rsv|rawText, offerToBob)
		attacks = append(attacks, attack{fmt.Sprintf("reserved bits %x", rsv), writing(f), protocol, 1002})
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		f := rawFrame(rawFin|op, offerToBob)
		attacks = append(attacks, attack{fmt.Sprintf("reserved opcode %x", op), writing(f), protocol, 1002})
	}
	runAttacks(t, attacks)
}

func TestCloseFramesOfEveryKindFreeTheID(t *testing.T) {
	const closed, protocol = ReasonClientClosed, ReasonProtocolError
	long := strings.Repeat("x", 124)
	attacks := []attack{
		{"empty", writing(rawFrame(rawFin|rawClose, "")), closed, 0},
		{"code and reason", writing(rawCloseFrame(1000, "bye")), closed, 1000},
		{"code of an application", writing(rawCloseFrame(4999, "")), closed, 4999},
		{"longest reason", writing(rawCloseFrame(1001, long[1:])), closed, 1001},
		{"frames after it", writing(rawCloseFrame(1000, ""), rawTextFrame(offerToBob)), closed, 1000},
		{"inside of a message", writing(rawFrame(rawText, offerToBob), rawCloseFrame(1000, "")), closed, 1000},
		{"one byte", writing(rawFrame(rawFin|rawClose, "\x03")), protocol, 1002},
		{"too long", writing(rawCloseFrame(1000, long)), protocol, 1002},
		{"in fragments", writing(rawFrame(rawClose, "\x03\xe8")), protocol, 1002},
		{"half of it", cutAfter(rawCloseFrame(1000, "some reason")[:9]), ReasonConnectionLost, 0},
	}
	for _, code := range []uint16{1003, 1007, 1014, 3000} {
		attacks = append(attacks, attack{fmt.Sprint("code ", code), writing(rawCloseFrame(code, "")), closed, int(code)})
	}
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535} {
		attacks = append(attacks, attack{fmt.Sprint("code ", code), writing(rawCloseFrame(code, "")), protocol, 1002})
	}
	runAttacks(t, attacks)
}

// RFC 6455, section 5.5.1, has this text be UTF-8.
func TestACloseReasonThatIsNotTextHarmsNobody(t *testing.T) {
	runAttacks(t, []attack{
		{"of bytes", writing(rawCloseFrame(1000, "\xff\xfe\x00\r\n")), ReasonInvalidText, 1007},
		{"of half a character", writing(rawCloseFrame(1000, "\xe2\x82")), ReasonInvalidText, 1007},
		{"inside of a message", writing(rawFrame(rawText, offerToBob), rawCloseFrame(1000, "\xff")), ReasonInvalidText, 1007},
	})
}

// A message is cut off where what has come of it is JSON already.
func TestAMessageThatIsCutOffIsNotHandled(t *testing.T) {
	t.Parallel()
	header := func(first byte, n int) []byte { return rawHeader(first, uint64(n)) }
	payload := func(s string) []byte { return rawFrame(0, s)[6:] } // masked
	cut := map[string]func(p *rawPeer){
		"in a frame":         writing(header(rawFin|rawText, len(offerToBob)+1), payload(offerToBob)),
		"between fragments":  writing(rawFrame(rawText, offerToBob)),
		"in a fragment":      writing(rawFrame(rawText, offerToBob[:20]), header(rawFin|rawCont, 100), payload(offerToBob[20:])),
		"after a ping":       writing(rawFrame(rawText, offerToBob), rawFrame(rawFin|rawPing, "")),
		"in a ping":          writing(rawFrame(rawText, offerToBob), rawFrame(rawFin|rawPing, "abc")[:7]),
		"in a header":        writing(rawFrame(rawText, offerToBob), []byte{rawFin | rawCont}),
		"in a header's size": writing(rawFrame(rawText, offerToBob), []byte{rawFin | rawCont, 0x80 | 126, 0}),
		"in a header's mask": writing(rawFrame(rawText, offerToBob), []byte{rawFin | rawCont, 0x80, 1, 2}),
	}
	ends := map[string]func(p *rawPeer){
		"half-close": (*rawPeer).halfClose,
		"close":      func(p *rawPeer) { p.conn.Close() },
		"reset":      (*rawPeer).reset,
	}
	for where, write := range cut {
		for how, end := range ends {
			t.Run(where+", "+how, func(t *testing.T) {
				_, rec, by, p := victims(t, Options{})
				write(p)
				end(p)
				require.Equal(t, "-mallory connection lost", rec.last(t, 4))
				by.talk()
			})
		}
	}
}

func TestAnEndOfEveryKindFreesTheIDAtOnce(t *testing.T) {
	for how, end := range map[string]func(p *rawPeer){
		"half-close":                  (*rawPeer).halfClose,
		"close":                       func(p *rawPeer) { p.conn.Close() },
		"reset":                       (*rawPeer).reset,
		"close frame, TCP left open":  writing(rawCloseFrame(1000, "")),
		"broken frame, TCP left open": writing(rawFrame(rawFin|0x70, "")),
		"LEAVE, TCP left open":        writing(rawTextFrame(`{"type":"LEAVE"}`)),
		"not UTF-8, TCP left open":    writing(rawTextFrame("\xff")),
		"close frame and reset":       func(p *rawPeer) { p.write(rawCloseFrame(1000, "")); p.reset() },
	} {
		t.Run(how, func(t *testing.T) {
			r, rec, by, p := victims(t, Options{ConcurrentLimit: 3})
			end(p)
			rec.wait(t, 4)
			r.dial("mallory", "another token").wantOpen() // while our side of the old socket may be open
			by.talk()
		})
	}
}

func TestFramesThatComeWithTheHandshakeAreHandled(t *testing.T) {
	const n = 200 // more than the buffer of net/http holds
	r := newRig(t, Options{})
	by := r.bystanders()
	p := r.rawOpen()
	b := []byte(handshakeFor(socketTarget("mallory", "t")))
	for range n {
		b = append(b, rawTextFrame(offerToBob)...)
	}
	p.write(b)
	require.Equal(t, 101, p.response().StatusCode)
	for range n {
		by.b.wantOffer("mallory", `"of mallory"`)
	}
	p.want(`{"type":"OPEN"}`)
	by.talk()
}

// What lies inside of a frame is not taken for a frame, wherever the reading of
// the one before has ended.
func TestAFrameInsideOfAFrameIsNotHandled(t *testing.T) {
	r, _, by, p := victims(t, Options{})
	junk := func(payload string) []byte { // its mask leaves the payload as it is
		b := rawHeader(rawFin|rawBinary, uint64(len(payload)))
		clear(b[len(b)-4:])
		return append(b, payload...)
	}
	inside := strings.Repeat(string(rawTextFrame(offerToBob)), 5)
	sent := 0
	for before := range 20 {
		for lead := range 20 {
			x := strings.Repeat("x", 20)
			p.write(slices.Concat(junk(x[:before]), rawFrame(rawFin|rawPing, ""), junk(x[:before]), junk(x[:lead]+inside)))
			sent += 3
		}
	}
	p.write(rawCloseFrame(1000, ""))
	require.Equal(t, 1000, p.skipToEnd())
	by.talk()
	require.EqualValues(t, sent, r.srv.Stats().Dropped["bad message"])
}

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
	t.Parallel()
	long := `{"type":"OFFER","dst":"bob","payload":"` + strings.Repeat("x", 200) + `"}`
	for how, cut := range cuts {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			by := r.bystanders()
			rec.wait(t, 2)
			frame := rawTextFrame(long)
			for n := range len(frame) {
				p := r.rawOpen().open(fmt.Sprint("mallory", n))
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
			p := r.rawOpen().open(id)
			a.offer(id, `"0123456789"`)
			synctest.Wait() // it is in the outbox
			part := make([]byte, n)
			_, err := io.ReadFull(p.conn, part)
			require.NoError(t, err)
			require.Equal(t, string(textFrame([]byte(text))[:n]), string(part))
			p.conn.Close()
			synctest.Wait()
			a.send(`{"type":"ANSWER","dst":"` + id + `"}`)
			p = r.rawOpen().open(id)
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
			p := r.rawOpen().open("b")
			a.offer("b", `"0123456789"`)
			synctest.Wait()
			got := make([]byte, n)
			_, err := io.ReadFull(p.conn, got)
			require.NoError(t, err)
			require.True(t, r.srv.Realm().RemoveClient("b"))
			rest, err := io.ReadAll(p.conn)
			require.NoError(t, err)
			require.Equal(t, string(frame[:n]), string(got)+string(rest))
			p = r.rawOpen().open("b")
			p.want(text)
			p.conn.Close()
			synctest.Wait()
		}
	})
}

// A socket whose buffers are full takes a part of a frame; the rest goes on from
// there.
func TestFramesThatGoOutInPiecesArriveWhole(t *testing.T) {
	t.Parallel()
	const n, size = 40, 200_000                                   // more than the systems of both sides take
	r := newRig(t, Options{MaxOutboxBytes: -1, WriteTimeout: -1}) // b reads when a has sent all
	rec := watch(r.srv)
	a, b := r.rawOpen().open("a"), r.rawOpen().open("b")
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
