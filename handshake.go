package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

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
	refusedEngine // the engine of the cluster is away
	numRefusals   = iota
)

func refuse(cause refusalCause, status int, t MessageType, text string) *refusal {
	return &refusal{cause, Reject{t, text}, status}
}

// refusedByGoexit is the refusal of a client for which a function of the host has ended the
// goroutine.
var refusedByGoexit = refuse(refusedAuth, http.StatusInternalServerError, TypeError, "Internal error")

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
		defer http.Error(w, "Origin not allowed", http.StatusForbidden) // whatever becomes of OnRefuse
		s.refuseRequest(r, refusedOrigin)
		return
	}
	if !s.work.begin() {
		defer http.Error(w, "Server is shutting down", http.StatusServiceUnavailable)
		s.refuseRequest(r, refusedClosed)
		return
	}
	defer wakeMonitor() // middleware may compute
	defer s.work.done()
	s.handshake(w, r)
}

// handshakeContext returns a context for what may take long in a handshake that began at
// start: it ends with parent, with the server, and when HandshakeTimeout is over. Most
// handshakes need none.
func (s *Server) handshakeContext(parent context.Context, start time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	if s.opts.HandshakeTimeout >= 0 {
		cancel()
		ctx, cancel = context.WithDeadline(parent, start.Add(s.opts.HandshakeTimeout))
	}
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// paramsOf returns copies, but of the key: some adaptors use the memory of a request again when its
// connection has ended, and a part of a request keeps all of it.
func paramsOf(r *http.Request) params {
	q := r.URL.Query()
	p := params{id: q.Get("id"), token: strings.Clone(q.Get("token")), key: q.Get("key")}
	p.quoted = quote(p.id)
	if inner := p.quoted[1 : len(p.quoted)-1]; inner == p.id { // nothing in it is escaped
		p.id = inner
	} else {
		p.id = strings.Clone(p.id)
	}
	return p
}

// handshake upgrades the request and admits the client, or tells it why not.
func (s *Server) handshake(w http.ResponseWriter, r *http.Request) {
	p := paramsOf(r)
	var user any
	var c *Client          // nil before the upgrade
	why := refusedByGoexit // unless the functions of the host return
	defer func() {
		if why != nil {
			s.refuseClient(w, r, p.id, c, why)
		}
	}()
	if s.opts.RejectBeforeUpgrade {
		u, refusal := s.check(r, p, nil)
		if refusal != nil {
			why = refusal
			return
		}
		user = u
	}
	socket, err := s.upgrade(w, r)
	if err != nil {
		why = refuse(refusedUpgrade, 0, "", err.Error()) // it has been answered
		return
	}
	addr, remote := s.remoteAddr(r, socket.conn.LocalAddr().Network())
	c = newClient(r, socket, p, remote, limitAddrOf(addr), &s.opts, s.realm.traffic(p.id))
	if c.user = user; !addr.IsValid() && s.opts.ConcurrentLimitPerAddr > 0 {
		s.warnOfNoAddress(c)
	}
	if why = s.decide(r, p, c); why == nil {
		s.accepted.Add(1)
		s.work.fork()
		s.announce(c)
	}
}

// refuseClient tells a client that is connected to nothing why it cannot stay. c is nil before
// the upgrade.
func (s *Server) refuseClient(w http.ResponseWriter, r *http.Request, id string, c *Client, why *refusal) {
	s.refusals[why.cause].Add(1) // before the client can know of it
	defer func() {               // whatever becomes of the log line
		switch {
		case c != nil:
			s.turnAway(c, why)
		case why.status != 0:
			http.Error(w, why.reject.Message, why.status)
		}
	}()
	defer s.tellRefused(r, id, why.cause) // likewise
	s.log(slog.LevelInfo, "peer: connection refused", "id", loggable(id), "why", why.reject.Message)
}

// refuseRequest counts a request that is refused without a look at its id.
func (s *Server) refuseRequest(r *http.Request, cause refusalCause) {
	s.refusals[cause].Add(1)
	s.tellRefused(r, r.URL.Query().Get("id"), cause)
}

func (s *Server) turnAway(c *Client, refusal *refusal) {
	why, last := reasonRefused, &Message{}
	if *last = notice(refusal.reject.Type, refusal.reject.Message); refusal.cause == refusedClosed || s.ctx.Err() != nil {
		why, last = ReasonShutdown, nil
	}
	c.stopReading()
	c.end(why, nil, last)
	c.writers.Wait()
}

// warnOfNoAddress says once that there are clients that no limit per address holds.
func (s *Server) warnOfNoAddress(c *Client) {
	s.noAddress.Do(func() {
		s.log(slog.LevelWarn, "peer: ConcurrentLimitPerAddr does not count clients without an address; see TrustUnixProxy",
			"id", loggable(c.id), "addr", c.remote)
	})
}

// announce tells the host of a connection, on the goroutine of net/http, whose
// stack has grown. The reader, for the life of the connection, starts on a small stack
// afterwards, even if an event ends this goroutine as a failing test does.
func (s *Server) announce(c *Client) {
	defer s.startServing(c)
	defer c.forgetRequest()
	if !c.isOpen() {
		defer s.open(c, s.openLater(c))
	}
	if c.predecessor != nil {
		s.pause(c, c.predecessor.awaitFinish)
		c.predecessor = nil
	}
	if s.opts.ICEServers != nil {
		defer s.sendICE(c)
	}
	defer s.tellConnected(c) // whatever becomes of the log line
	if !s.silent {
		s.log(slog.LevelInfo, "peer: connected", "id", loggable(c.id), "addr", c.remote)
	}
}

func (s *Server) startServing(c *Client) {
	c.stopReading()
	go s.serve(c)
}

// openLater lets the client have its outbox, which begins with OPEN, when HandshakeTimeout is
// over. The timer is nil if there is no such timeout.
func (s *Server) openLater(c *Client) *time.Timer {
	if s.opts.HandshakeTimeout < 0 {
		return nil
	}
	c.writers.Add(1)
	return time.AfterFunc(time.Until(c.socket.start.Add(s.opts.HandshakeTimeout)), func() {
		defer c.writers.Done()
		s.realm.open(c)
	})
}

// open lets the client have its outbox now.
func (s *Server) open(c *Client, timer *time.Timer) {
	s.realm.open(c)
	if timer != nil && timer.Stop() {
		c.writers.Done()
	}
}

// decide checks the client and gets it its id.
func (s *Server) decide(r *http.Request, p params, c *Client) (why *refusal) {
	if !s.opts.RejectBeforeUpgrade {
		c.user, why = s.check(r, p, c)
	}
	if why == nil {
		why = s.claim(r.Context(), c)
	}
	return why
}

// check decides on everything that does not depend on other clients. c is nil before the
// upgrade.
func (s *Server) check(r *http.Request, p params, c *Client) (user any, why *refusal) {
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
		ctx, cancel := s.handshakeContext(r.Context(), time.Now())
		defer cancel()
		return s.authenticate(r.WithContext(ctx), p)
	}
	ctx, cancel := s.handshakeContext(r.Context(), c.socket.start)
	defer cancel()
	defer c.socket.watch(cancel)()
	return s.authenticate(r.WithContext(ctx), p)
}

func (s *Server) authenticate(r *http.Request, p params) (user any, why *refusal) {
	var err error
	if panicked := s.ask("calling Authenticate", func() { user, err = s.opts.Authenticate(r, p.id, p.token) }); panicked != nil {
		err = panicked
	}
	if gone := r.Context().Err(); gone != nil && s.ctx.Err() == nil && (err == nil || errors.Is(err, gone)) {
		return nil, refuse(refusedGone, http.StatusUnauthorized, TypeError, "Authentication took too long")
	}
	if err == nil {
		return user, nil
	}
	if reject := (*Reject)(nil); errors.As(err, &reject) {
		why = refuse(refusedAuth, http.StatusForbidden, reject.Type, reject.Message)
		switch reject.Type {
		case TypeError, TypeInvalidKey, TypeIDTaken:
		default:
			why.reject.Type = TypeError
		}
		return nil, why
	}
	s.fail(nil, fmt.Errorf("calling Authenticate: %w", err))
	return nil, refuse(refusedAuth, http.StatusUnauthorized, TypeError, "Authentication failed")
}
