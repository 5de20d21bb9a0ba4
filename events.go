package peer

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Errors that callers can test with [errors.Is].
var (
	// ErrNotConnected is returned by sends to an id or connection that is gone. It
	// is wrapped by the error that OnError gets for a client's message of one of
	// [Options.RelayTypes] to an id that is not connected.
	ErrNotConnected = errors.New("peer: not connected")

	// ErrSlowConsumer is returned by a send that overflowed the client's outbox.
	// The client is closed with [ReasonSlowConsumer], unless it has not read OPEN
	// yet: then only the message is refused.
	ErrSlowConsumer = errors.New("peer: slow consumer")

	// ErrInEvent is returned by Shutdown and Close when they are called from
	// inside an event or a decision. The server is closing then, but they cannot
	// wait for its end: they would wait for themselves.
	ErrInEvent = errors.New("peer: closing, but called from inside an event that cannot be waited for")

	// ErrPanic is wrapped by the error that OnError gets when a function of the
	// host has panicked, or has ended its goroutine ([runtime.Goexit], which
	// [testing.T.FailNow] calls).
	ErrPanic = errors.New("peer: panic in a function of the host")

	// ErrUnknownType is wrapped by the error that OnError gets for a message that
	// is not relayed because of its type: the type is neither one of the protocol
	// nor in [Options.RelayTypes] or [Options.HoldTypes]. It is not reported while
	// a function of OnMessage is registered, which may handle types of its own.
	ErrUnknownType = errors.New("peer: unknown message type")

	// ErrNoDestination is wrapped by the error that OnError gets for a message of
	// a type that is relayed, but without a destination.
	ErrNoDestination = errors.New("peer: message without a destination")

	// ErrJoinNotAllowed is wrapped by the error that OnError gets for a
	// [TypeRoomJoin] or [TypeRoomLeave] while [Options.AllowJoin] is nil.
	ErrJoinNotAllowed = errors.New("peer: clients may not join rooms by themselves")
)

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

// A DisconnectReason says why a connection ended. It is also an error, the
// [context.Cause] of the client's context.
type DisconnectReason uint8

// The reasons. The zero DisconnectReason stands for a client that is connected.
const (
	// ReasonClientClosed: the client sent a close frame.
	ReasonClientClosed DisconnectReason = iota + 1
	// ReasonConnectionLost: the socket ended without one.
	ReasonConnectionLost
	// ReasonLeft: the client sent LEAVE without a destination.
	ReasonLeft
	// ReasonAliveTimeout: nothing came for [Options.AliveTimeout].
	ReasonAliveTimeout
	// ReasonReplaced: the same peer, by its token, has a new connection.
	ReasonReplaced
	// ReasonOverridden: [Options.AllowOverride] gave the id to somebody else.
	ReasonOverridden
	// ReasonUnresponsive: it did not answer when somebody asked for its id.
	ReasonUnresponsive
	// ReasonRemoved: the host called [Client.Close] or [Realm.RemoveClient].
	ReasonRemoved
	// ReasonSlowConsumer: it did not read what was sent to it.
	ReasonSlowConsumer
	// ReasonMessageTooBig: it sent more than [Options.MaxMessageSize].
	ReasonMessageTooBig
	// ReasonInvalidText: it sent a text frame that is not UTF-8.
	ReasonInvalidText
	// ReasonProtocolError: it broke the WebSocket protocol.
	ReasonProtocolError
	// ReasonPanic: a function of the host panicked in an event of this client.
	ReasonPanic
	// ReasonShutdown: the server was shut down.
	ReasonShutdown
	// ReasonOverloaded: it was in the middle of a large message while all clients
	// together had more of unfinished messages than [Options.MaxPartialBytes].
	ReasonOverloaded

	reasonRefused // never connected: only the close frame needs it
	numReasons    = iota + 1
)

// Close codes of the server's own (RFC 6455, section 7.4.2: 4000 to 4999). A
// page can see them in the close event of the socket.
const (
	// CloseOverridden: another connection was allowed to take the id over.
	CloseOverridden = 4001
	// CloseReplaced: the peer itself has connected again.
	CloseReplaced = 4002
	// CloseUnresponsive: the client did not answer a ping in time, either because
	// another client asked for its id ([ReasonUnresponsive]) or because it was silent
	// for [Options.AliveTimeout] ([ReasonAliveTimeout]).
	CloseUnresponsive = 4003
	// CloseRemoved: the application has removed the client.
	CloseRemoved = 4004
)

// reasons describes each reason, and how the close frame tells the client. Where
// there is no code, the client or the library has already said what there is to
// say.
var reasons = [numReasons]struct {
	name string
	code uint16
}{
	0:                    {"connected", 0},
	ReasonClientClosed:   {"client closed", 0},
	ReasonConnectionLost: {"connection lost", 0},
	ReasonLeft:           {"left", 1000},
	ReasonAliveTimeout:   {"alive timeout", CloseUnresponsive},
	ReasonReplaced:       {"replaced by its own token", CloseReplaced},
	ReasonOverridden:     {"overridden", CloseOverridden},
	ReasonUnresponsive:   {"unresponsive", CloseUnresponsive},
	ReasonRemoved:        {"removed", CloseRemoved},
	ReasonSlowConsumer:   {"slow consumer", 1008},
	ReasonMessageTooBig:  {"message too big", 1009},
	ReasonInvalidText:    {"invalid UTF-8", 1007},
	ReasonProtocolError:  {"protocol error", 1002},
	ReasonPanic:          {"internal error", 1011},
	ReasonShutdown:       {"server shutdown", 1001},
	ReasonOverloaded:     {"server overloaded", 1013},
	reasonRefused:        {"refused", 1008},
}

// String returns the reason in a few words.
func (r DisconnectReason) String() string {
	if int(r) < len(reasons) {
		return reasons[r].name
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Error returns the same text, which is what fmt prints for an error.
func (r DisconnectReason) Error() string { return r.String() }

func (r DisconnectReason) closeCode() (code uint16, text string) {
	return reasons[r].code, reasons[r].name
}

// OnConnection registers a function that is called when a client has connected: the
// client can be found by its id, and nothing that it sent has been read yet. The client
// reads OPEN when all these functions have returned, at the latest when
// [Options.HandshakeTimeout] is over, so a page that has read OPEN can rely on what they
// did. What they send with [Client.Send], [Realm.Join] or [Realm.Broadcast] comes right
// after OPEN.
//
// This is what holds for all events. Each OnConnection is followed by exactly
// one OnDisconnect. Events of one connection never overlap, and for one id the
// OnDisconnect of a connection comes before the OnConnection of the next; events
// of different ids run concurrently. No lock is held: an event may call anything
// of the server, except that [Server.Shutdown] and [Server.Close] cannot wait
// for it. While an event runs, its connection is not read from, so one that
// takes long should hand over to a goroutine. A panic in it is reported to
// OnError and ends that connection only.
//
// Functions may be registered at any time, also while serving, and any number of
// them; they are called in the order of their registration.
func (s *Server) OnConnection(f func(c *Client)) { s.events.connection.add(f) }

// OnDisconnect registers a function that is called when a connection has ended,
// with the reason. Its id is free by then, or has a new owner
// ([Client.Successor]). See [Server.OnConnection] for what holds for all events.
func (s *Server) OnDisconnect(f func(c *Client, why DisconnectReason)) { s.events.disconnect.add(f) }

// OnMessage registers a function that is called for every message a client has
// sent, of any type, before it is relayed. It observes: to decide what may pass,
// use [Options.Authorize]. See [Server.OnConnection] for what holds for all
// events.
func (s *Server) OnMessage(f func(c *Client, m Message)) { s.events.message.add(f) }

// OnError registers a function that is called once for each thing that went wrong:
//
//   - a message that the server drops because of a mistake of the client that sent
//     it: [ErrBadMessage], [ErrUnknownType], [ErrNoDestination], [ErrJoinNotAllowed],
//     or [ErrNotConnected] for a type that does not wait for an absent id. The text
//     names the option that decides;
//   - an error of Authenticate, Authorize, AllowJoin or GenerateClientID that is not
//     a [Reject];
//   - a panic in a function of the host ([ErrPanic]).
//
// c is nil if no client is connected yet. See [Server.OnConnection] for what holds
// for all events of a client.
func (s *Server) OnError(f func(c *Client, err error)) { s.events.error.add(f) }

type events struct {
	connection listeners[func(*Client)]
	disconnect listeners[func(*Client, DisconnectReason)]
	message    listeners[func(*Client, Message)]
	error      listeners[func(*Client, error)]
}

// listeners are the functions registered for one event. They are read without a
// lock, as that happens for every message.
type listeners[F any] struct {
	mu  sync.Mutex // guards replacing all
	all atomic.Pointer[[]F]
}

func (l *listeners[F]) add(f F) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := append(l.get()[:len(l.get()):len(l.get())], f)
	l.all.Store(&all)
}

func (l *listeners[F]) get() []F {
	if all := l.all.Load(); all != nil {
		return *all
	}
	return nil
}

// forEach calls do with the numbers from i to n-1, in order, also with those that come
// after one for which do has ended the goroutine.
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
var errGoexit = fmt.Errorf("%w: it has ended its goroutine (runtime.Goexit)", ErrPanic)

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
