//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
)

// serve serves h, of which srv is a part, until end is called.
func serve(srv *peer.Server, h http.Handler) (url string, end func()) {
	ts := httptest.NewServer(h)
	return ts.URL, func() {
		for _, ws := range sockets {
			ws.CloseNow()
		}
		sockets = nil
		srv.Close()
		ts.Close()
	}
}

// sockets are those that the example has opened.
var sockets []*websocket.Conn

// dial connects as the PeerJS client does whose server is mounted at base.
func dial(base, id, token string) *websocket.Conn {
	return dialWith(nil, base, id, token)
}

func dialWith(header http.Header, base, id, token string) *websocket.Conn {
	address := base + "/peerjs?key=peerjs&id=" + id + "&token=" + token
	ws, _, err := websocket.Dial(context.Background(), address, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		log.Fatal(err)
	}
	sockets = append(sockets, ws)
	return ws
}

// read returns the next message that a client gets, or how its socket was closed.
func read(ws *websocket.Conn) string {
	_, data, err := ws.Read(context.Background())
	if closed := (websocket.CloseError{}); errors.As(err, &closed) {
		return fmt.Sprintf("close %d: %s", closed.Code, closed.Reason)
	}
	if err != nil {
		log.Fatal(err)
	}
	return string(data)
}

// send sends a message as a client does.
func send(ws *websocket.Conn, message string) {
	if err := ws.Write(context.Background(), websocket.MessageText, []byte(message)); err != nil {
		log.Fatal(err)
	}
}

// logTo makes the log of an example its output.
func logTo(w io.Writer) (restore func()) {
	flags := log.Flags()
	log.SetOutput(w)
	log.SetFlags(0)
	return func() {
		log.SetOutput(os.Stderr)
		log.SetFlags(flags)
	}
}

// A whole program. A page of http://127.0.0.1:8080 makes its peer with
// new Peer({host: "127.0.0.1", port: 8080, path: "/peerjs"}).
func Example() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) { log.Printf("%q is online", c.ID()) })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("%q left: %v", c.ID(), why) })

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/", http.FileServer(http.Dir("public")))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", mux))
}

// The server stands among the other routes of an application.
func ExampleNewServer() {
	srv := peer.NewServer(peer.Options{})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("GET /online", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, srv.Realm().Len(), "online:", strings.Join(srv.Realm().ClientIDs(), ", "))
	})

	url, end := serve(srv, mux)
	defer end()
	alice, bob := dial(url+"/peerjs", "alice", "t1"), dial(url+"/peerjs", "bob", "t2")
	fmt.Println("alice gets", read(alice))
	fmt.Println("bob gets", read(bob))
	send(alice, `{"type":"OFFER","dst":"bob","payload":{"sdp":"…"}}`)
	fmt.Println("bob gets", read(bob))

	res, err := http.Get(url + "/online")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(os.Stdout, res.Body)
	// Output:
	// alice gets {"type":"OPEN"}
	// bob gets {"type":"OPEN"}
	// bob gets {"type":"OFFER","src":"alice","dst":"bob","payload":{"sdp":"…"}}
	// 2 online: alice, bob
}

// The functions that an application registers can be tested without a browser.
func ExampleServer_OnDisconnect() {
	srv := peer.NewServer(peer.Options{})
	events := make(chan string)
	srv.OnConnection(func(c *peer.Client) { events <- c.ID() + " is online" })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { events <- c.ID() + " left: " + why.String() })

	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=any", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-events)
	go ws.Close(websocket.StatusNormalClosure, "") // returns when the server has answered
	fmt.Println(<-events)
	// Output:
	// alice is online
	// alice left: client closed
}

// Bad input of a client is an error event, and the client stays.
func ExampleServer_OnError() {
	srv := peer.NewServer(peer.Options{})
	failed := make(chan struct{})
	srv.OnError(func(c *peer.Client, err error) {
		if c != nil && errors.Is(err, peer.ErrBadMessage) {
			fmt.Printf("from %q: %v\n", c.ID(), err)
		}
		close(failed)
	})
	url, end := serve(srv, srv)
	defer end()

	ws := dial(url, "alice", "t")
	send(ws, `hello?`)
	<-failed
	fmt.Println(srv.Realm().ClientIDs())
	// Output:
	// from "alice": peer: bad message: not a JSON object
	// [alice]
}

// The page makes its peer with new Peer(id, {token}), where the application has
// signed the token for that id.
func ExampleOptions_authenticate() {
	secret := []byte("32 random bytes of your own")

	sign := func(id string) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id))
		return hex.EncodeToString(mac.Sum(nil))
	}
	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			if !hmac.Equal([]byte(token), []byte(sign(id))) {
				return nil, &peer.Reject{Message: "Please log in again"}
			}
			return id, nil // what c.User() returns from now on
		},
	})

	url, end := serve(srv, srv)
	defer end()
	fmt.Println(read(dial(url, "alice", sign("alice"))))
	fmt.Println(read(dial(url, "bob", sign("alice"))))
	fmt.Println("user:", srv.Realm().Client("alice").User())
	// Output:
	// {"type":"OPEN"}
	// {"type":"ERROR","payload":{"msg":"Please log in again"}}
	// user: alice
}

// An id says which room its peer is in, and messages stay in their room.
func ExampleOptions_authorize() {
	room := func(id string) string {
		name, _, _ := strings.Cut(id, "-")
		return name
	}
	srv := peer.NewServer(peer.Options{
		Authorize: func(from *peer.Client, m peer.Message) error {
			if room(from.ID()) != room(m.Dst) {
				return fmt.Errorf("%q must not call %q", from.ID(), m.Dst)
			}
			return nil
		},
	})

	url, end := serve(srv, srv)
	defer end()
	alice, bob := dial(url, "red-alice", "t1"), dial(url, "red-bob", "t2")
	carol := dial(url, "blue-carol", "t3")
	fmt.Println(read(alice), read(bob), read(carol))
	send(alice, `{"type":"OFFER","dst":"blue-carol"}`)
	fmt.Println(read(alice))
	send(alice, `{"type":"OFFER","dst":"red-bob"}`)
	fmt.Println(read(bob))
	// Output:
	// {"type":"OPEN"} {"type":"OPEN"} {"type":"OPEN"}
	// {"type":"EXPIRE","src":"blue-carol","dst":"red-alice"}
	// {"type":"OFFER","src":"red-alice","dst":"red-bob"}
}

// The same user may take the id over from another device; others may not.
func ExampleOptions_allowOverride() {
	users := map[string]string{"phone": "alice", "laptop": "alice", "tablet": "mallory"} // token -> user
	userOf := func(r *http.Request, id, token string) (any, error) { return users[token], nil }

	srv := peer.NewServer(peer.Options{
		Authenticate:  userOf,
		AllowOverride: func(old, new *peer.Client) bool { return old.User() == new.User() },
		ProbeAfter:    15 * time.Second, // three heartbeats
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		if why == peer.ReasonOverridden {
			log.Printf("%q is on another device of %v now", c.ID(), c.User())
		}
	})

	defer logTo(os.Stdout)()
	url, end := serve(srv, srv)
	defer end()
	phone := dial(url, "desk-4", "phone")
	fmt.Println("phone: ", read(phone))
	laptop := dial(url, "desk-4", "laptop")
	fmt.Println("laptop:", read(laptop))
	fmt.Println("phone: ", read(phone))
	fmt.Println("phone: ", read(phone))
	fmt.Println("tablet:", read(dial(url, "desk-4", "tablet")))
	fmt.Println("phone: ", read(dial(url, "desk-4", "phone")))
	// Unordered output:
	// phone:  {"type":"OPEN"}
	// laptop: {"type":"OPEN"}
	// phone:  {"type":"OVERRIDE_CONNECTION","payload":{"msg":"Your id was taken over by another connection"}}
	// phone:  close 4001: overridden
	// "desk-4" is on another device of alice now
	// tablet: {"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}
	// phone:  {"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}
}

// A holder that does not answer loses its id to whoever asks for it.
func ExampleOptions_probeAfter() {
	srv := peer.NewServer(peer.Options{ProbeAfter: 1, ProbeTimeout: 50 * time.Millisecond}) // no option for life
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		if why == peer.ReasonUnresponsive {
			log.Printf("%q had gone without a word, and somebody wanted its id", c.ID())
		}
	})

	defer logTo(os.Stdout)()
	url, end := serve(srv, srv)
	defer end()
	fmt.Println("before the reload:", read(dial(url, "alice", "t1"))) // and nobody reads on: no ping is answered
	fmt.Println("after the reload: ", read(dial(url, "alice", "t2")))
	// Unordered output:
	// before the reload: {"type":"OPEN"}
	// after the reload:  {"type":"OPEN"}
	// "alice" had gone without a word, and somebody wanted its id
}

// Behind a reverse proxy on the same machine, the address of a client is in a
// header.
func ExampleOptions_trustedProxies() {
	srv := peer.NewServer(peer.Options{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	})

	url, end := serve(srv, srv)
	defer end()
	header := http.Header{"X-Forwarded-For": {"192.0.2.1, 198.51.100.7"}} // the proxy has added the last one
	fmt.Println(read(dialWith(header, url, "alice", "t")))
	fmt.Println(srv.Realm().Client("alice").RemoteAddr())
	// Output:
	// {"type":"OPEN"}
	// 198.51.100.7
}

// The program ends without leaving a client in doubt.
func ExampleServer_Shutdown() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := peer.NewServer(peer.Options{})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { fmt.Printf("%s left: %v\n", c.ID(), why) })
	hs := &http.Server{Handler: srv}
	go hs.Serve(l)
	alice := dial("http://"+l.Addr().String(), "alice", "t")
	fmt.Println(read(alice))
	last := make(chan string)
	go func() { last <- read(alice) }()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	err = errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx))

	fmt.Println(<-last)
	fmt.Println(err)
	// Output:
	// {"type":"OPEN"}
	// alice left: server shutdown
	// close 1001: server shutdown
	// <nil>
}

// The counters tell what the server has done.
func ExampleServer_Stats() {
	srv := peer.NewServer(peer.Options{ConcurrentLimit: 1})
	url, end := serve(srv, srv)
	alice := dial(url, "alice", "t1")
	fmt.Println(read(alice))
	fmt.Println(read(dial(url, "bob", "t2")))
	alice.Close(websocket.StatusNormalClosure, "")
	end() // from here on nothing changes

	st := srv.Stats()
	fmt.Println(st.Clients, "online,", st.PeakClients, "at most,", st.Accepted, "connections")
	fmt.Println(st.Refused["limit"], "found no room,", st.Disconnects[peer.ReasonClientClosed], "left as a page does")
	// Output:
	// {"type":"OPEN"}
	// {"type":"ERROR","payload":{"msg":"Server has reached its concurrent user limit"}}
	// 0 online, 1 at most, 1 connections
	// 1 found no room, 1 left as a page does
}

// The page reads it with peer.socket.on("message", m => …).
func ExampleRealm_Send() {
	srv := peer.NewServer(peer.Options{})
	url, end := serve(srv, srv)
	defer end()
	alice := dial(url, "alice", "t")
	fmt.Println(read(alice))

	err := srv.Realm().Send("alice", peer.Message{Type: "NEWS", Payload: json.RawMessage(`{"text":"Lunch is ready"}`)})
	fmt.Println(read(alice), err)
	fmt.Println(srv.Realm().Send("bob", peer.Message{Type: "NEWS"}))
	// Output:
	// {"type":"OPEN"}
	// {"type":"NEWS","payload":{"text":"Lunch is ready"}} <nil>
	// peer: not connected
}
