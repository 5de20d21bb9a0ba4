package peertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 See handshake.go of package peer.
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// newHost serves a server at "/peerjs/". The channel has the ends of its connections.
func newHost(t *testing.T, opts peer.Options, defaults ...peertest.Option) (*peer.Server, *peertest.Host, chan string) {
	srv, left := peer.NewServer(opts), make(chan string, 100)
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { left <- c.ID() + ": " + why.String() })
	t.Cleanup(func() { assert.NoError(t, srv.Close()) })
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	return srv, peertest.New(t, mux, "/peerjs", defaults...), left
}

// says is a handler that says one thing to each client that connects.
func says(frame string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err == nil {
			ws.Write(r.Context(), websocket.MessageText, []byte(frame))
			ws.Read(context.Background())
			ws.CloseNow()
		}
	})
}

func TestClientsIntroduceThemselves(t *testing.T) {
	_, h, left := newHost(t, peer.Options{})
	alice, bob := h.Dial("alice"), h.Dial("bob")
	require.Equal(t, "alice", alice.ID())
	alice.Send(peer.TypeOffer, "bob", map[string]int{"n": 1})
	require.Equal(t, peer.Message{Type: peer.TypeOffer, Src: "alice", Dst: "bob", Payload: json.RawMessage(`{"n":1}`)},
		bob.Expect(peer.TypeOffer))
	bob.Send(peer.TypeAnswer, "alice", json.RawMessage(` [12345678901234567890, "<>"] `))
	require.Equal(t, `[12345678901234567890, "<>"]`, string(alice.Expect(peer.TypeAnswer).Payload))
	bob.Send(peer.TypeCandidate, "alice", nil)
	require.Nil(t, alice.Expect(peer.TypeCandidate).Payload)
	bob.Send(peer.TypeCandidate, "alice", json.RawMessage("null"))
	require.Equal(t, "null", string(alice.Expect(peer.TypeCandidate).Payload))
	alice.Close()
	require.Equal(t, "alice: client closed", <-left)
	bob.ExpectNothing(0)
}

func TestWhatIsNotJSONIsSentAsItIs(t *testing.T) {
	srv, h, _ := newHost(t, peer.Options{})
	failed := make(chan error, 1)
	srv.OnError(func(_ *peer.Client, err error) { failed <- err })
	h.Dial("alice").Send(peer.TypeOffer, "bob", json.RawMessage("{"))
	require.ErrorIs(t, <-failed, peer.ErrBadMessage)
}

func TestTheSecondsUntilExpirePassAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, _ := newHost(t, peer.Options{})
		start := time.Now()
		alice := h.Dial("alice")
		alice.Send(peer.TypeOffer, "bob", nil)
		alice.ExpectNothing(peer.DefaultExpireTimeout - 1)
		require.Equal(t, "bob", alice.Expect(peer.TypeExpire).Src)
		require.Equal(t, peer.DefaultExpireTimeout, time.Since(start))
		alice.Send(peer.TypeOffer, "carol", nil) // is held when the test ends
	})
}

func TestEachWayToLeaveHasItsReason(t *testing.T) {
	for reason, leave := range map[peer.DisconnectReason]func(*peertest.Client){
		peer.ReasonClientClosed:   (*peertest.Client).Close,
		peer.ReasonLeft:           (*peertest.Client).Leave,
		peer.ReasonConnectionLost: (*peertest.Client).Vanish,
		peer.ReasonAliveTimeout: func(c *peertest.Client) {
			c.Freeze()
			c.Send(peer.TypeHeartbeat, "", nil)
			time.Sleep(peer.DefaultAliveTimeout + time.Second)
			code, _ := c.ExpectClosed()
			if code != peertest.CodeLost {
				panic(code)
			}
		},
	} {
		t.Run(reason.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, h, left := newHost(t, peer.Options{})
				alice := h.Dial("alice")
				time.Sleep(10 * time.Minute) // the client answers pings
				require.Equal(t, []string{"alice"}, srv.Realm().ClientIDs())
				leave(alice)
				synctest.Wait()
				require.Equal(t, "alice: "+reason.String(), <-left)
				alice.Vanish() // does nothing now
				alice.Close()
			})
		})
	}
}

func TestTheCodeAndTheTextOfTheServerAreRead(t *testing.T) {
	srv, h, _ := newHost(t, peer.Options{AllowOverride: func(_, _ *peer.Client) bool { return true }})
	alice, bob := h.Dial("alice"), h.Dial("bob")
	srv.Realm().RemoveClient("alice")
	code, text := alice.ExpectClosed()
	require.Equal(t, peer.CloseRemoved, code)
	require.Equal(t, "removed", text)
	alice.ExpectClosed() // stays so

	second := h.Dial("bob", peertest.Token("other"))
	bob.Expect(peer.TypeOverride)
	code, text = bob.ExpectClosed()
	require.Equal(t, peer.CloseOverridden, code)
	require.Equal(t, "overridden", text)
	second.Leave()
	code, text = second.ExpectClosed()
	require.Equal(t, 1000, code)
	require.Equal(t, "left", text)
}

// The token depends on the id, so the second Dial is the same page that connects again.
func TestAClientThatConnectsAgainKeepsItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, left := newHost(t, peer.Options{})
		first := h.Dial("alice")
		second := h.Dial("alice")
		code, _ := first.ExpectClosed()
		require.Equal(t, peer.CloseReplaced, code)
		synctest.Wait()
		require.Equal(t, "alice: "+peer.ReasonReplaced.String(), <-left)
		second.ExpectNothing(time.Minute)
	})
}

func TestAFrozenClientLosesItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, left := newHost(t, peer.Options{})
		h.Dial("alice").Freeze()
		time.Sleep(peer.DefaultProbeAfter + time.Second)
		h.Dial("alice", peertest.Token("other"))
		synctest.Wait()
		require.Equal(t, "alice: unresponsive", <-left)
	})
}

func TestARefusalSaysHow(t *testing.T) {
	reject := func(err error) func(*http.Request, string, string) (any, error) {
		return func(*http.Request, string, string) (any, error) { return nil, err }
	}
	text := errors.New("secret")
	for name, tc := range map[string]struct {
		opts peer.Options
		with []peertest.Option
		want peertest.Refusal
	}{
		"a text for people": {peer.Options{Authenticate: reject(&peer.Reject{Message: "Log in"})}, nil,
			peertest.Refusal{Status: 101, Type: peer.TypeError, Text: "Log in", Code: 1008}},
		"another type": {peer.Options{Authenticate: reject(&peer.Reject{Type: peer.TypeInvalidKey, Message: "Old"})}, nil,
			peertest.Refusal{Status: 101, Type: peer.TypeInvalidKey, Text: "Old", Code: 1008}},
		"a wrong key": {peer.Options{}, []peertest.Option{peertest.Key("wrong")},
			peertest.Refusal{Status: 101, Type: peer.TypeError, Text: "Invalid key provided", Code: 1008}},
		"before the upgrade": {peer.Options{Authenticate: reject(text), RejectBeforeUpgrade: true}, nil,
			peertest.Refusal{Status: 401, Text: "Authentication failed"}},
		"an origin": {peer.Options{AllowedOrigins: []string{"https://example.org"}},
			[]peertest.Option{peertest.Header(http.Header{"origin": {"https://evil.example"}})},
			peertest.Refusal{Status: 403, Text: "Origin not allowed"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, h, _ := newHost(t, tc.opts)
			require.Equal(t, tc.want, h.DialRefused("mallory", tc.with...))
		})
	}
	t.Run("a taken id", func(t *testing.T) {
		_, h, _ := newHost(t, peer.Options{})
		h.Dial("alice")
		require.Equal(t, peertest.Refusal{Status: 101, Type: peer.TypeIDTaken, Text: "ID is taken", Code: 1008},
			h.DialRefused("alice", peertest.Token("other")))
	})
	t.Run("a server that has closed", func(t *testing.T) {
		srv, h, _ := newHost(t, peer.Options{})
		require.NoError(t, srv.Close())
		require.Equal(t, peertest.Refusal{Status: 503, Text: "Server is shutting down"}, h.DialRefused("alice"))
	})
	t.Run("a server that closes", func(t *testing.T) {
		var srv *peer.Server
		srv, h, _ := newHost(t, peer.Options{Authenticate: func(*http.Request, string, string) (any, error) {
			srv.Close()
			return nil, nil
		}})
		require.Equal(t, peertest.Refusal{Status: 101, Text: "server shutdown", Code: 1001}, h.DialRefused("alice"))
	})
}

func TestIgnoredMessagesAreNotRead(t *testing.T) {
	srv, h, _ := newHost(t, peer.Options{}, peertest.Ignore("A", "B"), peertest.Ignore("ICE-SERVERS"))
	srv.OnConnection(func(c *peer.Client) {
		c.Send(peer.Message{Type: "ICE-SERVERS", Payload: json.RawMessage("[]")})
		c.Send(peer.Message{Type: "NEWS"})
	})
	h.Dial("alice").Expect("NEWS")
	bob := h.Dial("bob", peertest.Ignore("NEWS"))
	h.DialRefused("bob", peertest.Token("other"), peertest.Ignore("LAST")) // changes nothing for the first bob
	require.NoError(t, srv.Realm().Send("bob", peer.Message{Type: "NEWS"}))
	require.NoError(t, srv.Realm().Send("bob", peer.Message{Type: "LAST"}))
	bob.Expect("LAST")
}

func TestAFailedDialLeavesNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, h, left := newHost(t, peer.Options{})
		srv.OnConnection(func(*peer.Client) { time.Sleep(2 * time.Second) })
		_, err := h.TryDial("alice", peertest.Timeout(time.Second))
		require.EqualError(t, err, "peertest: alice expected OPEN, but nothing came for 1s")
		require.Equal(t, "alice: connection lost", <-left)
	})
}

func TestACrowdConnectsAtOnce(t *testing.T) {
	srv, h, left := newHost(t, peer.Options{})
	var crowd sync.WaitGroup
	for i := range 20 {
		crowd.Go(func() {
			c, err := h.TryDial(fmt.Sprint("peer", i))
			if assert.NoError(t, err) && i%2 == 0 {
				c.Vanish()
			}
		})
	}
	crowd.Wait()
	for range 10 {
		<-left
	}
	require.Equal(t, 10, srv.Realm().Len())
}

// The client reads all the time, so it is no slow consumer while the test does other things.
func TestAClientThatIsNotAskedReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, h, _ := newHost(t, peer.Options{})
		alice := h.Dial("alice")
		big, _ := json.Marshal(strings.Repeat("x", 100_000))
		for range 100 {
			require.NoError(t, srv.Realm().Send("alice", peer.Message{Type: "NEWS", Payload: big}))
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		for range 100 {
			require.Len(t, alice.Expect("NEWS").Payload, len(big))
		}
		alice.ExpectNothing(0)
	})
}

func TestTheExampleIsTrue(t *testing.T) {
	t.Run("in a bubble", officeInABubble)
	t.Run("in real time", officeInRealTime)
}
