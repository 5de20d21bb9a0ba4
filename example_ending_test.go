//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
)

// The program sends a user away for some time. The page reads the text.
func ExampleClient_CloseWith() {
	users := map[string]string{"t1": "alice"} // token -> user
	var mu sync.Mutex                         // guards away
	away := make(map[string]time.Time)        // user -> until when; absent: the user may connect
	isAway := func(user string) bool {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(away[user]) {
			return true
		}
		delete(away, user)
		return false
	}

	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (any, error) {
			user, found := users[token]
			if !found || isAway(user) {
				return nil, &peer.Reject{Message: "You may not connect now"}
			}
			return user, nil
		},
	})
	sendAway := func(user string, d time.Duration) {
		mu.Lock()
		away[user] = time.Now().Add(d) // first, so that a page that reconnects at once is refused
		mu.Unlock()
		for c := range srv.Realm().Clients() {
			if c.User() == user {
				c.CloseWith(4100, "Please come back later")
			}
		}
	}
	srv.OnConnection(func(c *peer.Client) {
		if isAway(c.User().(string)) { // since Authenticate was asked
			c.CloseWith(4100, "Please come back later")
		}
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func() *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=desk-4&token=t1", nil)
		if err != nil {
			log.Fatal(err)
		}
		return ws
	}
	read := func(ws *websocket.Conn) {
		_, message, err := ws.Read(ctx)
		if closed := (websocket.CloseError{}); errors.As(err, &closed) {
			fmt.Printf("close %d: %s\n", closed.Code, closed.Reason)
			return
		}
		fmt.Println(string(message), err)
	}
	first := connect()
	read(first)
	sendAway("alice", time.Hour)
	read(first)
	read(first)
	second := connect()
	read(second)
	second.CloseNow()
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"ERROR","payload":{"msg":"Please come back later"}} <nil>
	// close 4100: Please come back later
	// {"type":"ERROR","payload":{"msg":"You may not connect now"}} <nil>
}

// A handler that serves for long ends when the server ends. Otherwise http.Server.Shutdown would
// wait for it.
func ExampleServer_Done() {
	srv := peer.NewServer(peer.Options{})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("GET /online", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			fmt.Fprintf(w, "data: %d\n\n", srv.Realm().Len())
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			case <-srv.Done():
				return
			}
		}
	})

	// The rest of this function is a test: it reads what a page reads with new EventSource("/online").
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	hs := &http.Server{Handler: mux}
	go hs.Serve(l)
	res, err := http.Get("http://" + l.Addr().String() + "/online")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	fmt.Print(line)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	fmt.Println(errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx)))
	// Output:
	// data: 0
	// <nil>
}
