// Package call is a video call as an http.Handler: the page, the PeerJS server that introduces the
// browsers to each other, and the rooms that say who is there. Command videocall serves it, and
// so can a program of yours:
//
//	c := call.New(call.Options{})
//	http.ListenAndServe("127.0.0.1:8080", c)
//
// Pictures, sound and chat go from browser to browser. Start reading the page at web/main.js.
package call

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/web"
)

// DefaultMaxMembers is how many people a call may have. Everybody sends to everybody, so a call
// is full when the uplink of its members is.
const DefaultMaxMembers = 12

// What pages read when the server ends in good order, with the close code of the application. They
// show it until a server is back.
const (
	endCode = 4100
	endText = "The server restarts."
)

// endTime bounds how long Shutdown waits until the clients have read endText.
const endTime = time.Second

// Options are the options of a [Call]. The zero value is a call for twelve people.
type Options struct {
	// ICEServers returns the STUN and TURN servers for a client, as in [peer.Options]. If it
	// returns none, the pages use none. Default (nil): the pages use the servers that PeerJS
	// comes with, which are on the internet and not for production.
	ICEServers func(c *peer.Client) []peer.ICEServer

	// ICERefresh is how long the credentials of ICEServers live, as in [peer.Options].
	ICERefresh time.Duration

	// MaxMembers is how many people a call may have. Default [DefaultMaxMembers]; negative
	// means no limit.
	MaxMembers int

	// Logger gets the log of the PeerJS server, and pages that could not be written. Default
	// (nil): nothing is logged.
	Logger *slog.Logger
}

// A Call serves the page of the video call and its PeerJS server. It must be mounted at the root
// of a host. Use [New] to make one. Its methods may be called concurrently.
type Call struct {
	ending sync.Once
	opts   Options
	srv    *peer.Server
	mux    *http.ServeMux
}

//go:embed web
var files embed.FS

//go:embed page.html missing.html
var sources embed.FS

var pages = template.Must(template.ParseFS(sources, "*.html"))

// New returns a Call. It starts nothing: until a page connects, there is nothing to end.
func New(opts Options) *Call {
	if opts.MaxMembers == 0 {
		opts.MaxMembers = DefaultMaxMembers
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Call{opts: opts, mux: http.NewServeMux()}
	c.srv = peer.NewServer(peer.Options{
		ICEServers:     opts.ICEServers,
		ICERefresh:     opts.ICERefresh,
		MaxRoomMembers: opts.MaxMembers,
		// A call is one room per page. Who has the link may come in: the link is the key.
		// A site with users of its own asks c.User() here; see examples/auth.
		MaxRoomsPerClient: 1,
		AllowJoin:         func(*peer.Client, string, json.RawMessage) error { return nil },
		Logger:            opts.Logger,
	})
	c.mux.Handle("/peerjs/", c.srv)
	c.mux.Handle("/peerjs/web/", web.Handler())
	c.mux.Handle("GET /web/", noCache(http.FileServerFS(files)))
	c.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // a new room each time
		http.Redirect(w, r, "/room/"+newRoom(), http.StatusSeeOther)
	})
	c.mux.HandleFunc("GET /room/{room...}", c.serveRoom)
	c.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.serveMissing(w, "This address leads to no call. Perhaps a part of the link is missing.")
	})
	return c
}

// ServeHTTP serves the pages, their files and the PeerJS server.
func (c *Call) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// Server returns the PeerJS server of the call, for example to register functions for its events.
func (c *Call) Server() *peer.Server { return c.srv }

// Shutdown tells all pages that the server ends, and then does what [peer.Server.Shutdown] does.
// The calls that are running do not need this program and go on. The listener should be closed
// before, or pages that reconnect at once reach a server that is about to end.
func (c *Call) Shutdown(ctx context.Context) error {
	c.ending.Do(func() { c.tellTheEnd(ctx) }) // a second call waits for the first, so that no socket ends without the text
	return c.srv.Shutdown(ctx)
}

// tellTheEnd closes all clients with a text, and waits until they are gone.
func (c *Call) tellTheEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	gone := make(chan *peer.Client)
	remove := c.srv.OnDisconnect(func(client *peer.Client, _ peer.DisconnectReason) {
		select {
		case gone <- client:
		case <-ctx.Done():
		}
	})
	defer remove()
	told := map[*peer.Client]bool{}
	for client := range c.srv.Realm().Clients() {
		if client.CloseWith(endCode, endText) == nil {
			told[client] = true
		}
	}
	for len(told) > 0 {
		select {
		case client := <-gone:
			delete(told, client)
		case <-ctx.Done():
			return
		}
	}
}

// maxRoomName is the bound of package peer for the name of a room, in bytes.
const maxRoomName = 1024

// serveRoom serves the page of a call. The name of its room may be any text that the server takes.
func (c *Call) serveRoom(w http.ResponseWriter, r *http.Request) {
	room := r.PathValue("room")
	if why := wrongRoom(room); why != "" {
		c.serveMissing(w, why)
		return
	}
	c.write(w, http.StatusOK, "page.html", map[string]any{
		"Room": room,
		// Two values that the scripts of the page read.
		"Config": map[string]any{"room": room, "ownServers": c.opts.ICEServers != nil},
	})
}

// wrongRoom says what is wrong with the name of a room, "" for nothing.
func wrongRoom(room string) string {
	switch {
	case room == "":
		return "The name of the call is missing at the end of this address."
	case len(room) > maxRoomName:
		return "The name of the call in this address is too long."
	case !utf8.ValidString(room), strings.ContainsFunc(room, isControl):
		return "The name of the call in this address has characters that cannot be shown."
	}
	return ""
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

func (c *Call) serveMissing(w http.ResponseWriter, why string) {
	c.write(w, http.StatusNotFound, "missing.html", why)
}

func (c *Call) write(w http.ResponseWriter, status int, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Referrer-Policy", "no-referrer") // the address is the key to the call
	w.WriteHeader(status)
	if err := pages.ExecuteTemplate(w, name, data); err != nil {
		c.opts.Logger.Warn("page not written", "err", err)
	}
}

// noCache lets browsers keep files but ask for each whether it has changed. Embedded files have no
// time, so the answer is always the file, and a new version of the program is in use at once.
func noCache(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		h.ServeHTTP(w, r)
	})
}

// newRoom returns a name that nobody guesses: 50 random bits, in groups that can be read to
// somebody over the phone.
func newRoom() string {
	s := strings.ToLower(rand.Text())
	return s[:3] + "-" + s[3:7] + "-" + s[7:10]
}
