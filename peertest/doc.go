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
// In a bubble of [testing/synctest] the time is fake, and a test does not wait for it: the five seconds until an EXPIRE
// pass at once. Call [New] inside the bubble.
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
// When [Host.Dial] returns, the functions of OnConnection have returned. The server calls
// OnMessage and OnDisconnect on other goroutines, perhaps after [Client.Send] and
// [Client.Close] have returned. In a bubble, wait for them with [synctest.Wait]. Without a
// bubble, register one more function, which sends to a channel, and receive from this channel.
//
//	alice.Close()
//	synctest.Wait() // OnDisconnect has returned
//
// # Users
//
// [Host.HTTPClient] returns a browser with cookies for the other routes. Its Jar connects a client as the user that has
// logged in.
//
//	browser := h.HTTPClient()
//	browser.PostForm(h.URL+"/login", url.Values{"user": {"alice"}, "password": {"wonderland"}})
//	alice := h.Dial("alice", peertest.Jar(browser.Jar))
//	refusal := h.DialRefused("alice") // without cookies
//
// # The end
//
// At the end of the test all connections end, and so do the goroutines of this package. The package does not close the
// [peer.Server] and does not wait for its events. Close the server in a cleanup function that you register before you
// call New. Then no event comes after the test.
//
// A failure is one line of text, and the testing package reports it at the line of the test that made the call:
//
//	peertest: alice expected OFFER, but read EXPIRE from "bob"
//
// No failure contains a token.
package peertest
