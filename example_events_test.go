package peer_test

import (
	"encoding/json"
	"fmt"

	"github.com/gopeerjs/peer"
)

// The client reads OPEN when OnConnection has returned, and then what OnConnection has sent.
func ExampleServer_OnConnection() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) {
		c.Send(peer.Message{Type: "WELCOME", Payload: json.RawMessage(`{"motd":"Hello"}`)})
	})

	url, end := serve(srv, srv)
	defer end()
	alice := dial(url, "alice", "t")
	fmt.Println(read(alice))
	fmt.Println(read(alice))
	// Output:
	// {"type":"OPEN"}
	// {"type":"WELCOME","payload":{"motd":"Hello"}}
}

// The host sees every message before the server relays it.
func ExampleServer_OnMessage() {
	srv := peer.NewServer(peer.Options{})
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		fmt.Printf("%v from %q for %q\n", m.Type, c.ID(), m.Dst)
	})

	url, end := serve(srv, srv)
	defer end()
	alice, bob := dial(url, "alice", "t1"), dial(url, "bob", "t2")
	fmt.Println(read(alice), read(bob))
	send(alice, `{"type":"OFFER","dst":"bob","payload":{"sdp":"…"}}`)
	fmt.Println(read(bob))
	// Output:
	// {"type":"OPEN"} {"type":"OPEN"}
	// OFFER from "alice" for "bob"
	// {"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"…"}}
}
