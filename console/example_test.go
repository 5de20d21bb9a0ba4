package console_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/console"
)

func Example() {
	srv := peer.NewServer(peer.Options{})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/console/", console.New(srv, console.Options{
		Authorize: console.Password("operator", os.Getenv("CONSOLE_PASSWORD")),
		Logger:    slog.Default(),
	}))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", mux))
}

// The browser asks its user for the password when it reads 401.
func ExamplePassword() {
	srv := peer.NewServer(peer.Options{})
	defer srv.Close()
	h := console.New(srv, console.Options{Authorize: console.Password("operator", "a long password")})

	r := httptest.NewRequest("GET", "/console/", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))

	r.SetBasicAuth("operator", "a long password")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output:
	// 401 Basic realm="peer console", charset="UTF-8"
	// 200 text/html; charset=utf-8
}

// A host that has a login of its own asks it. Here support staff may look, but only
// administrators may end clients.
func ExampleOptions_authorize() {
	roleOf := func(r *http.Request) string { // stands for the login of the host
		if c, err := r.Cookie("role"); err == nil {
			return c.Value
		}
		return ""
	}
	srv := peer.NewServer(peer.Options{})
	defer srv.Close()
	h := console.New(srv, console.Options{
		Authorize: func(r *http.Request) error {
			role := roleOf(r)
			if role == "admin" || role == "support" && r.Method != http.MethodPost {
				return nil
			}
			return errors.New("no operator")
		},
	})

	for _, try := range []struct{ role, method, address string }{
		{"visitor", "GET", "/console/"},
		{"support", "GET", "/console/"},
		{"support", "POST", "/console/end"},
	} {
		r := httptest.NewRequest(try.method, try.address, nil)
		r.AddCookie(&http.Cookie{Name: "role", Value: try.role})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(try.role, try.method, w.Code)
	}
	// Output:
	// visitor GET 403
	// support GET 200
	// support POST 403
}
