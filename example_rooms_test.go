package peer_test

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gopeerjs/peer"
)

// A page asks to join a room. The members are told who comes and goes.
func ExampleOptions_allowJoin() {
	srv := peer.NewServer(peer.Options{
		AllowJoin: func(c *peer.Client, room string, _ json.RawMessage) error {
			if room != "lobby" {
				return &peer.Reject{Message: "There is no such room"}
			}
			return nil
		},
	})

	url, end := serve(srv, srv)
	defer end()
	alice, bob := dial(url, "alice", "t1"), dial(url, "bob", "t2")
	fmt.Println(read(alice), read(bob))

	send(alice, `{"type":"ROOM-JOIN","payload":{"room":"lobby"}}`)
	fmt.Println("alice:", read(alice))
	send(bob, `{"type":"ROOM-JOIN","payload":{"room":"lobby"}}`)
	fmt.Println("bob:  ", read(bob))
	fmt.Println("alice:", read(alice))
	send(bob, `{"type":"ROOM-JOIN","payload":{"room":"attic"}}`)
	fmt.Println("bob:  ", read(bob))
	send(bob, `{"type":"ROOM-LEAVE","payload":{"room":"lobby"}}`)
	fmt.Println("alice:", read(alice))
	// Output:
	// {"type":"OPEN"} {"type":"OPEN"}
	// alice: {"type":"ROOM-MEMBERS","payload":{"room":"lobby","members":["alice"]}}
	// bob:   {"type":"ROOM-MEMBERS","payload":{"room":"lobby","members":["alice","bob"]}}
	// alice: {"type":"ROOM-JOINED","payload":{"room":"lobby","id":"bob"}}
	// bob:   {"type":"ROOM-REFUSED","payload":{"room":"attic","msg":"There is no such room"}}
	// alice: {"type":"ROOM-LEFT","payload":{"room":"lobby","id":"bob","reason":"left"}}
}

// The host puts a client into a room when the client connects, so the client reads
// the list of members directly after OPEN.
func ExampleRealm_Join() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) {
		if err := srv.Realm().Join("lobby", c); err != nil {
			c.Close()
		}
	})

	url, end := serve(srv, srv)
	defer end()
	alice := dial(url, "alice", "t1")
	fmt.Println(read(alice), read(alice))
	for _, member := range srv.Realm().Members("lobby") {
		fmt.Println(member.ID(), "is in the lobby")
	}
	// Output:
	// {"type":"OPEN"} {"type":"ROOM-MEMBERS","payload":{"room":"lobby","members":["alice"]}}
	// alice is in the lobby
}

// A member sends a message, and the host sends it to all members of the room.
func ExampleRealm_Broadcast() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) { srv.Realm().Join("lobby", c) })
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		if m.Type == "CHAT" && slices.Contains(srv.Realm().Members("lobby"), c) {
			srv.Realm().Broadcast("lobby", m) // m.Src is the id of the sender
		}
	})

	url, end := serve(srv, srv)
	defer end()
	alice := dial(url, "alice", "t1")
	fmt.Println(read(alice), read(alice))
	send(alice, `{"type":"CHAT","payload":{"text":"Hello"}}`)
	fmt.Println(read(alice))

	n, err := srv.Realm().Broadcast("lobby", peer.Message{Type: "NEWS", Payload: json.RawMessage(`"Lunch is ready"`)})
	fmt.Println(n, "member,", err)
	fmt.Println(read(alice))
	// Output:
	// {"type":"OPEN"} {"type":"ROOM-MEMBERS","payload":{"room":"lobby","members":["alice"]}}
	// {"type":"CHAT","src":"alice","payload":{"text":"Hello"}}
	// 1 member, <nil>
	// {"type":"NEWS","payload":"Lunch is ready"}
}
