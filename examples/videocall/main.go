// Command videocall is a video call for up to twelve people, in one program: it serves
// the page, introduces the browsers to each other, and tells them who is in the room.
//
//	go run ./examples/videocall
//
// Open the address that it prints, share the link that the page moves to, and join. Package call
// is the call; this file is a server around it.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
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

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/examples/videocall/call"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on; port 0 takes a free one")
	secure := flag.Bool("tls", false, "serve https with a certificate made at the start; browsers warn once")
	ice := flag.String("ice", "", "STUN and TURN servers as `JSON`: "+
		`[{"urls": "turn:example.com", "username": "me", "credential": "secret"}] (default: those of PeerJS)`)
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, *ice, *secure, logger); err != nil {
		logger.Error("videocall has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, ice string, secure bool, logger *slog.Logger) error {
	iceServers, err := parseICE(ice)
	if err != nil {
		return err
	}
	site := call.New(call.Options{ICEServers: iceServers, Logger: logger})
	hs := &http.Server{Handler: site, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if secure {
		cert, err := selfSigned()
		if err != nil {
			return errors.Join(err, l.Close())
		}
		// A browser asks for a WebSocket in HTTP/1.1 on a connection of its own, so
		// HTTP/2 for everything else does no harm.
		hs.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		l, scheme = tls.NewListener(l, hs.TLSConfig), "https"
	}
	for _, host := range reachable(l.Addr().(*net.TCPAddr)) {
		logger.Info("listening", "url", scheme+"://"+host+"/")
	}
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(l) }()
	select {
	case err := <-failed:
		return errors.Join(err, site.Server().Close())
	case <-ctx.Done():
	}

	// The calls that are running do not need this program and go on. First the listener
	// closes, so that a page that reconnects does not reach a server that is about to
	// end; then the sockets, while hs waits for the last requests.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { site.Shutdown(ctx) })
	return errors.Join(hs.Shutdown(ctx), site.Shutdown(ctx))
}

// An iceServer is an RTCIceServer as people write it: urls is one string or a list of them.
type iceServer struct {
	URLs       any    `json:"urls"`
	Username   string `json:"username"`
	Credential string `json:"credential"`
}

// parseICE returns the servers of the flag -ice for call.Options, or nil if it is not given.
func parseICE(flag string) (func(*peer.Client) []peer.ICEServer, error) {
	if flag == "" {
		return nil, nil
	}
	var given []iceServer
	if err := json.Unmarshal([]byte(flag), &given); err != nil {
		return nil, fmt.Errorf("-ice wants a JSON array of servers: %w", err)
	}
	servers := make([]peer.ICEServer, 0, len(given))
	for _, g := range given {
		s := peer.ICEServer{Username: g.Username, Credential: g.Credential}
		switch urls := g.URLs.(type) {
		case string:
			s.URLs = []string{urls}
		case []any:
			for _, u := range urls {
				text, ok := u.(string)
				if !ok {
					return nil, fmt.Errorf("-ice: %v in \"urls\" is not a string", u)
				}
				s.URLs = append(s.URLs, text)
			}
		}
		if len(s.URLs) == 0 {
			return nil, errors.New(`-ice: a server without "urls"`)
		}
		servers = append(servers, s)
	}
	return func(*peer.Client) []peer.ICEServer { return servers }, nil
}

// reachable returns the hosts and ports under which a listener can be reached, which are
// several if it listens on all addresses. Loopback comes first.
func reachable(a *net.TCPAddr) []string {
	port := fmt.Sprint(a.Port)
	if !a.IP.IsUnspecified() {
		return []string{net.JoinHostPort(a.IP.String(), port)}
	}
	hosts := []string{net.JoinHostPort("127.0.0.1", port)}
	for _, ip := range localIPs() {
		if ip.IsPrivate() && ip.To4() != nil {
			hosts = append(hosts, net.JoinHostPort(ip.String(), port))
		}
	}
	return hosts
}

// localIPs returns the addresses of this machine, as far as it tells.
func localIPs() (ips []net.IP) {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return ips
}
