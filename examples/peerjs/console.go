package main

import (
	"errors"
	"log"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/console"
)

// consolePath is where the console is.
const consolePath = "/console/"

// checkConsole refuses a console that nobody could use, or that would take addresses of
// clients. The text does not repeat the value, as it may be the password alone.
func checkConsole(cfg config) error {
	if cfg.console == "" {
		return nil
	}
	user, password, _ := strings.Cut(cfg.console, ":")
	if user == "" || password == "" {
		return errors.New("--console and the variable PEER_CONSOLE must have the form user:password, and neither may be empty")
	}
	// The first segment of the addresses of clients is that of the path, else the key.
	first, _, _ := strings.Cut(strings.Trim(cfg.opts.Path, "/"), "/")
	if first == "" {
		first = cfg.opts.Key
	}
	if "/"+first+"/" == consolePath {
		return errors.New("--console takes the addresses below " + consolePath + ", so --path and --key must be others")
	}
	return nil
}

// newConsole returns the page for the operator.
func newConsole(srv *peer.Server, cfg config, errs *log.Logger) http.Handler {
	user, password, _ := strings.Cut(cfg.console, ":")
	return console.New(srv, console.Options{
		Authorize: console.Password(user, password),
		Logger:    slog.New(slog.NewTextHandler(printer{errs}, nil)),
	})
}

// A printer writes what a handler of slog formats to a logger, which adds its prefix.
type printer struct{ to *log.Logger }

func (p printer) Write(b []byte) (int, error) {
	p.to.Print(string(b))
	return len(b), nil
}
