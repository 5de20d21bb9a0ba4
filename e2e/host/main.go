// Command host is a small program around a server, for the end-to-end tests of what no example needs:
// ICE servers that the server sends, rooms whose members have data, clients that are closed with a text, and
// the files of package web at /peerjs/web/.
//
//	POST /close?id=…&code=…&text=…&for=…   closes a client, and refuses its id for a while
//	POST /kick?id=…&room=…                 takes a client out of a room
//	GET  /ice?user=…                       answers with the ICE servers of a user
//	GET  /pages/…                          answers with a file of the directory -pages
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/web"
)

// lifetime is how long credentials of the TURN server are valid.
const lifetime = time.Hour

type host struct {
	turn   []string // the URLs of the TURN server; empty: there is none
	secret []byte   // of the TURN server
	pages  string   // a directory with pages of the tests; empty: there are none

	mu     sync.Mutex           // guards the following
	banned map[string]time.Time // id -> until when it is refused; absent: it is not refused
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "`address` to listen on")
	turn := flag.String("turn", "", "`URLs` of a TURN server, with commas between them")
	secret := flag.String("secret", "", "the `secret` of the TURN server")
	pages := flag.String("pages", "", "`directory` with pages of the tests")
	flag.Parse()
	h := &host{secret: []byte(*secret), pages: *pages, banned: make(map[string]time.Time)}
	if *turn != "" {
		h.turn = strings.Split(*turn, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := h.run(ctx, *addr); err != nil {
		log.Fatal(err)
	}
}

func (h *host) run(ctx context.Context, addr string) error {
	opts := peer.Options{
		Authenticate: h.authenticate,
		AllowJoin:    func(*peer.Client, string, json.RawMessage) error { return nil },
	}
	if len(h.turn) > 0 {
		opts.ICEServers = func(c *peer.Client) []peer.ICEServer { return h.servers(c.ID()) }
	}
	srv := peer.NewServer(opts)
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	mux.Handle("/peerjs/web/", web.Handler())
	if h.pages != "" {
		mux.Handle("GET /pages/", http.StripPrefix("/pages/", http.FileServer(http.Dir(h.pages))))
	}
	mux.HandleFunc("POST /close", func(w http.ResponseWriter, r *http.Request) { h.close(w, r, srv) })
	mux.HandleFunc("POST /kick", func(w http.ResponseWriter, r *http.Request) {
		if c := srv.Realm().Client(r.FormValue("id")); c == nil || !srv.Realm().Leave(r.FormValue("room"), c) {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /ice", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"iceServers": h.servers(r.FormValue("user"))})
	})

	l, err := net.Listen("tcp", addr)
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

func (h *host) servers(user string) []peer.ICEServer {
	username, credential := peer.TURNCredentials(h.secret, user, lifetime)
	return []peer.ICEServer{{URLs: h.turn, Username: username, Credential: credential}}
}

func (h *host) authenticate(_ *http.Request, id, _ string) (user any, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.banned[id]) {
		return nil, &peer.Reject{Message: "Please come back later"}
	}
	return nil, nil
}

// close closes a client. It refuses the id from then on, so that a page that reconnects at once does not
// come back.
func (h *host) close(w http.ResponseWriter, r *http.Request, srv *peer.Server) {
	id := r.FormValue("id")
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := srv.Realm().Client(id)
	if c == nil {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	h.banned[id] = time.Now().Add(d)
	h.mu.Unlock()
	if err := c.CloseWith(code, r.FormValue("text")); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}
