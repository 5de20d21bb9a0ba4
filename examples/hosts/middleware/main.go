// Command middleware mounts a PeerJS server behind a plain net/http stack: recover, access
// log, session cookie. The events of the server know the visitor whom the stack has found.
//
//	go run ./examples/hosts/middleware
package main

import (
	"bufio"
	"context"
	"crypto/rand"
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
	"github.com/gopeerjs/peer/examples/internal/look"
)

// newSite returns the whole application, and the part of it that has to be shut down.
func newSite(logger *slog.Logger) (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{
		// The request of the handshake went through the whole stack, so it has what the
		// stack has put into its context. After the handshake the visitor stays with the
		// client: events do not need a request.
		Authenticate: func(r *http.Request, _, _ string) (any, error) {
			v, ok := r.Context().Value(visitorKey{}).(string)
			if !ok {
				return nil, errors.New("the handler is mounted without withSession")
			}
			return v, nil
		},
	})
	srv.OnConnection(func(c *peer.Client) {
		logger.Info("online", "peer", c.ID(), "visitor", c.User())
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		logger.Info("offline", "peer", c.ID(), "visitor", c.User(), "why", why, "after", time.Since(c.ConnectedSince()).Round(time.Second))
	})

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello, visitor %s\n", r.Context().Value(visitorKey{}))
	})
	mux.HandleFunc("GET /broken", func(http.ResponseWriter, *http.Request) { panic("broken") })

	// The outermost comes last. The log is outside of withRecover, so that it sees the 500.
	var h http.Handler = mux
	h = withSession(h)
	h = withRecover(h, logger)
	h = withAccessLog(h, logger)
	return h, srv
}

type visitorKey struct{}

// withSession gives every browser a cookie and puts what it says into the context. The
// cookie is a mere name here; see examples/auth for one that proves something.
func withSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visitor := ""
		if c, err := r.Cookie("visitor"); err == nil {
			visitor = c.Value
		} else {
			visitor = rand.Text()
			http.SetCookie(w, &http.Cookie{
				Name:     "visitor",
				Value:    visitor,
				Path:     "/",
				HttpOnly: true,
				Secure:   r.TLS != nil,
				SameSite: http.SameSiteLaxMode,
			})
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, visitor)))
	})
}

// withRecover answers 500 where a handler panics. It does not see the events of the peer
// server, which run outside of any request: what panics there goes to its OnError.
func withRecover(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler: // means to end the connection without a word
				panic(v)
			default:
				logger.Error("panic", "path", r.URL.Path, "value", v)
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// withAccessLog logs a line for each request when it is answered. The line of a socket
// comes after its handshake, not at its end: that is what OnDisconnect is for. The query
// is left out, as it has the token of the client.
func withAccessLog(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		start := time.Now()
		next.ServeHTTP(sw, r)
		logger.Info("request", "method", r.Method, "path", r.URL.Path, "status", sw.status, "took", time.Since(start))
	})
}

// A statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is all that a socket needs of a wrapper: the upgrade finds the connection
// through it (see [http.ResponseController]). Without it, every wrapper would need a
// Hijack method, and a Flush method, and whatever comes next.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack notes the upgrade. The server writes the 101 to the connection that it takes
// over, so WriteHeader does not see it; without this method the log would say 200.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, logger); err != nil {
		logger.Error("middleware has failed", "err", err)
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
