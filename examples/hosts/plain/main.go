// Plain is a host that mounts the server and does nothing else for it. The benchmark measures
// it: what it costs is what the library costs in a program of yours.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
)

func main() {
	host := flag.String("host", "127.0.0.1", "`address` to listen on")
	port := flag.Int("port", 9000, "`port` to listen on; 0 chooses a free one")
	limit := flag.Int("concurrent_limit", peer.DefaultConcurrentLimit, "how many clients may be connected; negative: any number")
	flag.Parse()
	log.SetFlags(0)
	if err := run(net.JoinHostPort(*host, strconv.Itoa(*port)), *limit); err != nil {
		log.Fatal(err)
	}
}

func run(addr string, limit int) error {
	srv := peer.NewServer(peer.Options{ConcurrentLimit: limit})
	srv.OnConnection(func(c *peer.Client) { log.Printf("connected %q", c.ID()) })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("disconnected %q: %v", c.ID(), why) })
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}

	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	log.Printf("http://%v/", l.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
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
