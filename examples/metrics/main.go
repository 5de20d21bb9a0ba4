// Command metrics is a PeerJS server that Prometheus can watch: /peerjs/ is for the
// peers, /metrics for Prometheus, dashboard.json for Grafana, and alerts.yml has alerting
// rules for Prometheus.
//
//	cd examples/metrics && go run .
//
// To have the numbers in another program, copy collector.go, build.go and handshakes.go.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/examples/internal/look"
	"github.com/gopeerjs/peer/web"
)

//go:embed page.html
var page []byte

// newSite returns the whole application, and the part of it that has to be shut down.
func newSite(opts peer.Options) (http.Handler, *peer.Server) {
	srv := peer.NewServer(opts)
	timed, handshakes := timeHandshakes(srv)

	// A registry of its own: what libraries put into the global one is not ours to show.
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collector{srv.Stats},
		buildInfo(debug.ReadBuildInfo()),
		handshakes,
		collectors.NewGoCollector(), // goroutines and memory
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), // open files
	)

	// The numbers tell nothing about anybody, but how busy a site is may be nobody's
	// business: on the internet, keep /metrics behind the proxy or on a second listener.
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", timed)
	mux.Handle("/peerjs/web/", web.Handler())
	mux.HandleFunc("GET /look.css", look.Serve)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux, srv
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, logger); err != nil {
		logger.Error("metrics has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string, logger *slog.Logger) error {
	site, srv := newSite(peer.Options{Logger: logger})
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
