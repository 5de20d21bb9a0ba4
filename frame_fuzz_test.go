//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// An incident is what a reader makes of a stream: a whole message, or the answer to a
// control frame.
type incident struct {
	op      byte // opText and opBinary: a message; opPong and opClose: an answer
	payload string
}

// A framesRead is all that a reader makes of a stream.
type framesRead struct {
	incidents []incident
	why       DisconnectReason // how it ends; ReasonConnectionLost: with the last byte
	start     int              // where the frame begins that ends it
	read      int              // bytes up to the end of the last frame that was taken, or all if they ran out
	part      int              // bytes of a message that is not whole
	refused   incident         // what was read whole and is not UTF-8
}

// A frameReader reads frames from bytes that come in pieces. It is the reader of a server
// without its socket.
type frameReader struct {
	framesRead
	limit   int
	unread  []byte
	head    header // of the frame that is being read; the zero header: none
	left    int    // bytes of its payload that have not come
	key     uint32 // for those bytes
	control []byte // payload of the control frame that is being read
	data    []byte // of the message so far
	message assembly
	whole   bool // the message ends with the frame that is being read
}

// readFrames reads a stream that comes in these pieces.
func readFrames(limit int, pieces ...[]byte) framesRead {
	r := frameReader{limit: limit, framesRead: framesRead{incidents: []incident{}}}
	for _, p := range pieces {
		r.unread = append(r.unread, p...)
		for r.why == 0 && r.step() {
		}
	}
	r.part = len(r.data)
	if r.why == 0 {
		r.why, r.read = ReasonConnectionLost, len(slices.Concat(pieces...))
	}
	return r.framesRead
}

// step reads a header, or what there is of a payload. It reports whether to go on.
func (r *frameReader) step() bool {
	if r.head.size == 0 {
		h, err := parseHeader(r.unread)
		if err == nil && h.size > 0 && !h.isControl() {
			r.whole, err = r.message.add(h, r.limit)
		}
		if err != nil || h.size == 0 {
			r.end(err)
			return false
		}
		r.head, r.left, r.key, r.control = h, h.n, h.key, nil
		r.unread = r.unread[h.size:]
	}
	part := r.unread[:min(r.left, len(r.unread))]
	r.unread = r.unread[len(part):]
	r.left -= len(part)
	r.key = unmask(part, r.key)
	if r.head.isControl() {
		r.control = append(r.control, part...)
	} else {
		r.data = append(r.data, part...)
	}
	if r.left > 0 {
		return false
	}
	r.frame()
	if r.why == 0 || r.why == ReasonClientClosed {
		r.read += r.head.size + r.head.n
	}
	if r.why == 0 {
		r.start = r.read
	}
	r.head = header{}
	return true
}

// frame deals with a frame that has come whole.
func (r *frameReader) frame() {
	switch r.head.op {
	case opPing:
		r.incidents = append(r.incidents, incident{opPong, string(r.control)})
	case opPong:
	case opClose:
		if err := checkClose(r.control); err != nil {
			r.refused = incident{opClose, string(r.control)}
			r.end(err)
			return
		}
		r.incidents = append(r.incidents, incident{opClose, string(r.control)})
		r.why = ReasonClientClosed
	default:
		if !r.whole {
			return
		}
		m := incident{opText, string(r.data)}
		if r.message.binary {
			m.op = opBinary
		} else if !utf8.Valid(r.data) {
			r.refused, r.why = m, ReasonInvalidText
			return
		}
		r.incidents, r.data = append(r.incidents, m), nil
	}
}

func (r *frameReader) end(err error) {
	if bad := (*frameError)(nil); errors.As(err, &bad) {
		r.why = bad.why
	}
}

// A tape is the connection of a client that sends a stream and vanishes. It is also the
// http.ResponseWriter of its handshake.
type tape struct {
	net.Conn // nil
	header   http.Header
	stream   []byte
	in       *bufio.Reader
	framesRead
}

var errTapeEnds = errors.New("the stream ends") // io.EOF would end a message, too

func (t *tape) Header() http.Header { return t.header }
func (t *tape) WriteHeader(int)     {}
func (t *tape) Close() error        { return nil }

func (t *tape) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	t.in = bufio.NewReader(t)
	return t, bufio.NewReadWriter(t.in, bufio.NewWriter(t)), nil
}

func (t *tape) Read(p []byte) (int, error) {
	n := copy(p, t.stream[t.read:])
	t.read += n
	if n == 0 {
		return 0, errTapeEnds
	}
	return n, nil
}

// Write takes a pong or a close frame. It comes whole.
func (t *tape) Write(p []byte) (int, error) {
	t.incidents = append(t.incidents, incident{p[0] &^ finBit, string(p[2:])})
	return len(p), nil
}

// readByLibrary reads a stream with the library, which has no limit.
func readByLibrary(t *testing.T, stream []byte) framesRead {
	tp := &tape{header: make(http.Header), stream: stream, framesRead: framesRead{incidents: []incident{}}}
	r := httptest.NewRequest("GET", "/", nil)
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		r.Header.Set(name, value)
	}
	ws, err := websocket.Accept(tp, r, nil)
	require.NoError(t, err)
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for {
		typ, data, err := ws.Read(context.Background())
		var closed websocket.CloseError
		switch {
		case err == nil:
			tp.incidents = append(tp.incidents, incident{byte(typ), string(data)})
			continue
		case errors.Is(err, errTapeEnds), errors.Is(err, io.ErrUnexpectedEOF):
			tp.why = ReasonConnectionLost
		case errors.As(err, &closed):
			tp.why = ReasonClientClosed
		default:
			tp.why = ReasonProtocolError
			tp.incidents = slices.DeleteFunc(tp.incidents, func(i incident) bool { return i.op == opClose }) // it is no answer
		}
		tp.read -= tp.in.Buffered()
		return tp.framesRead
	}
}

// extent returns the length that a frame's header tells, how many bytes the header has, and
// whether b holds all of them.
func extent(b []byte) (n uint64, size int, whole bool) {
	if len(b) < 2 {
		return 0, 2, false
	}
	n, size = uint64(b[1]%128), 2
	switch n {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	if len(b) >= size && size > 2 {
		n = 0
		for _, digit := range b[2:size] {
			n = n<<8 | uint64(digit)
		}
	}
	if b[1] >= 128 {
		size += 4
	}
	return n, size, len(b) >= size
}

// overlong reports whether b begins with a header whose length could be told in fewer bytes.
func overlong(b []byte) bool {
	n, _, _ := extent(b)
	return len(b) >= 4 && b[1]%128 == 126 && n < 126 || len(b) >= 10 && b[1]%128 == 127 && n < 65536
}

// compareReaders reads a stream in many ways and returns how it ends. See [FuzzFrames].
func compareReaders(t *testing.T, stream []byte, limit int, rnd *rand.Rand) DisconnectReason {
	got := readFrames(limit, stream)
	cuts := 20 // of a stream that is too long for all
	if len(stream) <= 300 {
		cuts = len(stream)
	}
	for cut := range cuts {
		if cuts < len(stream) {
			cut = rnd.IntN(len(stream))
		}
		require.Equal(t, got, readFrames(limit, stream[:cut], stream[cut:]), "cut at %d", cut)
	}
	require.Equal(t, got, readFrames(limit, slices.Collect(slices.Chunk(stream, 1))...), "byte by byte")
	var pieces [][]byte
	for rest := stream; len(rest) > 0; {
		n := 1 + rnd.IntN(min(len(rest), 1+rnd.IntN(1000)))
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	require.Equal(t, got, readFrames(limit, pieces...), "in pieces")

	rest := stream[got.start:]
	announced, size, whole := extent(rest)
	library := readByLibrary(t, stream)
	differs := false
	switch {
	case got.why == ReasonMessageTooBig:
		require.True(t, limit >= 0 && announced > uint64(limit-got.part), "%d bytes after %d", announced, got.part)
		differs = true
	case got.why == ReasonInvalidText:
		text := got.refused.payload
		if got.refused.op == opClose {
			text = text[2:]
		}
		require.False(t, utf8.ValidString(text))
		require.Equal(t, append(slices.Clone(got.incidents), got.refused), library.incidents[:len(got.incidents)+1])
		differs = true
	case got.why == ReasonProtocolError:
		differs = overlong(rest) || !whole
	}
	if differs {
		library = readByLibrary(t, stream[:got.start])
		require.Equal(t, ReasonConnectionLost, library.why)
		require.Equal(t, library.incidents, got.incidents)
		return got.why
	}
	require.Equal(t, library.why, got.why)
	require.Equal(t, library.incidents, got.incidents)
	if got.why == ReasonProtocolError { // the library reads the whole header, and a close frame's payload
		require.Greater(t, library.read, got.start)
		require.LessOrEqual(t, library.read, got.start+size+125)
	} else {
		require.Equal(t, library.read, got.read)
	}
	return got.why
}

var (
	scriptKinds   = []byte{rawFin | rawText, rawFin | rawText, rawText, rawCont, rawFin | rawCont, rawFin | rawBinary, rawBinary, rawFin | rawPing, rawFin | rawPong, rawFin | rawClose}
	scriptLengths = []int{0, 1, 2, 7, 8, 9, 60, 125, 126, 127, 300, 65535, 65536}
	scriptLimits  = []int{-1, 0, 1, 60, 126, 500, 65536, 200_000}
)

// scripted returns a stream of frames. Three bytes of the script make a frame: its kind, its
// length and what is wrong with it, which is nothing for most values.
func scripted(script []byte) (stream []byte) {
	for ; len(script) >= 3 && len(stream) < 200_000; script = script[3:] {
		first, wrong := scriptKinds[int(script[0])%len(scriptKinds)], script[2]
		n := scriptLengths[int(script[1])%len(scriptLengths)]
		payload := []byte(strings.Repeat("x", n))
		if first&opBits >= rawClose {
			payload = payload[:min(n, 125)]
		}
		if first == rawFin|rawClose && len(payload) >= 2 {
			binary.BigEndian.PutUint16(payload, 1000)
		}
		b := rawFrame(first, string(payload))
		size := len(b) - len(payload)
		switch wrong >> 3 {
		case 0: // a bit of the header
			b[int(script[1])%size] ^= 1 << (wrong & 7)
		case 1: // a byte of the payload that is not ASCII
			if len(payload) > 0 {
				b[size+int(script[1])%len(payload)] ^= 0x80 | wrong&7
			}
		case 2: // a length that is told in more bytes
			b = append(sized(first, uint64(len(payload)), []int{2, 8}[wrong&1]), b[size:]...)
		case 3: // a length that is wrong
			b = append(sized(first, uint64(len(payload))+uint64(wrong&7)<<60, 8), b[size:]...)
		case 4: // an end
			b = b[:int(wrong)*int(script[1])%len(b)]
		case 5: // a code
			if len(payload) >= 2 {
				binary.BigEndian.PutUint16(payload, 995+3*uint16(wrong&7))
				b = rawFrame(first, string(payload))
			}
		}
		stream = append(stream, b...)
	}
	return stream
}

// FuzzFrames reads a stream with the functions of frame.go, and then with the library. The
// stream is made of frames that a script describes, and of any bytes after them. Both must
// read the same messages, of the same kind, give the same pongs and the same answer to a close
// frame, in the same order, and come to the same end at the same byte. How the stream is cut
// into pieces must not matter. These differences are allowed; what comes before must be equal:
//
//   - The server refuses a length that is not in its shortest form. The library takes it.
//   - The server refuses a text message, and a reason in a close frame, that is not UTF-8. The
//     library takes both.
//   - The server refuses a message over the limit when the header has come. The library would
//     read up to the limit first; here it has no limit.
//   - The server refuses a wrong header at its first or second byte, or at the last byte of its
//     length. The library waits for the whole header, so a stream that ends inside of it is lost.
//
// Both accept the same close codes.
func FuzzFrames(f *testing.F) {
	add := func(frames ...[]byte) { f.Add([]byte{}, slices.Concat(frames...), byte(0), uint64(0)) }
	for _, first := range []byte{rawFin | rawText, rawText, rawFin | rawCont, rawFin | rawBinary, rawFin | rawPing, rawFin | rawPong, rawFin | rawClose, 0xf1, 0x83, rawPing} {
		for _, payload := range []string{"", "x", "\x03\xe8", "\x03\xe8bye", "\x03\xec", "\x03\xe8\xff", "\x03\xe8\x80\x80", "\xff", "\u20ac", strings.Repeat("x", 125), strings.Repeat("x", 126)} {
			add(rawFrame(first, payload), rawTextFrame("after"))
			add(rawFrame(rawText, "before"), rawFrame(first, payload), rawFrame(rawFin|rawCont, "after"))
		}
	}
	add()
	add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	add([]byte{rawFin | rawText, 2, '{', '}'})
	add(rawFrame(rawText, "\xe2\x82"), rawFrame(rawFin|rawPing, "\xff"), rawFrame(rawFin|rawCont, "\xac"))
	add(rawFrame(rawText, "\xe2\x82"), rawFrame(rawFin|rawCont, ""))
	add(rawFrame(rawBinary, "\xe2\x82"), rawFrame(rawFin|rawCont, ""), rawTextFrame("\xe2"))
	add(rawTextFrame("cut")[:7])
	for _, n := range []uint64{125, 126, 65535, 65536, 1<<31 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		add(sized(rawFin|rawText, n, 8), rawTextFrame("inside"))
		add(sized(rawFin|rawBinary, n, 2), rawTextFrame("inside"))
		add(sized(rawFin|rawPing, n, 2), rawTextFrame("inside"))
	}
	for limit := range scriptLimits {
		f.Add([]byte{2, 6, 255, 3, 6, 255, 7, 4, 255, 4, 6, 255, 5, 11, 255, 9, 3, 255}, []byte{}, byte(limit), uint64(1))
		f.Add([]byte{0, 12, 255, 6, 12, 255, 4, 12, 255, 0, 8, 16, 0, 1, 0}, []byte{rawFin}, byte(limit), uint64(2))
	}
	f.Fuzz(func(t *testing.T, script, raw []byte, limit byte, seed uint64) {
		if len(script) > 3*50 || len(raw) > 1<<16 {
			return
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		compareReaders(t, append(scripted(script), raw...), scriptLimits[int(limit)%len(scriptLimits)], rnd)
	})
}
