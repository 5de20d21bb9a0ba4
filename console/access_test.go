package console

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

// addresses are all addresses of the console.
var addresses = []string{"", "console.js", "console.css", "icon.svg", "stream", "end"}

func TestWithoutAuthorizeEveryRequestGets403(t *testing.T) {
	r := newRig(t, Options{})
	require.Contains(t, r.log.String(), "level=ERROR")
	require.Contains(t, r.log.String(), "no Options.Authorize")
	for _, address := range addresses {
		for _, method := range []string{"GET", "POST"} {
			res, body := r.do(method, address, "{}", "Authorization", "Basic OjEyMw==")
			require.Equal(t, 403, res.StatusCode, address)
			require.Equal(t, "The console has no Options.Authorize, so nobody may use it.\n", body)
		}
	}
}

func TestPasswordLetsOneUserIn(t *testing.T) {
	for _, tc := range []struct {
		user, password string // of the console
		asUser, as     string // of the request
		want           bool
	}{
		{"op", "secret", "op", "secret", true},
		{"op", "secret", "op", "secret ", false},
		{"op", "secret", "Op", "secret", false},
		{"op", "secret", "op", "", false},
		{"op", "secret", "", "secret", false},
		{"op", "se:cret", "op", "se:cret", true},
		{"üser", "pässword", "üser", "pässword", true},
		{"o:p", "secret", "o:p", "secret", false}, // HTTP Basic ends the user at the colon
		{"", "", "", "", false},
		{"op", "", "op", "", false},
		{"", "secret", "", "secret", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth(tc.asUser, tc.as)
		err := Password(tc.user, tc.password)(r)
		if tc.want {
			require.NoError(t, err, "%+v", tc)
		} else {
			require.ErrorIs(t, err, ErrPassword, "%+v", tc)
		}
	}
	require.ErrorIs(t, Password("op", "secret")(httptest.NewRequest("GET", "/", nil)), ErrPassword)
	require.ErrorIs(t, Password("", "")(httptest.NewRequest("GET", "/", nil)), ErrPassword)
}

func TestTheBrowserIsAskedForAPassword(t *testing.T) {
	r := newRig(t, Options{Authorize: Password("op", "secret")})
	for _, address := range addresses {
		res, _ := r.do("GET", address, "")
		require.Equal(t, 401, res.StatusCode, address)
		require.Equal(t, `Basic realm="peer console", charset="UTF-8"`, res.Header.Get("WWW-Authenticate"))
	}
	require.Empty(t, r.log.String()) // a browser asks without a password first

	res, _ := r.do("GET", "", "", "Authorization", "Basic b3A6d3Jvbmc=") // op:wrong
	require.Equal(t, 401, res.StatusCode)
	require.Contains(t, r.log.String(), "the console refused a request")
	require.NotContains(t, r.log.String(), "wrong")
	res, body := r.do("GET", "", "", "Authorization", "Basic b3A6c2VjcmV0")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, body, "<title>Peer console</title>")
}

// After 401 the browser would ask for a password on top of the page.
func TestAnOpenPageIsNotAskedForAPassword(t *testing.T) {
	r := newRig(t, Options{Authorize: Password("op", "secret")})
	for method, address := range map[string]string{"GET": "stream", "HEAD": "", "POST": "end"} {
		res, body := r.do(method, address, "", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin")
		require.Equal(t, 403, res.StatusCode)
		require.Empty(t, res.Header.Get("WWW-Authenticate"))
		require.True(t, method == "HEAD" || body == "The login has ended. Reload the page to log in.\n", body)
	}
	res, _ := r.do("GET", "", "", "Sec-Fetch-Dest", "document")
	require.Equal(t, 401, res.StatusCode)
}

func TestErrorsOfAuthorizeDecideTheAnswer(t *testing.T) {
	var answer error
	r := newRig(t, Options{Authorize: func(*http.Request) error { return answer }})
	for _, tc := range []struct {
		answer error
		want   int
	}{
		{nil, 200},
		{ErrPassword, 401},
		{fmt.Errorf("the hash differs: %w", ErrPassword), 401},
		{errors.New("not an operator"), 403},
	} {
		answer = tc.answer
		res, body := r.do("GET", "", "")
		require.Equal(t, tc.want, res.StatusCode)
		require.Equal(t, tc.want == 401, res.Header.Get("WWW-Authenticate") != "")
		require.NotContains(t, body, "not an operator")
	}
	require.Contains(t, r.log.String(), "not an operator")
}

func TestAnOperatorMayBeAllowedToLookOnly(t *testing.T) {
	r := newRig(t, Options{Authorize: func(r *http.Request) error {
		if r.Method == http.MethodPost {
			return errors.New("may only look")
		}
		return nil
	}})
	r.connect("alice", "t")
	res, _ := r.do("GET", "", "")
	require.Equal(t, 200, res.StatusCode)
	res, _ = r.do("POST", "end", r.endRequest("alice", ""), "Content-Type", "application/json")
	require.Equal(t, 403, res.StatusCode)
	require.NotNil(t, r.srv.Realm().Client("alice"))
}

func TestRequestsThatAreRefused(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	r.connect("alice", "t")
	good := r.endRequest("alice", "bye")
	long := r.endRequest("alice", strings.Repeat("x", maxText+1))
	const isJSON = "application/json"
	for _, tc := range []struct {
		name, method, address, body string
		header                      []string
		want                        int
	}{
		{"a post of another site", "POST", "end", good, []string{"Content-Type", isJSON, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a post of another host of the site", "POST", "end", good, []string{"Content-Type", isJSON, "Sec-Fetch-Site", "same-site"}, 403},
		{"a post of another origin, of an old browser", "POST", "end", good, []string{"Content-Type", isJSON, "Origin", "http://evil.test"}, 403},
		{"a form", "POST", "end", good, []string{"Content-Type", "text/plain"}, 415},
		{"no type", "POST", "end", good, nil, 415},
		{"a get that would end a client", "GET", "end", good, []string{"Content-Type", isJSON}, 405},
		{"a stream for another site", "GET", "stream", "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a post of a stream", "POST", "stream", "", nil, 405},
		{"a post of the page", "POST", "", "", nil, 405},
		{"a delete", "DELETE", "console.js", "", nil, 405},
		{"a file that does not exist", "GET", "console.go", "", nil, 404},
		{"a way out of the folder", "GET", "..%2f..%2fetc%2fpasswd.txt", "", nil, 404},
		{"no JSON", "POST", "end", "id=alice", []string{"Content-Type", isJSON}, 400},
		{"an id that is no text", "POST", "end", `{"id":7}`, []string{"Content-Type", isJSON}, 400},
		{"nothing", "POST", "end", "", []string{"Content-Type", isJSON}, 400},
		{"too much", "POST", "end", `{"id":"` + strings.Repeat("x", maxRequest) + `"}`, []string{"Content-Type", isJSON}, 413},
		{"a text that is too long", "POST", "end", long, []string{"Content-Type", isJSON}, 422},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, body := r.do(tc.method, tc.address, tc.body, tc.header...)
			require.Equal(t, tc.want, res.StatusCode, body)
			require.NotEmpty(t, body)
			wantSecure(t, res.Header)
			require.NotNil(t, r.srv.Realm().Client("alice"))
		})
	}
	res, body := r.do("POST", "end", good, "Content-Type", isJSON, "Sec-Fetch-Site", "same-origin")
	require.Equal(t, 204, res.StatusCode, body) // the request itself is a good one
}

// wantSecure wants the headers that each answer has.
func wantSecure(t *testing.T, h http.Header) {
	t.Helper()
	csp := h.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'none'"} {
		assert.Contains(t, strings.Split(csp, "; "), part)
	}
	for _, not := range []string{"unsafe", "data:", "http", "*"} {
		assert.NotContains(t, csp, not)
	}
	assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
	assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
	assert.Equal(t, "no-store", h.Get("Cache-Control"))
	assert.Equal(t, "DENY", h.Get("X-Frame-Options"))
	assert.Equal(t, "same-origin", h.Get("Cross-Origin-Resource-Policy"))
	assert.Equal(t, "same-origin", h.Get("Cross-Origin-Opener-Policy"))
	assert.Empty(t, h.Get("Access-Control-Allow-Origin"))
}

func TestEveryAnswerHasTheSecurityHeaders(t *testing.T) {
	for _, authorize := range []func(*http.Request) error{nil, everybody, Password("op", "secret")} {
		r := newRig(t, Options{Authorize: authorize})
		for _, address := range []string{"", "console.js", "console.css", "icon.svg", "end", "no.file", "no/slash"} {
			res, _ := r.do("GET", address, "")
			wantSecure(t, res.Header)
		}
	}
	r := newRig(t, Options{Authorize: everybody})
	res, err := r.client.Do(r.request("GET", "stream", ""))
	require.NoError(t, err)
	res.Body.Close()
	wantSecure(t, res.Header)
}

// The content security policy would block these, and the page would be broken.
func TestThePageHasNoInlineCodeAndNoOtherHosts(t *testing.T) {
	for address, file := range files {
		b, err := fs.ReadFile(page, file.name)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "") // a name, not an address
		assert.NotRegexp(t, `https?://`, text, address)
		assert.NotRegexp(t, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`, text, address)
		if address == "" {
			assert.NotRegexp(t, `<style|\sstyle=|\son\w+=|javascript:`, text)
			assert.Len(t, regexp.MustCompile(`<script`).FindAllString(text, -1), 1)
			assert.Contains(t, text, `<script type="module" src="console.js"></script>`)
			assert.NotRegexp(t, `(src|href)="/`, text, "an address that depends on the mount")
		}
	}
}

func TestTheConsoleWorksBelowAnyPrefix(t *testing.T) {
	h := New(peer.NewServer(peer.Options{}), Options{Authorize: everybody})
	exact := http.NewServeMux()
	exact.Handle("/console", h)
	subtree := http.NewServeMux()
	subtree.Handle("/console/", h)
	for _, tc := range []struct {
		name     string
		h        http.Handler
		address  string
		location string // "" means the page
	}{
		{"at the root", h, "/", ""},
		{"in a subtree", subtree, "/console/", ""},
		{"in a subtree, without the slash", subtree, "/console", "/console/"}, // by the mux
		{"deep", h, "/a/b/console/", ""},
		{"at one address", exact, "/console", "./console/"},
		{"stripped", http.StripPrefix("/console", h), "/console/", ""},
		{"stripped, without the slash", http.StripPrefix("/console", h), "/console", "./console/"},
		{"stripped with the slash", http.StripPrefix("/console/", h), "/console/", ""},
		{"a name that looks like a scheme", h, "/javascript:alert", "./javascript:alert/"},
		{"a name with a slash in it", h, "/a%2Fb", "./b/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			tc.h.ServeHTTP(w, httptest.NewRequest("GET", "http://peer.test"+tc.address, nil))
			require.Equal(t, tc.location, w.Header().Get("Location"))
			if tc.location == "" {
				require.Equal(t, 200, w.Code)
				require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
			}
			for _, file := range []string{"console.js", "console.css", "icon.svg"} {
				if tc.location != "" {
					break
				}
				w := httptest.NewRecorder()
				tc.h.ServeHTTP(w, httptest.NewRequest("GET", "http://peer.test"+tc.address+file, nil))
				require.Equal(t, 200, w.Code, file)
				require.Equal(t, files[file].contentType, w.Header().Get("Content-Type"))
				require.NotEmpty(t, w.Body.String())
			}
		})
	}
}
