package peer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// A MessageType is the "type" of a message on the signalling socket.
type MessageType string

// The types that PeerJS clients and servers know.
//
// OFFER, ANSWER and CANDIDATE carry a WebRTC negotiation from one peer to another. The server
// relays them to their destination. If the destination is not connected, the server holds them
// for [Options.ExpireTimeout]. LEAVE and EXPIRE are relayed, but never held. A LEAVE without
// destination means that its sender leaves. The server does not answer HEARTBEAT. The other
// types come from the server only; a client's message of such a type is dropped.
const (
	TypeHeartbeat MessageType = "HEARTBEAT"
	TypeOffer     MessageType = "OFFER"
	TypeAnswer    MessageType = "ANSWER"
	TypeCandidate MessageType = "CANDIDATE"
	TypeLeave     MessageType = "LEAVE"
	TypeExpire    MessageType = "EXPIRE"

	TypeOpen       MessageType = "OPEN"
	TypeError      MessageType = "ERROR"
	TypeIDTaken    MessageType = "ID-TAKEN"
	TypeInvalidKey MessageType = "INVALID-KEY"
	TypeOverride   MessageType = "OVERRIDE_CONNECTION"
)

// The types of the messages about rooms. With [Options.AllowJoin], clients send
// [TypeRoomJoin] and [TypeRoomLeave]; the server sends the others. The payload of each is
// an object with the name of the "room". An unmodified PeerJS client sends them with
// peer.socket.send and reads them with peer.socket.on("message").
//
// A member may have data that the other members read, for example its name. The data is any
// JSON of at most 1,024 bytes.
const (
	// TypeRoomJoin is a client's request to join a room, with its "data" if it has any.
	// The answer is [TypeRoomMembers] or [TypeRoomRefused]. A client that is a member already, as after a reconnect, gets
	// [TypeRoomMembers] too; its data stays, and the other members are not told.
	TypeRoomJoin MessageType = "ROOM-JOIN"
	// TypeRoomLeave is a client's request to leave a room. All members, the client
	// included, get [TypeRoomLeft].
	TypeRoomLeave MessageType = "ROOM-LEAVE"
	// TypeRoomMembers lists the "members", the receiver included, as ids in
	// ascending order, and in "data" the data of the members that have some, by id.
	TypeRoomMembers MessageType = "ROOM-MEMBERS"
	// TypeRoomRefused says in "msg" why a client may not join.
	TypeRoomRefused MessageType = "ROOM-REFUSED"
	// TypeRoomJoined tells the other members that "id" has joined, with its "data".
	TypeRoomJoined MessageType = "ROOM-JOINED"
	// TypeRoomLeft tells the members that "id" has left, and in "reason" why: "left", or
	// the [DisconnectReason] of its connection.
	TypeRoomLeft MessageType = "ROOM-LEFT"
)

// A Message is one message of the signalling protocol.
//
// The server sets Src to the id of the sender, whatever the sender wrote. Payload is the
// raw JSON value as it was on the wire; nil means that the message has none. The host may
// keep and change a Message that it is given.
type Message struct {
	Type    MessageType     // any type; not checked if the host sends it
	Src     string          // id of the sender; "" leaves it out
	Dst     string          // id of the destination; "" leaves it out
	Payload json.RawMessage // any JSON; nil leaves it out
}

// ErrBadMessage is wrapped by the error that [Server.OnError] gets for a client's message that
// is not one JSON object, or for a message about a room without the name of the room. The error
// of a send whose payload is not JSON wraps it too.
var ErrBadMessage = errors.New("peer: bad message")

// A badMessage is [ErrBadMessage] with its cause. It makes its text only when the text is asked
// for, because a client can cause many of them.
type badMessage struct{ cause error }

func (e badMessage) Error() string   { return fmt.Sprintf("%v: %v", ErrBadMessage, e.cause) }
func (e badMessage) Unwrap() []error { return []error{ErrBadMessage, e.cause} }

// encode returns the message as JSON, or an error that wraps [ErrBadMessage].
func (m Message) encode() ([]byte, error) {
	b := append([]byte(`{"type":`), quote(string(m.Type))...)
	if m.Src != "" {
		b = append(append(b, `,"src":`...), quote(m.Src)...)
	}
	if m.Dst != "" {
		b = append(append(b, `,"dst":`...), quote(m.Dst)...)
	}
	if m.Payload != nil {
		if !isJSON(m.Payload) {
			return nil, fmt.Errorf("%w: payload is not JSON", ErrBadMessage)
		}
		b = append(append(b, `,"payload":`...), m.Payload...)
	}
	return append(b, '}'), nil
}

// isJSON reports whether data is one JSON value in UTF-8.
func isJSON(data []byte) bool {
	s := scanner{data: data}
	s.space()
	return utf8.Valid(data) && s.value() && s.end()
}

// rawField returns the value of a field of the JSON object in data, which is valid JSON, or nil if
// there is none.
func rawField(data []byte, name string) (value []byte) {
	o := object{scanner: scanner{data: data}}
	for o.next() {
		if string(unquote(o.name)) == name {
			value = o.value
		}
	}
	return value
}

// notice is a message of the server whose payload is a text for people.
func notice(t MessageType, text string) Message {
	return Message{Type: t, Payload: append(append([]byte(`{"msg":`), quote(text)...), '}')}
}

// An envelope is what the relay needs to know of a frame. Its slices point into
// the frame: they are valid as long as the frame's buffer is.
type envelope struct {
	typ     MessageType // "" if the type is missing or not a string
	dst     []byte      // the decoded destination; empty: none
	leaver  bool        // dst is absent, null or "": a LEAVE means its sender
	rawType []byte
	rawDst  []byte
	payload []byte // nil: the message has none
}

// decode checks that data is one JSON object and nothing else, and finds the
// fields of the envelope in the same pass. The payload is checked against the
// grammar but not decoded: a receiver must never be sent what it cannot parse,
// and its bytes must arrive as they were (numbers past 2^53, lone surrogates,
// duplicate keys).
func (e *envelope) decode(data []byte) error {
	o := object{scanner: scanner{data: data}}
	for o.next() {
		e.set(o.name, o.value)
	}
	switch {
	case o.err != nil:
		return badMessage{o.err}
	case !o.end():
		return badMessage{o.bad()}
	}
	e.resolve()
	return nil
}

// set notes the value of one field; of duplicates the last one wins. The name is a
// JSON string.
func (e *envelope) set(name, value []byte) {
	if bytes.IndexByte(name, '\\') >= 0 {
		e.setEscaped(name, value)
		return
	}
	e.setPlain(name[1:len(name)-1], value)
}

// setEscaped is set for a name with escapes. They cost no allocation, and a name that is too
// long for one of the three, however it is spelled, is not even decoded.
//
//go:noinline
func (e *envelope) setEscaped(name, value []byte) {
	const longest = len(`"\u0070\u0061\u0079\u006c\u006f\u0061\u0064"`)
	var buf [longest]byte
	if len(name) <= longest {
		e.setPlain(appendUnquoted(buf[:0], name), value)
	}
}

func (e *envelope) setPlain(name, value []byte) {
	switch string(name) {
	case "type":
		e.rawType = value
	case "dst":
		e.rawDst = value
	case "payload":
		e.payload = value
	}
}

// message returns a copy for the host to keep.
func (e *envelope) message(src string) Message {
	return Message{Type: e.typ, Src: src, Dst: string(e.dst), Payload: bytes.Clone(e.payload)}
}

func (e *envelope) resolve() {
	if len(e.rawType) > 0 && e.rawType[0] == '"' {
		e.typ = intern(unquote(e.rawType))
	}
	switch {
	case len(e.rawDst) == 0 || string(e.rawDst) == "null":
		e.leaver = true
	case e.rawDst[0] == '"':
		e.dst = unquote(e.rawDst)
		e.leaver = len(e.dst) == 0
	}
}

// intern returns the type named b without allocating for those that are common.
func intern(b []byte) MessageType {
	switch string(b) {
	case string(TypeHeartbeat):
		return TypeHeartbeat
	case string(TypeOffer):
		return TypeOffer
	case string(TypeAnswer):
		return TypeAnswer
	case string(TypeCandidate):
		return TypeCandidate
	case string(TypeLeave):
		return TypeLeave
	case string(TypeExpire):
		return TypeExpire
	case string(TypeRoomJoin):
		return TypeRoomJoin
	case string(TypeRoomLeave):
		return TypeRoomLeave
	}
	return MessageType(b)
}

const (
	relayedType    = `{"type":`
	relayedSrc     = `,"src":`
	relayedDst     = `,"dst":`
	relayedPayload = `,"payload":`
)

// size is the length of what [envelope.append] appends.
func (e *envelope) size(src string) int {
	n := len(relayedType) + len(e.rawType) + len(relayedSrc) + len(src) + len(relayedDst) + len(e.rawDst) + len(`}`)
	if e.payload != nil {
		n += len(relayedPayload) + len(e.payload)
	}
	return n
}

// append appends the message as it is relayed: src, a JSON string, in the place
// of what the sender wrote, and no field beside the four.
func (e *envelope) append(b []byte, src string) []byte {
	b = append(append(b, relayedType...), e.rawType...)
	b = append(append(b, relayedSrc...), src...)
	b = append(append(b, relayedDst...), e.rawDst...)
	if e.payload != nil {
		b = append(append(b, relayedPayload...), e.payload...)
	}
	return append(b, '}')
}
