package peer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// found is what decode finds in a frame, in a form that a table can hold.
type found struct {
	typ     MessageType
	dst     string
	leaver  bool
	payload string // "": the message has none
}

// decode is [envelope.decode] with a new envelope.
func decode(data []byte) (envelope, error) {
	var e envelope
	err := e.decode(data)
	return e, err
}

func mustDecode(t testing.TB, frame string) envelope {
	t.Helper()
	e, err := decode([]byte(frame))
	require.NoError(t, err, frame)
	return e
}

// relay returns a frame as the server passes it on for the client "me".
func relay(e envelope) string { return string(e.append(nil, `"me"`)) }

func TestEnvelopeIsFoundInAFrame(t *testing.T) {
	offer := found{typ: TypeOffer, dst: "bob"}
	with := func(payload string) found { return found{typ: TypeOffer, dst: "bob", payload: payload} }
	for name, tc := range map[string]struct {
		frame string
		want  found
	}{
		"plain":                    {`{"type":"OFFER","dst":"bob","payload":{"sdp":"v=0\r\n"}}`, with(`{"sdp":"v=0\r\n"}`)},
		"any order":                {`{"payload":[1],"dst":"bob","type":"OFFER"}`, with(`[1]`)},
		"space everywhere":         {" \t\r\n{ \"type\" :\t\"OFFER\"\n,\r\"dst\" : \"bob\" , \"payload\" : { } } \n", with(`{ }`)},
		"empty object":             {`{}`, found{leaver: true}},
		"empty object with space":  {` { } `, found{leaver: true}},
		"unknown fields":           {`{"a":1,"type":"OFFER","":[{}],"dst":"bob","src":"x","payloads":2,"typ":"LEAVE"}`, offer},
		"names are case-sensitive": {`{"Type":"LEAVE","DST":"eve","Payload":1,"TYPE":"LEAVE","type":"OFFER","dst":"bob"}`, offer},
		"only in another case":     {`{"Type":"OFFER","Dst":"bob","PAYLOAD":1}`, found{leaver: true}},
		"no folding of the K sign": {`{"type":"OFFER","dſt":"eve","dst":"bob"}`, offer},
		"names in the payload":     {`{"type":"OFFER","dst":"bob","payload":{"type":"LEAVE","dst":null,"payload":2}}`, with(`{"type":"LEAVE","dst":null,"payload":2}`)},
		"names in unknown fields":  {`{"x":{"type":"LEAVE","dst":"eve","payload":2},"type":"OFFER","dst":"bob"}`, offer},
		"a name with a NUL":        {`{"type\u0000":"LEAVE","type":"OFFER","dst":"bob"}`, offer},

		"escaped name":          {`{"\u0074ype":"OFFER","d\u0073t":"bob","\u0070\u0061\u0079load":7}`, with(`7`)},
		"escaped name, last":    {`{"type":"LEAVE","\u0074ype":"OFFER","dst":"eve","ds\u0074":"bob"}`, offer},
		"escaped name, first":   {`{"\u0074ype":"LEAVE","type":"OFFER","dst":"bob"}`, offer},
		"doubly escaped name":   {`{"\\u0074ype":"LEAVE","type":"OFFER","dst":"bob"}`, offer},
		"escaped type":          {`{"type":"\u004fFFER","dst":"bob"}`, offer},
		"escaped dst":           {`{"type":"OFFER","dst":"b\u006f\u0062"}`, offer},
		"all escapes":           {`{"dst":"\"\\\/\b\f\n\r\t\u00e9\uD83D\ude00"}`, found{dst: "\"\\/\b\f\n\r\té😀"}},
		"lone surrogate in dst": {`{"dst":"a\ud800b"}`, found{dst: "a\uFFFDb"}},
		"any Unicode":           {`{"type":"ТИП","dst":" Боб 😀 "}`, found{typ: "ТИП", dst: " Боб 😀 "}},

		"last type":                 {`{"type":"LEAVE","type":"OFFER","dst":"bob"}`, offer},
		"last dst":                  {`{"type":"OFFER","dst":"eve","dst":"bob"}`, offer},
		"last payload":              {`{"payload":1,"type":"OFFER","payload":{"a":1},"dst":"bob","payload":null}`, with(`null`)},
		"last type is no string":    {`{"type":"OFFER","type":5}`, found{leaver: true}},
		"last dst is no string":     {`{"type":"OFFER","dst":"bob","dst":5}`, found{typ: TypeOffer}},
		"last dst is null":          {`{"type":"OFFER","dst":"bob","dst":null}`, found{typ: TypeOffer, leaver: true}},
		"only the last is a string": {`{"type":null,"type":"OFFER","dst":5,"dst":"bob"}`, offer},

		"type is null":          {`{"type":null,"dst":"bob"}`, found{dst: "bob"}},
		"type is true":          {`{"type":true,"dst":"bob"}`, found{dst: "bob"}},
		"type is an array":      {`{"type":["OFFER"],"dst":"bob"}`, found{dst: "bob"}},
		"type is an object":     {`{"type":{"type":"OFFER"},"dst":"bob"}`, found{dst: "bob"}},
		"type is empty":         {`{"type":"","dst":"bob"}`, found{dst: "bob"}},
		"type is absent":        {`{"dst":"bob"}`, found{dst: "bob"}},
		"type in another case":  {`{"type":"offer","dst":"bob"}`, found{typ: "offer", dst: "bob"}},
		"type with space":       {`{"type":" OFFER","dst":"bob"}`, found{typ: " OFFER", dst: "bob"}},
		"type of the server":    {`{"type":"ID-TAKEN","dst":"bob"}`, found{typ: TypeIDTaken, dst: "bob"}},
		"type of an app":        {`{"type":"CHAT","dst":"bob"}`, found{typ: "CHAT", dst: "bob"}},
		"dst that looks absent": {`{"type":"LEAVE","dst":"null"}`, found{typ: TypeLeave, dst: "null"}},
	} {
		e := mustDecode(t, tc.frame)
		assert.Equal(t, tc.want, found{e.typ, string(e.dst), e.leaver, string(e.payload)}, name)
		assert.Equal(t, tc.want.payload == "", e.payload == nil, name)
	}
	for _, typ := range []MessageType{TypeHeartbeat, TypeOffer, TypeAnswer, TypeCandidate, TypeLeave, TypeExpire} {
		assert.Equal(t, typ, mustDecode(t, fmt.Sprintf(`{"type":%q}`, typ)).typ)
	}
}

func TestLeaveWithoutDestinationMeansItsSender(t *testing.T) {
	for frame, leaver := range map[string]bool{
		`{"type":"LEAVE"}`:                     true,
		`{"type":"LEAVE","dst":null}`:          true,
		`{"type":"LEAVE","dst":""}`:            true,
		`{"type":"LEAVE","dst":"" , "dst":""}`: true,
		`{"type":"LEAVE","dst":5,"dst":null}`:  true,
		`{"type":"LEAVE","dst":5}`:             false,
		`{"type":"LEAVE","dst":0}`:             false,
		`{"type":"LEAVE","dst":-1}`:            false,
		`{"type":"LEAVE","dst":{}}`:            false,
		`{"type":"LEAVE","dst":[]}`:            false,
		`{"type":"LEAVE","dst":[null]}`:        false,
		`{"type":"LEAVE","dst":true}`:          false,
		`{"type":"LEAVE","dst":false}`:         false,
		`{"type":"LEAVE","dst":null,"dst":5}`:  false,
	} {
		e := mustDecode(t, frame)
		assert.Equal(t, leaver, e.leaver, frame)
		assert.Equal(t, TypeLeave, e.typ, frame)
		assert.Empty(t, e.dst, "no destination: %s", frame)
	}
	assert.False(t, mustDecode(t, `{"type":"LEAVE","dst":"bob"}`).leaver)
	assert.False(t, mustDecode(t, `{"type":"LEAVE","dst":"\u0062"}`).leaver)
}

func TestPayloadPassesByteForByte(t *testing.T) {
	for _, payload := range []string{
		`null`, `true`, `false`, `0`, `-0`, `""`, `{}`, `[]`, `{ }`, "[ \n]", "[1 ,\t2]",
		`9007199254740993`, `12345678901234567890123456789`, `-0.10`, `1E400`, `1e-400`, `1.50e+07`,
		`"\ud800"`, `"\udc00\ud800"`, `"\uD83D\uDE00"`, `"\u0041\/\u2028"`, "\"\u2028\u2029<&>\x7f\"", `"😀"`,
		`{"a":1,"a":2,"\u0061":3}`, `{"":{"":[]}}`, `{"type":"LEAVE","src":"eve"}`, `{"sdp":"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"}`,
	} {
		e := mustDecode(t, `{"type":"OFFER","src":"eve","dst":"bob","payload": `+payload+" \n, \"extra\":1}")
		assert.Equal(t, payload, string(e.payload))
		assert.Equal(t, `{"type":"OFFER","src":"me","dst":"bob","payload":`+payload+`}`, relay(e))
	}
}

func TestRelayedMessageHasItsFourFieldsOnly(t *testing.T) {
	for frame, want := range map[string]string{
		`{"type":"OFFER","dst":"bob"}`:                                                `{"type":"OFFER","src":"me","dst":"bob"}`,
		`{"dst":"bob","x":1,"type":"LEAVE","src":{"a":[]}}`:                           `{"type":"LEAVE","src":"me","dst":"bob"}`,
		`{"src":"eve","payload":null,"dst":"bob","type":"ANSWER"}`:                    `{"type":"ANSWER","src":"me","dst":"bob","payload":null}`,
		`{"type":"LEAVE","type":"OFFER","dst":"b","payload":1,"dst":"c","payload":2}`: `{"type":"OFFER","src":"me","dst":"c","payload":2}`,
		`{"\u0074ype":"EXPIRE","ds\u0074":"b\"b","Payload":1}`:                        `{"type":"EXPIRE","src":"me","dst":"b\"b"}`,
	} {
		e := mustDecode(t, frame)
		assert.Equal(t, want, relay(e))
		assert.Equal(t, len(want), e.size(`"me"`), "size of %s", want)
	}
}

func TestBadFrameIsRefused(t *testing.T) {
	for _, frame := range []string{
		``, ` `, `null`, `true`, `5`, `"OFFER"`, `[]`, `[{"type":"OFFER"}]`, "\ufeff{}", "\x00{}", "\v{}", "\u00a0{}",
		`{`, `}`, `{]`, `{}}`, `{}{}`, `{},`, `{} x`, "{}\x00", `{}null`, `{"type":"OFFER"}{"type":"OFFER"}`, `{"type":"OFFER"};`, `{/**/}`,
		`{"a"}`, `{"a":}`, `{"a":1,}`, `{,"a":1}`, `{,}`, `{"a":1,,"b":2}`, `{"a":1 "b":2}`, `{"a" 1}`, `{"a"::1}`, `{"a":1:2}`, `{"a":1`, `{"a":1,`, `{"a":1]`,
		`{:1}`, `{a":1}`, `{"x":{a":1}}`, "{\"a\":\"b\n}", "{\"a\":\"b\n,\"c\":1}", `{"x":{"a":1,}`, `{"x":[1,}`, `{"x":{"a":1,2}`, `{"x":{"a"}`,
		`{a:1}`, `{'a':1}`, `{1:1}`, `{null:1}`, `{"a:1}`, `{["a"]:1}`,
		`{"type":"OFFER","dst":"bob","payload":{"a":}}`, `{"type":"OFFER","dst":"bob","payload":}`, `{"type":"OFFER","payload":1 2}`,
		`{"type":"OFFER","x":nul}`, `{"type":"OFFER`, `{"type":"OFFER"`, `{"type":"\q"}`, `{"\x":1}`, `{"type":OFFER}`,
	} {
		_, err := decode([]byte(frame))
		assert.ErrorIs(t, err, ErrBadMessage, frame)
		assert.False(t, json.Valid([]byte(frame)) && strings.HasPrefix(frame, "{"), "the test is wrong: %s", frame)
	}
	_, err := decode([]byte(`[]`))
	assert.EqualError(t, err, "peer: bad message: not a JSON object")
	_, err = decode([]byte(`{"secret":tru}`))
	assert.EqualError(t, err, "peer: bad message: invalid JSON near byte 10", "the error quotes nothing of the message")
}

func TestMessageForTheHostIsItsOwn(t *testing.T) {
	frame := []byte(`{"type":"CHAT","src":"eve","dst":"bob","payload":[1,2]}`)
	e, err := decode(frame)
	require.NoError(t, err)
	m := e.message("me")
	clear(frame)
	assert.Equal(t, Message{Type: "CHAT", Src: "me", Dst: "bob", Payload: json.RawMessage(`[1,2]`)}, m)
	e = mustDecode(t, `{"type":"OFFER","dst":5}`)
	assert.Equal(t, Message{Type: TypeOffer, Src: "me"}, e.message("me"), "a nil payload says that there is none")
}

func TestMessageIsEncoded(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for want, m := range map[string]Message{
		`{"type":""}`:                                             {},
		`{"type":"OPEN"}`:                                         {Type: TypeOpen},
		`{"type":"EXPIRE","src":"a","dst":"b"}`:                   {Type: TypeExpire, Src: "a", Dst: "b"},
		`{"type":"X","dst":"b","payload":null}`:                   {Type: "X", Dst: "b", Payload: raw(`null`)},
		`{"type":"X","src":"a","payload":12345678901234567890}`:   {Type: "X", Src: "a", Payload: raw(`12345678901234567890`)},
		"{\"type\":\"X\",\"payload\": [1 , 2]\n}":                 {Type: "X", Payload: raw(" [1 , 2]\n")},
		`{"type":"\"\\\n\u0001","src":"\u2028","dst":"\ufffd\""}`: {Type: "\"\\\n\x01", Src: "\u2028", Dst: "\xff\""},
		`{"type":"X","src":"Боб 😀","payload":"\ud800"}`:           {Type: "X", Src: "Боб 😀", Payload: raw(`"\ud800"`)},
		`{"type":"ERROR","payload":{"msg":"say \"no\"\n"}}`:       notice(TypeError, "say \"no\"\n"),
	} {
		b, err := m.encode()
		require.NoError(t, err, want)
		assert.Equal(t, want, string(b))
		assert.True(t, json.Valid(b), want)
	}
}

func TestMessageWithABadPayloadIsNotEncoded(t *testing.T) {
	for _, payload := range []string{
		"", " ", "{", "nul", "1 2", "[1],", `"a`, "\x00", `{"a":1}}`, "01", "undefined",
		strings.Repeat("[", 1025) + "1" + strings.Repeat("]", 1025),
		"\"\xff\"", // would end the connection of the browser that reads it
	} {
		b, err := Message{Type: "X", Payload: json.RawMessage(payload)}.encode()
		assert.ErrorIs(t, err, ErrBadMessage, "%.20q", payload)
		assert.Nil(t, b)
	}
	deep := strings.Repeat("[", 1024) + "1" + strings.Repeat("]", 1024)
	_, err := Message{Type: "X", Payload: json.RawMessage(deep)}.encode()
	assert.NoError(t, err)
}

// nest returns a value of n levels around inner: arrays for every '[' of the
// repeated pattern, objects for every '{'.
func nest(n int, pattern, inner string) string {
	var open, shut []byte
	for i := range n {
		if pattern[i%len(pattern)] == '{' {
			open, shut = append(open, `{"a":`...), append(shut, '}')
		} else {
			open, shut = append(open, '['), append(shut, ']')
		}
	}
	slices.Reverse(shut)
	return string(open) + inner + string(shut)
}

func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 1024
	for _, pattern := range []string{"[", "{", "[{", "{[", "[[{", "{{["} {
		for n, inner := range map[int]string{1: "1", limit - 1: `[]`, limit: `"x"`, limit + 1: "1", limit + 2: "null", 200_000: "1"} {
			nested := nest(n, pattern, inner)
			for _, field := range []string{"payload", "type", "dst", "src", "other"} {
				_, err := decode(fmt.Appendf(nil, `{%q:%s}`, field, nested))
				assert.Equal(t, n <= limit, err == nil, "%s: %d levels of %s", field, n, pattern)
			}
		}
	}
	for _, innermost := range []string{`[]`, `{}`, `[ ]`} { // what is empty is a level too
		_, err := decode([]byte(`{"payload":` + nest(limit-1, "[{", innermost) + `}`))
		assert.NoError(t, err, innermost)
		_, err = decode([]byte(`{"payload":` + nest(limit, "[{", innermost) + `}`))
		assert.ErrorIs(t, err, ErrBadMessage, innermost)
	}
	wide := `[` + strings.Repeat(nest(limit-1, "[{", "1")+`,[],{},`, 20) + `0]`
	_, err := decode([]byte(`{"payload":` + wide + `}`))
	assert.NoError(t, err, "neighbours do not add up")
}

func TestEveryLevelClosesAsItOpened(t *testing.T) {
	for _, pattern := range []string{"[", "{", "[{", "[[{", "{{[{[["} {
		good := `{"payload":` + nest(200, pattern, "1") + `}`
		mustDecode(t, good)
		mustDecode(t, strings.ReplaceAll(strings.ReplaceAll(good, `}`, `,"b":[2]}`), `]`, `,{"c":3}]`)) // each level knows what it is
		for i := strings.IndexByte(good, '1') + 1; i < len(good)-1; i++ {
			bad := []byte(good)
			bad[i] ^= ']' ^ '}'
			_, err := decode(bad)
			require.Error(t, err, "level %d of %s", len(good)-i, pattern)
		}
	}
}

func TestGrammarIsThatOfJSON(t *testing.T) {
	t.Parallel()
	for value, valid := range map[string]bool{
		`0`: true, `-0`: true, `10`: true, `1.0`: true, `0.5`: true, `1e5`: true, `1E+05`: true, `1e-5`: true, `0e0`: true, `-1.25e+10`: true,
		`-`: false, `+1`: false, `01`: false, `-01`: false, `00`: false, `1.`: false, `.5`: false, `1.e5`: false, `1e`: false, `1e+`: false, `1e+-5`: false,
		`0x10`: false, `1_000`: false, `--1`: false, `1-`: false, `NaN`: false, `Infinity`: false, `-Infinity`: false, `1.2.3`: false, `1e5.5`: false, `1 2`: false, `٣`: false,
		`true`: true, `tru`: false, `truee`: false, `True`: false, `t`: false, `false`: true, `fals`: false, `falsey`: false, `nul`: false, `nulll`: false, `NULL`: false,
		`[1,2]`: true, `[1,]`: false, `[,1]`: false, `[1 2]`: false, `[`: false, `[1`: false, `]`: false, `[1,`: false, `[1:2]`: false, `[[]`: false, `[[],{}]`: true, `[}`: false,
		`{"a":1}`: true, `{"a":1,}`: false, `{"a"}`: false, `{"a":}`: false, `{"a",1}`: false, `{a:1}`: false, `{1:1}`: false, `{1}`: false, `{:1}`: false, `{"a" 1}`: false, `{"a":1,:2}`: false, `{"\q:1}`: false, `{"a":1 "b":1}`: false, `{"a":1,1}`: false, `{`: false, `{"a"`: false,
		`{"a":1,"b":2}`: true, "{ \"a\"\n:\t1 ,\r\"a\" : {} }": true, `{]`: false, `{"a":[}`: false, `{"a":1]`: false, `[{"a":1},{"b":[{}]}]`: true,
		`""`: true, `"`: false, `"a`: false, `'a'`: false, `"a"b`: false, `"\"`: false, `"\`: false, `"\""`: true, `"\\"`: true, `"\\\"`: false, `"\a"`: false, `"\'"`: false, `"\U0041"`: false, `"\x41"`: false, `"\0"`: false,
		`"\u0041"`: true, `"\uabcd\uABCD"`: true, `"\u"`: false, `"\u1"`: false, `"\u004"`: false, `"\u004g"`: false, `"\u 041"`: false, `"\u`: false, `"\u12`: false, `"\u+041"`: false, `"\uG000"`: false, `"\u00@0"`: false, "\"\\u\x1100\"": false,
		`//`: false, `/**/1`: false, "\u00a01": false, "1\v": false, "\ufeff1": false,
	} {
		for _, around := range []string{`{"payload":%s}`, `{"x": %s ,"y":[]}`, `{"x":[0,%s]}`, `{"x":[%s,{}]}`, `{"x":{"y":%s,"z":"12345678"}}`, `{"x":[[{"y":%s}]]}`} {
			frame := fmt.Appendf(nil, around, value)
			_, err := decode(frame)
			assert.Equal(t, valid, err == nil, "%s: %v", frame, err)
			assert.Equal(t, json.Valid(frame), valid, "the test is wrong: %s", frame)
		}
	}
}

// Strings are read eight bytes at a time, so every byte is tried at every offset.
func TestEveryByteOfAStringIsLookedAt(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			for _, s := range []string{"abcdefghijklmnopqrstuvwx", "ééééééééééééé", "\xff\x80\x7f\xa2\xdc\x9f !#[]~\xff\xff\xff\xff\xff\xff\xff\xff"} {
				frame := []byte(`{"` + s[:at] + string([]byte{byte(c)}) + s[at:] + `":"` + s[:at] + string([]byte{byte(c)}) + s[at:] + `"}`)
				_, err := decode(frame)
				require.Equal(t, json.Valid(frame), err == nil, "%q", frame)
			}
		}
	}
}

// Every cut of a message is refused, and none is read past its end.
func TestTruncatedFrameIsRefused(t *testing.T) {
	frame := []byte(`{"type":"OFFER","dst":"b\u006fb","payload":{"a":[true,false,null,-1.5e+7,"\ud83d\ude00\n"],"b":{}}}`)
	mustDecode(t, string(frame))
	for n := range frame {
		_, err := decode(append(make([]byte, 0, n), frame[:n]...))
		require.ErrorIs(t, err, ErrBadMessage, "%s", frame[:n])
	}
}

// realOffer is an offer as PeerJS 1.5 in Chrome sends it to open a call: 2.5 KiB.
func realOffer() []byte {
	lines := []string{
		"v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0 1", "a=extmap-allow-mixed", "a=msid-semantic: WMS 7c1f3f0e",
		"m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126", "c=IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 0.0.0.0", "a=ice-ufrag:8hhY", "a=ice-pwd:asd88fgpdd777uzjYhagZg3k",
		"a=ice-options:trickle", "a=fingerprint:sha-256 " + strings.Repeat("4A:AD:", 15) + "B9:B1", "a=setup:actpass", "a=mid:0",
		"a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level", "a=sendrecv", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1",
		"m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 35 36", "c=IN IP4 0.0.0.0", "a=ice-ufrag:8hhY", "a=ice-pwd:asd88fgpdd777uzjYhagZg3k", "a=mid:1", "a=rtcp-rsize",
	}
	for pt := range 20 {
		lines = append(lines, fmt.Sprintf("a=rtpmap:%d H264/90000", 96+pt), fmt.Sprintf("a=rtcp-fb:%d goog-remb", 96+pt), fmt.Sprintf("a=rtcp-fb:%d nack pli", 96+pt))
	}
	sdp := quote(strings.Join(lines, "\r\n") + "\r\n")
	return fmt.Appendf(nil, `{"type":"OFFER","payload":{"sdp":{"type":"offer","sdp":%s},"type":"media","connectionId":"mc_6gqe1xqyk4n","metadata":{"name":"Bob"}},"dst":"7d3f0c1e-9b1c-4e0a-8d57-2f5c5a9e0b11"}`, sdp)
}

func TestUsualMessageIsDecodedWithoutAllocating(t *testing.T) {
	offer := realOffer()
	assert.InDelta(t, 2560, len(offer), 100)
	for _, typ := range []MessageType{TypeOffer, TypeAnswer, TypeCandidate, TypeLeave, TypeExpire, TypeHeartbeat} {
		frame := bytes.Replace(offer, []byte(TypeOffer), []byte(typ), 1)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if e, err := decode(frame); err != nil || e.typ != typ || len(e.dst) != 36 {
				panic("not decoded")
			}
		}), typ)
	}
}

// Strings are scanned by eight bytes: what a byte means must not depend on its place.
func TestEveryByteInEveryPlaceOfAString(t *testing.T) {
	t.Parallel()
	for place := range 20 {
		for c := range 256 {
			text := []byte(`{"type":"OFFER","dst":"b","payload":"aaaaaaaaaaaaaaaaaaaaaaaa"}`)
			text[bytes.Index(text, []byte("aaaa"))+place] = byte(c)
			_, err := decode(text)
			require.Equal(t, json.Valid(text), err == nil, "%q", text)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	offer := realOffer()
	b.SetBytes(int64(len(offer)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(offer); err != nil {
			b.Fatal(err)
		}
	}
}

// The frame that is relayed is the one allocation that grows with the payload.
func BenchmarkEncode(b *testing.B) {
	e := mustDecode(b, string(realOffer()))
	src := quote("c2b0e9b4-7f0e-4c57-9c3a-1d9b3d0d6f42")
	b.SetBytes(int64(e.size(src)))
	b.ReportAllocs()
	for b.Loop() {
		e.append(newFrame(e.size(src)), src)
	}
}

func TestAStringIsQuotedAsByEncodingJSON(t *testing.T) {
	texts := []string{"", "alice", "0b3a1b9c-5f5e-4f6a-8f8a-1d2c3b4a5e6f", "žluťoučký", "\u2028", "\xff"}
	for c := range byte(utf8.RuneSelf) {
		texts = append(texts, "a"+string(rune(c))+"b")
	}
	for _, s := range texts {
		want, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, string(want), quote(s), "%q", s)
	}
}
