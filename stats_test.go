package peer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// countersWith returns counters with all the names of a fresh server's, of which
// all but these are zero.
func countersWith[K comparable](all, some map[K]uint64) map[K]uint64 {
	for k := range all {
		all[k] = some[k]
	}
	return all
}

func TestBytesAreCountedAsTheyPass(t *testing.T) {
	r := newRig(t, Options{})
	a, b := r.rawOpen().open("a"), r.rawOpen().open("b")
	fromA, payload := offerOfSize("b", 100_000)
	for _, size := range []int{60, 125, 126, 4096, 65535, 65536, 100_000} {
		fromA, payload = offerOfSize("b", size)
		a.text(fromA)
		b.want(`{"type":"OFFER","src":"a","dst":"b","payload":` + payload + `}`)
	}
	a.write(rawFrame(rawText, fromA[:10]))
	a.write(rawFrame(rawFin|rawPing, "pings are no payload"))
	a.write(rawFrame(rawFin|rawCont, fromA[10:]))
	a.sent += uint64(len(fromA))
	b.want(`{"type":"OFFER","src":"a","dst":"b","payload":` + payload + `}`)
	_, pong := a.next()
	require.Equal(t, "pings are no payload", string(pong))
	a.text(`not a message`)
	a.write(rawFrame(rawFin|rawBinary, `{"type":"HEARTBEAT"}`))
	a.sent += uint64(len(`{"type":"HEARTBEAT"}`))
	refused := r.rawOpen()
	refused.write([]byte(handshakeFor("/peerjs?key=wrong&id=a&token=t")))
	require.Equal(t, 101, refused.response().StatusCode)
	a.text(`{"type":"LEAVE"}`)
	for _, p := range []*rawPeer{a, refused, b} {
		if p == b {
			p.write(rawCloseFrame(1000, "bye"))
		}
		p.skipToEnd()
		p.conn.Close()
	}
	closeServer(t, r.srv)
	st := r.srv.Stats()
	require.Equal(t, a.sent+b.sent, st.BytesIn)
	require.Equal(t, a.got+b.got+refused.got, st.BytesOut)
}

// A message that is refused from its header is not read, and so not counted.
func TestBytesOfARefusedMessageAreNotCounted(t *testing.T) {
	r := newRig(t, Options{MaxMessageSize: 1000})
	p := r.rawOpen().open("a")
	p.write(rawFrame(rawText, strings.Repeat("x", 1001)))
	p.wantClose(1009)
	p.conn.Close()
	closeServer(t, r.srv)
	require.Zero(t, r.srv.Stats().BytesIn)
}

func TestEveryFateOfAMessageIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{
			AllowOverride:  OverrideAlways,
			MaxHeldPerPair: 4,
			Authorize: func(from *Client, m Message) error {
				if m.Dst == "forbidden" {
					return errors.New("no")
				}
				return nil
			},
		})
		r := serveBubbleRig(t, srv, nil)
		a, b := r.connect("a"), r.connect("b")
		var want Stats
		send := func(p *testPeer, n int, text string) {
			for range n {
				p.send(text)
				want.BytesIn += uint64(len(text))
			}
			synctest.Wait()
		}
		drops := make(map[string]uint64)

		send(a, 3, `{"type":"OFFER","dst":"b"}`)
		send(b, 2, `{"type":"ANSWER","dst":"a"}`)
		send(a, 1, `{"type":"LEAVE","dst":"b"}`)
		send(a, 5, `{"type":"HEARTBEAT"}`)
		want.Relayed += 6

		send(a, 7, `{"type":"LEAVE","dst":"absent"}`)
		drops["absent"] += 7
		send(a, 8, `{"type":"ROAR","dst":"b"}`)
		send(a, 9, `{"type":"OFFER"}`)
		drops["unknown type"] += 17
		send(a, 10, `no message`)
		drops["bad message"] += 10
		send(a, 11, `{"type":"CANDIDATE","dst":"forbidden"}`)
		drops["unauthorized"] += 11
		send(a, 1, `{"type":"OFFER","dst":"forbidden"}`)
		drops["unauthorized"]++
		want.Expires++

		send(a, 2, `{"type":"OFFER","dst":"late"}`)
		want.Held += 2
		late := r.connect("late")
		late.wantOfferFrom("a")
		late.wantOfferFrom("a")

		send(a, 3, `{"type":"OFFER","dst":"never"}`)
		send(b, 1, `{"type":"OFFER","dst":"never"}`)
		want.Held += 4
		time.Sleep(DefaultExpireTimeout)
		synctest.Wait()
		drops["expired"] += 4
		want.Expires += 2

		send(a, 4, `{"type":"OFFER","dst":"cleared"}`)
		want.Held += 4
		require.Equal(t, 4, srv.Realm().ClearMessageQueue("cleared"))
		synctest.Wait()
		drops["cleared"] += 4
		want.Expires++

		send(a, 5, `{"type":"OFFER","dst":"full"}`)
		want.Held += 4
		drops["over a bound"] += 5
		want.Expires++

		// What a client that does not read has in its outbox goes on to its successors,
		// or waits, or comes to nothing.
		stuck := r.rawOpen(smallReads).upgrade("stuck")
		synctest.Wait()
		send(a, 3, `{"type":"OFFER","dst":"stuck"}`)
		send(a, 1, `{"type":"LEAVE","dst":"stuck"}`)
		want.Relayed += 4
		require.NoError(t, srv.Realm().Client("stuck").Send(Message{Type: "APP"})) // for no other device
		drops["absent"]++
		successor := r.rawOpen(smallReads).upgrade("stuck")
		synctest.Wait()
		want.Returned += 4
		stuck.conn.Close()
		require.True(t, srv.Realm().RemoveClient("stuck"))
		want.Returned += 3
		drops["absent"]++
		successor.conn.Close()
		time.Sleep(DefaultExpireTimeout)
		synctest.Wait()
		drops["expired"] += 3
		want.Expires++
		want.Relayed += want.Expires // they are messages, too

		send(a, 1, `{"type":"OFFER","dst":"shut"}`)
		want.Held++
		require.NotZero(t, srv.Stats().HeldBytes)
		closeServer(t, srv)
		drops["shutdown"]++

		st := srv.Stats()
		require.Equal(t, countersWith(NewServer(Options{}).Stats().Dropped, drops), st.Dropped)
		want.Dropped, want.Refused, want.Disconnects = st.Dropped, st.Refused, st.Disconnects
		want.BytesOut, want.Accepted, want.PeakClients = st.BytesOut, 5, 4
		want.Since, want.ConcurrentLimit, want.MaxRooms = st.Since, st.ConcurrentLimit, st.MaxRooms
		want.MaxHeldBytes, want.MaxPartialBytes = st.MaxHeldBytes, st.MaxPartialBytes
		require.Equal(t, want, st)
	})
}

func TestEveryRefusalIsCountedByItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{
			ConcurrentLimit: 1, AllowedOrigins: []string{"https://good.example"},
			Authenticate: func(r *http.Request, id, token string) (any, error) {
				switch id {
				case "bad":
					return nil, errors.New("no")
				case "patient":
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return nil, nil
			},
		})
		want := make(map[string]uint64)
		refused := func(cause string, n int, request string) {
			for range n {
				p := r.rawOpen()
				p.write([]byte(request))
				io.Copy(io.Discard, closingBody{p.response()})
				p.skipToEnd()
				p.conn.Close()
			}
			want[cause] += uint64(n)
		}
		target := func(key, id, token string) string {
			return handshakeFor("/peerjs?" + url.Values{"key": {key}, "id": {id}, "token": {token}}.Encode())
		}
		r.connect("a")
		refused("missing parameters", 1, target("peerjs", "", "t"))
		refused("missing parameters", 1, target("peerjs", "b", ""))
		refused("missing parameters", 1, target("", "b", "t"))
		refused("invalid key", 2, target("wrong", "b", "t"))
		refused("invalid id", 3, target("peerjs", "b\n", "t"))
		refused("invalid id", 1, target("peerjs", "b", strings.Repeat("t", 8193)))
		refused("authentication", 4, target("peerjs", "bad", "t"))
		refused("gave up", 5, target("peerjs", "patient", "t"))
		refused("id taken", 6, target("peerjs", "a", "another"))
		refused("limit", 7, target("peerjs", "b", "t"))
		refused("origin", 8, handshakeFor(socketTarget("b", "t"), "Origin: https://evil.example", "Connection: close"))
		refused("bad upgrade", 9, strings.Replace(handshakeFor(socketTarget("b", "t"), "Connection: close"), "Version: 13", "Version: 12", 1))
		closeServer(t, r.srv)
		refused("shutdown", 10, handshakeFor(socketTarget("b", "t"), "Connection: close"))
		st := r.srv.Stats()
		require.Equal(t, countersWith(NewServer(Options{}).Stats().Refused, want), st.Refused)
		require.EqualValues(t, 1, st.Accepted)
		require.Equal(t, 1, st.PeakClients)
	})
}

// closingBody reads the body of an answer, if it has one.
type closingBody struct{ res *http.Response }

func (b closingBody) Read(p []byte) (int, error) {
	if b.res.StatusCode == http.StatusSwitchingProtocols {
		return 0, io.EOF
	}
	return b.res.Body.Read(p)
}

func TestEveryDisconnectIsCountedByItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: 30 * time.Second, MaxMessageSize: 20000, MaxPartialBytes: 1, MaxOutboxMessages: 5, AllowOverride: func(old, new *Client) bool {
			return old.ID() == "overridden"
		}})
		srv.OnMessage(func(c *Client, m Message) {
			if m.Type == "PANIC" {
				panic("as told")
			}
		})
		r := serveBubbleRig(t, srv, nil)
		want := make(map[DisconnectReason]uint64)
		ends := func(why DisconnectReason, n int, id string, how func(p *rawPeer)) {
			for range n {
				p := r.rawOpen().open(id)
				how(p)
				p.skipToEnd()
				p.conn.Close()
				synctest.Wait()
			}
			want[why] += uint64(n)
		}
		ends(ReasonClientClosed, 1, "a", writing(rawCloseFrame(1000, "")))
		ends(ReasonConnectionLost, 2, "a", func(p *rawPeer) { p.conn.Close() })
		ends(ReasonLeft, 3, "a", writing(rawTextFrame(`{"type":"LEAVE"}`)))
		ends(ReasonAliveTimeout, 4, "a", func(p *rawPeer) { p.read() }) // reads a ping and does not answer
		ends(ReasonRemoved, 5, "a", func(p *rawPeer) { srv.Realm().RemoveClient("a") })
		ends(ReasonSlowConsumer, 6, "a", func(p *rawPeer) {
			for range 6 {
				srv.Realm().Send("a", Message{Type: "X"})
			}
		})
		ends(ReasonMessageTooBig, 7, "a", writing(rawTextFrame(strings.Repeat("x", 20001))))
		ends(ReasonOverloaded, 11, "a", writing(rawTextFrame(strings.Repeat("x", 20000))[:10000]))
		ends(ReasonInvalidText, 8, "a", writing(rawTextFrame("\xff")))
		ends(ReasonProtocolError, 9, "a", writing(rawFrame(rawFin|0x70, "")))
		ends(ReasonPanic, 10, "a", writing(rawTextFrame(`{"type":"PANIC"}`)))

		ends(ReasonClaimLost, 12, "a", func(p *rawPeer) { // as when the engine refuses to renew the claim
			srv.Realm().Client("a").end(ReasonClaimLost, nil, nil)
			require.Equal(t, CloseClaimLost, p.skipToEnd())
		})

		replaced := r.rawOpen().open("replaced")
		again := r.rawOpen()
		again.write([]byte(handshakeFor(socketTarget("replaced", replaced.token))))
		again.response()
		again.want(`{"type":"OPEN"}`)
		replaced.wantClose(CloseReplaced)
		want[ReasonReplaced]++

		overridden := r.rawOpen().open("overridden")
		other := r.rawOpen().open("overridden")
		require.Equal(t, CloseOverridden, overridden.skipToEnd())
		want[ReasonOverridden]++

		dead := r.rawOpen().open("dead")
		time.Sleep(DefaultProbeAfter + time.Second)
		heir := r.rawOpen().open("dead")
		dead.skipToEnd()
		want[ReasonUnresponsive]++

		for _, p := range []*rawPeer{again, other, heir} {
			go func() {
				p.skipToEnd()
				p.conn.Close()
			}()
		}
		closeServer(t, srv)
		want[ReasonShutdown] += 3
		st := srv.Stats()
		require.Equal(t, countersWith(NewServer(Options{}).Stats().Disconnects, want), st.Disconnects)
		require.Equal(t, st.Accepted, total(st.Disconnects))
		require.Len(t, st.Disconnects, len(want), "a reason that this test does not know")
	})
}

func TestThePeakIsTheMostThatWereConnectedAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	for i := range 5 {
		r.connect(fmt.Sprint(i))
	}
	for i := range 5 {
		require.True(t, r.srv.Realm().RemoveClient(fmt.Sprint(i)))
	}
	for range 8 {
		r.dial("0", "t").wantOpen() // one after the other
	}
	st := r.srv.Stats()
	require.Equal(t, 1, st.Clients)
	require.Equal(t, 5, st.PeakClients)
}
