// Package peer is a PeerJS signalling server that a Go web application mounts
// beside its own routes.
//
//	srv := peer.NewServer(peer.Options{})
//	srv.OnConnection(func(c *peer.Client) { log.Printf("%s is online", c.ID()) })
//	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("%s left: %v", c.ID(), why) })
//
//	mux := http.NewServeMux()
//	mux.Handle("/peerjs/", srv)
//	log.Fatal(http.ListenAndServe("127.0.0.1:8080", mux))
//
// A page then makes its peer with new Peer({host, port, path: "/peerjs"}). Data
// channels and calls run between the browsers; the server only introduces them
// to each other.
//
// # Wire protocol
//
// Clients speak the protocol of npm "peer" 1.0: GET {key}/id gives a fresh id,
// GET {key}/peers lists the connected ones, and GET peerjs with an upgrade opens
// the signalling socket, whose text frames are JSON objects with type, src, dst
// and payload. The addresses are found by the end of the path, so the [Server]
// works below any prefix, with or without [http.StripPrefix].
//
// # Life of a connection
//
// After the upgrade the server checks id, token and key, asks
// [Options.Authenticate], and settles who may have the id. Who is turned away
// reads why. The [Client] gets OPEN and then everything that waited for its id.
// OFFER, ANSWER and CANDIDATE for an id that is not connected are held for
// [Options.ExpireTimeout]; then the sender gets one EXPIRE. What was accepted for
// a connection and not written when it ended waits in the same way, or goes to
// the connection that takes the id over.
//
// # Concurrency
//
// All methods of [Server], [Realm] and [Client] may be called concurrently and
// from inside events. An idle client costs one goroutine and one timer of this
// package; a server without clients has neither.
package peer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Server is a PeerJS server as an [http.Handler]. It is made by [NewServer];
// the zero value is of no use. A server that is no longer needed is ended by
// [Server.Shutdown] or [Server.Close], not by those of the [http.Server] that it
// is mounted in: they do not know of upgraded connections.
type Server struct {
	opts   Options
	fates  map[MessageType]fate // type -> what happens to it; absent: not relayed
	realm  *Realm
	events events
	probes singleflight.Group

	ctx       context.Context // ends when the server closes, and with it every handshake
	cancel    context.CancelFunc
	work      work
	noAddress sync.Once // the warning that clients have no address

	accepted    atomic.Uint64
	refusals    [numRefusals]atomic.Uint64
	disconnects [numReasons]atomic.Uint64
}

// NewServer returns a server with a copy of opts. It starts nothing: there is no
// goroutine and no timer while nobody is connected and nothing waits.
func NewServer(opts Options) *Server {
	s := &Server{opts: opts.withDefaults()}
	s.fates = make(map[MessageType]fate)
	for _, t := range s.opts.RelayTypes {
		s.fates[t] = fatePass
	}
	for _, t := range s.opts.HoldTypes {
		s.fates[t] = fateHold
	}
	for _, t := range serverTypes {
		delete(s.fates, t) // these cannot be forged
	}
	delete(s.fates, "")
	delete(s.fates, TypeHeartbeat)
	for _, t := range []MessageType{TypeOffer, TypeAnswer, TypeCandidate} {
		s.fates[t] = fateHold
	}
	s.fates[TypeLeave], s.fates[TypeExpire] = fatePass, fatePass
	s.realm = newRealm(&s.opts)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.idle = make(chan struct{})
	return s
}

// serverTypes are the types that only the server sends.
var serverTypes = []MessageType{
	TypeOpen, TypeError, TypeIDTaken, TypeInvalidKey, TypeOverride,
	TypeRoomMembers, TypeRoomRefused, TypeRoomJoined, TypeRoomLeft,
}

// Realm returns who is connected.
func (s *Server) Realm() *Realm { return s.realm }

// Shutdown closes the server: new sockets are refused with 503, every client
// gets close code 1001, on which a PeerJS client emits "disconnected" and can
// reconnect. It returns when every OnDisconnect has returned and no goroutine or
// timer of the server is left, or when ctx ends, with its error; the rest then
// goes on by itself. What waits for absent clients is dropped. From inside an
// event it returns [ErrInEvent] at once. Further calls wait for the same end.
//
// [http.Server.Shutdown] neither closes nor awaits sockets. Let it begin this one
// at the same time with [http.Server.RegisterOnShutdown], and call this one after
// it to wait for the end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cancel()
	s.work.close()
	for _, c := range s.realm.close() {
		c.end(ReasonShutdown, nil, nil)
	}
	if inEvent() {
		return ErrInEvent
	}
	select {
	case <-s.work.idle:
		s.realm.timers.Wait()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close is Shutdown without a limit but the server's own: a client that does not
// answer delays it by little more than a second. Only functions of the host that do
// not return can hold it up.
func (s *Server) Close() error { return s.Shutdown(context.Background()) }

// inEvent reports whether a function of the host, called by this package, has
// called back. The stack is the one thing that tells, and cheap enough for a
// call that ends a server.
func inEvent() bool {
	pcs := make([]uintptr, 64)
	n := runtime.Callers(2, pcs)
	for ; n == len(pcs); n = runtime.Callers(2, pcs) {
		pcs = make([]uintptr, 2*len(pcs))
	}
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		if f.Function == guardName {
			return true
		}
		if !more {
			return false
		}
	}
}

// guardName is how the stack calls [guard].
var guardName = runtime.FuncForPC(reflect.ValueOf(guard).Pointer()).Name()

// work counts the goroutines that a server has to wait for.
type work struct {
	mu     sync.Mutex // guards the following
	n      int
	closed bool
	idle   chan struct{} // closed when closed and n is 0
}

// begin counts one more, unless the server has closed.
func (w *work) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.n++
	return true
}

// fork counts one more for somebody who is counted already.
func (w *work) fork() {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
}

func (w *work) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.closed {
		close(w.idle)
	}
}

func (w *work) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.n == 0 {
		close(w.idle)
	}
	w.closed = true
}

// ServeHTTP answers the addresses of the PeerJS protocol; see the package
// comment. It returns when a handshake is over and OnConnection has returned, not
// when the connection ends.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allowed := s.cors(w, r)
	serve := s.match(r)
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		serve(w, r, allowed)
	case http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
	}
}

type serveFunc func(w http.ResponseWriter, r *http.Request, originAllowed bool)

// match finds the address by the end of the path, whatever stands before it: the
// server need not know where it is mounted.
func (s *Server) match(r *http.Request) serveFunc {
	path := "/" + strings.TrimPrefix(r.URL.Path, "/")
	base, last := cutLast(path)
	if last == "peerjs" && s.below(base) {
		return s.serveSocket
	}
	base, key := cutLast(base)
	if key != "" && s.below(base) {
		switch last {
		case "id":
			return s.withKey(key, s.serveID)
		case "peers":
			return s.withKey(key, s.servePeers)
		}
	}
	if s.isBase(path, r.Pattern) {
		return s.serveInfo
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

func (s *Server) withKey(key string, serve http.HandlerFunc) serveFunc {
	return func(w http.ResponseWriter, r *http.Request, _ bool) {
		if !equal(key, s.opts.Key) {
			http.Error(w, "Invalid key provided", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		serve(w, r)
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
	writeJSON(w, s.realm.ClientIDs())
}

func (s *Server) serveID(w http.ResponseWriter, r *http.Request) {
	const tries = 10
	for range tries {
		var id string
		var err error
		if panicked := s.ask("generating an id", func() { id, err = s.opts.GenerateClientID(r) }); panicked != nil {
			err = panicked
		}
		if rej := (*Reject)(nil); errors.As(err, &rej) {
			http.Error(w, rej.Message, http.StatusForbidden)
			return
		}
		if err == nil && !s.validID(id) {
			err = errors.New("the id is not valid")
		}
		if err != nil {
			s.fail(nil, fmt.Errorf("generating an id: %w", err))
			http.Error(w, "No id could be generated", http.StatusInternalServerError)
			return
		}
		if s.realm.Client(id) == nil {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, id)
			return
		}
	}
	s.fail(nil, fmt.Errorf("generating an id: %d were taken", tries))
	http.Error(w, "No free id was found", http.StatusServiceUnavailable)
}

func (s *Server) validID(id string) (ok bool) {
	if err := s.ask("validating an id", func() { ok = s.opts.ValidID(id) }); err != nil {
		s.fail(nil, fmt.Errorf("validating an id: %w", err))
		return false
	}
	return ok
}

// A Reject is an error of [Options.Authenticate], [Options.GenerateClientID] or
// [Options.AllowJoin] whose text is meant for the client.
type Reject struct {
	// Type is what a client that may not connect gets: [TypeError] (the default), on
	// which PeerJS raises "server-error", [TypeInvalidKey] or [TypeIDTaken]. A client
	// that may not join a room gets [TypeRoomRefused], whatever Type is.
	Type MessageType
	// Message is the text for the client.
	Message string
}

// Error returns the text as that of an error of this package.
func (r *Reject) Error() string { return "peer: rejected: " + r.Message }

// A refusal is why a handshake came to nothing: for the counters, for the client
// on the socket, and for the client that is refused before the upgrade.
type refusal struct {
	cause  refusalCause
	reject Reject
	status int
}

type refusalCause uint8

const (
	refusedParams refusalCause = iota
	refusedKey
	refusedID
	refusedAuth
	refusedTaken
	refusedLimit
	refusedOrigin
	refusedClosed
	refusedGone // the client has gone, or its time is over
	refusedUpgrade
	numRefusals = iota
)

func refuse(cause refusalCause, status int, t MessageType, text string) *refusal {
	return &refusal{cause, Reject{t, text}, status}
}

// serveSocket runs a handshake. All checks come after the upgrade, so that a
// browser can read their result.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request, originAllowed bool) {
	if !isUpgrade(r) {
		if r.ProtoMajor < 2 { // later versions have no such fields: an answer with them is malformed (RFC 9113, section 8.2.2)
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
		}
		http.Error(w, "This is the address of a WebSocket", http.StatusUpgradeRequired)
		return
	}
	if !originAllowed {
		s.refusals[refusedOrigin].Add(1)
		http.Error(w, "Origin not allowed", http.StatusForbidden)
		return
	}
	if !s.work.begin() {
		s.refusals[refusedClosed].Add(1)
		http.Error(w, "Server is shutting down", http.StatusServiceUnavailable)
		return
	}
	defer s.work.done()
	s.shake(w, r)
}

// limit returns a context for what may take long in a handshake that began at start:
// it ends with parent, with the server, and when HandshakeTimeout is over. Most
// handshakes need none.
func (s *Server) limit(parent context.Context, start time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := withDeadline(parent, start, s.opts.HandshakeTimeout)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// withDeadline is [context.WithDeadline] for a timeout of ours: if negative, there is none.
func withDeadline(parent context.Context, start time.Time, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout < 0 {
		return context.WithCancel(parent)
	}
	return context.WithDeadline(parent, start.Add(timeout))
}

// params are what a client says in the address of the socket.
type params struct{ id, token, key string }

func paramsOf(r *http.Request) params {
	q := r.URL.Query()
	return params{q.Get("id"), q.Get("token"), q.Get("key")}
}

// count notes a refusal, before the client can know of it.
func (s *Server) count(id string, no *refusal) {
	s.refusals[no.cause].Add(1)
	s.log(slog.LevelInfo, "peer: connection refused", "id", loggable(id), "why", no.reject.Message)
}

// log keeps a handler that panics from ending the process.
func (s *Server) log(level slog.Level, msg string, attrs ...any) {
	guard(func() { s.opts.Logger.Log(context.Background(), level, msg, attrs...) })
}

// logs reports whether lines of this level go anywhere.
func (s *Server) logs(level slog.Level) (yes bool) {
	guard(func() { yes = s.opts.Logger.Enabled(context.Background(), level) })
	return yes
}

// ask calls a function of the host that decides something, and returns its panic as an
// error. If f ends the goroutine, ask reports that, as nobody else can, and does
// not return.
func (s *Server) ask(doing string, f func()) (err error) {
	err = errGoexit
	defer func() {
		if err == errGoexit {
			s.fail(nil, fmt.Errorf("%s: %w", doing, err))
		}
	}()
	return guard(f)
}

// shake makes a connection of a request, or answers why not.
func (s *Server) shake(w http.ResponseWriter, r *http.Request) {
	p := paramsOf(r)
	var user any
	var c *Client                                                                          // nil before the upgrade
	no := refuse(refusedAuth, http.StatusInternalServerError, TypeError, "Internal error") // if a function of the host ends this goroutine
	defer func() {
		switch {
		case no == nil:
		case c == nil:
			s.count(p.id, no)
			if no.status != 0 {
				http.Error(w, no.reject.Message, no.status)
			}
		default:
			s.count(p.id, no)
			s.turnAway(c, no)
		}
	}()
	if s.opts.RejectBeforeUpgrade {
		var rejected *refusal
		if user, rejected = s.check(r, p, nil); rejected != nil {
			no = rejected
			return
		}
	}
	wire, err := upgrade(w, r, s.opts.WriteTimeout)
	if err != nil {
		no = refuse(refusedUpgrade, 0, "", err.Error()) // it has been answered
		return
	}
	c = newClient(wire, p.id, p.token, &s.opts)
	c.traffic = s.realm.traffic(c.id)
	c.ended = func() { s.realm.remove(c) }
	c.site, c.remote = s.remoteAddr(r)
	if c.site = siteOf(c.site); !c.site.IsValid() && s.opts.ConcurrentLimitPerAddr > 0 {
		s.warnOfNoAddress(c)
	}
	c.user = user
	if no = s.decide(r, p, c); no == nil {
		s.accepted.Add(1)
		s.work.fork()
		s.announce(c)
	}
}

// warnOfNoAddress says once that there are clients that no limit per address holds.
func (s *Server) warnOfNoAddress(c *Client) {
	s.noAddress.Do(func() {
		s.log(slog.LevelWarn, "peer: ConcurrentLimitPerAddr does not count clients without an address; see TrustUnixProxy",
			"id", loggable(c.id), "addr", c.remote)
	})
}

// announce tells the host of a connection, on the goroutine of net/http, whose
// stack has grown. The one that reads, for the life of the connection, starts on
// a small stack afterwards, even if an event ends this one as a failing test does.
func (s *Server) announce(c *Client) {
	defer func() { go s.serve(c) }()
	if c.previous != nil {
		c.holdUp(c.previous.awaitFinish)
		c.previous = nil
	}
	defer func() { // whatever becomes of the log line
		fs := s.events.connection.get()
		forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](c) }) })
	}()
	if s.logs(slog.LevelInfo) {
		s.log(slog.LevelInfo, "peer: connected", "id", loggable(c.id), "addr", c.remote)
	}
}

// decide checks the client and gets it its id.
func (s *Server) decide(r *http.Request, p params, c *Client) (no *refusal) {
	if !s.opts.RejectBeforeUpgrade {
		c.user, no = s.check(r, p, c)
	}
	if no == nil {
		no = s.claim(r.Context(), c)
	}
	return no
}

func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for _, t := range strings.Split(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// check decides on everything that does not depend on who else is connected. c is nil
// before the upgrade.
func (s *Server) check(r *http.Request, p params, c *Client) (user any, no *refusal) {
	switch {
	case p.id == "" || p.token == "" || p.key == "":
		return nil, refuse(refusedParams, http.StatusBadRequest, TypeError, "No id, token, or key supplied to websocket server")
	case !equal(p.key, s.opts.Key):
		return nil, refuse(refusedKey, http.StatusUnauthorized, TypeError, "Invalid key provided")
	case !s.validID(p.id):
		return nil, refuse(refusedID, http.StatusBadRequest, TypeError, "The id is not valid")
	case s.opts.MaxTokenBytes >= 0 && len(p.token) > s.opts.MaxTokenBytes:
		return nil, refuse(refusedID, http.StatusBadRequest, TypeError, "The token is too long")
	case s.opts.Authenticate == nil:
		return nil, nil
	case c == nil:
		ctx, cancel := s.limit(r.Context(), time.Now())
		defer cancel()
		return s.authenticate(r.WithContext(ctx), p)
	}
	ctx, cancel := s.limit(r.Context(), c.wire.start)
	defer cancel()
	defer c.wire.watch(cancel)()
	return s.authenticate(r.WithContext(ctx), p)
}

func (s *Server) authenticate(r *http.Request, p params) (user any, no *refusal) {
	var err error
	if panicked := s.ask("authenticating", func() { user, err = s.opts.Authenticate(r, p.id, p.token) }); panicked != nil {
		err = panicked
	}
	if gone := r.Context().Err(); gone != nil && s.ctx.Err() == nil && (err == nil || errors.Is(err, gone)) {
		return nil, refuse(refusedGone, http.StatusUnauthorized, TypeError, "Authentication took too long")
	}
	if err == nil {
		return user, nil
	}
	if rej := (*Reject)(nil); errors.As(err, &rej) {
		no = refuse(refusedAuth, http.StatusForbidden, rej.Type, rej.Message)
		switch rej.Type {
		case TypeError, TypeInvalidKey, TypeIDTaken:
		default:
			no.reject.Type = TypeError
		}
		return nil, no
	}
	s.fail(nil, fmt.Errorf("authenticating: %w", err))
	return nil, refuse(refusedAuth, http.StatusUnauthorized, TypeError, "Authentication failed")
}

// claim gets the id for c, or returns why it may not have it.
func (s *Server) claim(ctx context.Context, c *Client) *refusal {
	var replace *Client
	for {
		holder, err := s.realm.admit(c, replace)
		if err != nil && replace != nil {
			s.realm.remove(replace) // evicted for nothing
		}
		switch {
		case errors.Is(err, errClosed):
			return refuse(refusedClosed, http.StatusServiceUnavailable, "", "Server is shutting down")
		case err != nil:
			return refuse(refusedLimit, http.StatusServiceUnavailable, TypeError, "Server has reached its concurrent user limit")
		case holder == nil:
			return nil
		case c.Reason() != 0:
			return refuse(refusedGone, 0, TypeError, "Closed by the application")
		}
		if holder.Reason() == 0 && !s.realm.mayReplace(holder, c) {
			return refuse(refusedLimit, http.StatusServiceUnavailable, TypeError, "Server has reached its concurrent user limit")
		}
		if holder.Reason() == 0 {
			if no := s.evict(ctx, holder, c); no != nil {
				return no
			}
		}
		if replace = nil; !holder.yieldsTo(c) {
			holder.awaitHeir() // somebody else is about to have the id: ask again then
			continue
		}
		holder.settle()
		replace = holder
	}
}

// evict ends holder if c may have the id in its place, or returns why it may not.
func (s *Server) evict(ctx context.Context, holder, c *Client) *refusal {
	taken := refuse(refusedTaken, http.StatusConflict, TypeIDTaken, "ID is taken")
	switch {
	case equal(holder.token, c.token):
		c.bar(holder.barred...)
		if holder.evict(c, ReasonReplaced, nil) {
			c.inherits = append(c.inherits, holder)
		}
		return nil
	case s.mayOverride(holder, c):
		c.bar(holder.barred...)
		c.bar(hashOf(holder.token)) // two devices that both reconnect by themselves must not take turns
		last := notice(TypeOverride, "Your id was taken over by another connection")
		holder.evict(c, ReasonOverridden, &last)
		return nil
	case s.opts.ProbeAfter < 0 || s.opts.ProbeTimeout < 0 || holder.silence() <= s.opts.ProbeAfter:
		return taken
	}
	ctx, cancel := s.limit(ctx, c.wire.start)
	defer cancel()
	defer c.wire.watch(cancel)()
	switch {
	case !s.answers(ctx, holder):
		holder.evict(c, ReasonUnresponsive, nil)
		return nil
	case ctx.Err() != nil:
		return refuse(refusedGone, 0, TypeError, "The handshake took too long")
	}
	return taken
}

func (s *Server) mayOverride(holder, c *Client) (ok bool) {
	if s.opts.AllowOverride == nil || holder.bars(c.token) {
		return false
	}
	if err := s.ask("deciding on an override", func() { ok = s.opts.AllowOverride(holder, c) }); err != nil {
		s.fail(nil, fmt.Errorf("deciding on an override: %w", err))
		return false
	}
	return ok
}

// answers pings a silent holder and reports whether it answers, or ctx ends.
// Newcomers who come meanwhile share the result; who gives up leaves the others
// to it.
func (s *Server) answers(ctx context.Context, holder *Client) bool {
	answered := make(chan bool, 1)
	s.work.fork()
	go func() {
		defer s.work.done()
		dead, _, _ := s.probes.Do(holder.id, func() (any, error) {
			// It may have answered a moment ago, when it was asked for somebody else.
			if holder.silence() <= s.opts.ProbeAfter || holder.probe(s.opts.ProbeTimeout) {
				return (*Client)(nil), nil
			}
			return holder, nil
		})
		answered <- dead != holder && holder.Reason() == 0
	}()
	select {
	case yes := <-answered:
		return yes
	case <-ctx.Done():
		return true
	}
}

// turnAway tells a client that is connected to the socket but to nothing else
// why it cannot stay.
func (s *Server) turnAway(c *Client, no *refusal) {
	for _, old := range c.inherits { // they ended for nothing
		s.realm.leaveRooms(old, ReasonReplaced)
	}
	why, last := reasonRefused, &Message{}
	if *last = notice(no.reject.Type, no.reject.Message); no.cause == refusedClosed || s.ctx.Err() != nil {
		why, last = ReasonShutdown, nil
	}
	c.end(why, nil, last)
	c.hangUp()
}

// remoteAddr returns the address of a client, and how it is shown. The address is not
// valid if nobody tells it, as behind a Unix socket that is not trusted.
func (s *Server) remoteAddr(r *http.Request) (netip.Addr, string) {
	addr, known := parseHop(r.RemoteAddr)
	if trusted := known && s.trusts(addr) || s.opts.TrustUnixProxy && overUnixSocket(r); !trusted {
		return addr, r.RemoteAddr
	}
	hops := forwardedFor(r.Header)
	for _, hop := range slices.Backward(hops) {
		next, ok := parseHop(hop)
		if !ok {
			break // the proxies do not vouch for what stands left of it
		}
		if addr = next; !s.trusts(addr) {
			break
		}
	}
	if !addr.IsValid() {
		return addr, r.RemoteAddr
	}
	return addr, addr.String()
}

// overUnixSocket reports whether a request came to a listener on a Unix socket.
func overUnixSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

func (s *Server) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.opts.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// forwardedFor returns the chain of addresses that proxies have noted, the
// nearest last. Forwarded (RFC 7239) counts only where there is no
// X-Forwarded-For: a proxy that writes the one lets the other pass unread.
func forwardedFor(h http.Header) []string {
	if lines := h.Values("X-Forwarded-For"); len(lines) > 0 {
		return strings.Split(strings.Join(lines, ","), ",")
	}
	var hops []string
	for element := range strings.SplitSeq(strings.Join(h.Values("Forwarded"), ","), ",") {
		hop := ""
		for param := range strings.SplitSeq(element, ";") {
			if name, value, _ := strings.Cut(param, "="); strings.EqualFold(strings.TrimSpace(name), "for") {
				hop = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		hops = append(hops, hop)
	}
	return hops
}

// parseHop parses an address with or without brackets and port.
func parseHop(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(hop)
	if ap, err := netip.ParseAddrPort(hop); err == nil {
		return plainAddr(ap.Addr()), true
	}
	addr, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return plainAddr(addr), err == nil
}

// plainAddr makes equal what is the same host: a zone is any text that the sender
// of a header likes.
func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// nat64 is where IPv4 addresses are in IPv6 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// siteOf returns what an address counts as for a limit.
func siteOf(addr netip.Addr) netip.Addr {
	if addr.Is6() && !addr.IsLinkLocalUnicast() && !nat64.Contains(addr) {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}

// upgrade makes a WebSocket of a request, or answers the request and returns why not.
//
// The connection is hijacked before anything is written, and the 101 is written to
// the connection itself. Middleware that compresses or buffers would hold back, or
// change, a 101 that goes through its WriteHeader.
func upgrade(w http.ResponseWriter, r *http.Request, timeout time.Duration) (*wire, error) {
	h := &hijacker{ResponseWriter: w, header: w.Header().Clone()}
	if h.err = canHijack(w); h.err == nil {
		if _, err := accept(h, r); !h.done {
			return nil, err // the library has answered
		}
	}
	if h.err != nil {
		http.Error(w, "The server cannot upgrade connections here", http.StatusNotImplemented)
		return nil, fmt.Errorf("upgrading: %w", h.err)
	}
	early, _ := h.rw.Reader.Peek(h.rw.Reader.Buffered())
	early = bytes.Clone(early)
	if timeout > 0 {
		h.conn.SetWriteDeadline(time.Now().Add(timeout))
	}
	if _, err := h.conn.Write(h.answer); err != nil {
		h.conn.Close()
		return nil, fmt.Errorf("writing the answer to the handshake: %w", err)
	}
	h.conn.SetWriteDeadline(time.Time{})
	return newWire(h.conn, early), nil
}

var errNoHijacker = errors.New("a ResponseWriter around this handler has neither Hijack nor Unwrap")

// canHijack returns nil if [http.ResponseController] will find a Hijacker.
func canHijack(w http.ResponseWriter) error {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return errNoHijacker
		}
	}
}

// switchingProtocols returns the answer 101 with the fields of header. Fields that
// speak of a body have no place in it.
func switchingProtocols(header http.Header) []byte {
	for name := range header {
		if strings.HasPrefix(name, "Content-") || name == "Transfer-Encoding" {
			delete(header, name)
		}
	}
	header["Connection"] = []string{"Upgrade"}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	header.Write(&b) // a bytes.Buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// A hijacker is the [http.ResponseWriter] that the library does a handshake with. A
// refusal goes through the writer of the host. At 101 the hijacker takes the connection
// for itself and tells the library that it failed: the library would make a connection
// of its own, with a goroutine and buffers, and its 101 would go through middleware.
type hijacker struct {
	http.ResponseWriter             // the host's
	header              http.Header // what the host and the library have set
	done                bool        // the library has accepted: nothing that it writes from here on counts
	answer              []byte      // the 101
	conn                net.Conn
	rw                  *bufio.ReadWriter
	err                 error // of hijacking
}

var errTaken = errors.New("the connection is taken")

func (h *hijacker) Header() http.Header { return h.header }

func (h *hijacker) WriteHeader(code int) {
	switch {
	case h.done: // the library's 500, since it has no connection
	case code == http.StatusSwitchingProtocols:
		h.done, h.answer = true, switchingProtocols(h.header)
		h.conn, h.rw, h.err = http.NewResponseController(h.ResponseWriter).Hijack()
	default:
		header := h.ResponseWriter.Header()
		clear(header)
		maps.Copy(header, h.header)
		h.ResponseWriter.WriteHeader(code)
	}
}

func (h *hijacker) Write(p []byte) (int, error) {
	if h.done {
		return len(p), nil
	}
	return h.ResponseWriter.Write(p)
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errTaken }

// serve is the goroutine of a connection: it reads, and all further events are
// called on it. It cleans up even if an event ends the goroutine.
func (s *Server) serve(c *Client) {
	defer s.work.done()
	defer c.hangUp()
	defer s.leave(c)
	bucket := newBucket(s.opts.MessageRate)
	for c.Reason() == 0 {
		data, err := c.read()
		s.take(c, data, err, &bucket)
	}
}

// take deals with what a read has returned. Like the functions that it calls, it
// stays off the stack of serve, on which a connection waits: that and the way of
// a heartbeat fit into the two kilobytes that a goroutine starts with.
//
//go:noinline
func (s *Server) take(c *Client, data []byte, err error, b *bucket) {
	switch {
	case err == nil:
		s.handle(c, data)
	case errors.Is(err, ErrBadMessage):
		s.dropBad(c, err)
	default:
		c.quit(c.reasonOf(err), err)
	}
	if wait := b.take(time.Now()); wait > 0 {
		c.holdUp(func() { sleep(c.Context(), wait) })
	}
}

// dropBad counts and reports a message that is none.
//
//go:noinline
func (s *Server) dropBad(c *Client, err error) {
	c.traffic.dropped[dropBadMessage].Add(1)
	if s.hears() {
		s.fail(c, err)
	}
}

// hears reports whether anybody is told of a client's mistake. A client can make as many
// as it likes, so an error is made only then.
func (s *Server) hears() bool { return len(s.events.error.get()) > 0 || s.logs(slog.LevelDebug) }

// leave takes a client that has ended out of everything, and tells the host.
func (s *Server) leave(c *Client) {
	c.end(ReasonPanic, nil, nil) // unless it has ended already, an event has ended this goroutine
	if !c.awaitHeir() {
		s.realm.remove(c)
	}
	defer s.realm.finish(c)
	why := c.Reason()
	if why != ReasonReplaced { // then the next connection is in the rooms now
		s.realm.leaveRooms(c, why)
	}
	s.disconnects[why].Add(1)
	attrs := []any{"id", loggable(c.id), "why", why.String()}
	if c.cause != nil && why != ReasonClientClosed {
		attrs = append(attrs, "err", c.cause)
	}
	defer func() { // whatever becomes of the log line
		fs := s.events.disconnect.get()
		forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](c, why) }) })
	}()
	s.log(slog.LevelInfo, "peer: disconnected", attrs...)
}

// handle does what a message asks for.
func (s *Server) handle(c *Client, data []byte) {
	var e envelope
	if err := e.decode(data); err != nil {
		s.dropBad(c, err)
		return
	}
	if fs := s.events.message.get(); len(fs) > 0 && !s.observe(c, &e, fs) {
		return
	}
	switch {
	case e.typ == TypeHeartbeat:
	case e.typ == TypeRoomJoin || e.typ == TypeRoomLeave:
		s.handleRoom(c, &e)
	case e.typ == TypeLeave && e.leaver:
		c.end(ReasonLeft, nil, nil)
	default:
		s.relay(c, &e)
	}
}

// observe shows a message to the listeners of OnMessage, and reports whether the
// client is to be served on.
//
//go:noinline
func (s *Server) observe(c *Client, e *envelope, fs []func(*Client, Message)) bool {
	ok := true
	forEach(0, len(fs), func(i int) {
		ok = s.call(c, func() { fs[i](c, e.message(c.id)) }) && ok
	})
	return ok
}

// relay hands a message on, if it is of a type that is relayed, has a
// destination, and may go there.
//
//go:noinline
func (s *Server) relay(c *Client, e *envelope) {
	fate, relayed := s.fates[e.typ]
	if !relayed || len(e.dst) == 0 {
		s.dropUnroutable(c, e, relayed)
		return
	}
	if !s.authorized(c, e) {
		return
	}
	frame, buf := relayFrame(e.size(c.quoted))
	frame = e.append(frame, c.quoted)
	deadline := time.Now().Add(s.opts.ExpireTimeout)
	follows := e.typ == TypeAnswer || e.typ == TypeCandidate
	out := s.realm.route(string(e.dst), parcel{frame: frame, buf: buf, src: c.id, deadline: deadline, fate: fate, follows: follows})
	if out == refused && fate == fatePass && e.typ != TypeLeave && e.typ != TypeExpire && s.hears() {
		s.fail(c, fmt.Errorf("%w: %v for %v; only types in Options.HoldTypes wait", ErrNotConnected, loggable(e.typ), loggable(e.dst)))
	}
}

// dropUnroutable counts and reports a message that goes nowhere.
//
//go:noinline
func (s *Server) dropUnroutable(c *Client, e *envelope, relayed bool) {
	c.traffic.dropped[dropUnknownType].Add(1)
	switch {
	case !s.hears():
	case relayed:
		s.fail(c, fmt.Errorf("%w: %v needs \"dst\"", ErrNoDestination, loggable(e.typ)))
	case len(s.events.message.get()) > 0: // the host may handle it there
	case slices.Contains(serverTypes, e.typ):
		s.fail(c, fmt.Errorf("%w: only the server sends %v", ErrUnknownType, loggable(e.typ)))
	case e.typ == "":
		s.fail(c, fmt.Errorf("%w: the message has no \"type\", or one that is no string", ErrUnknownType))
	default:
		s.fail(c, fmt.Errorf("%w: %v is not in Options.RelayTypes or Options.HoldTypes", ErrUnknownType, loggable(e.typ)))
	}
}

// authorized asks the host whether a message may go to its destination.
func (s *Server) authorized(c *Client, e *envelope) bool {
	if s.opts.Authorize == nil {
		return true
	}
	var err error
	if !s.call(c, func() { err = s.opts.Authorize(c, e.message(c.id)) }) || err != nil {
		c.traffic.dropped[dropUnauthorized].Add(1)
		if e.typ == TypeOffer {
			s.realm.sendExpire(string(e.dst), c.id)
		}
		if err != nil {
			s.fail(c, fmt.Errorf("authorizing: %w", err))
		}
		return false
	}
	return true
}

// call calls a function of the host on behalf of c. A panic in it ends c, and so does
// the end of the goroutine; then call does not return.
func (s *Server) call(c *Client, f func()) bool {
	err := errGoexit
	defer func() {
		if err != nil {
			c.end(ReasonPanic, err, nil)
			s.fail(c, err)
		}
	}()
	c.holdUp(func() { err = guard(f) })
	return err == nil
}

// fail reports an error. c may be nil.
func (s *Server) fail(c *Client, err error) {
	id := loggable("")
	if c != nil {
		id = loggable(c.id)
	}
	level := slog.LevelWarn
	if c != nil && !errors.Is(err, ErrPanic) {
		level = slog.LevelDebug // a client can cause as many as it likes
	}
	fs := s.events.error.get()
	defer forEach(0, len(fs), func(i int) { s.tell(c, fs, i, err) }) // whatever becomes of the log line
	s.log(level, "peer: error", "id", id, "err", err)
}

// tell calls function i of OnError. If that panics, the client is ended, and the other
// functions are told.
func (s *Server) tell(c *Client, fs []func(*Client, error), i int, err error) {
	panicked := errGoexit
	defer func() {
		if panicked == nil {
			return
		}
		id := loggable("")
		if c != nil {
			id = loggable(c.id)
			c.end(ReasonPanic, panicked, nil)
		}
		defer forEach(0, len(fs), func(j int) {
			if j != i { // and if this panics too, nobody is left to be told
				c.holdUp(func() { guard(func() { fs[j](c, panicked) }) })
			}
		})
		s.log(slog.LevelError, "peer: error in OnError", "id", id, "err", panicked)
	}()
	c.holdUp(func() { panicked = guard(func() { fs[i](c, err) }) })
}

// loggable is an id as it can be shown to a terminal: what is not printable,
// bidirectional marks included, is escaped, as not every [slog.Handler] does.
type loggable string

func (l loggable) String() string {
	const enough = 128 // bytes
	id := string(l[:min(len(l), enough)])
	if q := strconv.Quote(id); q[1:len(q)-1] != id {
		return q
	}
	return id
}

// LogValue makes it a text for handlers that know more kinds than that.
func (l loggable) LogValue() slog.Value { return slog.StringValue(l.String()) }

// A bucket lets messages through at a rate. It is owned by one read loop.
type bucket struct {
	rate   float64 // per second; 0: no limit
	tokens float64
	last   time.Time
}

func newBucket(rate float64) bucket {
	if rate <= 0 {
		return bucket{}
	}
	return bucket{rate: rate, tokens: 2 * rate, last: time.Now()}
}

// take takes a token and returns how long to wait before the next message.
func (b *bucket) take(now time.Time) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.tokens = min(2*b.rate, b.tokens+now.Sub(b.last).Seconds()*b.rate) - 1
	b.last = now
	return time.Duration(max(0, -b.tokens/b.rate*float64(time.Second)))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Stats is a snapshot of a server's counters. All but Clients and HeldBytes only
// grow.
type Stats struct {
	Clients     int // connected now
	PeakClients int // the most that were connected at once
	HeldBytes   int // waiting for absent clients now

	Accepted uint64 // connections that got OPEN

	// Refused are the handshakes that did not, by cause: "missing parameters",
	// "invalid key", "invalid id", "authentication", "id taken", "limit",
	// "origin", "shutdown", "gave up", "bad upgrade".
	Refused map[string]uint64

	Relayed  uint64 // messages put into the outbox of their destination, EXPIRE included
	Held     uint64 // messages that waited for an absent destination
	Returned uint64 // messages that were saved from a connection that ended
	Expires  uint64 // EXPIRE messages made

	// Dropped are the messages that came to nothing, by cause: "absent",
	// "expired", "over a bound", "cleared", "unknown type", "bad message",
	// "unauthorized", "shutdown".
	Dropped map[string]uint64

	BytesIn  uint64 // payload bytes of the frames received
	BytesOut uint64 // bytes written

	// Disconnects are the connections that ended, by reason.
	Disconnects map[DisconnectReason]uint64
}

var refusalNames = [numRefusals]string{
	refusedParams: "missing parameters", refusedKey: "invalid key", refusedID: "invalid id", refusedAuth: "authentication",
	refusedTaken: "id taken", refusedLimit: "limit", refusedOrigin: "origin", refusedClosed: "shutdown",
	refusedGone: "gave up", refusedUpgrade: "bad upgrade",
}

var dropNames = [numDropReasons]string{
	dropAbsent: "absent", dropExpired: "expired", dropFull: "over a bound", dropCleared: "cleared",
	dropUnknownType: "unknown type", dropBadMessage: "bad message", dropUnauthorized: "unauthorized", dropShutdown: "shutdown",
}

// Stats returns the counters as they are now. It costs a few hundred loads and
// may be called each second. Refused and Dropped have all their causes, also
// those that have not happened; so has Disconnects.
func (s *Server) Stats() Stats {
	st := Stats{
		Clients: s.realm.Len(), PeakClients: int(s.realm.peak.Load()), HeldBytes: int(s.realm.heldBytes.Load()),
		Accepted: s.accepted.Load(),
		Refused:  make(map[string]uint64), Dropped: make(map[string]uint64), Disconnects: make(map[DisconnectReason]uint64),
	}
	for i := range s.refusals {
		st.Refused[refusalNames[i]] = s.refusals[i].Load()
	}
	for why := ReasonClientClosed; why <= ReasonShutdown; why++ {
		st.Disconnects[why] = s.disconnects[why].Load()
	}
	for i := range s.realm.shards {
		t := &s.realm.shards[i].traffic
		st.Relayed += t.relayed.Load()
		st.Held += t.held.Load()
		st.Returned += t.returned.Load()
		st.Expires += t.expired.Load()
		st.BytesIn += t.bytesIn.Load()
		st.BytesOut += t.bytesOut.Load()
		for why := range t.dropped {
			st.Dropped[dropNames[why]] += t.dropped[why].Load()
		}
	}
	return st
}
