// Package web serves files for the pages of a PeerJS server, from the binary: PeerJS itself,
// and a small module for rooms and ICE servers. Nothing is loaded from another host, and there is
// no build step.
//
//	mux.Handle("/peerjs/", srv)              // a *peer.Server
//	mux.Handle("/peerjs/web/", web.Handler())
//
// A page loads them like this:
//
//	<script src="/peerjs/web/peerjs.min.js"></script>
//	<script type="module">
//	import { ice, join } from "/peerjs/web/rooms.mjs"
//	</script>
//
// The page docs/web.md of the repository says what join and ice do.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed peerjs.min.js peerjs.LICENSES.txt rooms.mjs rooms.d.mts
var embedded embed.FS

// types are the files that are served, with their content types. The types of the machine are
// not asked: often they have none for .mjs, and a browser runs no module without the right one.
var types = map[string]string{
	"peerjs.min.js":       "text/javascript; charset=utf-8",
	"peerjs.LICENSES.txt": "text/plain; charset=utf-8",
	"rooms.mjs":           "text/javascript; charset=utf-8",
	"rooms.d.mts":         "text/plain; charset=utf-8", // no type is registered for TypeScript
}

// A file is one embedded file, as it is sent.
type file struct {
	contentType    string
	plain, gzipped []byte
	etag           string // without quotes
}

// files reads and compresses the files once.
var files = sync.OnceValue(func() map[string]file {
	fs := make(map[string]file, len(types))
	for name, contentType := range types {
		plain, err := embedded.ReadFile(name)
		if err != nil {
			panic(err) // go:embed has this file
		}
		var gzipped bytes.Buffer
		zw := gzip.NewWriter(&gzipped)
		zw.Write(plain) // a bytes.Buffer returns no error
		zw.Close()
		sum := sha256.Sum256(plain)
		fs[name] = file{contentType, plain, gzipped.Bytes(), hex.EncodeToString(sum[:16])}
	}
	return fs
})

// Handler returns a handler that serves these files to anybody:
//
//   - peerjs.min.js: PeerJS 1.5.5, as npm has it, and peerjs.LICENSES.txt, the licenses of it
//     and of the packages in it
//   - rooms.mjs: the module with join and ice, and rooms.d.mts, its types for TypeScript
//
// The last segment of the path is the name of a file. So the handler works below any prefix, with
// or without [http.StripPrefix]. Other names get 404, other methods than GET and HEAD get 405.
// Browsers ask each time whether a file has changed (no-cache), and the answer is 304 if it has
// not: a new version of the program is in use at once. Pages of other origins may load the files
// too. If the client accepts gzip, it gets a file compressed. The handler may be called
// concurrently.
func Handler() http.Handler {
	return http.HandlerFunc(serve)
}

func serve(w http.ResponseWriter, r *http.Request) {
	_, name := path.Split(r.URL.Path)
	f, found := files()[name]
	switch {
	case !found:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This address does not know the method.", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("Access-Control-Allow-Origin", "*")             // browsers load modules with CORS only
	h.Set("Cross-Origin-Resource-Policy", "cross-origin") // for pages with Cross-Origin-Embedder-Policy
	h.Add("Vary", "Accept-Encoding")                      // middleware may have added another name
	h.Set("Link", `<peerjs.LICENSES.txt>; rel="license"`)
	content, etag := f.plain, f.etag
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		content, etag = f.gzipped, f.etag+"-gzip"
	}
	h.Set("ETag", `"`+etag+`"`)
	// An embedded file has no time of its last change. The tag is enough.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// acceptsGzip reports whether the header Accept-Encoding names gzip, and not with the weight 0.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		coding, weight, weighted := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
		return !weighted || err == nil && q > 0
	}
	return false
}
