// Command videocall is a video call for up to twelve people, in one program: it serves
// the page, introduces the browsers to each other, and tells them who is in the room.
//
//	go run ./examples/videocall
//
// Open the address it prints, share the link that the page moves to, and join. Pictures,
// sound and chat go from browser to browser. The way through the page starts in
// web/main.js; web/room.js is the part that is about PeerJS.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
)

// The client of PeerJS, with the hash that lets a browser refuse any other file.
const (
	cdn          = "https://unpkg.com/peerjs@1.5.5/dist/peerjs.min.js"
	cdnIntegrity = "sha384-x0YgkOr/3UOZP2CRDxGW9e0Q+2Qjyr3uJrm4xU32Y7ZCNAo7Cc7bjhrZMi/dwczu"
)

// Everybody sends to everybody, so a room is full when an uplink is.
const maxMembers = 12

//go:embed web
var web embed.FS

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

// roomName keeps rooms to what reads well in a link.
var roomName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// config is what the flags change about the page.
type config struct {
	script []byte      // the PeerJS client; nil: the page gets it from the CDN
	ice    []iceServer // nil: the servers that the PeerJS client comes with
}

// An iceServer is an RTCIceServer. URLs is one string or a list of them.
type iceServer struct {
	URLs       any    `json:"urls"`
	Username   string `json:"username,omitempty"`
	Credential string `json:"credential,omitempty"`
}

// newSite returns the whole application, and the part of it that has to be shut down.
func newSite(cfg config, logger *slog.Logger) (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{
		MaxRoomMembers: maxMembers,
		// A call is one room per page. Who has the link may come in: the link is the key.
		// A site with users of its own asks c.User() here; see examples/auth.
		MaxRoomsPerClient: 1,
		AllowJoin: func(_ *peer.Client, room string, _ json.RawMessage) error {
			if !roomName.MatchString(room) {
				return &peer.Reject{Message: "This is not the name of a room"}
			}
			return nil
		},
		Logger: logger,
	})

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("GET /web/", http.FileServerFS(web))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // a new room each time
		http.Redirect(w, r, "/room/"+newRoom(), http.StatusSeeOther)
	})
	mux.HandleFunc("GET /room/{room}", func(w http.ResponseWriter, r *http.Request) {
		if !roomName.MatchString(r.PathValue("room")) {
			http.NotFound(w, r)
			return
		}
		view := map[string]any{"Room": r.PathValue("room"), "ICE": cfg.ice, "Script": cdn, "Integrity": cdnIntegrity}
		if cfg.script != nil {
			view["Script"], view["Integrity"] = "/peerjs.min.js", ""
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := page.Execute(w, view); err != nil {
			logger.Warn("page not written", "err", err)
		}
	})
	mux.HandleFunc("GET /peerjs.min.js", func(w http.ResponseWriter, r *http.Request) {
		if cfg.script == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		w.Write(cfg.script)
	})
	return mux, srv
}

// newRoom returns a name that nobody guesses: 50 random bits, in groups that can be
// read to somebody over the phone.
func newRoom() string {
	s := strings.ToLower(rand.Text())
	return s[:3] + "-" + s[3:7] + "-" + s[7:10]
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on; port 0 takes a free one")
	script := flag.String("peerjs", "", "`file` with the PeerJS client (default: from unpkg.com)")
	secure := flag.Bool("tls", false, "serve https with a certificate made at the start; browsers warn once")
	ice := flag.String("ice", "", "STUN and TURN servers as `JSON`: "+
		`[{"urls": "turn:example.com", "username": "me", "credential": "secret"}] (default: those of PeerJS)`)
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, *script, *ice, *secure, logger); err != nil {
		logger.Error("videocall has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, script, ice string, secure bool, logger *slog.Logger) error {
	cfg, err := newConfig(script, ice)
	if err != nil {
		return err
	}
	site, srv := newSite(cfg, logger)
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
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}

	// The calls that are running do not need this program and go on. First the listener
	// closes, so that a page that reconnects does not reach a server that is about to
	// end; then the sockets, while hs waits for the last requests.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	return errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx))
}

func newConfig(script, ice string) (cfg config, err error) {
	if script != "" {
		if cfg.script, err = os.ReadFile(script); err != nil {
			return cfg, err
		}
	}
	if ice != "" {
		if err := json.Unmarshal([]byte(ice), &cfg.ice); err != nil {
			return cfg, fmt.Errorf("-ice wants a JSON array of servers: %w", err)
		}
		for _, s := range cfg.ice {
			if s.URLs == nil {
				return cfg, errors.New(`-ice: a server without "urls"`)
			}
		}
	}
	return cfg, nil
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
