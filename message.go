package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// A MessageType is the "type" of a message on the signalling socket.
type MessageType string

// The types that PeerJS clients and servers know.
//
// OFFER, ANSWER and CANDIDATE carry a WebRTC negotiation from one peer to
// another. They are relayed to their destination, or held for it for
// [Options.ExpireTimeout] if it is not connected. LEAVE and EXPIRE are relayed
// too but never held; a LEAVE without destination says that its sender leaves.
// HEARTBEAT is read and not answered. All others only ever come from the
// server: a client that sends one is ignored.
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

// A Message is one message of the signalling protocol.
//
// The server stamps Src with the id of the sender, whatever the sender wrote
// there. Payload is the raw JSON value as it stood on the wire; nil means that
// the message has none. A Message that the library hands out is the host's own,
// to keep and to change.
type Message struct {
	Type    MessageType     // what it is; never checked when the host sends it
	Src     string          // id of the sender; "" leaves it out
	Dst     string          // id of the destination; "" leaves it out
	Payload json.RawMessage // any JSON; nil leaves it out
}

// ErrBadMessage is wrapped by the error that [Server.OnError] gets for a frame
// that is not one JSON object, and by the error of a send whose payload is not
// JSON.
var ErrBadMessage = errors.New("peer: bad message")

// maxDepth bounds how deep a payload may nest. Real payloads stay under ten;
// thousands of levels exist to overflow the stack of whoever reads them.
const maxDepth = 1024

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
		s := scanner{data: m.Payload}
		if s.space(); !utf8.Valid(m.Payload) || !s.value() || !s.end() {
			return nil, fmt.Errorf("%w: payload is not JSON", ErrBadMessage)
		}
		b = append(append(b, `,"payload":`...), m.Payload...)
	}
	return append(b, '}'), nil
}

// notice is a message of the server whose payload is a text for people.
func notice(t MessageType, text string) Message {
	return Message{Type: t, Payload: append(append([]byte(`{"msg":`), quote(text)...), '}')}
}

// quote returns s as a JSON string.
func quote(s string) string {
	if isPlain(s) {
		return `"` + s + `"`
	}
	b, _ := json.Marshal(s) // a string always marshals
	return string(b)
}

// isPlain reports whether s is its own JSON: ASCII that [json.Marshal] escapes nothing
// of, as nearly every id is.
func isPlain(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
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
	s := scanner{data: data}
	if s.space(); !s.eat('{') {
		return fmt.Errorf("%w: not a JSON object", ErrBadMessage)
	}
	s.space()
	for more := !s.eat('}'); more; {
		s.space()
		name, ok := s.token((*scanner).str)
		if s.space(); !ok || !s.eat(':') {
			return s.bad()
		}
		s.space()
		value, ok := s.field()
		if !ok {
			return s.bad()
		}
		e.set(unquote(name), value)
		s.space()
		if more = s.eat(','); !more && !s.eat('}') {
			return s.bad()
		}
	}
	if !s.end() {
		return s.bad()
	}
	e.resolve()
	return nil
}

// set notes the value of one field; of duplicates the last one wins.
func (e *envelope) set(name, value []byte) {
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

// unquote returns the value of a JSON string that the scanner has accepted. It
// allocates only if there are escapes in it.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	_ = json.Unmarshal(raw, &s) // cannot fail: the grammar has been checked
	return []byte(s)
}

// A scanner checks JSON against the grammar of RFC 8259. It is written by hand
// because encoding/json takes longer to validate an offer than everything else
// that the server does for it; the fuzz test holds it to encoding/json's verdict.
type scanner struct {
	data []byte
	i    int // what lies before it is accepted
}

func (s *scanner) bad() error {
	return fmt.Errorf("%w: invalid JSON near byte %d", ErrBadMessage, s.i)
}

// token returns what scan accepts at the current place.
func (s *scanner) token(scan func(*scanner) bool) ([]byte, bool) {
	from := s.i
	ok := scan(s)
	return s.data[from:s.i], ok
}

// field returns the value of a field. Most are strings, which need no more stack.
func (s *scanner) field() ([]byte, bool) {
	if s.i < len(s.data) && s.data[s.i] == '"' {
		return s.token((*scanner).str)
	}
	return s.token((*scanner).value)
}

func (s *scanner) eat(c byte) bool {
	if s.i < len(s.data) && s.data[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) space() {
	for s.i < len(s.data) {
		switch s.data[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// end reports whether nothing but space is left.
func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.data)
}

// value scans one value of any kind. It keeps a bit a level instead of
// recursing, so that what a sender nests does not grow the server's stack.
func (s *scanner) value() bool {
	var isObject [maxDepth / 64]uint64
	depth := 0
	for {
		s.space()
		opened, ok := s.begin(depth)
		if !ok {
			return false
		}
		if opened != 0 {
			bit := uint64(1) << (depth % 64)
			isObject[depth/64] &^= bit
			if opened == '{' {
				isObject[depth/64] |= bit
				if !s.name() {
					return false
				}
			}
			depth++
			continue
		}
		for { // A value has ended, and with it perhaps what encloses it.
			if depth == 0 {
				return true
			}
			s.space()
			object := isObject[(depth-1)/64]>>((depth-1)%64)&1 == 1
			if s.eat(',') {
				if object && !s.name() {
					return false
				}
				break
			}
			if object && !s.eat('}') || !object && !s.eat(']') {
				return false
			}
			depth--
		}
	}
}

// begin scans a whole scalar or empty container, or just the opening of one that
// is not empty, which it returns.
func (s *scanner) begin(depth int) (opened byte, ok bool) {
	if s.i == len(s.data) {
		return 0, false
	}
	switch c := s.data[s.i]; c {
	case '{', '[':
		if depth == maxDepth {
			return 0, false
		}
		s.i++
		s.space()
		if s.eat(c + 2) { // '}' and ']' follow their openings at this distance
			return 0, true
		}
		return c, true
	case '"':
		return 0, s.str()
	case 't':
		return 0, s.literal("true")
	case 'f':
		return 0, s.literal("false")
	case 'n':
		return 0, s.literal("null")
	default:
		return 0, s.number()
	}
}

// name scans the name of a field and its colon.
func (s *scanner) name() bool {
	s.space()
	if !s.str() {
		return false
	}
	s.space()
	return s.eat(':')
}

func (s *scanner) literal(word string) bool {
	if len(s.data)-s.i < len(word) || string(s.data[s.i:s.i+len(word)]) != word {
		return false
	}
	s.i += len(word)
	return true
}

func (s *scanner) number() bool {
	s.eat('-')
	if !s.eat('0') && !s.digits() {
		return false
	}
	if s.eat('.') && !s.digits() {
		return false
	}
	if s.eat('e') || s.eat('E') {
		if !s.eat('+') {
			s.eat('-')
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.data) && s.data[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > from
}

// str scans a string with its quotes. Session descriptions are long strings
// with an escape every forty bytes, so the plain stretches go by eight bytes.
func (s *scanner) str() bool {
	if !s.eat('"') {
		return false
	}
	data, i := s.data, s.i
	for i < len(data) {
		if len(data)-i >= 8 {
			m := special(binary.LittleEndian.Uint64(data[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) / 8
		}
		switch c := data[i]; {
		case c == '\\':
			n := escape(data[i:])
			if n == 0 {
				return false
			}
			i += n
		case c == '"':
			s.i = i + 1
			return true
		case c < ' ':
			return false
		default: // among the last seven
			i++
		}
	}
	return false
}

// special returns 0 if none of the eight bytes of x is a quote, a backslash or a
// control character. Else its lowest bit that is set is in the first byte that is
// one; above that, there may be others.
func special(x uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	zeroIn := func(v uint64) uint64 { return (v - ones) &^ v }
	return (zeroIn(x^ones*'"') | zeroIn(x^ones*'\\') | (x-ones*' ')&^x) & tops
}

// escape returns the length of the escape that b begins with, and 0 if it is none.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) >= 6 && isHex(b[2]) && isHex(b[3]) && isHex(b[4]) && isHex(b[5]) {
			return 6
		}
	}
	return 0
}

func isHex(c byte) bool {
	return c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'f'
}
