package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// ServeHTTP serves the addresses of the PeerJS protocol, see the package comment. For a
// socket it returns when the handshake is over and OnConnection has returned, not when the
// connection ends.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allowed := s.cors(w, r)
	serve := s.match(r)
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		serve(s, w, r, allowed)
	case http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
	}
}

type serveFunc func(s *Server, w http.ResponseWriter, r *http.Request, originAllowed bool)

// match finds the address by the end of the path, whatever stands before it: the
// server need not know where it is mounted.
func (s *Server) match(r *http.Request) serveFunc {
	path := "/" + strings.TrimPrefix(r.URL.Path, "/")
	base, last := cutLast(path)
	if last == "peerjs" && s.below(base) {
		return (*Server).serveSocket
	}
	base, key := cutLast(base)
	if key != "" && s.below(base) {
		switch last {
		case "id":
			return withKey(key, (*Server).serveID)
		case "peers":
			return withKey(key, (*Server).servePeers)
		}
	}
	if s.isBase(path, r.Pattern) {
		return (*Server).serveInfo
	}
	return nil
}

// cutLast cuts "/a/b" into "/a" and "b".
func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// below reports whether base ends with the Path option.
func (s *Server) below(base string) bool {
	return s.opts.Path == "" || strings.HasSuffix(base, "/"+s.opts.Path)
}

// isBase reports whether path is where the server is mounted. Only the router
// knows that; where it does not tell, a slash at the end has to do.
func (s *Server) isBase(path, pattern string) bool {
	trimmed := strings.TrimSuffix(path, "/")
	if s.opts.Path != "" {
		return s.below(trimmed)
	}
	mount := strings.TrimSuffix(pattern[max(strings.IndexByte(pattern, '/'), 0):], "*")
	if pattern == "" || strings.Contains(mount, "{") {
		return strings.HasSuffix(path, "/")
	}
	return trimmed == "" || trimmed == strings.TrimSuffix(mount, "/")
}

// cors sets the CORS headers and reports whether the origin is allowed.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if !s.allowsOrigin(origin, r.Host) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Add("Vary", "Access-Control-Request-Headers")
			h.Set("Access-Control-Allow-Headers", asked)
		}
	}
	return true
}

func (s *Server) allowsOrigin(origin, host string) bool {
	if len(s.opts.AllowedOrigins) == 0 {
		return true
	}
	origin = strings.ToLower(origin)
	if u, err := url.Parse(origin); err == nil && u.Host == strings.ToLower(host) {
		return true
	}
	return slices.ContainsFunc(s.opts.AllowedOrigins, func(pattern string) bool {
		pattern = strings.ToLower(strings.TrimSuffix(pattern, "/"))
		scheme, domain, wild := strings.Cut(pattern, "://*.")
		return pattern == "*" || pattern == origin ||
			wild && strings.HasPrefix(origin, scheme+"://") && strings.HasSuffix(origin, "."+domain)
	})
}

func withKey(key string, serve func(*Server, http.ResponseWriter, *http.Request)) serveFunc {
	return func(s *Server, w http.ResponseWriter, r *http.Request, _ bool) {
		if !equal(key, s.opts.Key) {
			http.Error(w, "Invalid key provided", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		serve(s, w, r)
	}
}

func (s *Server) serveInfo(w http.ResponseWriter, _ *http.Request, _ bool) {
	writeJSON(w, map[string]string{
		"name":        "PeerJS Server",
		"description": "Signalling for PeerJS clients, by github.com/gopeerjs/peer",
		"website":     "https://peerjs.com/",
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // a client that has gone is no error of ours
}

func (s *Server) servePeers(w http.ResponseWriter, r *http.Request) {
	if !s.opts.AllowDiscovery {
		http.Error(w, "Discovery is off", http.StatusUnauthorized)
		return
	}
	s.servePeersEverywhere(w, r)
}

func (s *Server) serveID(w http.ResponseWriter, r *http.Request) {
	const tries = 10
	for range tries {
		var id string
		var err error
		if panicked := s.ask("calling GenerateClientID", func() { id, err = s.opts.GenerateClientID(r) }); panicked != nil {
			err = panicked
		}
		if reject := (*Reject)(nil); errors.As(err, &reject) {
			http.Error(w, reject.Message, http.StatusForbidden)
			return
		}
		if err == nil && !s.validID(id) {
			err = errors.New("the id is not valid")
		}
		if err != nil {
			s.fail(nil, fmt.Errorf("calling GenerateClientID: %w", err))
			http.Error(w, "No id could be generated", http.StatusInternalServerError)
			return
		}
		taken, err := s.isTaken(id)
		if err != nil {
			http.Error(w, "No id can be checked now", http.StatusServiceUnavailable)
			return
		}
		if !taken {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, id)
			return
		}
	}
	s.fail(nil, fmt.Errorf("calling GenerateClientID: %d ids in turn were connected already", tries))
	http.Error(w, "No free id was found", http.StatusServiceUnavailable)
}

func (s *Server) validID(id string) (ok bool) {
	if err := s.ask("calling ValidID", func() { ok = s.opts.ValidID(id) }); err != nil {
		s.fail(nil, fmt.Errorf("calling ValidID: %w", err))
		return false
	}
	return ok
}

// servePeersEverywhere lists the ids of all nodes.
func (s *Server) servePeersEverywhere(w http.ResponseWriter, r *http.Request) {
	ids, err := s.realm.AllClientIDs(r.Context())
	if err != nil {
		http.Error(w, "The list cannot be read now", http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, ids)
}

// isTaken reports whether an id is connected.
func (s *Server) isTaken(id string) (bool, error) {
	if s.realm.Client(id) != nil || s.realm.node == nil {
		return s.realm.Client(id) != nil, nil
	}
	place, err := s.realm.node.place(id)
	return place.Node != "", err
}
