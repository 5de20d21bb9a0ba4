package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const textPlain = "text/plain; charset=utf-8"

func TestAnswersHaveTheirContentTypes(t *testing.T) {
	r := newRig(t, Options{AllowDiscovery: true})
	for _, c := range []struct {
		method, path string
		status       int
		contentType  string
	}{
		{"GET", "/", 200, "application/json"},
		{"GET", "/peerjs/id", 200, "text/html; charset=utf-8"},
		{"GET", "/peerjs/peers", 200, "application/json"},
		{"GET", "/wrong/id", 401, textPlain},
		{"GET", "/peerjs", 426, textPlain},
		{"POST", "/peerjs/id", 405, textPlain},
		{"GET", "/x", 404, textPlain},
		{"OPTIONS", "/peerjs/id", 204, ""},
	} {
		res, body := r.get(c.method, c.path)
		assert.Equal(t, c.status, res.StatusCode, c.path)
		assert.Equal(t, c.contentType, res.Header.Get("Content-Type"), c.path)
		assert.Equal(t, c.status == 204, body == "", c.path)
	}
	_, body := r.get("GET", "/")
	var info map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &info))
	for _, field := range []string{"name", "description", "website"} {
		require.NotEmpty(t, info[field])
	}
}

func TestWhatChangesIsNotCached(t *testing.T) {
	r := newRig(t, Options{AllowDiscovery: true})
	for _, path := range []string{"/peerjs/id", "/peerjs/peers"} {
		res, _ := r.get("GET", path)
		assert.Equal(t, "no-store", res.Header.Get("Cache-Control"), path)
	}
}

// origins are cases of the one rule for CORS and for sockets. own stands for the
// server's own origin.
var origins = []struct {
	name    string
	allowed []string
	origin  string
	want    bool
}{
	{"any by default", nil, "https://example.com", true},
	{"a file by default", nil, "null", true},
	{"star", []string{"*"}, "https://example.com", true},
	{"star among others", []string{"https://a.test", "*"}, "https://example.com", true},
	{"in the list", []string{"https://a.test", "https://b.test"}, "https://b.test", true},
	{"in the list with a slash", []string{"https://b.test/"}, "https://b.test", true},
	{"in the list in capitals", []string{"HTTPS://B.test"}, "https://b.TEST", true},
	{"in the list with its port", []string{"https://b.test:8443"}, "https://b.test:8443", true},
	{"null in the list", []string{"null"}, "null", true},
	{"not in the list", []string{"https://a.test"}, "https://b.test", false},
	{"null not in the list", []string{"https://a.test"}, "null", false},
	{"another scheme", []string{"https://a.test"}, "http://a.test", false},
	{"another port", []string{"https://a.test"}, "https://a.test:8443", false},
	{"a longer name", []string{"https://a.test"}, "https://a.test.evil.test", false},
	{"a subdomain of one in the list", []string{"https://a.test"}, "https://x.a.test", false},
	{"subdomain", []string{"https://*.a.test"}, "https://x.a.test", true},
	{"subdomain of a subdomain", []string{"https://*.a.test"}, "https://y.x.a.test", true},
	{"subdomain in capitals", []string{"https://*.A.test"}, "https://X.a.test", true},
	{"not a subdomain but the domain", []string{"https://*.a.test"}, "https://a.test", false},
	{"not a subdomain but a longer name", []string{"https://*.a.test"}, "https://xa.test", false},
	{"subdomain, another scheme", []string{"https://*.a.test"}, "http://x.a.test", false},
	{"subdomain, another port", []string{"https://*.a.test"}, "https://x.a.test:8443", false},
	{"subdomain with its port", []string{"https://*.a.test:8443"}, "https://x.a.test:8443", true},
	{"the server's own host", []string{"https://a.test"}, "own", true},
	{"the server's own host behind TLS", []string{"https://a.test"}, "own over TLS", true},
	{"a host like the server's own", []string{"https://a.test"}, "own, another port", false},
	{"no browser", []string{"https://a.test"}, "", true},
}

func TestOriginsByOneRule(t *testing.T) {
	t.Parallel()
	for _, c := range origins {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{AllowedOrigins: c.allowed})
			switch c.origin {
			case "own":
				c.origin = r.url
			case "own over TLS":
				c.origin = strings.Replace(r.url, "http://", "https://", 1)
			case "own, another port":
				c.origin = "http://127.0.0.1:1"
			}
			var header []string // for get
			socket := make(http.Header)
			if c.origin != "" {
				header = []string{"Origin", c.origin}
				socket.Set("Origin", c.origin)
			}
			reflected := ""
			if c.want {
				reflected = c.origin
			}
			for _, path := range []string{"/", "/peerjs/id", "/peerjs/peers"} {
				res, _ := r.get("GET", path, header...)
				assert.Equal(t, reflected, res.Header.Get("Access-Control-Allow-Origin"), path)
				assert.Contains(t, res.Header.Values("Vary"), "Origin", path)
			}

			p, res, err := r.tryDial(r.socketURL("/", "a", "t"), socket)
			require.Equal(t, c.want, err == nil, "the socket")
			if c.want {
				p.wantOpen()
				return
			}
			require.Equal(t, 403, res.StatusCode)
			require.EqualValues(t, 1, r.srv.Stats().Refused["origin"])
			require.Zero(t, r.srv.Realm().Len())
		})
	}
}

func TestEveryAnswerHasCORSHeaders(t *testing.T) {
	r := newRig(t, Options{})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200},
		{"HEAD", "/peerjs/id", 200},
		{"GET", "/peerjs/id", 200},
		{"GET", "/peerjs/peers", 401},
		{"GET", "/wrong/id", 401},
		{"GET", "/peerjs", 426},
		{"POST", "/peerjs/id", 405},
		{"GET", "/x", 404},
	} {
		res, _ := r.get(c.method, c.path, "Origin", "https://example.com")
		assert.Equal(t, c.status, res.StatusCode, c.path)
		assert.Equal(t, "https://example.com", res.Header.Get("Access-Control-Allow-Origin"), "%s %s", c.method, c.path)
	}
}

func TestPreflight(t *testing.T) {
	r := newRig(t, Options{AllowedOrigins: []string{"https://a.test"}})
	ask := func(origin, headers string) *http.Response {
		header := []string{"Origin", origin, "Access-Control-Request-Method", "GET"}
		if headers != "" {
			header = append(header, "Access-Control-Request-Headers", headers)
		}
		res, body := r.get("OPTIONS", "/peerjs/id", header...)
		require.Equal(t, 204, res.StatusCode)
		require.Empty(t, body)
		return res
	}
	res := ask("https://a.test", "x-one, x-two")
	require.Equal(t, "https://a.test", res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "x-one, x-two", res.Header.Get("Access-Control-Allow-Headers"))
	require.Contains(t, res.Header.Get("Access-Control-Allow-Methods"), "GET")
	require.ElementsMatch(t, []string{"Origin", "Access-Control-Request-Headers"}, res.Header.Values("Vary"))

	res = ask("https://a.test", "")
	require.Equal(t, "https://a.test", res.Header.Get("Access-Control-Allow-Origin"))
	require.NotContains(t, res.Header, "Access-Control-Allow-Headers")

	res = ask("https://b.test", "x-one")
	for name := range res.Header {
		require.False(t, strings.HasPrefix(name, "Access-Control-"), name)
	}
	for _, path := range []string{"/", "/peerjs", "/peerjs/peers", "/wrong/id"} {
		res, _ := r.get("OPTIONS", path, "Origin", "https://a.test")
		require.Equal(t, 204, res.StatusCode, path)
		require.Equal(t, "https://a.test", res.Header.Get("Access-Control-Allow-Origin"), path)
	}
}

func TestAWrongKeyIsUnauthorized(t *testing.T) {
	r := newRig(t, Options{Key: "Secret", AllowDiscovery: true})
	for key, status := range map[string]int{"Secret": 200, "secret": 401, "peerjs": 401, "Secre": 401, "Secret%20": 401} {
		for _, method := range []string{"id", "peers"} {
			res, body := r.get("GET", "/"+key+"/"+method)
			assert.Equal(t, status, res.StatusCode, "%s %s", key, method)
			assert.Equal(t, status == 401, body == "Invalid key provided\n", body)
		}
	}
}

func TestDiscovery(t *testing.T) {
	off := newRig(t, Options{})
	off.connect("alice")
	res, body := off.get("GET", "/peerjs/peers")
	require.Equal(t, 401, res.StatusCode)
	require.NotContains(t, body, "alice")

	on := newRig(t, Options{AllowDiscovery: true})
	rec := watch(on.srv)
	list := func() string {
		res, body := on.get("GET", "/peerjs/peers?ts=1&version=1.5.5")
		require.Equal(t, 200, res.StatusCode)
		return strings.TrimSpace(body)
	}
	require.Equal(t, `[]`, list())
	bob := on.connect(`b"ob`)
	on.connect("al ice")
	require.Equal(t, `["al ice","b\"ob"]`, list())
	bob.close()
	rec.about(t, `b"ob`, `+b"ob`, `-b"ob client closed`)
	require.Equal(t, `["al ice"]`, list())
}

func TestTheHostIssuesIDs(t *testing.T) {
	r := newRig(t, Options{GenerateClientID: func(r *http.Request) (string, error) {
		c, err := r.Cookie("user")
		if err != nil {
			return "", err
		}
		return c.Value + "-" + r.URL.Query().Get("version"), nil
	}})
	res, body := r.get("GET", "/peerjs/id?version=1.5.5", "Cookie", "user=ann")
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "ann-1.5.5", body)
}

func TestATakenIDIsNotIssued(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, Options{GenerateClientID: func(*http.Request) (string, error) {
		return fmt.Sprint("id", calls.Add(1)%20), nil
	}})
	for i := range 5 {
		r.connect(fmt.Sprint("id", i))
	}
	_, body := r.get("GET", "/peerjs/id")
	require.Equal(t, "id5", body)
	require.EqualValues(t, 5, calls.Load())
}

func TestIssuingIDsEndsWhenAllAreTaken(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, Options{GenerateClientID: func(*http.Request) (string, error) { calls.Add(1); return "x", nil }})
	rec := watch(r.srv)
	r.connect("x")
	res, body := r.get("GET", "/peerjs/id")
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, textPlain, res.Header.Get("Content-Type"))
	require.NotContains(t, body, "x\n")
	require.EqualValues(t, 10, calls.Load())
	rec.about(t, "!", "! calling GenerateClientID: 10 ids in turn were connected already")
}

func TestIssuingIDsFails(t *testing.T) {
	for _, c := range []struct {
		name     string
		generate func(*http.Request) (string, error)
		status   int
		body     string
		event    string // "" for none
	}{
		{"error", func(*http.Request) (string, error) { return "half", errors.New("the secret database") },
			500, "No id could be generated", "! calling GenerateClientID: the secret database"},
		{"panic", func(*http.Request) (string, error) { panic("the secret database") },
			500, "No id could be generated", "! calling GenerateClientID: peer: panic in a function of the host: the secret database"},
		{"empty", func(*http.Request) (string, error) { return "", nil },
			500, "No id could be generated", "! calling GenerateClientID: the id is not valid"},
		{"not valid", func(*http.Request) (string, error) { return "a\r\nb", nil },
			500, "No id could be generated", "! calling GenerateClientID: the id is not valid"},
		{"rejected", func(*http.Request) (string, error) { return "", &Reject{Message: "Log in first"} },
			403, "Log in first", ""},
		{"rejected within", func(*http.Request) (string, error) {
			return "", fmt.Errorf("secret: %w", &Reject{Message: "Log in first"})
		},
			403, "Log in first", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{GenerateClientID: c.generate})
			rec := watch(r.srv)
			res, body := r.get("GET", "/peerjs/id", "Origin", "https://a.test")
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.body+"\n", body)
			require.Equal(t, textPlain, res.Header.Get("Content-Type"))
			require.Equal(t, "https://a.test", res.Header.Get("Access-Control-Allow-Origin"))
			if c.event == "" {
				require.Empty(t, rec.all())
			} else {
				rec.want(t, c.event)
			}
		})
	}
}

func TestAWrongKeyIssuesNothing(t *testing.T) {
	r := newRig(t, Options{GenerateClientID: func(*http.Request) (string, error) { panic("asked") }})
	rec := watch(r.srv)
	res, _ := r.get("GET", "/wrong/id")
	require.Equal(t, 401, res.StatusCode)
	require.Empty(t, rec.all())
}

func TestMethods(t *testing.T) {
	r := newRig(t, Options{AllowDiscovery: true})
	paths := map[string]int{"/": 200, "/peerjs/id": 200, "/peerjs/peers": 200, "/peerjs": 426}
	for path, status := range paths {
		get, body := r.get("GET", path)
		assert.Equal(t, status, get.StatusCode, path)
		assert.NotEmpty(t, body)
		head, none := r.get("HEAD", path)
		assert.Equal(t, status, head.StatusCode, "HEAD %s", path)
		assert.Equal(t, get.Header.Get("Content-Type"), head.Header.Get("Content-Type"), path)
		assert.Empty(t, none)
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			res, _ := r.get(method, path)
			assert.Equal(t, 405, res.StatusCode, "%s %s", method, path)
			assert.Equal(t, "GET, HEAD, OPTIONS", res.Header.Get("Allow"))
		}
	}
}

func TestTheSocketAddressAsksForAnUpgrade(t *testing.T) {
	r := newRig(t, Options{})
	for _, header := range [][]string{
		{},
		{"Upgrade", "websocket"},
		{"Connection", "Upgrade"},
		{"Connection", "Upgrade", "Upgrade", "h2c"},
	} {
		res, body := r.get("GET", "/peerjs?key=peerjs&id=a&token=t", header...)
		assert.Equal(t, 426, res.StatusCode)
		assert.Equal(t, "websocket", res.Header.Get("Upgrade"))
		assert.Contains(t, body, "WebSocket")
	}
	kept := httptest.NewRecorder() // on a connection that is kept, which those of the rig are not
	r.srv.ServeHTTP(kept, httptest.NewRequest("GET", "/peerjs", nil))
	assert.Equal(t, "Upgrade", kept.Header().Get("Connection"))
	require.Zero(t, r.srv.Realm().Len())
}

// Connection-specific fields make an answer over HTTP/2 malformed.
func TestTheSocketAddressOverHTTP2(t *testing.T) {
	srv := NewServer(Options{})
	ts := httptest.NewUnstartedServer(srv)
	ts.EnableHTTP2 = true
	ts.StartTLS()
	defer ts.Close()
	defer srv.Close()
	res, err := ts.Client().Get(ts.URL + "/peerjs?key=peerjs&id=a&token=t")
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0 426", fmt.Sprint(res.Proto, " ", res.StatusCode))
	require.Contains(t, string(body), "WebSocket")
	for _, name := range []string{"Upgrade", "Connection", "Keep-Alive", "Transfer-Encoding"} {
		require.Empty(t, res.Header.Values(name), name)
	}
}

func TestOtherAddressesAreNotFound(t *testing.T) {
	for name, c := range map[string]struct {
		opts  Options
		mount func(http.Handler) http.Handler
		paths []string
	}{
		"root": {mount: on("/"), paths: []string{
			"/x", "/x/", "/id", "/peers", "/peerjs/idx", "/peerjs/id/", "/peerjs/peers/", "/peerjs/id/x", "/peerjs/", "/peerjs/ID", "/PeerJS", "/peerjs/messages"}},
		"subtree":                 {mount: on("/sig/"), paths: []string{"/sig/x", "/sig/x/", "/sig/id/", "/sig/peerjs/"}},
		"router without pattern":  {mount: below("/sig", ""), paths: []string{"/sig/x", "/sig/peerjs/x", "/sig//id"}},
		"Path option":             {opts: Options{Path: "app"}, mount: on("/sig/"), paths: []string{"/sig/", "/sig/peerjs", "/sig/peerjs/id", "/sig/peerjs/peers", "/sig/xapp/", "/sig/xapp/peerjs", "/sig/app/x"}},
		"Path option of segments": {opts: Options{Path: "a/b"}, mount: on("/"), paths: []string{"/b/peerjs", "/b/peerjs/id", "/a/peerjs", "/xa/b/peerjs/id", "/a/b/c/peerjs/id"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := NewServer(c.opts)
			r := serveRig(t, srv, c.mount(srv))
			for _, path := range c.paths {
				for _, method := range []string{"GET", "POST"} {
					res, _ := r.get(method, path)
					assert.Equal(t, 404, res.StatusCode, "%s %s", method, path)
				}
				_, res, err := r.tryDial(r.url+path+"?key=peerjs&id=a&token=t", nil)
				require.Error(t, err, path)
				assert.Equal(t, 404, res.StatusCode, "socket at %s", path)
			}
		})
	}
}

func TestTheBaseDescribesTheServer(t *testing.T) {
	for _, m := range mounts {
		t.Run(m.name, func(t *testing.T) {
			srv := NewServer(m.opts)
			r := serveRig(t, srv, m.mount(srv))
			for _, path := range m.info {
				res, body := r.get("GET", path)
				require.Equal(t, 200, res.StatusCode, path)
				assert.Equal(t, "application/json", res.Header.Get("Content-Type"))
				assert.Regexp(t, `^\{"description":".+","name":".+","website":".+"\}\n$`, body)
			}
		})
	}
}

func TestKeysAreEscapedInAddresses(t *testing.T) {
	const key = `my kéy "ü" 🔑`
	r := newRig(t, Options{Key: key, AllowDiscovery: true})
	p := newPage(r, "/", key)
	status, id := p.ask("id")
	require.Equal(t, 200, status, id)
	wantIntroduced(p.open(id), p.open("b o b"))
	_, peers := p.ask("peers")
	require.Contains(t, peers, `"b o b"`)
}
