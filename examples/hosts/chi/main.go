// Command chi mounts a PeerJS server in a router of chi, below a route with a parameter:
// every team has peers of its own, and the events know the team.
//
//	cd examples/hosts/chi && go run .
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
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/examples/internal/look"
	"github.com/gopeerjs/peer/web"
)

//go:embed page.html
var page []byte

// newSite returns the whole application, and the part of it that has to be shut down.
func newSite(logger *slog.Logger) (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{
		// chi has put the parameters of the route into the context of the handshake. What
		// is needed of them later stays with the client as its user.
		Authenticate: func(r *http.Request, _, _ string) (any, error) {
			team := chi.URLParam(r, "team")
			if team != "red" && team != "blue" {
				return nil, &peer.Reject{Message: fmt.Sprintf("There is no team %q", team)}
			}
			return team, nil
		},
	})
	srv.OnConnection(func(c *peer.Client) {
		logger.Info("online", "peer", c.ID(), "team", c.User())
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		logger.Info("offline", "peer", c.ID(), "team", c.User(), "why", why)
	})

	r := chi.NewRouter()
	r.Use(middleware.RequestID, middleware.Recoverer)
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	r.Get("/look.css", look.Serve)
	r.Handle("/web/*", web.Handler()) // PeerJS itself, so that the page needs no other host
	r.Get("/online", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, srv.Realm().Len(), "online")
	})
	r.Route("/teams/{team}", func(r chi.Router) {
		// Mount hands over everything below. The server finds its addresses by the end of
		// the path, so nothing has to be stripped: new Peer({path: "/teams/red/peerjs"}).
		r.Mount("/peerjs", srv)
		r.Get("/online", func(w http.ResponseWriter, r *http.Request) {
			n := 0
			for c := range srv.Realm().Clients() {
				if c.User() == chi.URLParam(r, "team") {
					n++
				}
			}
			fmt.Fprintln(w, n, "online")
		})
	})
	return r, srv
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, logger); err != nil {
		logger.Error("chi has failed", "err", err)
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

	// First the listener closes, so that a page that reconnects at once is not let in
	// here again; then the sockets, while hs waits for the last requests.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	return errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx))
}
