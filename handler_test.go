package peer_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// The tests of this file see what the host of a server sees: the exported API, and clients of package
// peertest. They show that it is enough for the tests of a host.

// newHost mounts a server under "/peerjs" in a mux, beside a route of the host's own.
func newHost(t *testing.T, opts peer.Options) (*peer.Server, *peertest.Host) {
	t.Helper()
	srv := peer.NewServer(opts)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the host's own page") })
	return srv, peertest.New(t, mux, "/peerjs")
}

func TestTwoPeersIntroduceThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, h := newHost(t, peer.Options{})
		var events []string
		srv.OnConnection(func(c *peer.Client) { events = append(events, "+"+c.ID()) })
		srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
			events = append(events, "-"+c.ID()+" "+why.String())
		})
		alice := h.Dial("alice")
		bob := h.Dial("bob")
		exact := json.RawMessage(`{"sdp":"v=0\r\n", "n":12345678901234567890}`) // to the byte
		alice.Send(peer.TypeOffer, "bob", exact)
		require.Equal(t, peer.Message{Type: peer.TypeOffer, Src: "alice", Dst: "bob", Payload: exact}, bob.Expect(peer.TypeOffer))
		bob.Send(peer.TypeAnswer, "alice", json.RawMessage("null"))
		require.Equal(t, "null", string(alice.Expect(peer.TypeAnswer).Payload))
		alice.Send(peer.TypeCandidate, "bob", 1)
		require.Equal(t, "alice", bob.Expect(peer.TypeCandidate).Src)
		alice.Close()
		synctest.Wait()
		require.Equal(t, []string{"+alice", "+bob", "-alice client closed"}, events)
		require.Equal(t, []string{"bob"}, srv.Realm().ClientIDs())
	})
}

func TestAnOfferForAnAbsentPeerWaitsFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newHost(t, peer.Options{})
		alice := h.Dial("alice")
		alice.Send(peer.TypeOffer, "late", 1)
		alice.Send(peer.TypeOffer, "never", 2)
		time.Sleep(4 * time.Second)
		h.Dial("late").Expect(peer.TypeOffer)
		alice.ExpectNothing(time.Second - 1)
		require.Equal(t, "never", alice.Expect(peer.TypeExpire).Src)
	})
}

func TestAnIDComesFromTheServer(t *testing.T) {
	_, h := newHost(t, peer.Options{})
	id := h.NewID()
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, id)
	require.NotEqual(t, id, h.NewID())
	h.Dial(id)
}

func TestPeersAreListed(t *testing.T) {
	_, h := newHost(t, peer.Options{AllowDiscovery: true})
	require.Empty(t, h.IDs())
	h.Dial("bob")
	h.Dial("alice")
	require.Equal(t, []string{"alice", "bob"}, h.IDs())
}

func TestTheRoutesOfTheHostAreItsOwn(t *testing.T) {
	_, h := newHost(t, peer.Options{})
	for path, want := range map[string]string{
		"/": "the host's own page", "/peer": "the host's own page", "/peerjs/": "PeerJS Server",
	} {
		res, err := h.HTTPClient().Get(h.URL + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Contains(t, string(body), want, path)
	}
}

func TestARefusedClientReadsWhy(t *testing.T) {
	_, h := newHost(t, peer.Options{
		ConcurrentLimit: 2,
		Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if strings.HasPrefix(id, "admin") && token != "secret" {
				return nil, &peer.Reject{Message: "Please log in again"}
			}
			return nil, nil
		},
	})
	h.Dial("alice")
	for text, refused := range map[string]peertest.Refusal{
		"Invalid key provided": h.DialRefused("bob", peertest.Key("wrong")),
		"Please log in again":  h.DialRefused("admin", peertest.Token("guess")),
		"ID is taken":          h.DialRefused("alice", peertest.Token("another")),
	} {
		require.Equal(t, text, refused.Text)
		require.Equal(t, http.StatusSwitchingProtocols, refused.Status, "a page can read it")
	}
	h.Dial("admin", peertest.Token("secret"))
	require.Equal(t, "Server has reached its concurrent user limit", h.DialRefused("bob").Text)
}

// A page of another origin asks first whether it may.
func TestAPageOfAnotherOriginMayUseTheServer(t *testing.T) {
	srv := peer.NewServer(peer.Options{AllowedOrigins: []string{"https://app.example"}})
	for origin, allowed := range map[string]bool{"https://app.example": true, "https://evil.example": false} {
		r := httptest.NewRequest(http.MethodOptions, "/peerjs/id", nil)
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", http.MethodGet)
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		require.Equal(t, allowed, w.Header().Get("Access-Control-Allow-Origin") == origin, origin)
	}
}

func TestAShutdownTellsEveryClient(t *testing.T) {
	srv, h := newHost(t, peer.Options{})
	alice, bob := h.Dial("alice"), h.Dial("bob")
	require.NoError(t, srv.Shutdown(t.Context()))
	for _, c := range []*peertest.Client{alice, bob} {
		code, _ := c.ExpectClosed()
		require.Equal(t, 1001, code)
	}
	require.Equal(t, http.StatusServiceUnavailable, h.DialRefused("carol").Status)
	require.Zero(t, srv.Realm().Len())
}
