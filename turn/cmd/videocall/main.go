// Command videocall is the video call of examples/videocall with a TURN server of its own: one program serves the
// page, introduces the browsers to each other, and relays for those that find no direct way.
//
//	cd turn && go run ./cmd/videocall
//
// This is a try on one machine. On a machine at the internet, with a certificate for turn.example.com and a proxy
// that serves https in front of the page:
//
//	videocall -public-ip 203.0.113.7 -turns-port 5349 -turns-host turn.example.com:5349 -cert cert.pem -key key.pem
//
// A firewall must let UDP and TCP of -turn-port pass, TCP of -turns-port, and UDP from -min-port to -max-port.
// Relays end with the program.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gopeerjs/peer/examples/videocall/call"
	"github.com/gopeerjs/peer/turn"
)

// A config is what the flags say.
type config struct {
	addr               string     // of the page
	https              bool       // the page has the certificate too
	publicIP, bindIP   netip.Addr // bindIP is invalid if the sockets are to be at all addresses
	turnPort           int
	turnsPort          int    // negative: no TLS
	turnsHost          string // and port; empty: publicIP
	cert, key          string
	minPort, maxPort   int
	userBytesPerSecond int
}

func main() {
	c := config{publicIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`address` of the page; port 0 takes a free one")
	flag.BoolVar(&c.https, "https", false, "serve the page by https, with the certificate of -cert")
	flag.TextVar(&c.publicIP, "public-ip", c.publicIP, "`IP` at which browsers reach this machine")
	flag.TextVar(&c.bindIP, "bind-ip", c.bindIP, "`IP` of this machine where TURN listens "+
		"(default: all, or loopback if -public-ip is loopback)")
	flag.IntVar(&c.turnPort, "turn-port", 3478, "`port` of TURN over UDP and TCP; 0 takes free ones")
	flag.IntVar(&c.turnsPort, "turns-port", -1, "`port` of TURN over TLS; 0 takes a free one, negative: no TLS")
	flag.StringVar(&c.turnsHost, "turns-host", "", "`host:port` of TURN over TLS as pages reach it, with the name "+
		"in the certificate (default: -public-ip and -turns-port)")
	flag.StringVar(&c.cert, "cert", "", "`file` with the certificate and its chain (PEM), for -turns-port and -https")
	flag.StringVar(&c.key, "key", "", "`file` with the key of the certificate (PEM)")
	flag.IntVar(&c.minPort, "min-port", turn.DefaultMinPort, "first UDP `port` of relays")
	flag.IntVar(&c.maxPort, "max-port", turn.DefaultMaxPort, "last UDP `port` of relays")
	flag.IntVar(&c.userBytesPerSecond, "user-bytes-per-second", turn.DefaultUserBytesPerSecond,
		"bound on what is relayed for one page, in `bytes`; negative: none")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, c, logger); err != nil {
		logger.Error("videocall has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, logger *slog.Logger) error {
	certs, err := c.certificates()
	if err != nil {
		return err
	}
	ts, err := c.startTURN(certs, logger)
	if err != nil {
		return err
	}
	defer ts.Close()
	site := call.New(call.Options{ICEServers: ts.ICEServers, ICERefresh: turn.DefaultTTL, Logger: logger})
	ts.Bind(site.Server()) // ends the relays of pages that are removed or overridden
	hs := &http.Server{Handler: site, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		return errors.Join(err, site.Server().Close())
	}
	scheme := "http"
	if c.https {
		l, scheme = tls.NewListener(l, &tls.Config{Certificates: certs}), "https"
	}
	logger.Info("listening", "url", fmt.Sprintf("%s://%v/", scheme, l.Addr()))
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(l) }()
	select {
	case err := <-failed:
		return errors.Join(err, site.Server().Close())
	case <-ctx.Done():
	}

	// First the pages read that the server restarts. The relays end after that: a call may last for hours, so
	// waiting for them would only delay the restart.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { site.Shutdown(ctx) })
	return errors.Join(hs.Shutdown(ctx), site.Shutdown(ctx))
}

// certificates returns the certificate of -cert and -key, or nothing if no flag needs one.
func (c *config) certificates() ([]tls.Certificate, error) {
	if !c.https && c.turnsPort < 0 {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("-https and -turns-port need -cert and -key: %w", err)
	}
	return []tls.Certificate{cert}, nil
}
