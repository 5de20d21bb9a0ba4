// Command embed is a small web application that has a PeerJS server among its own
// routes, and knows at any time how many peers are online.
//
//	go run ./examples/embed
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/examples/internal/look"
	"github.com/gopeerjs/peer/web"
)

//go:embed page.html
var page []byte

// newSite returns the whole application, and the part of it that has to be shut down.
func newSite(logger *slog.Logger) (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{Logger: logger})

	// The count is exact: each connection is followed by one disconnect, and if an id
	// changes hands, its old connection is counted out before the new one is counted in.
	var online atomic.Int64
	srv.OnConnection(func(*peer.Client) { online.Add(1) })
	srv.OnDisconnect(func(*peer.Client, peer.DisconnectReason) { online.Add(-1) })

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/peerjs/web/", web.Handler()) // PeerJS itself, so that the page needs no other host
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	mux.HandleFunc("GET /look.css", look.Serve)
	mux.HandleFunc("GET /online", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, online.Load(), "online") })
	return mux, srv
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, logger); err != nil {
		logger.Error("embed has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string, logger *slog.Logger) error {
	site, srv := newSite(logger)
	hs := &http.Server{Handler: site, ReadHeaderTimeout: 10 * time.Second}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	logger.Info("listening", "url", look.URL(l))
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(l) }()
	select {
	case err := <-failed:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}

	// First hs closes its listener: a page that is disconnected may try again at once, and
	// must not reach a server that is about to end. Then srv disconnects everybody, while
	// hs waits for the requests that it has.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	return errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx))
}
