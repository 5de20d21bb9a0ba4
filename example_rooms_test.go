//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
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

// The program counts the members of each room. A client that connects again with its token stays in
// its rooms and is not counted twice.
func ExampleServer_OnJoin() {
	srv := peer.NewServer(peer.Options{})
	var mu sync.Mutex               // guards members
	members := make(map[string]int) // name of a room -> how many members it has; absent: none
	srv.OnJoin(func(room string, c *peer.Client) {
		mu.Lock()
		defer mu.Unlock()
		members[room]++
		fmt.Printf("%s is in the %s: %d\n", c.ID(), room, members[room])
	})
	left := make(chan struct{})
	srv.OnLeave(func(room string, c *peer.Client, why peer.DisconnectReason) {
		mu.Lock()
		defer mu.Unlock()
		if members[room]--; members[room] == 0 {
			delete(members, room)
		}
		fmt.Printf("%s is not (%v): %d\n", c.ID(), why, members[room])
		close(left)
	})
	srv.OnConnection(func(c *peer.Client) { srv.Realm().Join("lobby", c) })

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=any", nil)
	if err != nil {
		log.Fatal(err)
	}
	go ws.Close(websocket.StatusNormalClosure, "") // returns when the server has answered
	<-left
	// Output:
	// alice is in the lobby: 1
	// alice is not (client closed): 0
}

// The other members read the name of a newcomer together with its id.
func ExampleRealm_JoinWith() {
	names := map[string]string{"t1": "Alice L.", "t2": "Bob"} // token -> name
	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			name, found := names[token]
			if !found {
				return nil, &peer.Reject{Message: "Please log in"}
			}
			return name, nil
		},
	})
	srv.OnConnection(func(c *peer.Client) {
		data, err := json.Marshal(map[string]any{"name": c.User()})
		if err == nil {
			err = srv.Realm().JoinWith("lobby", c, data)
		}
		if err != nil {
			c.Close()
		}
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(id, token string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id="+id+"&token="+token, nil)
		if err != nil {
			log.Fatal(err)
		}
		return ws
	}
	read := func(ws *websocket.Conn) {
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
	}
	alice := connect("alice", "t1")
	defer alice.CloseNow()
	read(alice)
	read(alice)
	bob := connect("bob", "t2")
	defer bob.CloseNow()
	read(alice)
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"ROOM-MEMBERS","payload":{"room":"lobby","members":["alice"],"data":{"alice":{"name":"Alice L."}}}} <nil>
	// {"type":"ROOM-JOINED","payload":{"room":"lobby","id":"bob","data":{"name":"Bob"}}} <nil>
}

// The members of a room read what one of them has sent, and the sender does not.
func ExampleRealm_Broadcast_except() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) { srv.Realm().Join("lobby", c) })
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		if m.Type == "CHAT" && slices.Contains(c.Rooms(), "lobby") {
			srv.Realm().Broadcast("lobby", m, c)
		}
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(id string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id="+id+"&token=any", nil)
		if err != nil {
			log.Fatal(err)
		}
		for range 2 { // OPEN and ROOM-MEMBERS
			if _, _, err := ws.Read(ctx); err != nil {
				log.Fatal(err)
			}
		}
		return ws
	}
	alice := connect("alice")
	defer alice.CloseNow()
	bob := connect("bob")
	defer bob.CloseNow()
	alice.Read(ctx) // ROOM-JOINED
	for _, m := range []string{`{"type":"CHAT","payload":"Hello"}`, `{"type":"OFFER","dst":"alice"}`} {
		if err := alice.Write(ctx, websocket.MessageText, []byte(m)); err != nil {
			log.Fatal(err)
		}
	}
	_, message, err := bob.Read(ctx)
	fmt.Println("bob reads  ", string(message), err)
	_, message, err = alice.Read(ctx) // the OFFER to herself, and not the CHAT
	fmt.Println("alice reads", string(message), err)
	// Output:
	// bob reads   {"type":"CHAT","src":"alice","payload":"Hello"} <nil>
	// alice reads {"type":"OFFER","src":"alice","dst":"alice"} <nil>
}
