package main

import (
	"context"
	"log"
	"net/http"

	"github.com/redis/go-redis/v9"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peerredis"
)

// The lines of docs/cluster.md.
func Example() {
	engine := peerredis.New(redis.UniversalOptions{Addrs: []string{"redis:6379"}}, peerredis.Options{})
	defer engine.Close() // after the server's Shutdown
	srv := peer.NewServer(peer.Options{Cluster: engine})
	defer srv.Shutdown(context.Background())
	log.Print(http.ListenAndServe(":9000", srv))
}
