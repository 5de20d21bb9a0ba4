package peer_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gopeerjs/peer"
)

// A zero field has its default, and a negative limit means none.
func ExampleOptions() {
	srv := peer.NewServer(peer.Options{
		AllowedOrigins:         []string{"https://example.com", "https://*.example.com"},
		ConcurrentLimitPerAddr: 1,
		ExpireTimeout:          10 * time.Second,
		MaxOutboxMessages:      -1, // no limit
	})

	url, end := serve(srv, srv)
	defer end()
	fmt.Println(read(dial(url, "alice", "t1")))
	fmt.Println(read(dial(url, "bob", "t2"))) // from the same address
	// Output:
	// {"type":"OPEN"}
	// {"type":"ERROR","payload":{"msg":"Server has reached its concurrent user limit"}}
}

// The page makes its peer with new Peer({host, port, path: "/peerjs/myapp"}).
func ExampleOptions_path() {
	srv := peer.NewServer(peer.Options{Path: "/myapp"})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)

	url, end := serve(srv, mux)
	defer end()
	fmt.Println(read(dial(url+"/peerjs/myapp", "alice", "t")))
	// Output:
	// {"type":"OPEN"}
}
