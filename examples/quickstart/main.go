package main

import (
	"embed"
	"flag"
	"log"
	"net/http"

	"github.com/gopeerjs/peer"
)

//go:embed index.html
var page embed.FS

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	flag.Parse()
	srv := peer.NewServer(peer.Options{})
	srv.OnConnection(func(c *peer.Client) { log.Printf("%q is online", c.ID()) })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("%q left: %v", c.ID(), why) })
	http.Handle("/peerjs/", srv)
	http.Handle("/", http.FileServerFS(page))
	log.Printf("open http://%s in a browser", *addr)
	log.Fatal(http.ListenAndServe(*addr, nil))
}
