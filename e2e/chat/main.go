// Command chat is a node of a cluster, for the end-to-end tests of what examples/cluster does not do: its
// clients join rooms by themselves, and send messages of type CHAT to all members. The payload of CHAT is an
// object with the name of the room.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peerredis"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "`address` to listen on")
	redisAddr := flag.String("redis", "", "`address` of Redis")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *redisAddr); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, redisAddr string) error {
	// The nodes of examples/cluster are another application on the same Redis.
	engine := peerredis.New(redis.UniversalOptions{Addrs: []string{redisAddr}}, peerredis.Options{Prefix: "chat"})
	defer engine.Close()
	srv := peer.NewServer(peer.Options{
		AllowJoin: func(*peer.Client, string, json.RawMessage) error { return nil },
		Cluster:   engine,
	})
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		if m.Type == "CHAT" {
			broadcast(srv.Realm(), c, m)
		}
	})
	srv.OnError(func(_ *peer.Client, err error) { log.Print(err) })
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := srv.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})

	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fmt.Printf("listening on http://%v\n", l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(l) }()
	select {
	case err := <-failed:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
		return errors.Join(hs.Close(), srv.Close())
	}
}

// broadcast sends a message to all members of its room if the sender is a member.
func broadcast(realm *peer.Realm, c *peer.Client, m peer.Message) {
	var to struct{ Room string }
	if err := json.Unmarshal(m.Payload, &to); err != nil {
		log.Print(err)
		return
	}
	if !slices.Contains(realm.Members(to.Room), c) {
		return
	}
	if _, err := realm.Broadcast(to.Room, m); err != nil {
		log.Print(err)
	}
}
