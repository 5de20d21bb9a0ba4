package peertest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// A seen notes the last request that a handler was given.
type seen struct {
	http.Handler
	last *http.Request
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.last = r
	s.Handler.ServeHTTP(w, r)
}

func TestTheRequestIsThatOfAPage(t *testing.T) {
	srv := peer.NewServer(peer.Options{Key: "k&y"})
	s := &seen{Handler: srv}
	h := peertest.New(t, s, "/peerjs", peertest.Key("k&y"), peertest.Header(http.Header{"X-One": {"1"}, "X-Two": {"2"}}))
	h.Dial("alice", peertest.Token("t/1"), peertest.Header(http.Header{"x-two": {"3"}}))
	require.Equal(t, "/peerjs/peerjs", s.last.URL.Path)
	want := url.Values{"key": {"k&y"}, "id": {"alice"}, "token": {"t/1"}, "version": {"1.5.5"}}
	require.Equal(t, want, s.last.URL.Query())
	require.Equal(t, "example.com", s.last.Host)
	require.Equal(t, "http://example.com", h.URL)
	require.Equal(t, []string{h.URL}, s.last.Header["Origin"])
	require.Equal(t, "1", s.last.Header.Get("X-One"))
	require.Equal(t, []string{"3"}, s.last.Header.Values("X-Two"))
	host, _, err := net.SplitHostPort(s.last.RemoteAddr)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", host)
	require.Equal(t, s.last.RemoteAddr, srv.Realm().Client("alice").RemoteAddr())

	chat := peertest.Header(http.Header{"Origin": nil, "Host": {"chat.example"}})
	h.Dial("bob", chat, peertest.From(netip.MustParseAddr("2001:db8::7")))
	require.NotContains(t, s.last.Header, "Origin")
	require.Equal(t, "chat.example", s.last.Host)
	require.Regexp(t, `^\[2001:db8::7\]:[1-9][0-9]*$`, s.last.RemoteAddr)
	h.Dial("carol", peertest.Header(http.Header{"Host": {"chat.example"}}))
	require.Equal(t, "http://chat.example", s.last.Header.Get("Origin"))
	require.Equal(t, "2", s.last.Header.Get("X-Two"))
}

func TestTheZeroValueOfAnOptionIsItsDefault(t *testing.T) {
	s := &seen{Handler: peer.NewServer(peer.Options{})}
	h := peertest.New(t, s, "/", peertest.Key("x"), peertest.Token("x"), peertest.Timeout(-1),
		peertest.From(netip.MustParseAddr("127.0.0.1")))
	h.Dial("alice", peertest.Key(""), peertest.Token(""), peertest.Timeout(0), peertest.From(netip.Addr{}),
		peertest.Jar(nil), peertest.Header(nil), peertest.Ignore())
	require.Equal(t, peer.DefaultKey, s.last.URL.Query().Get("key"))
	require.Equal(t, "token-of-alice", s.last.URL.Query().Get("token"))
	require.Regexp(t, "^192.0.2.1:", s.last.RemoteAddr)
}

func TestTheOptionsAreCopied(t *testing.T) {
	s := &seen{Handler: peer.NewServer(peer.Options{})}
	fields := http.Header{"X-One": {"1"}}
	option := peertest.Header(fields)
	fields.Set("X-One", "2")
	h := peertest.New(t, s, "/", option)
	h.Dial("alice", peertest.Header(http.Header{"X-One": {"3"}}))
	require.Equal(t, "3", s.last.Header.Get("X-One"))
	h.Dial("bob")
	require.Equal(t, "1", s.last.Header.Get("X-One"))
}

func TestThePathIsThatOfTheClient(t *testing.T) {
	for path, want := range map[string]string{
		"": "/peerjs", "/": "/peerjs", "a": "/a/peerjs", "/a": "/a/peerjs", "/a/b/": "/a/b/peerjs",
	} {
		s := &seen{Handler: peer.NewServer(peer.Options{})}
		peertest.New(t, s, path).Dial("alice")
		require.Equal(t, want, s.last.URL.Path)
	}
}

func TestIDsComeFromTheServer(t *testing.T) {
	_, h, _ := newHost(t, peer.Options{AllowDiscovery: true, Key: "a b?"}, peertest.Key("a b?"))
	require.Empty(t, h.IDs())
	id := h.NewID()
	require.Len(t, id, 36)
	h.Dial(id)
	h.Dial("Ä b")
	require.ElementsMatch(t, []string{id, "Ä b"}, h.IDs())
}

// shop is an application with users: a cookie says who a client is.
func shop(t *testing.T) (*peer.Server, http.Handler) {
	srv := peer.NewServer(peer.Options{Authenticate: func(r *http.Request, _, _ string) (any, error) {
		c, err := r.Cookie("user")
		if err != nil {
			return nil, &peer.Reject{Message: "Log in"}
		}
		return c.Value, nil
	}})
	t.Cleanup(func() { assert.NoError(t, srv.Close()) })
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: r.FormValue("user"), Path: "/", Secure: true, HttpOnly: true})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("user"); err == nil {
			fmt.Fprint(w, "Hello, ", c.Value)
		}
	})
	mux.HandleFunc("GET /from", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RemoteAddr, r.Header["X-One"])
	})
	mux.Handle("/peerjs/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "1", Path: "/"})
		srv.ServeHTTP(w, r)
	}))
	mux.Handle("GET /old/peerjs", http.RedirectHandler("/peerjs/peerjs", http.StatusFound))
	return srv, mux
}

func body(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

func TestASocketHasTheCookiesOfTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, site := shop(t)
		h := peertest.New(t, site, "/peerjs")
		browser := h.HTTPClient()
		res, err := browser.PostForm(h.URL+"/login", url.Values{"user": {"ann"}})
		require.Equal(t, "Hello, ann", body(t, res, err))
		h.Dial("alice", peertest.Jar(browser.Jar))
		require.Equal(t, "ann", srv.Realm().Client("alice").User())
		require.Equal(t, "Log in", h.DialRefused("bob").Text)
		res, err = h.HTTPClient().Get(h.URL)
		require.Empty(t, body(t, res, err), "two browsers share their cookies")

		u, _ := url.Parse(h.URL)
		require.Len(t, browser.Jar.Cookies(u), 2, "the cookie of the upgrade is not there")
		plain, _ := cookiejar.New(nil) // knows that the address is not secure
		res, err = h.HTTPClient(peertest.Jar(plain)).PostForm(h.URL+"/login", url.Values{"user": {"ann"}})
		require.Empty(t, body(t, res, err))
	})
}

func TestTheHTTPClientHasItsOptions(t *testing.T) {
	_, site := shop(t)
	h := peertest.New(t, site, "/peerjs", peertest.Header(http.Header{"X-One": {"1"}}))
	client := h.HTTPClient(peertest.From(netip.MustParseAddr("203.0.113.7")))
	first, err := client.Get("http://any.example/from")
	a := body(t, first, err)
	second, err := client.Get("http://any.example/from")
	b := body(t, second, err)
	require.Regexp(t, `^203\.0\.113\.7:[1-9][0-9]*\[1\]$`, a)
	require.NotEqual(t, a, b, "two connections have one port")
}

func TestTheTimeoutIsForARequestAndItsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := peertest.New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			time.Sleep(time.Second)
			io.WriteString(w, "late")
		}), "/")
		res, err := h.HTTPClient().Get(h.URL)
		require.Equal(t, "late", body(t, res, err))
		res, err = h.HTTPClient(peertest.Timeout(time.Second - 1)).Get(h.URL)
		require.NoError(t, err)
		_, err = io.ReadAll(res.Body)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A browser follows no redirect of a WebSocket.
func TestARedirectOfTheUpgradeIsARefusal(t *testing.T) {
	_, site := shop(t)
	r := peertest.New(t, site, "/old").DialRefused("alice")
	require.Equal(t, http.StatusFound, r.Status)
	require.Empty(t, r.Type)
}

// In a bubble, a goroutine that is left makes the test fail.
func TestNothingIsLeftOfATestThatForgetsToTidyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := peer.NewServer(peer.Options{}) // is not closed
		mux := http.NewServeMux()
		mux.Handle("/peerjs/", srv)
		mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		mux.HandleFunc("/hijacked", func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			assert.NoError(t, err)
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
			go io.Copy(io.Discard, conn)
		})
		h := peertest.New(t, mux, "/peerjs")
		h.Dial("alice").Send(peer.TypeOffer, "nobody", 1)
		h.Dial("bob").Freeze()
		h.Dial("carol").Close()
		h.DialRefused("alice", peertest.Token("other"))
		_, err := h.HTTPClient().Get(h.URL + "/slow") // the body is not closed
		require.NoError(t, err)
		res, err := h.HTTPClient().Get(h.URL + "/hijacked")
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		left := make(chan error)
		go func() {
			_, err := h.TryDial("late", peertest.Header(http.Header{"Origin": nil}))
			left <- err
		}()
		require.NoError(t, <-left)
	})
}

// A function of the host that waits for the test must not make the test wait for the function.
func TestSendDoesNotWaitForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, h, left := newHost(t, peer.Options{})
		got := make(chan peer.Message)
		srv.OnMessage(func(_ *peer.Client, m peer.Message) { got <- m })
		alice := h.Dial("alice")
		for range 100 {
			alice.Send(peer.TypeOffer, "bob", nil)
		}
		alice.Vanish()
		for range 100 {
			require.Equal(t, "bob", (<-got).Dst)
		}
		require.Equal(t, "alice: connection lost", <-left)
	})
}

func TestAHandlerThatHijacksAndPanicsIsNoHandlerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := &fakeTB{TB: t}
		tb.run(func() {
			h := peertest.New(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
					conn.Close()
				}
				panic(http.ErrAbortHandler)
			}), "/")
			_, err := h.TryDial("alice")
			assert.EqualError(t, err, "peertest: alice expected OPEN, but the upgrade failed: EOF")
			_, err = h.HTTPClient().Get(h.URL)
			assert.True(t, errors.Is(err, io.EOF), "%v", err)
		})
		require.Empty(t, tb.fatal)
		require.Empty(t, tb.errors)
	})
}
