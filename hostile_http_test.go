package peer

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// exchange sends bytes on a connection of its own, says FIN, and returns all that
// comes back until the server hangs up.
func (r *rig) exchange(request string) string {
	r.t.Helper()
	p := r.rawOpen()
	p.tryWrite([]byte(request))
	p.halfClose()
	answer, _ := io.ReadAll(p.br) // a reset is an end too
	return string(answer)
}

var statusLine = regexp.MustCompile(`HTTP/1\.[01] ([0-9]{3})`)

// Requests that proxies and servers may take apart differently. Each contains a
// second request for the id "smuggled", which nobody may ever see connected.
func TestNoRequestIsSmuggledInAHandshake(t *testing.T) {
	second := handshakeFor(socketTarget("smuggled", "t"))
	first := func(lines ...string) string { return handshakeFor(socketTarget("mallory", "t"), lines...) }
	key := "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
	for name, c := range map[string]struct {
		request string
		status  string // of the one answer to it
	}{
		"pipelined":                      {first() + second, "101"},
		"behind a body":                  {first("Content-Length: 5") + "hello" + second, "101 or 400"},
		"as a body":                      {first("Content-Length: 300") + second, "101 or 400"},
		"as a chunk":                     {first("Transfer-Encoding: chunked") + "12c\r\n" + second + "\r\n0\r\n\r\n", "101 or 400"},
		"behind chunks":                  {first("Transfer-Encoding: chunked") + "0\r\n\r\n" + second, "101 or 400"},
		"length and chunks":              {first("Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + second, "101 or 400"},
		"two lengths":                    {first("Content-Length: 4", "Content-Length: 5") + second, "400"},
		"negative length":                {first("Content-Length: -1") + second, "400"},
		"unknown encoding":               {first("Transfer-Encoding: xchunked") + second, "501"},
		"space before the colon":         {first("Transfer-Encoding : chunked") + second, "400"},
		"two keys":                       {first(key), "400"},
		"two hosts":                      {first("Host: other") + second, "400"},
		"version 8":                      {strings.Replace(first(), "Version: 13", "Version: 8", 1), "400"},
		"no key":                         {strings.Replace(first(), "Sec-WebSocket-Key", "X-Key", 1), "400"},
		"short key":                      {strings.Replace(first(), "dGhlIHNhbXBsZSBub25jZQ==", "AAAA", 1), "400"},
		"POST":                           {strings.Replace(first(), "GET", "POST", 1), "405"},
		"HTTP/1.0":                       {strings.Replace(first(), "HTTP/1.1", "HTTP/1.0", 1), "426"},
		"no upgrade":                     {strings.Replace(first(), "Upgrade: websocket", "Upgrade: h2c", 1), "426"},
		"bare line feeds in the header":  {strings.ReplaceAll(first(), "\r\n", "\n") + second, "101"},
		"NUL in the header":              {first("X-A: \x00") + second, "400"},
		"control character in the name":  {first("X\x01: a") + second, "400"},
		"line break in the target":       {strings.Replace(first(), "mallory", "mal\r\nX: y", 1), "400"},
		"two megabytes of header":        {first("X-A: " + strings.Repeat("a", 2<<20)), "431"},
		"fold of an old kind":            {first("X-A: a\r\n b"), "101"},
		"absolute target of another":     {strings.Replace(first(), "GET ", "GET http://elsewhere", 1), "101"},
		"line break, encoded, in the id": {strings.Replace(first(), "mallory", "mal%0d%0aSet-Cookie:%20a=b", 1), "101"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			by := r.bystanders()
			rec.wait(t, 2)
			cost := allocated(func() {
				answer := r.exchange(c.request)
				statuses := statusLine.FindAllStringSubmatch(answer, -1)
				require.Len(t, statuses, 1, "%q", answer)
				require.Contains(t, c.status, statuses[0][1], "%q", answer)
				require.NotContains(t, answer, "Set-Cookie:")
			})
			require.Less(t, cost, uint64(3<<20+4*len(c.request)))
			by.talk()
			closeServer(t, r.srv) // now all is said
			require.NotContains(t, strings.Join(rec.all(), "\n"), "smuggled")
		})
	}
}

// strangeIDs are ids and tokens of every kind.
var strangeIDs = map[string]string{
	"__proto__":     "__proto__",
	"constructor":   "constructor",
	"space":         " ",
	"slashes":       "../../etc/passwd",
	"quotes":        `"','\"`,
	"markup":        "<script>alert(1)</script>",
	"format":        "%s%n%x%d",
	"CR LF":         "a\r\nlevel=ERROR msg=forged",
	"line feed":     "a\n{\"level\":\"ERROR\"}",
	"NUL":           "a\x00b",
	"escape":        "\x1b[2J\x1b]0;title\x07",
	"delete":        "a\x7fb",
	"C1 control":    "a\u009b2Jb\u0085c",
	"RTL marks":     "\u202egnp.exe\u2066\u200f",
	"separators":    "a\u2028b\u2029c",
	"zero width":    "a\u200bb\ufeffc",
	"not UTF-8":     "a\xff\xfeb",
	"surrogate":     "\xed\xa0\x80",
	"noncharacter":  "\uffff",
	"emoji":         "👩‍👩‍👧‍👦",
	"combining":     "a" + strings.Repeat("\u0301", 300),
	"1,024 bytes":   strings.Repeat("x", 1024),
	"1,025 bytes":   strings.Repeat("x", 1025),
	"4 KiB":         strings.Repeat("\u202e", 4096/3),
	"Latin-1":       "caf\xe9",
	"an attribute":  "a=b c=d",
	"a JSON object": `{"type":"OFFER"}`,
}

// A journal is the output of a log.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func TestLogsContainNothingSecretAndNothingUnescaped(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	debug := &slog.HandlerOptions{Level: slog.LevelDebug}
	for format, handler := range map[string]func(w io.Writer) slog.Handler{
		"JSON": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, debug) },
		"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, debug) },
	} {
		for name, id := range strangeIDs {
			t.Run(format+", "+name, func(t *testing.T) {
				log := new(journal)
				srv := NewServer(Options{
					Key: "key-" + secret, Logger: slog.New(handler(log)),
					Authorize: func(from *Client, m Message) error {
						if m.Dst == "forbidden" {
							return errors.New("not allowed")
						}
						return nil
					},
				})
				r := serveRig(t, srv, nil)
				everyLogLine(r, id, secret)
				closeServer(t, srv)
				out := log.String()
				require.NotContains(t, out, secret)
				require.Contains(t, out, "why")
				for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
					require.Less(t, len(line), 10<<10)
					for _, c := range line {
						require.False(t, unicode.In(c, unicode.Cc, unicode.Bidi_Control), "%U in %q", c, line)
					}
				}
			})
		}
	}
}

// everyLogLine lets clients with this id do what is logged: come, be refused in
// every way, be wrong and go. What must not be logged contains secret.
func everyLogLine(r *rig, id, secret string) {
	q := func(key, id, token string) string {
		return "/peerjs?" + url.Values{"key": {key}, "id": {id}, "token": {token}}.Encode()
	}
	key := "key-" + secret
	for _, target := range []string{
		q("wrong-"+secret, id, secret), q(key, id, ""), q(key, "", secret), q(key, "a", secret+strings.Repeat("x", 1024)),
		q(key, id, secret+id), q(key, "ok", secret),
	} {
		p := r.rawOpen()
		p.write([]byte(handshakeFor(target)))
		require.Equal(r.t, 101, p.response().StatusCode)
		if first, text, err := p.read(); err == nil && first == rawFin|rawText && strings.Contains(string(text), "OPEN") {
			other := r.rawOpen()
			other.write([]byte(handshakeFor(strings.Replace(target, "token=", "token=other", 1))))
			require.Equal(r.t, 101, other.response().StatusCode)
			other.skipToEnd() // ID-TAKEN
			other.conn.Close()
			p.text(`{"type":"OFFER","payload":"` + secret + `"`)
			p.write(rawFrame(rawFin|rawBinary, "\xff"+secret))
			p.text(`{"type":"OFFER","dst":"forbidden","payload":"` + secret + `"}`)
			p.text(`{"type":"OFFER","dst":"absent","payload":"` + secret + `"}`)
			p.write(rawCloseFrame(1000, "bye\r\n\x00\u202e\u009b"))
		}
		p.skipToEnd()
		p.conn.Close()
	}
	for _, request := range []string{
		handshakeFor(q(key, id, secret), "Sec-WebSocket-Key: two"),
		strings.Replace(handshakeFor(q(key, id, secret)), "Version: 13", "Version: 1"+id, 1),
		"GET /wrong-" + secret + "/id HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		require.Regexp(r.t, `^HTTP/1\.1 40[01] `, r.exchange(request))
	}
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
