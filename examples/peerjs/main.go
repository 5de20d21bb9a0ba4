// Command peerjs is a PeerJS signalling server of its own: the peerjs command of
// npm's package peer in Go, with the same flags.
//
//	go run ./examples/peerjs --port 9000
//
// A page then makes its peer with new Peer({host, port: 9000, path: "/"}).
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
)

const usage = `Usage: peerjs [flags]

A PeerJS signalling server. Clients of it are made with

    new Peer({host, port: 9000, path: "/"})

  -p, --port N                port to listen on; 0 takes one that is free
                              (default: the variable PORT, else 9000)
  -H, --host HOST             address to listen on (default: all of this machine),
                              or unix:PATH for a Unix socket
      --path PATH             path in front of all addresses, as the client's option
                              (default: the variable PEERSERVER_PATH, else /)
  -k, --key KEY               key that clients must send, as the client's option
                              (default: peerjs)
  -t, --expire_timeout MS     how long a message waits for a peer that is not
                              connected (default: 5000)
      --alive_timeout MS      how long a client may be silent, also when pinged,
                              before it is disconnected (default: 60000)
  -c, --concurrent_limit N    how many clients may be connected (default: 5000)
      --allow_discovery       let clients list the ids that are connected
      --allow_override_connect
                              let a new client have an id that is connected already,
                              and disconnect the old one
      --cors ORIGIN           let only pages of this origin in, for example
                              https://example.com or https://*.example.com; once for
                              each origin (default: pages of any origin)
      --sslkey FILE           serve HTTPS with this private key, in PEM form ...
      --sslcert FILE          ... and this certificate with its chain; both or none
      --proxied               believe the X-Forwarded-For or Forwarded header of a
                              reverse proxy that connects from a loopback or private
                              address (127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12,
                              192.168.0.0/16, ::1, fc00::/7) or to a Unix socket
      --console USER:PASSWORD serve a page for the operator at /console/ to this user;
                              use HTTPS, since browsers send the password as it is
                              (default: the variable PEER_CONSOLE, which a list of
                              processes does not show)
      --turn URL              tell clients to use this TURN server, for example
                              turn:turn.example.com:3478; once for each URL. The
                              variable TURN_SECRET is the secret of the TURN server
      --healthcheck           ask the server that runs with these flags whether it
                              answers, and exit with 0 if it does, with 1 if not
      --version               print the version
      --help                  print this

MS is in milliseconds. For these times and the limit, -1 means none.
One dash does as well as two. A switch takes a value only with "=":
--allow_discovery, --allow_discovery=true or --allow_discovery=false.
SIGINT or SIGTERM disconnects all clients and ends; a second one ends at once.
`

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // before anybody can know, so that the second one surely kills
		cancel()
	}()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program. It ends when ctx does, and returns the exit code: 2 for a
// command line that makes no sense, 1 for one that cannot be done here.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "peerjs: %v\npeerjs: --help lists the flags\n", err)
		return 2
	}
	if cfg.version {
		fmt.Fprintln(stdout, versionLine())
		return 0
	}
	if cfg.healthcheck {
		if err := checkHealth(ctx, cfg); err != nil {
			fmt.Fprintf(stderr, "peerjs: the server is not healthy: %v\n", err)
			return 1
		}
		return 0
	}
	l, err := listen(cfg)
	if err == nil {
		err = serve(ctx, l, cfg, log.New(stdout, "peerjs: ", 0), log.New(stderr, "peerjs: ", 0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "peerjs: %v\n", err)
		return 1
	}
	return 0
}

// config is what the command line and the environment say.
type config struct {
	host            string
	port            int
	sslkey, sslcert string
	console         string // user:password; empty means no console
	turn            []string
	opts            peer.Options

	version, healthcheck bool // do this in the place of serving
}

func parse(args []string, getenv func(string) string) (config, error) {
	const unset = -1
	cfg := config{port: unset}
	cfg.opts.Path = getenv("PEERSERVER_PATH")
	fs := newFlagSet(&cfg)
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if rest := fs.Args(); len(rest) > 0 {
		hint := ""
		if rest[0] == "true" || rest[0] == "false" {
			hint = fmt.Sprintf(" (a switch takes its value as in --allow_discovery=%s)", rest[0])
		}
		return cfg, fmt.Errorf("argument %q belongs to no flag%s", rest[0], hint)
	}
	if (cfg.sslkey == "") != (cfg.sslcert == "") {
		return cfg, errors.New("--sslkey and --sslcert must be given together")
	}
	if env := getenv("PORT"); cfg.port == unset && env != "" {
		if err := setPort(&cfg.port)(env); err != nil {
			return cfg, fmt.Errorf("invalid value %q for the variable PORT: %w", env, err)
		}
	}
	if cfg.port == unset {
		cfg.port = 9000
	}
	if cfg.console == "" {
		cfg.console = getenv("PEER_CONSOLE")
	}
	if err := setICEServers(&cfg, getenv("TURN_SECRET")); err != nil {
		return cfg, err
	}
	return cfg, checkConsole(cfg)
}

// newFlagSet returns the flags, which set cfg. It leaves all printing to run: the
// usage of package flag would show a flag and its short form as two.
func newFlagSet(cfg *config) *flag.FlagSet {
	fs := flag.NewFlagSet("peerjs", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	value := func(set func(string) error, names ...string) {
		for _, name := range names {
			fs.Func(name, "", set)
		}
	}
	value(setPort(&cfg.port), "port", "p")
	value(setText(&cfg.host), "host", "H")
	value(setText(&cfg.opts.Path), "path")
	value(setText(&cfg.opts.Key), "key", "k")
	value(setMilliseconds(&cfg.opts.ExpireTimeout), "expire_timeout", "t")
	value(setMilliseconds(&cfg.opts.AliveTimeout), "alive_timeout")
	value(setLimit(&cfg.opts.ConcurrentLimit), "concurrent_limit", "c")
	value(addOrigin(&cfg.opts.AllowedOrigins), "cors")
	value(setText(&cfg.sslkey), "sslkey")
	value(setText(&cfg.sslcert), "sslcert")
	value(setText(&cfg.console), "console")
	value(addTURN(&cfg.turn), "turn")

	fs.BoolVar(&cfg.version, "version", false, "")
	fs.BoolVar(&cfg.healthcheck, "healthcheck", false, "")
	fs.BoolVar(&cfg.opts.AllowDiscovery, "allow_discovery", false, "")
	fs.BoolFunc("allow_override_connect", "", setSwitch(func(on bool) {
		cfg.opts.AllowOverride = nil
		if on {
			cfg.opts.AllowOverride = peer.OverrideAlways
		}
	}))
	fs.BoolFunc("proxied", "", setSwitch(func(on bool) {
		cfg.opts.TrustedProxies, cfg.opts.TrustUnixProxy = nil, on
		if on {
			cfg.opts.TrustedProxies = privateNetworks()
		}
	}))
	return fs
}

// listen reads the certificate first: once the port is open, clients come.
func listen(cfg config) (net.Listener, error) {
	var secure *tls.Config
	if cfg.sslcert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.sslcert, cfg.sslkey)
		if err != nil {
			return nil, fmt.Errorf("reading the TLS key and certificate: %w", err)
		}
		// HTTP/2 is left out: a WebSocket needs HTTP/1.1, and so does the one request
		// that a client may make before it.
		secure = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	}
	var lc net.ListenConfig
	if cfg.opts.AliveTimeout >= 0 {
		lc.KeepAlive = -1 // a silent client is pinged, and everybody else has a timeout of newHTTPServer
	}
	network, addr := "tcp", net.JoinHostPort(cfg.host, strconv.Itoa(cfg.port))
	if path, ok := strings.CutPrefix(cfg.host, unixPrefix); ok {
		network, addr = "unix", path
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	l, err := lc.Listen(context.Background(), network, addr)
	if err == nil && network == "unix" {
		// The proxy runs as another user, of a group that this one has in common with it.
		err = os.Chmod(addr, 0o660)
	}
	if err == nil && secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, err
}

// drainTimeout is shorter than the 10 s after which Docker kills a container that
// it has asked to stop.
const drainTimeout = 8 * time.Second

// serve serves until ctx ends, and then until everybody has been told.
func serve(ctx context.Context, l net.Listener, cfg config, out, errs *log.Logger) error {
	srv := peer.NewServer(cfg.opts)
	// %q, as an id is whatever its client likes: it must not steer a terminal.
	srv.OnConnection(func(c *peer.Client) { out.Printf("connected %q from %q", c.ID(), c.RemoteAddr()) })
	trim := newTrimmer(debug.FreeOSMemory)
	defer trim.stop()
	srv.OnConnection(func(*peer.Client) { trim.connected() })
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		out.Printf("disconnected %q: %s", c.ID(), why.String())
	})
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	if cfg.console != "" {
		mux.Handle(consolePath, newConsole(srv, cfg, errs))
	}
	hs := newHTTPServer(mux, errs)

	for _, line := range greeting(l, cfg) {
		out.Print(line)
	}
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(l) }()
	select {
	case err := <-failed:
		srv.Close()
		return err
	case <-ctx.Done():
		out.Print("shutting down; a second signal ends at once")
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	// First the listener closes, so that a client that reconnects at once is not let
	// in here again; then the sockets, while hs waits for the last requests.
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	if err := errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx)); err != nil {
		hs.Close()
		return fmt.Errorf("shutting down: clients or requests were left after %v", drainTimeout)
	}
	return nil
}

// newHTTPServer returns a server that can face the internet: nobody keeps a
// connection busy with a handshake, or a body, or an answer, that never gets
// done.
//
// None of these times cuts a socket: an upgrade takes the connection out of the
// hands of net/http, which then clears its deadlines. From there on the timeouts of
// peer.Options count.
func newHTTPServer(h http.Handler, errs *log.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second, // of TLS too
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10, // an id and a token, all escaped, take 27 KiB; the rest is for cookies
		ErrorLog:          errs,
	}
}

// greeting says where the server is and how a client reaches it, from this machine.
func greeting(l net.Listener, cfg config) []string {
	if l.Addr().Network() == "unix" {
		return []string{"listening on " + unixPrefix + l.Addr().String() + ", for a reverse proxy"}
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost" // nobody can open http://[::]:9000/
	}
	path := "/" + strings.Trim(cfg.opts.Path, "/")
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: path}
	options := fmt.Sprintf("host: %q, port: %s, path: %q", host, port, path)
	if cfg.opts.Key != "" {
		options += fmt.Sprintf(", key: %q", cfg.opts.Key)
	}
	if cfg.sslcert != "" {
		u.Scheme, options = "https", options+", secure: true"
	}
	lines := []string{"listening on " + u.String(), "clients are made with new Peer({" + options + "})"}
	if cfg.console != "" {
		u.Path = consolePath
		lines = append(lines, "the console is at "+u.String())
	}
	return lines
}
