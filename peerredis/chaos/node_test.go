//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
)

// nodeEnv has the configuration of a node in the environment of its process, which is the test's binary.
const nodeEnv = "PEER_CHAOS_NODE"

// A nodeConfig is what a node's process is told.
type nodeConfig struct {
	Index    int
	Listen   string // for clients
	Control  string // for the judge
	Start    time.Time
	Engine   engineConfig
	Sabotage string // what this node does wrong, for tests of the judge
}

// A nodeState is what a node answers to the judge.
type nodeState struct {
	IDs        []string
	Clients    int
	Rooms      map[string][]string // that the node lists for the whole cluster
	Goroutines int
	Stats      peer.Stats
}

// An endReport is what a node says after its shutdown.
type endReport struct {
	Took     time.Duration
	Errors   []string
	Stats    peer.Stats
	Leaked   string // stacks
	Shutdown bool   // marks the line
}

const (
	shutdownWithin = 6 * time.Second  // clients get a second to answer, and so do queues of other nodes
	shutdownLimit  = 12 * time.Second // then the node gives up
)

// runNode is the main function of a node.
func runNode(config string) {
	var cfg nodeConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		panic(err)
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	before := runtime.NumGoroutine()

	opts := peer.Options{
		AllowJoin: func(*peer.Client, string, json.RawMessage) error { return nil },
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: cfg.sinceStart})),
	}
	engine := withEngine(&opts, cfg.Engine)
	srv := peer.NewServer(opts)
	sabotage(srv, cfg.Sabotage)
	hs := &http.Server{Handler: srv, ErrorLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug)}
	hs.RegisterOnShutdown(func() { _ = srv.Shutdown(context.Background()) })
	control := &http.Server{Handler: controlOf(srv)}
	served := make(chan struct{}, 3)
	serve := func(hs *http.Server, addr string) {
		l, err := net.Listen("tcp", addr)
		for range 50 {
			if err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond) // the process before has just ended
			l, err = net.Listen("tcp", addr)
		}
		if err != nil {
			panic(err)
		}
		go func() { _ = hs.Serve(smallListener{l}); served <- struct{}{} }()
	}
	serve(control, cfg.Control)
	serve(hs, cfg.Listen)
	ended := make(chan struct{})
	go func() { watchStalls(cfg.Start, ended); served <- struct{}{} }()

	<-terminate
	report := endReport{Shutdown: true}
	note := func(what string, err error) {
		if err != nil {
			report.Errors = append(report.Errors, what+": "+err.Error())
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	note("http.Server.Shutdown", hs.Shutdown(ctx))
	note("Server.Shutdown", srv.Shutdown(ctx))
	report.Took = time.Since(began)
	report.Stats = srv.Stats()
	if engine != nil {
		note("close the engine", engine.Close())
	}
	close(ended)
	note("control", control.Close())
	for range 3 {
		<-served
	}
	report.Leaked = leaked(before)
	line, _ := json.Marshal(report)
	fmt.Fprintf(os.Stderr, "%s\n", line)
}

// A smallListener gives connections a small buffer for what is written.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if c, ok := c.(*net.TCPConn); ok {
		_ = c.SetWriteBuffer(smallBuffer)
	}
	return c, err
}

// sinceStart writes times as seconds of the run.
func (cfg *nodeConfig) sinceStart(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.String(slog.TimeKey, seconds(time.Since(cfg.Start)))
	}
	return a
}

// watchStalls tells the judge when this process did not get its turn for long: then it is like a node that stood still.
func watchStalls(start time.Time, ended <-chan struct{}) {
	const every = 50 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		now := time.Now()
		if now.Sub(last) > stallFrom {
			fmt.Fprintf(os.Stderr, stallLine, last.Sub(start).Milliseconds(), now.Sub(start).Milliseconds())
		}
		last = now
	}
}

const (
	stallFrom = 700 * time.Millisecond
	stallLine = "STALL %d %d\n"
)

// leaked returns the stacks of goroutines that are left when there should be as many as before.
func leaked(before int) string {
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return ""
		}
		time.Sleep(20 * time.Millisecond)
	}
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// controlOf answers the judge.
func controlOf(srv *peer.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context(), srv); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		realm := srv.Realm()
		st := nodeState{IDs: realm.ClientIDs(), Clients: realm.Len(), Stats: srv.Stats(), Goroutines: runtime.NumGoroutine(),
			Rooms: roomsOf(r.Context(), srv)}
		_ = json.NewEncoder(w).Encode(st)
	})
	mux.HandleFunc("GET /stacks", func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 8<<20)
		_, _ = w.Write(b[:runtime.Stack(b, true)])
	})
	return mux
}

// sabotage lets a server do something wrong now and then.
func sabotage(srv *peer.Server, how string) {
	n := 0
	var turn = make(chan struct{}, 1)
	srv.OnMessage(func(c *peer.Client, m peer.Message) {
		if how == "" || m.Dst == "" || !strings.HasPrefix(m.Dst, "client") {
			return
		}
		turn <- struct{}{}
		n++
		hit := n%200 == 0
		<-turn
		if !hit {
			return
		}
		m.Src = c.ID()
		switch how {
		case "twice":
			_ = srv.Realm().Send(m.Dst, m)
		case "order": // it comes early, as a copy of another number
			m.Payload = json.RawMessage(strings.Replace(string(m.Payload), `"q":`, `"q":1`, 1))
			_ = srv.Realm().Send(m.Dst, m)
		case "expire":
			_ = srv.Realm().Send(c.ID(), peer.Message{Type: peer.TypeExpire, Src: m.Dst, Dst: c.ID()})
		case "end":
			c.Close()
		}
	})
}

// An engine is closed after the server.
type engineCloser = io.Closer
