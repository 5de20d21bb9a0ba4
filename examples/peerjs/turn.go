package main

import (
	"errors"
	"strings"

	"github.com/gopeerjs/peer"
)

// addTURN refuses what is not the URL of a TURN server: browsers would refuse the whole list because of it.
func addTURN(to *[]string) func(string) error {
	return func(s string) error {
		scheme, host, _ := strings.Cut(s, ":")
		if scheme != "turn" && scheme != "turns" || host == "" || strings.HasPrefix(host, "/") {
			return errors.New("it must be a URL such as turn:turn.example.com:3478")
		}
		*to = append(*to, s)
		return nil
	}
}

// setICEServers has the server send each client the TURN servers, with credentials of its own.
func setICEServers(cfg *config, secret string) error {
	if len(cfg.turn) == 0 {
		return nil
	}
	if secret == "" {
		return errors.New("--turn needs the variable TURN_SECRET, with the secret of the TURN server")
	}
	urls := cfg.turn
	cfg.opts.ICEServers = func(c *peer.Client) []peer.ICEServer {
		username, credential := peer.TURNCredentials([]byte(secret), c.ID(), peer.DefaultICERefresh)
		return []peer.ICEServer{{URLs: urls, Username: username, Credential: credential}}
	}
	return nil
}
