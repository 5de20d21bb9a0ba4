package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
)

// log keeps a handler that panics from ending the process.
func (s *Server) log(level slog.Level, msg string, attrs ...any) {
	if !s.silent {
		guard(func() { s.opts.Logger.Log(context.Background(), level, msg, attrs...) })
	}
}

// logs reports whether lines of this level go anywhere.
func (s *Server) logs(level slog.Level) (yes bool) {
	if !s.silent {
		guard(func() { yes = s.opts.Logger.Enabled(context.Background(), level) })
	}
	return yes
}

// hears reports whether anybody is told of a client's mistake. A client can make as many
// as it likes, so an error is made only then.
func (s *Server) hears() bool { return len(s.events.error.get()) > 0 || s.logs(slog.LevelDebug) }

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

// tellConnected calls the functions of OnConnection.
func (s *Server) tellConnected(c *Client) {
	if fs := s.events.connection.get(); len(fs) > 0 {
		s.pause(c, func() {
			forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](c) }) })
		})
	}
}

// OnJoin registers a function that the server calls when a client has become a member of a
// room. For each client, OnJoin and [Server.OnLeave] are called in the order in which it joins
// and leaves, between its OnConnection and its OnDisconnect. If a client joins during another
// event of its own, OnJoin follows that event; joins and leaves wait in memory until then. When
// a successor stays in the rooms of its predecessor, neither is called at that time. When the
// successor leaves such a room later, OnLeave is called for it, although OnJoin was not.
// [Server.OnConnection] says what holds for all events.
func (s *Server) OnJoin(f func(room string, c *Client)) (remove func()) {
	s.realm.rooms.watched.Store(true)
	return s.events.join.add(f)
}

// OnLeave registers a function that the server calls when a client is no longer a member of
// a room. The reason is [ReasonLeft] if the client left, or if the host took it out with
// [Realm.Leave]; otherwise it is the reason why the connection ended. [Server.OnJoin] says
// when both are called.
func (s *Server) OnLeave(f func(room string, c *Client, why DisconnectReason)) (remove func()) {
	s.realm.rooms.watched.Store(true)
	return s.events.leave.add(f)
}

// tellRooms calls the functions of OnJoin and OnLeave.
func (s *Server) tellRooms(c *Client, news []roomNews) {
	forEach(0, len(news), func(i int) {
		n := news[i]
		if n.why == 0 {
			fs := s.events.join.get()
			forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](n.room, c) }) })
			return
		}
		fs := s.events.leave.get()
		forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](n.room, c, n.why) }) })
	})
}

// tellRefused calls the functions of OnRefuse. Nobody is connected, so a panic ends nothing.
func (s *Server) tellRefused(r *http.Request, id string, cause refusalCause) {
	fs := s.events.refuse.get()
	forEach(0, len(fs), func(i int) {
		if err := s.ask("calling OnRefuse", func() { fs[i](r, id, refusalNames[cause]) }); err != nil {
			s.fail(nil, fmt.Errorf("calling OnRefuse: %w", err))
		}
	})
}

// sendICE asks the host for the ICE servers of a client, and sends them.
func (s *Server) sendICE(c *Client) {
	if !c.connected() {
		return
	}
	var servers []ICEServer
	ok := s.call(c, func() { servers = s.opts.ICEServers(c) })
	if ok && len(servers) > 0 {
		c.precede(ownParcel(iceMessage(servers), keepNone))
	}
	if ok && s.opts.ICERefresh > 0 {
		c.refreshICE(s.opts.ICERefresh / 2)
	}
}

// tellDisconnected calls the functions of OnDisconnect.
func (s *Server) tellDisconnected(c *Client, why DisconnectReason) {
	if fs := s.events.disconnect.get(); len(fs) > 0 {
		forEach(0, len(fs), func(i int) { s.call(c, func() { fs[i](c, why) }) })
	}
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
	s.pause(c, func() { err = guard(f) })
	return err == nil
}

// pause runs f, which may take long, on the goroutine of the reader of c, which may be nil. If c
// ends meanwhile, its id is free at once, and what it was not sent can be held.
func (s *Server) pause(c *Client, f func()) {
	if c == nil {
		f()
		return
	}
	remove := func() {
		if c.mayBeReplacedBy(nil) { // else its successor takes it out
			s.realm.remove(c)
		}
	}
	if c.Reason() != 0 {
		remove()
	}
	c.pauseReading(f, remove)
}

// fail reports an error. c may be nil.
func (s *Server) fail(c *Client, err error) {
	level := slog.LevelWarn
	if c != nil && !errors.Is(err, ErrPanic) {
		level = slog.LevelDebug // a client can cause as many as it likes
	}
	fs := s.events.error.get()
	defer forEach(0, len(fs), func(i int) { s.tell(c, fs, i, err) }) // whatever becomes of the log line
	s.log(level, "peer: error", "id", idOf(c), "err", err)
}

// tell calls function i of OnError. If that panics, the client is ended, and the other
// functions are told.
func (s *Server) tell(c *Client, fs []func(*Client, error), i int, err error) {
	panicked := errGoexit
	defer func() {
		if panicked == nil {
			return
		}
		if c != nil {
			c.end(ReasonPanic, panicked, nil)
		}
		defer forEach(0, len(fs), func(j int) {
			if j != i { // and if this panics too, nobody is left to be told
				s.pause(c, func() { guard(func() { fs[j](c, panicked) }) })
			}
		})
		s.log(slog.LevelError, "peer: error in OnError", "id", idOf(c), "err", panicked)
	}()
	s.pause(c, func() { panicked = guard(func() { fs[i](c, err) }) })
}

// idOf returns the id of c for the log. c may be nil.
func idOf(c *Client) loggable {
	if c == nil {
		return ""
	}
	return loggable(c.id)
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

// forEach calls do with the numbers from i to n-1, in order. If do ends the goroutine, the remaining
// calls still happen.
func forEach(i, n int, do func(i int)) {
	defer func() {
		if i < n {
			forEach(i, n, do)
		}
	}()
	for i < n {
		i++
		do(i - 1)
	}
}

// errGoexit is the error of a function of the host that has ended its goroutine.
var errGoexit = fmt.Errorf("%w: the function has ended its goroutine (runtime.Goexit)", ErrPanic)

// guard calls f, a function of the host, and returns its panic as an error. It does not
// return if f ends the goroutine.
//
//go:noinline
func guard(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	wakeMonitor() // f may compute for long
	f()
	return nil
}
