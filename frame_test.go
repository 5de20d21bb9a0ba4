package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reasonOfFrame returns the reason of a frameError, and 0 for no error.
func reasonOfFrame(t *testing.T, err error) DisconnectReason {
	t.Helper()
	if err == nil {
		return 0
	}
	var bad *frameError
	if !errors.As(err, &bad) || bad.text == "" || err.Error() != "peer: "+bad.text { // require takes long, and this is called often
		t.Fatalf("%T: %v", err, err)
	}
	return bad.why
}

// wantHeader wants b to begin with the header h.
func wantHeader(t *testing.T, h header, b []byte) {
	t.Helper()
	got, err := parseHeader(b)
	require.NoError(t, err, "%x", b)
	require.Equal(t, h, got, "%x", b)
}

// wantBroken wants b to break the protocol, and not before its last byte.
func wantBroken(t *testing.T, b []byte) {
	t.Helper()
	for n := range b {
		wantHeader(t, header{}, b[:n])
	}
	for _, more := range []string{"", "\xff", strings.Repeat("\x00", 14)} {
		h, err := parseHeader(append(bytes.Clone(b), more...))
		require.Equal(t, ReasonProtocolError, reasonOfFrame(t, err), "%x", b)
		require.Zero(t, h)
	}
}

// rawKey is rawMask as a header holds it.
var rawKey = binary.LittleEndian.Uint32(rawMask[:])

func TestEveryFirstAndSecondByteOfAFrame(t *testing.T) {
	t.Parallel()
	opcodes := map[byte]string{0: "data", 1: "data", 2: "data", 8: "control", 9: "control", 10: "control"}
	for first := range 256 {
		fin, reserved, op := first/128 == 1, first/16%8, byte(first%16)
		kind := opcodes[op]
		if reserved != 0 || kind == "" {
			wantBroken(t, []byte{byte(first)})
			continue
		}
		for second := range 256 {
			masked, short := second/128 == 1, second%128
			b := []byte{byte(first), byte(second)}
			switch {
			case !masked, kind == "control" && (!fin || short > 125):
				wantBroken(t, b)
			case short <= 125:
				wantHeader(t, header{fin, op, rawKey, 6, short}, append(b, rawMask[:]...))
			default:
				wantHeader(t, header{}, b)
			}
		}
	}
}

// sized returns the header of a masked frame that tells the length n in size bytes.
func sized(first byte, n uint64, size int) []byte {
	b := []byte{first, 0x80 | byte(n)}
	switch size {
	case 2:
		b[1] = 0x80 | 126
	case 8:
		b[1] = 0x80 | 127
	}
	b = append(b, binary.BigEndian.AppendUint64(nil, n)[8-size:]...)
	return append(b, rawMask[:]...)
}

func TestLengthsOfFrames(t *testing.T) {
	const most = math.MaxInt - 14
	for _, c := range []struct {
		n    uint64
		size int // bytes after the second
		want int // -1: refused
	}{
		{0, 0, 0}, {1, 0, 1}, {124, 0, 124}, {125, 0, 125},
		{0, 2, -1}, {1, 2, -1}, {124, 2, -1}, {125, 2, -1}, {126, 2, 126}, {127, 2, 127}, {128, 2, 128},
		{255, 2, 255}, {256, 2, 256}, {32768, 2, 32768}, {65534, 2, 65534}, {65535, 2, 65535},
		{0, 8, -1}, {125, 8, -1}, {126, 8, -1}, {127, 8, -1}, {65534, 8, -1}, {65535, 8, -1},
		{65536, 8, 65536}, {65537, 8, 65537}, {1 << 24, 8, 1 << 24}, {1<<31 - 15, 8, 1<<31 - 15},
		{most - 1, 8, most - 1}, {most, 8, most}, {most + 1, 8, most}, {math.MaxInt, 8, most},
		{1<<63 - 1, 8, most}, {1 << 63, 8, -1}, {1<<63 + 1, 8, -1}, {1<<63 + 65535, 8, -1}, {1<<64 - 1, 8, -1},
	} {
		for _, first := range []byte{rawFin | rawText, rawFin | rawBinary, rawText, rawCont} {
			b := sized(first, c.n, c.size)
			if c.want < 0 {
				wantBroken(t, b[:2+c.size])
				continue
			}
			h := header{first&rawFin != 0, first &^ rawFin, rawKey, 6 + c.size, c.want}
			for n := range b {
				wantHeader(t, header{}, b[:n])
			}
			wantHeader(t, h, b)
			wantHeader(t, h, append(b, "\x81payload"...))
			require.Positive(t, h.size+h.n)
			require.LessOrEqual(t, h.size, maxHeader)
		}
	}
}

func TestAMaskingKeyIsReadInItsOrder(t *testing.T) {
	b := append([]byte{rawFin | rawText, 0x80 | 8}, 1, 2, 3, 4)
	wantHeader(t, header{true, opText, 0x04030201, 6, 8}, b)
	payload := []byte("\x01\x02\x03\x04\x01\x02\x03\x05")
	unmask(payload, 0x04030201)
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x01", string(payload))
}

func TestControlFramesAreToldFromData(t *testing.T) {
	for op, control := range map[byte]bool{opContinuation: false, opText: false, opBinary: false, opClose: true, opPing: true, opPong: true} {
		require.Equal(t, control, header{op: op}.isControl(), "opcode %x", op)
	}
}

func TestAPayloadIsUnmaskedInParts(t *testing.T) {
	plain := make([]byte, 64+64)
	for i := range plain {
		plain[i] = byte(i)
	}
	masked := bytes.Clone(plain)
	for i := range masked {
		masked[i] ^= rawMask[i%4]
	}
	for from := range 65 {
		for n := range 65 {
			b := bytes.Clone(masked)
			key := unmask(b[:from], rawKey)
			key = unmask(b[from:from+n], key)
			require.Equal(t, plain[:from+n], b[:from+n], "%d bytes, then %d", from, n)
			require.Equal(t, masked[from+n:], b[from+n:], "%d bytes, then %d", from, n)
			unmask(b[from+n:], key)
			require.Equal(t, plain, b, "%d bytes, then %d", from, n)
		}
	}
	require.Equal(t, rawKey, unmask(nil, rawKey))
}

func TestCloseCodesThatAClientMaySend(t *testing.T) {
	t.Parallel()
	valid := func(code int) bool {
		for _, r := range [][2]int{{1000, 1003}, {1007, 1014}, {3000, 4999}} {
			if code >= r[0] && code <= r[1] {
				return true
			}
		}
		return false
	}
	for code := range 1 << 16 {
		want := ReasonProtocolError
		if valid(code) {
			want = 0
		}
		bare := binary.BigEndian.AppendUint16(nil, uint16(code))
		for _, payload := range [][]byte{bare, append(bare, "bye"...)} {
			if got := reasonOfFrame(t, checkClose(payload)); got != want {
				t.Fatalf("code %d: want %v, got %v", code, want, got)
			}
		}
	}
}

func TestPayloadsOfCloseFrames(t *testing.T) {
	for payload, want := range map[string]DisconnectReason{
		"":                                    0,
		"\x03":                                ReasonProtocolError,
		"\xff":                                ReasonProtocolError,
		"\x03\xe8":                            0,
		"\x03\xe8x":                           0,
		"\x03\xe8\u20ac":                      0,
		"\x03\xe8\xe2\x82":                    ReasonInvalidText,
		"\x03\xe8\xff":                        ReasonInvalidText,
		"\x03\xe8\xed\xa0\x80":                ReasonInvalidText,
		"\x03\xe8\x80\x80":                    ReasonInvalidText, // UTF-8 only together with the code
		"\x03\xe7\xff":                        ReasonProtocolError,
		"\x03\xe8" + strings.Repeat("x", 123): 0,
		"\x03\xe8" + strings.Repeat("x", 122) + "\xff": ReasonInvalidText,
	} {
		require.Equal(t, want, reasonOfFrame(t, checkClose([]byte(payload))), "%q", payload)
	}
}

// TestFramesOfMessages gives the headers of data frames to an assembly. A step is an
// opcode (t, b or c), "+" if more fragments follow, and the length.
func TestFramesOfMessages(t *testing.T) {
	const ok, broken, big = DisconnectReason(0), ReasonProtocolError, ReasonMessageTooBig
	for _, c := range []struct {
		limit int
		steps string
		want  string // of each step: T or B for a whole message, "." for a part of one
		last  DisconnectReason
	}{
		{10, "t5 b5 t5", "TBT", ok},
		{10, "t10 b10", "TB", ok},
		{10, "t11", "", big},
		{10, "t+11", "", big},
		{10, "b+0 c+10 c0 t10", "..BT", ok},
		{10, "b+0 c+10 c1", "..", big},
		{10, "b+0 c+10 c+1", "..", big},
		{10, "t+4 c+3 c3 b+4 c+3 c3", "..T..B", ok},
		{10, "t+4 c+3 c4", "..", big},
		{10, "t+10 c0", ".T", ok},
		{10, "t+10 c+0 c+0 c0", "...T", ok},
		{10, "t+10 c" + fmt.Sprint(math.MaxInt-14), ".", big},
		{10, "t" + fmt.Sprint(math.MaxInt-14), "", big},
		{0, "t0 b+0 c0", "T.B", ok},
		{0, "t1", "", big},
		{0, "t+0 c1", ".", big},
		{-1, "t1000000 b+1000000 c+0 c1000000", "T..B", ok},
		{-1, "t" + fmt.Sprint(math.MaxInt-14), "T", ok},
		{-1, "t+" + fmt.Sprint(math.MaxInt-14) + " c14", ".T", ok},
		{-1, "t+" + fmt.Sprint(math.MaxInt-14) + " c15", ".", big},
		{-1, "t+" + fmt.Sprint(math.MaxInt-14) + " c" + fmt.Sprint(math.MaxInt-14), ".", big},
		{math.MaxInt, "t+" + fmt.Sprint(math.MaxInt-14) + " c15", ".", big},
		{10, "c0", "", broken},
		{10, "c+0", "", broken},
		{10, "c11", "", broken},
		{10, "t1 c1", "T", broken},
		{10, "t+1 c1 c1", ".T", broken},
		{10, "t+1 t1", ".", broken},
		{10, "t+1 t+1", ".", broken},
		{10, "t+1 b1", ".", broken},
		{10, "b+1 c+1 b1", "..", broken},
		{10, "t+0 t0", ".", broken},
		{10, "t+1 t11", ".", broken},
	} {
		var a assembly
		var got string
		var err error
		size := 0
		for step := range strings.FieldsSeq(c.steps) {
			require.NoError(t, err, c.steps)
			rest, more := strings.CutPrefix(step[1:], "+")
			h := header{fin: !more, op: byte(strings.IndexByte("ctb", step[0]))}
			_, err = fmt.Sscan(rest, &h.n)
			require.NoError(t, err)
			if h.op != opContinuation {
				size = 0
			}
			var whole bool
			if whole, err = a.add(h, c.limit); err != nil {
				require.False(t, whole, c.steps)
				continue
			}
			size += h.n
			require.Equal(t, size, a.size, c.steps)
			require.Equal(t, !whole, a.begun, c.steps)
			switch {
			case !whole:
				got += "."
			case a.binary:
				got += "B"
			default:
				got += "T"
			}
		}
		require.Equal(t, c.want, got, "limit %d: %s", c.limit, c.steps)
		require.Equal(t, c.last, reasonOfFrame(t, err), "limit %d: %s", c.limit, c.steps)
	}
}

func TestAMessageIsTextOrBinaryFromItsFirstFrame(t *testing.T) {
	var a assembly
	for _, h := range []header{{op: opBinary}, {op: opContinuation}, {op: opContinuation, fin: true}} {
		_, err := a.add(h, -1)
		require.NoError(t, err)
		require.True(t, a.binary)
	}
	_, err := a.add(header{op: opText}, -1)
	require.NoError(t, err)
	require.False(t, a.binary)
}

func TestATextFrameHasTheShortestHeader(t *testing.T) {
	for n, head := range map[int]string{
		0: "8100", 1: "8101", 125: "817d", 126: "817e007e", 127: "817e007f", 256: "817e0100",
		65535: "817effff", 65536: "817f0000000000010000", 65537: "817f0000000000010001",
	} {
		payload := strings.Repeat("x", n)
		want, err := hex.DecodeString(head)
		require.NoError(t, err)
		require.Equal(t, want, newFrame(n), n)
		require.Equal(t, maxFrameHead+n, cap(newFrame(n)), "there is room for the payload")
		require.LessOrEqual(t, len(want), maxFrameHead)
		require.Equal(t, "before"+string(want), string(appendHead([]byte("before"), n)))
		frame := textFrame([]byte(payload))
		require.Equal(t, string(want)+payload, string(frame))

		masked := slices.Concat(want, rawMask[:])
		masked[1] |= maskedBit
		wantHeader(t, header{true, opText, rawKey, len(masked), n}, masked)
	}
}

func TestControlFramesOfTheServer(t *testing.T) {
	require.Equal(t, "\x89\x00", string(pingFrame))
	require.Equal(t, "\x8a\x00", string(controlFrame(opPong, nil)))
	require.Equal(t, "\x8a\x05hello", string(controlFrame(opPong, []byte("hello"))))
	long := strings.Repeat("x", 125)
	require.Equal(t, "\x89\x7d"+long, string(controlFrame(opPing, []byte(long))))
	require.Equal(t, "\x88\x00", string(controlFrame(opClose, nil)))
	require.Equal(t, "\x88\x02\x03\xe8", string(closeFrame(1000, "")))
	require.Equal(t, "\x88\x05\x0f\xa1bye", string(closeFrame(4001, "bye")))
	require.Equal(t, "\x88\x7d\x03\xe9"+long[2:], string(closeFrame(1001, long[2:])))
	payload := []byte("hello")
	controlFrame(opPong, payload)[2] = 'j'
	require.Equal(t, "hello", string(payload), "a frame holds a copy")
}

func TestEveryReasonOfAServerIsACloseFrameThatMayBeSent(t *testing.T) {
	for r := ReasonClientClosed; int(r) < numReasons; r++ {
		if code, text := r.closeCode(); code != 0 {
			require.NoError(t, checkClose(closeFrame(code, text)[2:]), r)
		}
	}
}

// TestFramesAreReadAsTheLibraryReadsThem compares readers with random scripts. See [FuzzFrames].
func TestFramesAreReadAsTheLibraryReadsThem(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	ends := make(map[DisconnectReason]int)
	for range 1000 {
		script := make([]byte, 3*rnd.IntN(8))
		for i := range script {
			script[i] = byte(rnd.Uint32())
			if i%3 == 1 {
				script[i] %= 11 // the long ones take long
			}
		}
		limit := scriptLimits[rnd.IntN(len(scriptLimits))]
		ends[compareReaders(t, scripted(script), limit, rnd)]++
	}
	for _, why := range []DisconnectReason{ReasonClientClosed, ReasonConnectionLost, ReasonMessageTooBig, ReasonInvalidText, ReasonProtocolError} {
		require.Greater(t, ends[why], 10, "%v: %v", why, ends)
	}
}
