package peer_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/web"
)

// The files of package web beside the server: a page needs no other host. The server lets
// all pages join rooms.
func Example_web() {
	srv := peer.NewServer(peer.Options{
		AllowJoin: func(*peer.Client, string, json.RawMessage) error { return nil },
	})
	defer srv.Close()
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/peerjs/web/", web.Handler())

	for _, name := range []string{"peerjs.min.js", "rooms.mjs"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", "/peerjs/web/"+name, nil))
		fmt.Println(name, w.Code, w.Header().Get("Content-Type"))
	}

	// Output:
	// peerjs.min.js 200 text/javascript; charset=utf-8
	// rooms.mjs 200 text/javascript; charset=utf-8
}
