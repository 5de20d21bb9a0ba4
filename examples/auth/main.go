// Command auth is a site with users of its own. They own their ids: nobody else can
// have one, a second device of the same user takes it over, and calls stay in a room.
//
//	go run ./examples/auth
//
// A user goes this way. POST /login, with a password, sets a cookie for the day. POST
// /token, with the cookie, gives the page an id and a token for the next minute. The
// page makes its peer with new Peer(id, {token}), and authenticate decides on both.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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
	"github.com/gopeerjs/peer/examples/internal/look"
	"github.com/gopeerjs/peer/web"
)

//go:embed page.html
var page []byte

const (
	sessionLife = 12 * time.Hour
	tokenLife   = time.Minute
)

// passwords are those of the demo. A real site keeps slow hashes of them, and counts
// wrong guesses.
var passwords = map[string]string{"alice": "wonderland", "bob": "builder", "carol": "singer"}

// roomName makes names that have no dash, which separates user and room in an id.
var roomName = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

// site is the application, without what a [peer.Server] does for it.
type site struct {
	key key
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	user, room := r.PostFormValue("user"), r.PostFormValue("room")
	if !roomName.MatchString(room) {
		http.Error(w, "A room has a name of up to 32 small letters and digits", http.StatusBadRequest)
		return
	}
	// Hashed, as the comparison takes constant time only for texts of one length. A user
	// who does not exist costs the same time as one who does.
	password, known := passwords[user]
	want, got := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(r.PostFormValue("password")))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !known {
		http.Error(w, "Wrong user name or password", http.StatusUnauthorized)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name:     "session",
		Value:    s.key.sign(useSession, ticket{User: user, Room: room, Expires: time.Now().Add(sessionLife)}),
		MaxAge:   int(sessionLife.Seconds()),
		Path:     "/",
		HttpOnly: true,
		Secure:   r.TLS != nil, // true, behind a proxy with TLS
		SameSite: http.SameSiteStrictMode,
	})
	w.WriteHeader(http.StatusNoContent)
}

func (s *site) token(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("session")
	if err != nil {
		http.Error(w, "Please log in", http.StatusUnauthorized)
		return
	}
	t, err := s.key.verify(useSession, cookie.Value)
	if err != nil {
		http.Error(w, "Your session "+err.Error(), http.StatusUnauthorized)
		return
	}
	t.Nonce, t.Expires = rand.Text(), time.Now().Add(tokenLife)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"id": t.id(), "token": s.key.sign(useToken, t)})
}

// authenticate lets a client connect as the id that its token was made for.
func (s *site) authenticate(_ *http.Request, id, token string) (user any, err error) {
	t, err := s.key.verify(useToken, token)
	if err != nil {
		return nil, &peer.Reject{Message: "Your token " + err.Error()}
	}
	if id != t.id() {
		return nil, &peer.Reject{Message: fmt.Sprintf("Your token is for the id %q", t.id())}
	}
	return t, nil
}

// sameUser lets a user take an id over from another device. As long as every id belongs
// to one user, authenticate has let nobody else come here; a site with ids that users
// share, "reception" for one, has only this line between them.
func sameUser(old, new *peer.Client) bool {
	return old.User().(ticket).User == new.User().(ticket).User
}

// sameRoom lets a message pass if the id it goes to belongs to the sender's room. To look
// up who is connected as that id would not do: a message for an absent peer waits for
// it, and in between somebody else could come.
func sameRoom(from *peer.Client, m peer.Message) error {
	room := from.User().(ticket).Room
	if _, other, _ := strings.Cut(m.Dst, "-"); other != room {
		return fmt.Errorf("%q is not in the room %q", m.Dst, room)
	}
	return nil
}

// ownRoom lets a page join the room of its user, so that it is told who is there. The ids say
// that already, so a page sends no data.
func ownRoom(c *peer.Client, room string, _ json.RawMessage) error {
	if own := c.User().(ticket).Room; room != own {
		return &peer.Reject{Message: fmt.Sprintf("Your room is %q", own)}
	}
	return nil
}

// handler returns the whole application, and the part of it that has to be shut down.
func (s *site) handler(logger *slog.Logger) (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{
		Authenticate:  s.authenticate,
		AllowOverride: sameUser,
		Authorize:     sameRoom,
		AllowJoin:     ownRoom,
		RelayTypes:    []peer.MessageType{"CHAT"}, // the page's own: text that goes through the server
		Logger:        logger,
	})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/peerjs/web/", web.Handler()) // PeerJS, and the module that joins the room
	mux.HandleFunc("GET /look.css", look.Serve)
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	// Pages of other sites must not log their visitors in here.
	return http.NewCrossOriginProtection().Handler(mux), srv
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	if err := run(ctx, *addr, os.Getenv("AUTH_KEY"), logger); err != nil {
		logger.Error("auth has failed", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, key string, logger *slog.Logger) (err error) {
	s := new(site)
	if s.key, err = newKey(key); err != nil {
		return err
	}
	handler, srv := s.handler(logger)
	hs := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second}
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
