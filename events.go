package peer

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// Errors that callers can test with [errors.Is].
var (
	// ErrNotConnected is returned by a send to an id that is not connected, or to a connection
	// that has ended. OnError gets an error that wraps ErrNotConnected if a client sends a
	// message of one of [Options.RelayTypes] to an id that is not connected.
	ErrNotConnected = errors.New("peer: not connected")

	// ErrSlowConsumer is returned by a send if the outbox of the client is full. The server
	// then closes the client with [ReasonSlowConsumer], unless OPEN has not been written yet:
	// then only the message is dropped.
	ErrSlowConsumer = errors.New("peer: the outbox of the client is full")

	// ErrBadClose is wrapped by the error of [Client.CloseWith] for a code or a text that
	// it does not allow.
	ErrBadClose = errors.New("peer: a close needs a code from 4100 to 4999 and at most 123 bytes of UTF-8")

	// ErrEngine is wrapped by the errors that come from the engine of [Options.Cluster].
	ErrEngine = errors.New("peer: cluster")

	// ErrUserElsewhere is wrapped by the error that OnError gets, once a minute, when
	// [Options.AllowOverride] cannot decide about a newcomer on another node, because the newcomer or
	// the holder has a [Client.User]. The newcomer then reads ID-TAKEN. [OverrideAlways] decides always.
	ErrUserElsewhere = errors.New("peer: the newcomer is on another node, and users do not travel between nodes")

	// ErrInEvent is returned by Shutdown and Close if they are called inside an event or inside
	// a function of [Options]. The server begins to close. But the call cannot wait for the
	// end, because the end waits for the function that made the call.
	ErrInEvent = errors.New("peer: the server is closing, but Shutdown and Close cannot wait for its end inside an event")

	// ErrPanic is wrapped by the error that OnError gets if a function of the host
	// panics, or ends its goroutine by [runtime.Goexit], which [testing.T.FailNow]
	// calls.
	ErrPanic = errors.New("peer: panic in a function of the host")

	// ErrUnknownType is wrapped by the error that OnError gets for a message of a type that the
	// server does not relay: the type is missing, or only the server may send it, or it is not
	// in [Options.RelayTypes] or [Options.HoldTypes]. The message is dropped. If a function of
	// OnMessage is registered, the error is not reported, because that function may handle the
	// type.
	ErrUnknownType = errors.New("peer: unknown message type")

	// ErrNoDestination is wrapped by the error that OnError gets for a message of a relayed
	// type without a destination.
	ErrNoDestination = errors.New("peer: message without a destination")

	// ErrJoinNotAllowed is wrapped by the error that OnError gets for a
	// [TypeRoomJoin] or [TypeRoomLeave] while [Options.AllowJoin] is nil.
	ErrJoinNotAllowed = errors.New("peer: clients may not join rooms by themselves")
)

// A Reject is an error whose text the client reads. [Options.Authenticate],
// [Options.GenerateClientID] and [Options.AllowJoin] may return one.
type Reject struct {
	// Type is the type of the message that a refused client reads: [TypeError] (the
	// default), for which PeerJS emits the error "server-error", [TypeInvalidKey] or
	// [TypeIDTaken]. A client that may not join a room reads [TypeRoomRefused],
	// whatever Type is.
	Type MessageType
	// Message is the text that the client reads.
	Message string
}

// Error returns Message after the prefix "peer: rejected: ".
func (r *Reject) Error() string { return "peer: rejected: " + r.Message }

// A DisconnectReason says why a connection ended. It is also an error: the
// [context.Cause] of [Client.Context].
type DisconnectReason uint8

// The reasons. The zero DisconnectReason stands for a client that is connected.
const (
	// ReasonClientClosed: the client sent a close frame.
	ReasonClientClosed DisconnectReason = iota + 1
	// ReasonConnectionLost: the connection ended without a close frame.
	ReasonConnectionLost
	// ReasonLeft: the client sent LEAVE without a destination. A function of OnLeave also gets
	// this reason for a client that left a room and is still connected.
	ReasonLeft
	// ReasonAliveTimeout: the client was silent for [Options.AliveTimeout].
	ReasonAliveTimeout
	// ReasonReplaced: a newcomer with the same token took the id over, for example because the
	// peer had lost its network and reconnected.
	ReasonReplaced
	// ReasonOverridden: [Options.AllowOverride] gave the id to a newcomer with another token.
	ReasonOverridden
	// ReasonUnresponsive: a newcomer asked for the id, and the client did not answer a ping
	// within [Options.ProbeTimeout].
	ReasonUnresponsive
	// ReasonRemoved: the host called [Client.Close], [Client.CloseWith] or
	// [Realm.RemoveClient].
	ReasonRemoved
	// ReasonSlowConsumer: the client did not read for [Options.WriteTimeout], or its
	// outbox overflowed ([Options.MaxOutboxMessages], [Options.MaxOutboxBytes]).
	ReasonSlowConsumer
	// ReasonMessageTooBig: the client sent a message over [Options.MaxMessageSize].
	ReasonMessageTooBig
	// ReasonInvalidText: the client sent a text message that is not UTF-8.
	ReasonInvalidText
	// ReasonProtocolError: the client broke the WebSocket protocol (RFC 6455).
	ReasonProtocolError
	// ReasonPanic: a function of the host panicked in an event of this client.
	ReasonPanic
	// ReasonShutdown: the server was shut down.
	ReasonShutdown
	// ReasonOverloaded: the client was sending a large message when all clients together
	// had reached [Options.MaxPartialBytes].
	ReasonOverloaded
	// ReasonClaimLost: a client on another node of the cluster has the id, because this node was
	// not able to renew its claim in time ([Options.Cluster]).
	ReasonClaimLost

	reasonRefused // of a client that was never admitted; for the close frame only
	numReasons    = iota + 1
)

// Close codes that this server defines, in the range for private use (4000 to 4999,
// RFC 6455, section 7.4.2). A page can see them in the close event of its WebSocket.
const (
	// CloseOverridden is for [ReasonOverridden].
	CloseOverridden = 4001
	// CloseReplaced is for [ReasonReplaced].
	CloseReplaced = 4002
	// CloseUnresponsive is for [ReasonUnresponsive] and [ReasonAliveTimeout].
	CloseUnresponsive = 4003
	// CloseRemoved is for [ReasonRemoved].
	CloseRemoved = 4004
	// CloseClaimLost is for [ReasonClaimLost].
	CloseClaimLost = 4005
)

// reasons has the name of each reason, and the code of its close frame. A client that sent a close
// frame is answered with its own code, and one whose connection is lost cannot be told.
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
	ReasonClaimLost:      {"claim lost", CloseClaimLost},
	reasonRefused:        {"refused", 1008},
}

// String returns the reason in a few words.
func (r DisconnectReason) String() string {
	if int(r) < len(reasons) {
		return reasons[r].name
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Error returns the text of [DisconnectReason.String].
func (r DisconnectReason) Error() string { return r.String() }

func (r DisconnectReason) closeCode() (code uint16, text string) {
	return reasons[r].code, reasons[r].name
}

// OnConnection registers a function that the server calls when a client has been admitted.
// [Realm.Client] finds the client by then, and the server has read no message from it yet. The
// client reads OPEN when all functions of OnConnection have returned, at the latest when
// [Options.HandshakeTimeout] is over. So a page that has read OPEN can rely on what these
// functions did. Messages that these functions send with [Client.Send], [Realm.Join] or
// [Realm.Broadcast] follow right after OPEN.
//
// The following holds for all events. Each OnConnection is followed by exactly one
// OnDisconnect. Events of one connection never overlap. For one id, the OnDisconnect of
// a connection comes before the OnConnection of its successor. Events of different ids
// run concurrently. The server holds no lock while an event runs, so the function may
// call every method; only [Server.Shutdown] and [Server.Close] return [ErrInEvent].
// While an event runs, the server does not read from its connection: start a goroutine
// for work that takes long. A panic is reported to OnError and ends that connection only.
//
// Any number of functions may be registered, at any time. The server calls them in the
// order of registration. The function that OnConnection returns takes the registration
// back: no later event calls f. It may be called at any time and more than once. It does
// not wait for a call of f that is under way.
func (s *Server) OnConnection(f func(c *Client)) (remove func()) { return s.events.connection.add(f) }

// OnDisconnect registers a function that the server calls when a connection has ended,
// with the reason. By then the id is free, or belongs to another connection
// ([Client.Successor]). [Server.OnConnection] says what holds for all events.
func (s *Server) OnDisconnect(f func(c *Client, why DisconnectReason)) (remove func()) {
	return s.events.disconnect.add(f)
}

// OnMessage registers a function that the server calls for each message of a client, of
// any type, before the message is relayed. It cannot stop the message; use
// [Options.Authorize] for that. [Server.OnConnection] says what holds for all events.
func (s *Server) OnMessage(f func(c *Client, m Message)) (remove func()) {
	return s.events.message.add(f)
}

// OnError registers a function that the server calls once for each of these errors:
//
//   - A client made a mistake, and the server dropped its message: [ErrBadMessage],
//     [ErrUnknownType], [ErrNoDestination], [ErrJoinNotAllowed], or [ErrNotConnected] for
//     a type that is not held for an absent id. The text names the option that decides.
//   - Authenticate, AllowJoin or GenerateClientID returned an error that is not a [Reject],
//     or Authorize returned any error.
//   - GenerateClientID returned an id that is not valid, or ten ids that were all taken.
//   - A function of the host panicked ([ErrPanic]).
//   - A call of the engine of [Options.Cluster] failed, or another server sent what cannot be read
//     ([ErrEngine]), or AllowOverride cannot decide ([ErrUserElsewhere]): each once a minute at most.
//
// c is nil if there is no admitted client. [Server.OnConnection] says what holds for all
// events of a client.
func (s *Server) OnError(f func(c *Client, err error)) (remove func()) { return s.events.error.add(f) }

// OnRefuse registers a function that the server calls when it refuses the request of a client
// that asked for a socket. The server calls f before it answers the client; only for the cause
// "bad upgrade" it has answered before. The cause is one of the keys of [Stats.Refused]. The id
// is the text that the client sent as its id, and may be any text. Calls for different requests
// run concurrently. A panic is reported to OnError, and the client is refused nevertheless.
// [Server.OnConnection] says what remove does.
func (s *Server) OnRefuse(f func(r *http.Request, id, cause string)) (remove func()) {
	return s.events.refuse.add(f)
}

type events struct {
	connection listeners[func(*Client)]
	disconnect listeners[func(*Client, DisconnectReason)]
	message    listeners[func(*Client, Message)]
	error      listeners[func(*Client, error)]
	refuse     listeners[func(*http.Request, string, string)]
	join       listeners[func(string, *Client)]
	leave      listeners[func(string, *Client, DisconnectReason)]
}

// listeners are the functions that are registered for one event. They are read for every message,
// so reading takes no lock.
type listeners[F any] struct {
	mu  sync.Mutex // guards replacing all, and the following
	ids []uint64   // of the functions in all
	id  uint64     // the last one

	all atomic.Pointer[[]F]
}

// add registers f, and returns what takes the registration back.
func (l *listeners[F]) add(f F) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id++
	id := l.id
	all := append(slices.Clone(l.get()), f)
	l.ids = append(l.ids, id)
	l.all.Store(&all)
	return func() { l.remove(id) }
}

func (l *listeners[F]) remove(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.ids, id)
	if i < 0 {
		return
	}
	l.ids = slices.Delete(l.ids, i, i+1)
	all := slices.Delete(slices.Clone(l.get()), i, i+1)
	l.all.Store(&all)
}

func (l *listeners[F]) get() []F {
	if all := l.all.Load(); all != nil {
		return *all
	}
	return nil
}
