// Package peertest tests an application that mounts a [peer.Server], without browsers and without a network.
//
// [New] serves the application's whole [http.Handler] in memory, so a test goes through its mux, its middleware and its
// cookies. [Host.Dial] connects a client that speaks the protocol of PeerJS.
//
//	func TestAnOfferArrives(t *testing.T) {
//		srv := peer.NewServer(peer.Options{})
//		t.Cleanup(func() { srv.Close() }) // before New: cleanup functions run in reverse order
//		mux := http.NewServeMux()
//		mux.Handle("/peerjs/", srv)
//
//		h := peertest.New(t, mux, "/peerjs") // as in new Peer({path: "/peerjs"})
//		alice, bob := h.Dial("alice"), h.Dial("bob")
//		alice.Send(peer.TypeOffer, "bob", map[string]string{"sdp": "v=0"})
//		m := bob.Expect(peer.TypeOffer)
//		if m.Src != "alice" || string(m.Payload) != `{"sdp":"v=0"}` {
//			t.Errorf("bob got %s from %q", m.Payload, m.Src)
//		}
//	}
//
// # Time
//
// In a bubble of [testing/synctest] no test waits: the five seconds until an EXPIRE pass at once. Call [New] inside the
// bubble.
//
//	synctest.Test(t, func(t *testing.T) {
//		h := peertest.New(t, mux, "/peerjs")
//		alice := h.Dial("alice")
//		alice.Send(peer.TypeOffer, "bob", nil)
//		alice.ExpectNothing(4 * time.Second)
//		alice.Expect(peer.TypeExpire)
//	})
//
// Without a bubble the same calls wait in real time. Each of them gives up after the [Timeout].
//
// # Events
//
// When [Host.Dial] returns, OnConnection has returned. What follows a message, or the end of a connection, happens on
// goroutines of the server. In a bubble, wait for it with [synctest.Wait]; elsewhere let your functions send to a
// channel.
//
//	alice.Close()
//	synctest.Wait() // OnDisconnect has returned
//
// # Users
//
// [Host.HTTPClient] is a browser with cookies for the other routes. Its Jar connects a client as the user who logged in.
//
//	browser := h.HTTPClient()
//	browser.PostForm(h.URL+"/login", url.Values{"user": {"alice"}, "password": {"wonderland"}})
//	alice := h.Dial("alice", peertest.Jar(browser.Jar))
//	refusal := h.DialRefused("alice") // without cookies
//
// # The end
//
// At the end of the test, connections and requests end, and the goroutines of this package with them. [New] does not
// close the [peer.Server], and does not wait for its events. Close the server in a cleanup function that is registered
// before New, so that no event comes after the test.
//
// A failed expectation is one line, at the line of the test that expected:
//
//	peertest: alice expected OFFER, but read EXPIRE from "bob"
//
// No such line contains a token.
package peertest
