// Command cluster is a PeerJS signalling server that shares its ids with others of its kind through
// Redis. Any load balancer may stand in front of them.
//
//	cd examples/cluster && go run . --redis redis://localhost:6379 --port 9001
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peerredis"
	"github.com/redis/go-redis/v9"
)

const usage = `Usage: cluster --redis URL [flags]

A PeerJS signalling server that shares its ids with others through Redis.

      --redis URL         redis://user:password@host:6379/0, or rediss:// for TLS;
                          redis://host,host2 for a Redis Cluster;
                          redis+sentinel://host:26379,host2/mastername for Sentinel
                          (default: the variable REDIS_URL, which a list of
                          processes does not show)
      --redis_cluster     the one address of --redis is that of a Redis Cluster
      --prefix TEXT       the keys in Redis begin with it (default: peer)
  -H, --host HOST         address to listen on (default: all of this machine)
  -p, --port N            port to listen on (default: 9000)
      --path PATH         path in front of all addresses (default: /)
  -k, --key KEY           key that clients must send (default: peerjs)
      --allow_discovery   let clients list the ids that are connected
      --version           print the version
      --help              print this

/healthz answers 200 while the program runs, /readyz when it can admit clients.
SIGINT or SIGTERM disconnects all clients and ends; a second one ends at once.
`

// config is what the command line says.
type config struct {
	host   string
	port   int
	redis  redis.UniversalOptions
	prefix string
	opts   peer.Options

	version bool // print it, and do not serve
}

// version is set by the linker where an image is built: -X main.version=v1.2.3.
var version string

// versionLine returns what --version prints. After "go install" with a version, the module knows it.
func versionLine() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	return fmt.Sprintf("cluster %s (%s %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program. It ends when ctx does, and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "cluster: %v\ncluster: --help lists the flags\n", err)
		return 2
	}
	if cfg.version {
		fmt.Fprintln(stdout, versionLine())
		return 0
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.host, strconv.Itoa(cfg.port)))
	if err == nil {
		err = serve(ctx, l, cfg, log.New(stdout, "cluster: ", 0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "cluster: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, getenv func(string) string) (cfg config, err error) {
	fs := flag.NewFlagSet("cluster", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	url, isCluster := "", false
	fs.StringVar(&url, "redis", getenv("REDIS_URL"), "")
	fs.BoolVar(&isCluster, "redis_cluster", false, "")
	fs.StringVar(&cfg.prefix, "prefix", "", "")
	for _, name := range []string{"host", "H"} {
		fs.StringVar(&cfg.host, name, "", "")
	}
	for _, name := range []string{"port", "p"} {
		fs.IntVar(&cfg.port, name, 9000, "")
	}
	for _, name := range []string{"key", "k"} {
		fs.StringVar(&cfg.opts.Key, name, "", "")
	}
	fs.BoolVar(&cfg.version, "version", false, "")
	fs.StringVar(&cfg.opts.Path, "path", "", "")
	fs.BoolVar(&cfg.opts.AllowDiscovery, "allow_discovery", false, "")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("argument %q belongs to no flag", fs.Arg(0))
	}
	if url == "" {
		if cfg.version {
			return cfg, nil
		}
		return cfg, errors.New("--redis is missing")
	}
	if cfg.redis, err = redisOptions(url); err != nil {
		return cfg, fmt.Errorf("invalid value for --redis: %w", err)
	}
	cfg.redis.IsClusterMode = isCluster
	return cfg, nil
}

// drainTimeout is shorter than the 10 s after which Docker kills a container that it has asked to stop.
const drainTimeout = 8 * time.Second

// serve serves until ctx ends, and then until everybody has been told.
func serve(ctx context.Context, l net.Listener, cfg config, out *log.Logger) error {
	engine := peerredis.New(cfg.redis, peerredis.Options{Prefix: cfg.prefix})
	defer engine.Close() // after the server's Shutdown
	cfg.opts.Cluster = engine
	srv := peer.NewServer(cfg.opts)
	srv.OnError(func(_ *peer.Client, err error) {
		if errors.Is(err, peer.ErrEngine) || errors.Is(err, peer.ErrUserElsewhere) {
			out.Print(err)
		}
	})

	mux := http.NewServeMux()
	mux.Handle("/", srv)
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := srv.Ready(ctx); err != nil {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	hs := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second, // an upgrade ends this time and the next one
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          out,
	}
	out.Printf("listening on %s", l.Addr())
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
	// First the listener closes, so that a client that reconnects at once reaches another node.
	hs.RegisterOnShutdown(func() { srv.Shutdown(ctx) })
	if err := errors.Join(hs.Shutdown(ctx), srv.Shutdown(ctx)); err != nil {
		hs.Close()
		return fmt.Errorf("shutting down: clients or requests were left after %v", drainTimeout)
	}
	return nil
}
