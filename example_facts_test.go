//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
)

// The request of the handshake has the cookies of the page until OnConnection has returned.
func ExampleClient_Request() {
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) {
		greeting := "Hello"
		if cookie, err := c.Request().Cookie("language"); err == nil && cookie.Value == "de" {
			greeting = "Guten Tag"
		}
		c.Send(peer.Message{Type: "WELCOME", Payload: json.RawMessage(strconv.Quote(greeting))})
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=any",
		&websocket.DialOptions{HTTPHeader: http.Header{"Cookie": {"language=de"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer ws.CloseNow()
	for range 2 {
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
	}
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"WELCOME","payload":"Guten Tag"} <nil>
}

// What the program keeps for a client goes to the client's successor.
func ExampleClient_Predecessor() {
	srv := peer.NewServer(peer.Options{})
	var points sync.Map // *peer.Client -> *atomic.Int64; absent: the client is not connected
	srv.OnConnection(func(c *peer.Client) {
		p, found := points.LoadAndDelete(c.Predecessor())
		if !found {
			p = new(atomic.Int64)
		}
		points.Store(c, p)
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		if c.Successor() == nil { // else the successor's OnConnection comes next
			points.Delete(c)
		}
	})
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		if p, found := points.Load(c); found && m.Type == "POINT" {
			n := p.(*atomic.Int64).Add(1)
			c.Send(peer.Message{Type: "POINTS", Payload: json.RawMessage(strconv.FormatInt(n, 10))})
		}
	})

	// The rest of this function is a test: it connects twice, as PeerJS does for peer.reconnect().
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 2 {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=t1", nil)
		if err != nil {
			log.Fatal(err)
		}
		defer ws.CloseNow()
		if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"POINT"}`)); err != nil {
			log.Fatal(err)
		}
		for range 2 {
			_, message, err := ws.Read(ctx)
			fmt.Println(string(message), err)
		}
	}
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"POINTS","payload":1} <nil>
	// {"type":"OPEN"} <nil>
	// {"type":"POINTS","payload":2} <nil>
}

// Server.Stats counts refusals by cause. OnRefuse also tells which request was refused.
func ExampleServer_OnRefuse() {
	srv := peer.NewServer(peer.Options{})
	type key struct{ cause, origin string }
	var mu sync.Mutex // guards refused
	refused := make(map[key]int)
	srv.OnRefuse(func(r *http.Request, id, cause string) {
		mu.Lock()
		defer mu.Unlock()
		k := key{cause, r.Header.Get("Origin")}
		if refused[k] > 0 || len(refused) < 1000 { // a stranger can choose any origin
			refused[k]++
		}
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 2 {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=guess&id=alice&token=any",
			&websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://other.example"}}})
		if err != nil {
			log.Fatal(err)
		}
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
		ws.CloseNow()
	}
	mu.Lock()
	defer mu.Unlock()
	fmt.Println(refused)
	// Output:
	// {"type":"ERROR","payload":{"msg":"Invalid key provided"}} <nil>
	// {"type":"ERROR","payload":{"msg":"Invalid key provided"}} <nil>
	// map[{invalid key https://other.example}:2]
}

// The counters of a connection keep their values after its end.
func ExampleClient_Stats() {
	srv := peer.NewServer(peer.Options{})
	ended := make(chan struct{})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		st := c.Stats()
		fmt.Printf("%s sent %d messages of %d bytes and got %d\n", c.ID(), st.MessagesIn, st.BytesIn, st.MessagesOut)
		close(ended)
	})

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
	ws.Read(ctx) // OPEN
	for range 3 {
		if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"HEARTBEAT"}`)); err != nil {
			log.Fatal(err)
		}
	}
	ws.Close(websocket.StatusNormalClosure, "")
	<-ended
	// Output:
	// alice sent 3 messages of 60 bytes and got 1
}

// A page that lists what waits for which id shows, for example, that everybody calls an id that
// nobody has.
func ExampleRealm_Held() {
	srv := peer.NewServer(peer.Options{})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, r *http.Request) {
		for h := range srv.Realm().Held() {
			fmt.Fprintf(w, "%q: %d messages of %d clients\n", h.ID, h.Messages, h.Senders)
		}
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(mux)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs/peerjs?key=peerjs&id=alice&token=any", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ws.CloseNow()
	for _, dst := range []string{"bob", "bob", "alice"} {
		message := `{"type":"OFFER","dst":"` + dst + `"}`
		if err := ws.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			log.Fatal(err)
		}
	}
	ws.Read(ctx) // OPEN
	ws.Read(ctx) // the last of the three, so the server has all
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/held", nil))
	fmt.Print(recorder.Body)
	// Output:
	// "bob": 2 messages of 1 clients
}

// A function that has been told what it waits for takes its registration back.
func ExampleServer_OnConnection_remove() {
	srv := peer.NewServer(peer.Options{})
	// await waits until id is online.
	await := func(ctx context.Context, id string) error {
		online := make(chan struct{}, 1)
		remove := srv.OnConnection(func(c *peer.Client) {
			if c.ID() == id {
				select {
				case online <- struct{}{}:
				default: // it has been told
				}
			}
		})
		defer remove()
		if srv.Realm().Client(id) != nil {
			return nil
		}
		select {
		case <-online:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	awaited := make(chan error)
	go func() { awaited <- await(ctx, "alice") }()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=any", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ws.CloseNow()
	fmt.Println(<-awaited)
	// Output:
	// <nil>
}
