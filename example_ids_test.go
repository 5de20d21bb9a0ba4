package peer_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/gopeerjs/peer"
)

// get returns the status and the body of an answer.
func get(url string, header http.Header) (status int, body string) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

// The id of a page that asks for one begins with the name of its user.
func ExampleOptions_generateClientID() {
	srv := peer.NewServer(peer.Options{
		GenerateClientID: func(r *http.Request) (string, error) {
			user := r.Header.Get("X-User") // your login sets it, and removes what the client wrote
			if user == "" {
				return "", &peer.Reject{Message: "Please log in"}
			}
			return user + "-" + rand.Text(), nil
		},
	})

	url, end := serve(srv, srv)
	defer end()
	status, id := get(url+"/peerjs/id", http.Header{"X-User": {"alice"}})
	user, _, _ := strings.Cut(id, "-")
	fmt.Println(status, user)
	fmt.Println(get(url+"/peerjs/id", nil))
	// Output:
	// 200 alice
	// 403 Please log in
}

// Everybody who has the key may list the connected ids.
func ExampleOptions_allowDiscovery() {
	srv := peer.NewServer(peer.Options{AllowDiscovery: true})
	url, end := serve(srv, srv)
	defer end()
	fmt.Println(read(dial(url, "alice", "t1")), read(dial(url, "bob", "t2")))
	fmt.Println(get(url+"/peerjs/peers", nil))
	// Output:
	// {"type":"OPEN"} {"type":"OPEN"}
	// 200 ["alice","bob"]
}
