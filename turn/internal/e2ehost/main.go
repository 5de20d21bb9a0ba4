// Command e2ehost is a server with a TURN server in the same program, for the end-to-end tests.
//
//	POST /kick?id=…   removes a client
//	GET  /stats       answers with the counters of the TURN server
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/turn"
)

func main() {
	transport := flag.String("transport", "udp", "`transport` between browsers and TURN: udp, tcp or tls")
	ttl := flag.Duration("ttl", turn.DefaultTTL, "how long credentials are valid")
	authority := flag.String("authority", "", "`file` to write, with the certificate that signs the one of tls")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts, err := options(*transport, *authority)
	if err != nil {
		log.Fatal(err)
	}
	opts.TTL = *ttl
	if err := run(ctx, opts); err != nil {
		log.Fatal(err)
	}
}

// options returns the options of a TURN server with one socket on loopback.
func options(transport, authority string) (opts turn.Options, err error) {
	const addr = "127.0.0.1:0"
	opts.PublicIP = netip.MustParseAddr("127.0.0.1")
	opts.BindIP = opts.PublicIP
	switch transport {
	case "udp":
		pc, err := net.ListenPacket("udp4", addr)
		opts.UDP = []net.PacketConn{pc}
		return opts, err
	case "tcp":
		ln, err := net.Listen("tcp4", addr)
		opts.TCP = []net.Listener{ln}
		return opts, err
	case "tls":
		cert, err := newCertificate("localhost", authority)
		if err != nil {
			return opts, err
		}
		ln, err := tls.Listen("tcp4", addr, &tls.Config{Certificates: []tls.Certificate{cert}})
		if err != nil {
			return opts, err
		}
		opts.TCP = []net.Listener{ln}
		// Firefox connects by TLS to names only.
		opts.URLs = []string{fmt.Sprintf("turns:localhost:%d?transport=tcp", ln.Addr().(*net.TCPAddr).Port)}
		return opts, nil
	}
	return opts, fmt.Errorf("-transport %q is not udp, tcp or tls", transport)
}

func run(ctx context.Context, opts turn.Options) error {
	ts, err := turn.New(opts)
	if err != nil {
		return err
	}
	defer ts.Close()
	srv := peer.NewServer(peer.Options{ICEServers: ts.ICEServers, ICERefresh: opts.TTL})
	ts.Bind(srv)
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	mux.HandleFunc("POST /kick", func(w http.ResponseWriter, r *http.Request) {
		if !srv.Realm().RemoveClient(r.FormValue("id")) {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(ts.Stats()) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
