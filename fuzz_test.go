package peer

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// nesting returns how many arrays and objects of valid JSON lie within each
// other at most.
func nesting(data []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// oracle returns the fields of a frame as encoding/json finds them, and false if
// it is not one JSON object or nests too deep. A map has the last of duplicate
// names, and unlike a struct it tells "Type" from "type".
func oracle(data []byte) (fields map[string]json.RawMessage, ok bool) {
	isObject := strings.HasPrefix(strings.TrimLeft(string(data), " \t\r\n"), "{")
	if !isObject || json.Unmarshal(data, &fields) != nil {
		return nil, false
	}
	return fields, nesting(data) <= 1+maxDepth // the message itself is one level
}

// text returns the value of a JSON string, and false if raw is something else.
func text(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// names returns the names of an object's fields in order, duplicates included.
func names(t *testing.T, object []byte) (names []string) {
	d := json.NewDecoder(bytes.NewReader(object))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		name, err := d.Token()
		require.NoError(t, err)
		names = append(names, name.(string))
		var value json.RawMessage
		require.NoError(t, d.Decode(&value))
	}
	return names
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `null`, ` { } `, `{"type":"HEARTBEAT"}`, `{"type":"LEAVE"}`, `{"type":"LEAVE","dst":null}`, `{"type":"LEAVE","dst":""}`, `{"type":"LEAVE","dst":5}`,
		`{"type":"OFFER","src":"eve","dst":"bob","payload":{"sdp":{"type":"offer","sdp":"v=0\r\no=- 46 2 IN IP4 127.0.0.1\r\n"},"connectionId":"dc_1"}}`,
		`{"\u0074ype":"OFFER","d\u0073t":"b\u006fb","payload":"\ud800 \ud83d\ude00"}`, `{"type":"OFFER","type":"ANSWER","dst":"a","dst":"b","payload":1,"payload":null}`,
		`{"Type":"LEAVE","type":"OFFER","DST":"eve","dst":"bob","dſt":1}`, `{"type":5,"dst":{},"payload":[]}`, `{"type":["OFFER"],"dst":["bob"]}`,
		`{"type":"CHAT","dst":"Боб \"😀\"","payload":{"a":1,"a":12345678901234567890,"b":[1e400,-0.0,1E-7,true,false]}}`, `{"type":"OFFER","dst":"b","payload":{"a":[{"b":[[]]}]}} x`,
		`{"a":"12345678\"\\\/\b\f\n\r\t"}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":tru}`, `{"a":"\u12"}`, `{"a":"\x"}`, `{"a":1,}`, `{"a":[1,]}`, `{"a":{"b":1,}}`, `{"a":[}`, `{"a":{]}`, `{"a`, "{\"a\":\"\x1f\"}",
		`{"type":"OFFER","dst":"bob","payload":` + nest(maxDepth, "[{", "1") + `}`, `{"type":"OFFER","dst":"bob","payload":` + nest(maxDepth+1, "[", "1") + `}`,
		`{"x":` + nest(maxDepth-1, "{", "[]") + `}`, `{"x":` + nest(70, "{[[", `"\\\""`) + `,"dst":"y","type":"EXPIRE"}`,
	} {
		f.Add([]byte(seed))
	}
	src := quote("me \"\u2028\xff<")
	f.Fuzz(func(t *testing.T, data []byte) {
		if !utf8.Valid(data) {
			return // is never decoded, see [Client.read]
		}
		fields, ok := oracle(data)
		before := string(data)
		e, err := decode(data)
		require.Equal(t, before, string(data), "decode has written to its input")
		require.Equal(t, ok, err == nil, "%v", err)
		if err != nil {
			require.ErrorIs(t, err, ErrBadMessage)
			return
		}
		typ, _ := text(fields["type"])
		dst, dstIsText := text(fields["dst"])
		payload, hasPayload := fields["payload"]
		require.Equal(t, typ, string(e.typ))
		require.Equal(t, dst, string(e.dst))
		require.Equal(t, hasPayload, e.payload != nil)
		require.Equal(t, string(payload), string(e.payload))
		null := fields["dst"] == nil || string(fields["dst"]) == "null"
		require.Equal(t, null || dstIsText && dst == "", e.leaver)
		require.Equal(t, Message{MessageType(typ), "me", dst, payload}, e.message("me"))
		if typ == "" || dst == "" {
			return // is never relayed
		}

		relayed := e.append(nil, src)
		require.Equal(t, len(relayed), e.size(src))
		want := []string{"type", "src", "dst", "payload"}
		if !hasPayload {
			want = want[:3]
		}
		require.True(t, json.Valid(relayed), "%s", relayed)
		require.Equal(t, want, names(t, relayed))
		var got struct {
			Type, Src, Dst string
			Payload        json.RawMessage
		}
		require.NoError(t, json.Unmarshal(relayed, &got))
		require.Equal(t, typ, got.Type)
		require.Equal(t, "me \"\u2028\ufffd<", got.Src)
		require.Equal(t, dst, got.Dst)
		require.Equal(t, string(payload), string(got.Payload))
		again, err := decode(relayed)
		require.NoError(t, err, "what is relayed can be read")
		require.Equal(t, e.message("me"), again.message("me"))
	})
}
