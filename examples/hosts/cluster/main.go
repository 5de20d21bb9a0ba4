// Cluster is a host that mounts the server and does nothing else for it, as hosts/plain, but it can
// join a cluster. The benchmark measures it with and without --redis: the difference is what the
// cluster costs in a program of yours.
//
//	cd examples/hosts/cluster && go run . --port 9000 --redis redis://localhost:6379
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peerredis"
	"github.com/redis/go-redis/v9"
)

func main() {
	host := flag.String("host", "127.0.0.1", "`address` to listen on")
	port := flag.Int("port", 9000, "`port` to listen on; 0 chooses a free one")
	limit := flag.Int("concurrent_limit", peer.DefaultConcurrentLimit,
		"how many clients may be connected; negative: any number")
	url := flag.String("redis", "",
		"`URL` of the Redis that joins the nodes, as redis://localhost:6379; without it there is no cluster")
	flag.Parse()
	log.SetFlags(0)
	if err := run(net.JoinHostPort(*host, strconv.Itoa(*port)), peer.Options{ConcurrentLimit: *limit}, *url); err != nil {
		log.Fatal(err)
	}
}

func run(addr string, opts peer.Options, url string) error {
	if url != "" {
		o, err := redis.ParseURL(url)
		if err != nil {
			return fmt.Errorf("--redis: %w", err)
		}
		engine := peerredis.New(redis.UniversalOptions{
			Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		}, peerredis.Options{})
		defer engine.Close() // after the server's Shutdown
		opts.Cluster = engine
	}
	srv := peer.NewServer(opts)
	srv.OnConnection(func(c *peer.Client) { log.Printf("connected %q", c.ID()) })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("disconnected %q: %v", c.ID(), why) })
	srv.OnError(func(_ *peer.Client, err error) {
		if errors.Is(err, peer.ErrEngine) {
			log.Print(err)
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}

	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log.Printf("http://%v/", l.Addr())
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		hs.RegisterOnShutdown(func() { srv.Shutdown(end) })
		ended <- errors.Join(hs.Shutdown(end), srv.Shutdown(end))
	}()
	if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
