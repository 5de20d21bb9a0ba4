package peertest_test

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// The following is the code of the package comment.

func TestAnOfferArrives(t *testing.T) {
	srv := peer.NewServer(peer.Options{})
	t.Cleanup(func() { srv.Close() }) // before New: cleanup functions run in reverse order
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)

	h := peertest.New(t, mux, "/peerjs") // as in new Peer({path: "/peerjs"})
	alice, bob := h.Dial("alice"), h.Dial("bob")
	alice.Send(peer.TypeOffer, "bob", map[string]string{"sdp": "v=0"})
	m := bob.Expect(peer.TypeOffer)
	if m.Src != "alice" || string(m.Payload) != `{"sdp":"v=0"}` {
		t.Errorf("bob got %s from %q", m.Payload, m.Src)
	}
}

func TestTheTimeOfThePackageComment(t *testing.T) {
	mux := http.NewServeMux()
	synctest.Test(t, func(t *testing.T) {
		mux.Handle("/peerjs/", peer.NewServer(peer.Options{}))
		h := peertest.New(t, mux, "/peerjs")
		alice := h.Dial("alice")
		alice.Send(peer.TypeOffer, "bob", nil)
		alice.ExpectNothing(4 * time.Second)
		alice.Expect(peer.TypeExpire)
		alice.Close()
		synctest.Wait() // OnDisconnect has returned
	})
}

func TestTheUsersOfThePackageComment(t *testing.T) {
	office, srv := newOffice()
	t.Cleanup(func() { srv.Close() })
	h := peertest.New(t, office, "/peerjs")
	browser := h.HTTPClient()
	browser.PostForm(h.URL+"/login", url.Values{"user": {"alice"}, "password": {"wonderland"}})
	alice := h.Dial("alice", peertest.Jar(browser.Jar))
	refusal := h.DialRefused("alice") // without cookies
	require.Equal(t, "Please log in", refusal.Text)
	alice.ExpectNothing(0)
}

func TestTheCodeOfThePackageCommentIsCompiled(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	source, err := os.ReadFile("doc_test.go")
	require.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(doc)) {
		if code, isCode := strings.CutPrefix(line, "//\t"); isCode && !strings.HasPrefix(code, "peertest: ") {
			require.Contains(t, string(source), strings.TrimSpace(code)+"\n")
			n++
		}
	}
	require.Greater(t, n, 20)
}
