package console

import (
	"embed"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
)

//go:embed page
var page embed.FS

// files are the fixed files of the page: last segment of the address -> name and type. The
// empty segment is the page itself.
var files = map[string]struct{ name, contentType string }{
	"":            {"page/index.html", "text/html; charset=utf-8"},
	"console.js":  {"page/console.js", "text/javascript; charset=utf-8"},
	"console.css": {"page/console.css", "text/css; charset=utf-8"},
	"icon.svg":    {"page/icon.svg", "image/svg+xml"},
}

// policy is the content security policy of all answers. It has no exceptions: script and
// style are files of their own, and nothing comes from another host.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if !c.mayUse(w, r) {
		return
	}
	if err := c.crossSite.Check(r); err != nil {
		c.refuse(w, r, http.StatusForbidden, "The request comes from a page of another site.", err)
		return
	}
	_, last := path.Split(r.URL.Path)
	file, isFile := files[last]
	switch {
	case isFile && (r.URL.Path != "" || strings.HasSuffix(requestPath(r), "/")):
		c.serveFile(w, r, file.name, file.contentType)
	case last == "stream":
		c.serveStream(w, r)
	case last == "end":
		c.serveEnd(w, r)
	case strings.Contains(last, "."):
		http.Error(w, "There is no such file in the console.", http.StatusNotFound)
	default:
		redirectToSlash(w, r)
	}
}

// mayUse asks Authorize, and answers a request that it does not allow.
func (c *console) mayUse(w http.ResponseWriter, r *http.Request) bool {
	if c.authorize == nil {
		c.refuse(w, r, http.StatusForbidden, "The console has no Options.Authorize, so nobody may use it.", nil)
		return false
	}
	err := c.authorize(r)
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrPassword) && r.Header.Get("Sec-Fetch-Dest") == "empty":
		// A script asks. After 401 the browser would show a dialog on top of a page that is open.
		c.refuse(w, r, http.StatusForbidden, "The login has ended. Reload the page to log in.", err)
	case errors.Is(err, ErrPassword):
		w.Header().Set("WWW-Authenticate", `Basic realm="peer console", charset="UTF-8"`)
		if r.Header.Get("Authorization") == "" {
			http.Error(w, "A user and a password are needed.", http.StatusUnauthorized) // a browser asks like this first
			return false
		}
		c.refuse(w, r, http.StatusUnauthorized, "The user or the password is wrong.", err)
	default:
		c.refuse(w, r, http.StatusForbidden, "You may not use this console.", err)
	}
	return false
}

// refuse answers a request that is not allowed, and logs it.
func (c *console) refuse(w http.ResponseWriter, r *http.Request, status int, text string, err error) {
	c.log.Warn("the console refused a request", "remote", r.RemoteAddr, "method", r.Method, "status", status, "err", err)
	http.Error(w, text, status)
}

func (c *console) serveFile(w http.ResponseWriter, r *http.Request, name, contentType string) {
	if !allowMethod(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	b, err := page.ReadFile(name)
	if err != nil {
		http.Error(w, "The file of the page is missing.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Write(b)
}

// redirectToSlash sends a browser from ".../console" to ".../console/": the addresses on the
// page are relative. The location is relative too, so a prefix that a proxy has removed does
// not matter.
func redirectToSlash(w http.ResponseWriter, r *http.Request) {
	if !allowMethod(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	w.Header().Set("Location", "./"+url.PathEscape(path.Base(requestPath(r)))+"/")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// requestPath returns the path of the request line: StripPrefix may have left nothing of it in
// r.URL.
func requestPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.Path
	}
	return r.URL.Path
}

// allowMethod reports whether a request has one of these methods, and answers one that has not.
func allowMethod(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	http.Error(w, "This address does not know the method.", http.StatusMethodNotAllowed)
	return false
}
