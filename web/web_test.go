package web

import (
	"bytes"
	"compress/gzip"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ask sends a request to the handler; headers are pairs of name and value.
func ask(method, path string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// The types of the machine are wrong on purpose.
func TestEachFileIsServedWithItsType(t *testing.T) {
	for _, ext := range []string{".mjs", ".js", ".mts", ".txt"} {
		require.NoError(t, mime.AddExtensionType(ext, "application/x-wrong"))
	}
	want := map[string]string{
		"rooms.mjs":           "text/javascript; charset=utf-8",
		"peerjs.min.js":       "text/javascript; charset=utf-8",
		"rooms.d.mts":         "text/plain; charset=utf-8",
		"peerjs.LICENSES.txt": "text/plain; charset=utf-8",
	}
	entries, err := fs.ReadDir(embedded, ".")
	require.NoError(t, err)
	require.Len(t, entries, len(want), "each embedded file is served")
	for name, contentType := range want {
		resp := ask("GET", "/peerjs/web/"+name)
		assert.Equal(t, 200, resp.StatusCode, name)
		assert.Equal(t, contentType, resp.Header.Get("Content-Type"))
		assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
		assert.Equal(t, "no-cache", resp.Header.Get("Cache-Control"))
		assert.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"))
		assert.Equal(t, "cross-origin", resp.Header.Get("Cross-Origin-Resource-Policy"))
		assert.Equal(t, `<peerjs.LICENSES.txt>; rel="license"`, resp.Header.Get("Link"))
		assert.Equal(t, readFile(t, name), body(t, resp))

		head := ask("HEAD", "/peerjs/web/"+name)
		assert.Equal(t, 200, head.StatusCode)
		assert.Equal(t, resp.Header, head.Header)
		assert.Equal(t, strconv.Itoa(len(readFile(t, name))), head.Header.Get("Content-Length"))
		assert.Empty(t, body(t, head))
	}
}

func TestTheHandlerWorksBelowAnyPrefix(t *testing.T) {
	t.Parallel()
	for prefix, h := range map[string]http.Handler{
		"/":         Handler(),
		"/a/b/web/": Handler(),
		"/web/":     http.StripPrefix("/web/", Handler()), // leaves a path without a slash
		"/lib/":     http.StripPrefix("/lib", Handler()),
	} {
		mux := http.NewServeMux()
		mux.Handle(prefix, h)
		for path, want := range map[string]int{
			"rooms.mjs": 200, "": 404, "rooms.mjs/": 404, "web.go": 404, "no.mjs": 404, ".mjs": 404, "..%2Fweb.go": 404,
		} {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("GET", prefix+path, nil))
			assert.Equal(t, want, w.Code, prefix+path)
			assert.NotContains(t, w.Body.String(), "package web")
		}
	}
}

func TestOtherMethodsAreRefused(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		resp := ask(method, "/web/rooms.mjs")
		assert.Equal(t, 405, resp.StatusCode, method)
		assert.Equal(t, "GET, HEAD", resp.Header.Get("Allow"))
		assert.Equal(t, 404, ask(method, "/web/").StatusCode)
	}
}

func TestABrowserThatHasAFileGets304(t *testing.T) {
	t.Parallel()
	tags := make(map[string]string) // tag -> what has it
	for name := range types {
		for _, coding := range []string{"identity", "gzip"} {
			resp := ask("GET", "/"+name, "Accept-Encoding", coding)
			tag := resp.Header.Get("ETag")
			require.Regexp(t, `^"[0-9a-f]{32}(-gzip)?"$`, tag)
			assert.Empty(t, tags[tag], "the tag of %s, %s", name, coding)
			tags[tag] = name + ", " + coding

			again := ask("GET", "/"+name, "Accept-Encoding", coding, "If-None-Match", tag)
			assert.Equal(t, 304, again.StatusCode)
			assert.Equal(t, tag, again.Header.Get("ETag"))
			assert.Equal(t, "no-cache", again.Header.Get("Cache-Control"))
			assert.Equal(t, "Accept-Encoding", again.Header.Get("Vary"))
			assert.Empty(t, body(t, again))
			assert.Equal(t, 200, ask("GET", "/"+name, "Accept-Encoding", coding, "If-None-Match", `"old"`).StatusCode)
		}
	}
}

func TestGzipIsForClientsThatAcceptIt(t *testing.T) {
	t.Parallel()
	for accepted, want := range map[string]bool{
		"gzip": true, "deflate, gzip;q=1.0, *;q=0.5": true, "br, GZIP": true, "gzip; q=0.1": true,
		"": false, "br": false, "gzip;q=0": false, "gzip;q=0.0, br": false, "x-gzip": false, "gzip;q=much": false,
	} {
		resp := ask("GET", "/rooms.mjs", "Accept-Encoding", accepted)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "Accept-Encoding", resp.Header.Get("Vary"))
		got := body(t, resp)
		if assert.Equal(t, want, resp.Header.Get("Content-Encoding") == "gzip", "Accept-Encoding: %s", accepted) && want {
			zr, err := gzip.NewReader(strings.NewReader(got))
			require.NoError(t, err)
			plain, err := io.ReadAll(zr)
			require.NoError(t, err)
			got = string(plain)
		}
		assert.Equal(t, readFile(t, "rooms.mjs"), got)
	}
	resp := ask("GET", "/rooms.mjs", "Accept-Encoding", "br", "Accept-Encoding", "gzip")
	assert.Equal(t, "gzip", resp.Header.Get("Content-Encoding"), "in a second line of the header")
}

// The module is small because every page loads it.
func TestTheModuleStaysSmall(t *testing.T) {
	t.Parallel()
	const limit = 2560 // bytes without comments and indentation
	text := readFile(t, "rooms.mjs")
	require.NotContains(t, text, "://", "an address would be taken for a comment")
	code := regexp.MustCompile(`(?m)\s*//.*$|^\s+`).ReplaceAllString(text, "")
	t.Logf("%d of %d bytes are code", len(code), len(text))
	assert.LessOrEqual(t, len(code), limit)
	assert.Contains(t, code, "export function join", "the comments, and nothing else, are left out")
}

func TestPeerJSIsWhatNpmHas(t *testing.T) {
	t.Parallel()
	text := readFile(t, "peerjs.min.js")
	assert.Contains(t, text, `"1.5.5"`)
	licenses := readFile(t, "peerjs.LICENSES.txt")
	assert.Contains(t, licenses, "PeerJS 1.5.5")
	for _, owner := range []string{
		"Michelle Bu and Eric Zhang", "2012 Eric Zhang", "Arnout Kazemier", "Philipp Hancke", "The adapter.js project authors",
	} {
		assert.Contains(t, licenses, owner)
	}
	npm, err := os.ReadFile("../e2e/node_modules/peerjs/dist/peerjs.min.js")
	if err != nil {
		t.Skip("npm ci in e2e gets the file to compare with")
	}
	assert.True(t, bytes.Equal(npm, []byte(text)))
}

func TestThePackageNeedsTheStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	f, err := parser.ParseFile(token.NewFileSet(), "web.go", nil, parser.ImportsOnly)
	require.NoError(t, err)
	require.NotEmpty(t, f.Imports)
	for _, spec := range f.Imports {
		first, _, _ := strings.Cut(strings.Trim(spec.Path.Value, `"`), "/")
		assert.NotContains(t, first, ".", "import %s", spec.Path.Value)
	}
}
