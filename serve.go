package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// A session is what the reader of one client has for itself.
type session struct {
	*Server
	c       *Client
	rate    *bucket // nil: no limit
	in      received
	pending []delivery // that it has still to finish: see flush
	hosted  bool       // a function of the host has run since the last message was read
}

//go:noinline
func newSession(s *Server, c *Client) *session {
	return &session{Server: s, c: c, rate: newBucket(s.opts.MessageRate)}
}

// serve runs the reader of a client: it reads, and all further events are called on it. It
// cleans up even if an event ends the goroutine.
//
// Functions that are called from here are noinline, so that an idle connection keeps the two
// kilobytes of stack that a goroutine starts with.
func (s *Server) serve(c *Client) {
	defer s.work.done()
	defer c.writers.Wait()
	defer s.leave(c)
	ss := newSession(s, c)
	defer ss.flush()
	for {
		ok, errands := c.startReading(ss.in)
		if !ok {
			return
		}
		ss.hosted = false
		if errands {
			ss.doErrands()
			continue
		}
		err := error(nil)
		if !c.socket.hasMessage() {
			ss.flush()
			c.socket.release()
			err = c.socket.await(1)
		}
		ss.step(err)
	}
}

// step reads one frame and deals with it.
//
//go:noinline
func (ss *session) step(err error) {
	var data []byte
	if err == nil {
		data, err = ss.c.read()
	}
	switch {
	case err == nil && data == nil:
		return // a control frame
	case err == nil && ss.c.isClosing(): // it is ignored
	case err == nil:
		ss.in.messages++
		ss.in.bytes += uint64(len(data))
		ss.handle(data)
	case ss.c.resume(err):
		return // it was woken
	case errors.Is(err, ErrBadMessage):
		ss.dropBad(err)
	default:
		ss.flush()
		ss.c.quit(reasonOf(err), err)
	}
	if ss.rate == nil {
		return
	}
	if wait := ss.rate.take(time.Now()); wait > 0 && ss.c.readerIs(reading) {
		ss.flush()
		if err := ss.c.socket.freeBuffer(); err != nil {
			ss.c.quit(reasonOf(err), err)
			return
		}
		began := time.Now()
		ss.c.pauseReading(func() { sleep(ss.c.Context(), wait) }, nil)
		ss.in.throttled += time.Since(began)
	}
}

// flush writes what the reader has put off. While another message is at hand, what is for its
// destination may go out in the same write as this one; flush is called before anything that
// may take long.
func (ss *session) flush() {
	for i, d := range ss.pending {
		ss.pending[i] = delivery{}
		d.finish()
	}
	if ss.pending = ss.pending[:0]; cap(ss.pending) > 8 {
		ss.pending = nil
	}
}

// doErrands does what the reader has been woken for: it tells the host of joins and leaves, and sends
// the ICE servers again.
//
//go:noinline
func (ss *session) doErrands() {
	news, ice := ss.c.takeErrands()
	ss.flush()
	ss.tellRooms(ss.c, news)
	if ice {
		ss.sendICE(ss.c)
	}
}

// hasMore reports whether the reader will get another message without waiting.
func (ss *session) hasMore() bool {
	// A function of the host may have run since the message was read, and the client may have ended
	// meanwhile.
	return (!ss.hosted || ss.c.readerIs(reading)) && ss.c.socket.hasMessage()
}

// call is [Server.call] for the client of the session.
func (ss *session) call(f func()) bool {
	ss.flush()
	ss.hosted = true
	return ss.Server.call(ss.c, f)
}

// fail is [Server.fail] for the client of the session.
func (ss *session) fail(err error) {
	ss.flush()
	ss.hosted = true
	ss.Server.fail(ss.c, err)
}

// dropBad counts and reports a message that is none.
//
//go:noinline
func (ss *session) dropBad(err error) {
	ss.c.traffic.dropped[dropBadMessage].Add(1)
	if ss.hears() {
		ss.fail(err)
	}
}

// handle does what a message asks for.
func (ss *session) handle(data []byte) {
	var e envelope
	if err := e.decode(data); err != nil {
		ss.dropBad(err)
		return
	}
	if fs := ss.events.message.get(); len(fs) > 0 && !ss.observe(&e, fs) {
		return
	}
	switch {
	case e.typ == TypeHeartbeat:
	case e.typ == TypeRoomJoin || e.typ == TypeRoomLeave:
		ss.handleRoom(&e)
	case e.typ == TypeLeave && e.leaver:
		ss.c.end(ReasonLeft, nil, nil)
	default:
		ss.relay(&e)
	}
}

// observe shows a message to the functions of OnMessage, and reports whether the
// client is to be served on.
//
//go:noinline
func (ss *session) observe(e *envelope, fs []func(*Client, Message)) bool {
	ok := true
	forEach(0, len(fs), func(i int) {
		ok = ss.call(func() { fs[i](ss.c, e.message(ss.c.id)) }) && ok
	})
	return ok
}

// relay hands a message on, if it is of a type that is relayed, has a
// destination, and may go there.
//
//go:noinline
func (ss *session) relay(e *envelope) {
	keep, relayed := ss.relays[e.typ]
	if !relayed || len(e.dst) == 0 {
		ss.dropUnroutable(e, relayed)
		return
	}
	if !ss.authorized(e) {
		return
	}
	dst, deadline := string(e.dst), time.Now().Add(ss.opts.ExpireTimeout)
	out, d := ss.realm.route(dst, newParcel(e, ss.c.id, ss.c.quoted, keep, deadline))
	if d.todo == startWriter && ss.hasMore() {
		ss.pending = append(ss.pending, d)
	} else {
		d.finish()
	}
	switch {
	case out != notKept:
	case keep == keepUntilExpiry:
		ss.realm.sendExpire(dst, ss.c.id)
	case e.typ != TypeLeave && e.typ != TypeExpire && ss.hears():
		ss.fail(fmt.Errorf("%w: %v for %v; only types in Options.HoldTypes are held", ErrNotConnected, loggable(e.typ), loggable(dst)))
	}
}

// dropUnroutable counts and reports a message that goes nowhere.
//
//go:noinline
func (ss *session) dropUnroutable(e *envelope, relayed bool) {
	ss.c.traffic.dropped[dropUnknownType].Add(1)
	switch {
	case !ss.hears():
	case relayed:
		ss.fail(fmt.Errorf("%w: %v needs \"dst\"", ErrNoDestination, loggable(e.typ)))
	case len(ss.events.message.get()) > 0: // the host may handle it there
	case slices.Contains(serverTypes, e.typ):
		ss.fail(fmt.Errorf("%w: only the server sends %v", ErrUnknownType, loggable(e.typ)))
	case e.typ == "":
		ss.fail(fmt.Errorf("%w: the message has no \"type\", or its type is not a string", ErrUnknownType))
	default:
		ss.fail(fmt.Errorf("%w: %v is not in Options.RelayTypes or Options.HoldTypes", ErrUnknownType, loggable(e.typ)))
	}
}

// authorized asks the host whether a message may go to its destination.
func (ss *session) authorized(e *envelope) bool {
	if ss.opts.Authorize == nil {
		return true
	}
	var err error
	if !ss.call(func() { err = ss.opts.Authorize(ss.c, e.message(ss.c.id)) }) || err != nil {
		ss.c.traffic.dropped[dropUnauthorized].Add(1)
		if e.typ == TypeOffer {
			ss.realm.sendExpire(string(e.dst), ss.c.id)
		}
		if err != nil {
			ss.fail(fmt.Errorf("calling Authorize: %w", err))
		}
		return false
	}
	return true
}

// handleRoom does what a client's message about a room asks for.
//
//go:noinline
func (ss *session) handleRoom(e *envelope) {
	room, ok := stringField(e.payload, "room")
	data := rawField(e.payload, "data")
	switch {
	case ss.opts.AllowJoin == nil:
		ss.c.traffic.dropped[dropUnknownType].Add(1)
		if ss.hears() {
			ss.fail(fmt.Errorf("%w: %s needs Options.AllowJoin", ErrJoinNotAllowed, e.typ))
		}
		ss.refuseRoom(e.typ, room, "Clients may not join rooms by themselves here")
	case !ok:
		ss.c.traffic.dropped[dropBadMessage].Add(1)
		if ss.hears() {
			ss.fail(fmt.Errorf("%w: %s needs a payload with the name of a \"room\"", ErrBadMessage, e.typ))
		}
		ss.refuseRoom(e.typ, "", `A payload with the name of a "room" is needed`)
	case e.typ == TypeRoomLeave:
		ss.realm.Leave(room, ss.c)
	default:
		ss.join(room, data)
	}
}

// join makes a client a member of a room, or tells it why not.
func (ss *session) join(room string, data json.RawMessage) {
	err, allowed := checkRoomData(data), error(nil)
	if err == nil && !ss.call(func() { allowed = ss.opts.AllowJoin(ss.c, room, slices.Clone(data)) }) {
		return
	}
	if err == nil && allowed == nil {
		err = ss.joinWith(room, data)
	}
	switch reject := (*Reject)(nil); {
	case errors.As(allowed, &reject):
		ss.refuseRoom(TypeRoomJoin, room, reject.Message)
	case allowed != nil:
		ss.fail(fmt.Errorf("calling AllowJoin: %w", allowed))
		ss.refuseRoom(TypeRoomJoin, room, "You may not join this room")
	case err != nil && !errors.Is(err, ErrNotConnected) && !errors.Is(err, ErrSlowConsumer): // else the client has ended
		ss.refuseRoom(TypeRoomJoin, room, strings.TrimPrefix(err.Error(), "peer: "))
	}
}

// joinWith is [Realm.JoinWith], which waits for the engine of a cluster.
func (ss *session) joinWith(room string, data json.RawMessage) (err error) {
	if ss.realm.node == nil {
		return ss.realm.JoinWith(room, ss.c, data)
	}
	ss.flush()
	ss.hosted = true
	ss.pause(ss.c, func() { err = ss.realm.JoinWith(room, ss.c, data) })
	return err
}

// refuseRoom answers a client that asked to join a room and may not. The answer repeats
// the name of the room, unless that is too long for one.
func (ss *session) refuseRoom(t MessageType, room, msg string) {
	if t != TypeRoomJoin {
		return
	}
	if len(room) > maxIDBytes {
		room = ""
	}
	var buf [256]byte
	b := appendQuoted(append(buf[:0], `{"type":"ROOM-REFUSED","payload":{"room":`...), room)
	b = append(appendQuoted(append(b, `,"msg":`...), msg), "}}"...)
	ss.c.post(ownParcel(b, keepForSamePeer)) // a client that has ended need not know
}

// leave takes a client that has ended out of everything, and tells the host.
func (s *Server) leave(c *Client) {
	c.stopReading()
	c.end(ReasonPanic, nil, nil) // unless it has ended already, an event has ended this goroutine
	c.awaitEnd()
	if !c.awaitSuccessor() {
		s.realm.remove(c)
	}
	defer s.realm.finish(c)
	why := c.Reason()
	if c.Successor() == nil || !s.opts.keepsRooms(why) { // else the successor is in the rooms now
		s.realm.leaveRooms(c, why)
	}
	s.disconnects[why].Add(1)
	defer s.tellDisconnected(c, why) // whatever becomes of the log line
	news := c.takeNews()
	defer s.tellRooms(c, news)
	if s.silent {
		return
	}
	attrs := []any{"id", loggable(c.id), "why", why.String()}
	if c.cause != nil && why != ReasonClientClosed {
		attrs = append(attrs, "err", c.cause)
	}
	s.log(slog.LevelInfo, "peer: disconnected", attrs...)
}

// A bucket lets messages through at a rate. It is owned by one read loop.
type bucket struct {
	rate   float64 // per second
	tokens float64
	last   time.Time
}

// newBucket returns nil if there is no limit.
func newBucket(rate float64) *bucket {
	if rate <= 0 {
		return nil
	}
	return &bucket{rate: rate, tokens: 2 * rate, last: time.Now()}
}

// take takes a token and returns how long to wait before the next message.
func (b *bucket) take(now time.Time) time.Duration {
	b.tokens = min(2*b.rate, b.tokens+now.Sub(b.last).Seconds()*b.rate) - 1
	b.last = now
	return time.Duration(max(0, -b.tokens/b.rate*float64(time.Second)))
}
