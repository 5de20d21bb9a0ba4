package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep a payload may nest. Real payloads stay under ten;
// thousands of levels exist to overflow the stack of whoever reads them.
const maxDepth = 1024

// quote returns s as a JSON string.
func quote(s string) string {
	if isPlain(s) {
		return `"` + s + `"`
	}
	return string(appendQuoted(nil, s))
}

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	if isPlain(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	quoted, _ := json.Marshal(s) // a string always marshals
	return append(b, quoted...)
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

// unquote returns the value of a JSON string that the scanner has accepted. It
// allocates only if there are escapes in it.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	return appendUnquoted(make([]byte, 0, len(raw)), raw)
}

// appendUnquoted appends the value of a JSON string that the scanner has accepted. A
// surrogate without its other half becomes U+FFFD, as with [json.Unmarshal].
func appendUnquoted(b, raw []byte) []byte {
	raw = raw[1 : len(raw)-1]
	for len(raw) > 0 {
		plain := bytes.IndexByte(raw, '\\')
		if plain < 0 {
			return append(b, raw...)
		}
		b = append(b, raw[:plain]...)
		raw = raw[plain:]
		if raw[1] != 'u' {
			b = append(b, unescaped[raw[1]])
			raw = raw[2:]
			continue
		}
		r := codeUnit(raw)
		raw = raw[6:]
		if utf16.IsSurrogate(r) {
			pair := rune(utf8.RuneError)
			if len(raw) >= 6 && raw[0] == '\\' && raw[1] == 'u' {
				pair = utf16.DecodeRune(r, codeUnit(raw))
			}
			if r = pair; r != utf8.RuneError {
				raw = raw[6:]
			}
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

// unescaped is what the letter of an escape stands for.
var unescaped = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// codeUnit returns the UTF-16 code unit of the escape \uXXXX that b begins with.
func codeUnit(b []byte) (r rune) {
	for _, c := range b[2:6] {
		switch {
		case c <= '9':
			c -= '0'
		default:
			c = c | 0x20 - 'a' + 10
		}
		r = r<<4 | rune(c)
	}
	return r
}

// A scanner checks JSON against the grammar of RFC 8259. It is written by hand
// because encoding/json takes longer to validate an offer than everything else
// that the server does for it; the fuzz test holds it to encoding/json's verdict.
type scanner struct {
	data []byte
	i    int // what lies before it is accepted
}

func (s *scanner) bad() error { return syntaxError{s.i} }

// A syntaxError says where a text stops being JSON. Its own text is made only when it is
// asked for.
type syntaxError struct{ at int }

func (e syntaxError) Error() string { return fmt.Sprintf("invalid JSON near byte %d", e.at) }

var errNotAnObject = errors.New("not a JSON object")

// An object scans the fields of a JSON object one by one.
type object struct {
	scanner
	begun       bool
	name, value []byte // of the current field; the name is a JSON string
	err         error  // of the grammar
}

// next scans a field and reports whether there is one. After the last one, and its
// closing brace, err is nil.
func (o *object) next() bool {
	o.space()
	switch {
	case !o.begun:
		o.begun = true
		if !o.eat('{') {
			o.err = errNotAnObject
			return false
		}
		if o.space(); o.eat('}') {
			return false
		}
	case o.eat('}'):
		return false
	case !o.eat(','):
		o.err = o.bad()
		return false
	}
	o.space()
	var ok bool
	if o.name, ok = o.token((*scanner).str); ok {
		if o.space(); o.eat(':') {
			o.space()
			if o.value, ok = o.field(); ok {
				return true
			}
		}
	}
	o.err = o.bad()
	return false
}

// stringField returns the text of a field of an object; of duplicates the last one
// counts. ok is false if data is no object, or the field is missing or no string.
func stringField(data []byte, name string) (text string, ok bool) {
	o := object{scanner: scanner{data: data}}
	for o.next() {
		if string(unquote(o.name)) == name {
			if ok = o.value[0] == '"'; ok {
				text = string(unquote(o.value))
			}
		}
	}
	return text, ok && o.err == nil
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
