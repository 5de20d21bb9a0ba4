// Package console is a page for the operator of a running [peer.Server].
//
//	srv := peer.NewServer(peer.Options{})
//	mux.Handle("/peerjs/", srv)
//	mux.Handle("/console/", console.New(srv, console.Options{
//		Authorize: console.Password("operator", password),
//	}))
//
// The page shows the connected clients, the rooms, what is held for absent ids, the rates of
// the last five minutes, the connections that ended and the requests that were refused. A
// button ends a client with a text that the page of the client reads.
//
// # Addresses
//
// The handler matches the end of the path, so it works below any prefix, with or without
// [http.StripPrefix]. The addresses below the prefix are the page itself, console.js,
// console.css, icon.svg, stream (server-sent events) and end (POST). All of them need
// [Options.Authorize].
//
// # Cost
//
// While a page is open, the console takes one snapshot of the server a second, which all
// pages share. A page gets the totals and the rows that it shows: at most 100 clients. While
// no page is open, the console has no goroutine and no timer. Then it only keeps the last
// ends and refusals, see [Options.Recent].
package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/gopeerjs/peer"
)

// CloseByOperator is the close code of a client that was ended from the page. Clients read the
// text of the operator as an ERROR before: see [peer.Client.CloseWith].
const CloseByOperator = 4100

// DefaultRecent is the default of [Options.Recent].
const DefaultRecent = 100

// ErrPassword is an answer of [Options.Authorize]: the browser asks its user for a name and a
// password (HTTP Basic, 401). Errors that wrap it mean this too.
var ErrPassword = errors.New("console: a user and a password are needed")

// Options are the options of [New].
type Options struct {
	// Authorize decides whether a request may use the console: nil means yes. If the error is
	// [ErrPassword], the answer is 401, and the browser asks for a password; a script of a page
	// that is open gets 403, and the page says that the operator must log in again. For any
	// other error the answer is 403. The text of the error is logged and not sent. An open page is
	// asked again each second, with the request that opened its stream; when the answer is an
	// error, the stream ends. An operator who may look, but may not end clients, gets an error
	// for a request whose Method is POST. Authorize is called concurrently. [Password] returns
	// one. There is no default: while Authorize is nil, every request gets 403.
	Authorize func(r *http.Request) error

	// Recent is how many ended connections, and how many refused requests, the console keeps
	// for the page. Default [DefaultRecent]; negative means none.
	Recent int

	// Logger gets a line for each client that an operator ended, for each request that was
	// refused, and for an Options without Authorize. Default (nil): no log.
	Logger *slog.Logger
}

// Password returns an [Options.Authorize] that lets one user in, by HTTP Basic. User and
// password are compared in constant time. If user or password is empty, nobody is let in; a
// user with a colon cannot log in, because HTTP Basic ends the user there. The browser sends
// the password with each request, so serve the console by HTTPS. The number of attempts is
// not limited: choose a long password. The function may be called concurrently.
func Password(user, password string) func(r *http.Request) error {
	wantUser, wantPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	usable := user != "" && password != ""
	return func(r *http.Request) error {
		gotUser, gotPassword, _ := r.BasicAuth()
		u, p := sha256.Sum256([]byte(gotUser)), sha256.Sum256([]byte(gotPassword))
		same := subtle.ConstantTimeCompare(u[:], wantUser[:]) & subtle.ConstantTimeCompare(p[:], wantPassword[:])
		if same != 1 || !usable {
			return ErrPassword
		}
		return nil
	}
}

// console is the handler that New returns.
type console struct {
	srv       *peer.Server
	authorize func(r *http.Request) error
	log       *slog.Logger
	crossSite *http.CrossOriginProtection
	feed      feed
	left      ring[departure]
	refused   ring[refusal]
	viewers   viewers
}

// New returns the console of srv, with a copy of opts. It registers functions of OnDisconnect
// and OnRefuse for the life of the server, so make one console for a server. It starts no
// goroutine. The handler may be called concurrently. Its streams end when
// [peer.Server.Shutdown] or [peer.Server.Close] begins, so they do not delay the Shutdown of
// the [http.Server] around it.
func New(srv *peer.Server, opts Options) http.Handler {
	c := &console{
		srv: srv, authorize: opts.Authorize, log: opts.Logger,
		crossSite: http.NewCrossOriginProtection(),
		feed:      feed{srv: srv, began: time.Now()},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.authorize == nil {
		c.log.Error("the console has no Options.Authorize: every request gets 403")
	}
	if opts.Recent == 0 {
		opts.Recent = DefaultRecent
	}
	if opts.Recent > 0 {
		c.left.limit, c.refused.limit = opts.Recent, opts.Recent
		srv.OnDisconnect(c.noteLeft)
		srv.OnRefuse(c.noteRefused)
	}
	return c
}
