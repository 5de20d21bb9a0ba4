package peertest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// newOffice is the application. Users log in, and GET /history says who came and who left.
func newOffice() (http.Handler, *peer.Server) {
	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			c, err := r.Cookie("user")
			if err != nil {
				return nil, &peer.Reject{Message: "Please log in"}
			}
			return c.Value, nil
		},
	})

	var mu sync.Mutex // guards the following
	var history strings.Builder
	srv.OnConnection(func(c *peer.Client) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&history, "%v came\n", c.User())
	})
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&history, "%v left: %v\n", c.User(), why)
	})

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: r.FormValue("user"), Path: "/", Secure: true})
	})
	mux.HandleFunc("GET /history", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		io.WriteString(w, history.String())
	})
	return mux, srv
}

// login returns a browser whose user has logged in.
func login(t *testing.T, h *peertest.Host, user string) *http.Client {
	t.Helper()
	browser := h.HTTPClient()
	res, err := browser.PostForm(h.URL+"/login", url.Values{"user": {user}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return browser
}

// wantHistory checks the answer to GET /history.
func wantHistory(t *testing.T, h *peertest.Host, want string) {
	t.Helper()
	res, err := h.HTTPClient().Get(h.URL + "/history")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); string(got) != want {
		t.Fatalf("the history is\n%swant\n%s", got, want)
	}
}

// officeInABubble is a test in which time is fake.
func officeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		office, srv := newOffice()
		t.Cleanup(func() { srv.Close() })
		h := peertest.New(t, office, "/peerjs")
		ann := h.Dial("desk-1", peertest.Jar(login(t, h, "ann").Jar))

		// Nobody is at the other desk, so the call fails after five seconds, and the test does not wait for them.
		ann.Send(peer.TypeOffer, "desk-2", map[string]string{"sdp": "v=0"})
		ann.ExpectNothing(4 * time.Second)
		if m := ann.Expect(peer.TypeExpire); m.Src != "desk-2" {
			t.Errorf("EXPIRE is from %q", m.Src)
		}

		// The computer goes to sleep. The server closes the connection when it has heard nothing for a minute.
		ann.Freeze()
		time.Sleep(2 * time.Minute)
		synctest.Wait() // OnDisconnect has returned
		wantHistory(t, h, "ann came\nann left: alive timeout\n")
	})
}

// officeInRealTime is a test without a bubble. It waits for the events that it needs.
func officeInRealTime(t *testing.T) {
	office, srv := newOffice()
	left := make(chan string, 10) // is told after the function of the office
	srv.OnDisconnect(func(c *peer.Client, _ peer.DisconnectReason) { left <- c.ID() })
	t.Cleanup(func() { srv.Close() })
	h := peertest.New(t, office, "/peerjs")

	if r := h.DialRefused("desk-1"); r.Text != "Please log in" {
		t.Errorf("a client without a cookie reads %q", r.Text)
	}
	ann := h.Dial("desk-1", peertest.Jar(login(t, h, "ann").Jar))
	bob := h.Dial("desk-2", peertest.Jar(login(t, h, "bob").Jar))
	ann.Send(peer.TypeOffer, "desk-2", map[string]string{"sdp": "v=0"})
	if m := bob.Expect(peer.TypeOffer); m.Src != "desk-1" {
		t.Errorf("the offer is from %q", m.Src)
	}
	bob.Close()
	<-left
	wantHistory(t, h, "ann came\nbob came\nbob left: client closed\n")
}

// The tests of an application with users. In a file of your own, the functions are named TestXxx, and "go test" calls
// them.
func Example() {
	var t *testing.T // "go test" makes it
	officeInABubble(t)
	officeInRealTime(t)
}
