//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/cluster"
	"nhooyr.io/websocket"
)

// Two servers are joined by an engine in memory, as tests do it; module peerredis has the engine for
// Redis. A client of one server calls a client of the other.
func ExampleServer_Ready() {
	memory := cluster.NewMemory()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var ended []func()
	defer func() {
		for _, end := range ended {
			end()
		}
	}()
	connect := func(id string) *websocket.Conn {
		srv := peer.NewServer(peer.Options{Cluster: memory.Engine()}) // one engine serves one server
		mux := http.NewServeMux()
		mux.Handle("/", srv)
		mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			if err := srv.Ready(ctx); err != nil {
				http.Error(w, "not ready", http.StatusServiceUnavailable)
			}
		})
		ts := httptest.NewServer(mux)
		ended = append(ended, func() { srv.Close(); ts.Close() })
		res, err := http.Get(ts.URL + "/readyz")
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
		fmt.Println("the server of", id, "is ready:", res.StatusCode == http.StatusOK)
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&token=any&id="+id, nil)
		if err != nil {
			log.Fatal(err)
		}
		if _, _, err = ws.Read(ctx); err != nil { // OPEN
			log.Fatal(err)
		}
		return ws
	}
	alice, bob := connect("alice"), connect("bob")
	defer alice.CloseNow()
	defer bob.CloseNow()
	if err := alice.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"bob","payload":{}}`)); err != nil {
		log.Fatal(err)
	}
	_, message, err := bob.Read(ctx)
	fmt.Println(string(message), err)
	// Output:
	// the server of alice is ready: true
	// the server of bob is ready: true
	// {"type":"OFFER","src":"alice","dst":"bob","payload":{}} <nil>
}
