package peer

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode"
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

// FuzzHandshakeQuery asks for a socket with any query. The recorder cannot be
// upgraded, so whom the server would let in gets a 501.
func FuzzHandshakeQuery(f *testing.F) {
	for _, seed := range []string{
		"", "&", "=", "key=peerjs&id=a&token=t", "key=peerjs&id=a&token=t&version=1.5.5", "key=peerjs&id=&token=t", "id=a&token=t", "key=peerjs&id=a", "key=peerjs&token=t",
		"key=PEERJS&id=a&token=t", "key=other&id=a&token=t", "KEY=peerjs&ID=a&TOKEN=t", "key=peerjs&id=a&id=b&token=t&token=u", "key=x&key=peerjs&id=a&token=t", "id=&id=a&key=peerjs&token=t",
		"key=peerjs&id=+a+&token=t", "key=peerjs&id=%20a%20&token=t", "key=peerjs&id=%00&token=t", "key=peerjs&id=%7f&token=t", "key=peerjs&id=%ff&token=%ff", "key=peerjs&id=%C2%85&token=t",
		"key=peerjs&id=%D0%91%D0%BE%D0%B1&token=t", "key=peerjs&id=%f0%9f%98%80&token=t", "key=peerjs&id=a%2Fb%3Fc&token=t", "key=peerjs&id=%zz&token=t", "key=peerjs&id=a;b&token=t", "key=peerjs;id=a;token=t",
		"key=peerjs&id=" + strings.Repeat("a", 1024) + "&token=t", "key=peerjs&id=" + strings.Repeat("a", 1025) + "&token=t", "key=peerjs&id=a&token=" + strings.Repeat("t", 8192), "key=peerjs&id=a&token=" + strings.Repeat("t", 8193),
		"Боб", "a-b_c d", "a--b", "-a", "\x00", "\xff", "a\nb", "%41", "&id=a", "#", "a&b=c&d",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		// As a query.
		q, _ := url.ParseQuery(raw) // what cannot be parsed is left out
		wantHandshake(t, raw, q.Get("key"), q.Get("id"), q.Get("token"))
		// As an id, a token and a key in a query that is in order.
		for _, p := range [][3]string{{"peerjs", raw, "t"}, {"peerjs", "a", raw}, {raw, "a", "t"}} {
			query := "key=" + url.QueryEscape(p[0]) + "&id=" + url.QueryEscape(p[1]) + "&token=" + url.QueryEscape(p[2]) + "&id=b&token=u&key=v"
			wantHandshake(t, query, p[0], p[1], p[2])
		}
	})
}

// wantHandshake wants the server to read a query as key, id and token, and to
// let exactly those in that it should.
func wantHandshake(t *testing.T, query, key, id, token string) {
	plain := id != "" && len(id) <= 1024 && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
	for _, rule := range []struct {
		option func(string) bool
		valid  bool
	}{{nil, plain}, {StrictID, len(id) <= 1024 && strictID.MatchString(id)}} {
		var asked []string
		srv := NewServer(Options{RejectBeforeUpgrade: true, ValidID: rule.option, Authenticate: func(r *http.Request, id, token string) (any, error) {
			asked = append(asked, id, token)
			return nil, nil
		}})
		r := httptest.NewRequest("GET", "/peerjs/peerjs", nil)
		r.URL.RawQuery = query
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		status, wantAsked := http.StatusNotImplemented, []string(nil)
		switch {
		case id == "" || token == "" || key == "":
			status = http.StatusBadRequest
		case key != "peerjs":
			status = http.StatusUnauthorized
		case !rule.valid || len(token) > 8192:
			status = http.StatusBadRequest
		default:
			wantAsked = []string{id, token}
		}
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		require.Equal(t, status, w.Code, w.Body)
		require.Equal(t, wantAsked, asked)
		_, no := srv.check(r, paramsOf(r), nil)
		require.Equal(t, status == http.StatusNotImplemented, no == nil)
		require.NoError(t, srv.Close())
	}
}
