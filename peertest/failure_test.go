package peertest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// A fakeTB records how it is told to fail. Everything else is done by the real TB.
type fakeTB struct {
	testing.TB
	mu       sync.Mutex // guards the following
	helpers  map[string]bool
	fatal    []string
	file     string   // where Fatal was reported
	errors   []string // without an end of the test
	cleanups []func()
}

func (f *fakeTB) Helper() {
	f.mu.Lock()
	defer f.mu.Unlock()
	pc, _, _, _ := runtime.Caller(1)
	if f.helpers == nil {
		f.helpers = make(map[string]bool)
	}
	f.helpers[runtime.FuncForPC(pc).Name()] = true
}

func (f *fakeTB) Fatal(args ...any) {
	f.mu.Lock()
	f.fatal = append(f.fatal, fmt.Sprint(args...))
	for skip := 1; ; skip++ {
		pc, file, _, ok := runtime.Caller(skip)
		if !ok || !f.helpers[runtime.FuncForPC(pc).Name()] {
			f.file = filepath.Base(file)
			break
		}
	}
	f.mu.Unlock()
	runtime.Goexit()
}

func (f *fakeTB) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func (f *fakeTB) Cleanup(cleanup func()) { f.cleanups = append(f.cleanups, cleanup) }

// end calls the cleanup functions as the end of a test does.
func (f *fakeTB) end() {
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		f.cleanups[i]()
	}
	f.cleanups = nil
}

// run runs a test, and its cleanup functions, until it has ended or failed.
func (f *fakeTB) run(test func()) {
	defer f.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		test()
	}()
	<-done
}

// failure runs a test of a server in a bubble and returns the text that it fails with.
func failure(t *testing.T, test func(site)) (text string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tb := &fakeTB{TB: t}
		srv := peer.NewServer(peer.Options{})
		defer srv.Close()
		tb.run(func() { test(site{srv, peertest.New(tb, srv, "/")}) })
		require.Len(t, tb.fatal, 1)
		assert.Equal(t, "failure_test.go", tb.file, "the line is not that of the test")
		assert.Empty(t, tb.errors)
		text = tb.fatal[0]
	})
	return text
}

var rejectAll = peer.Options{Authenticate: func(_ *http.Request, _, token string) (any, error) {
	return nil, &peer.Reject{Message: "No ticket " + token}
}}

// A site is a host and the server in it.
type site struct {
	srv *peer.Server
	h   *peertest.Host
}

// failures are tests that fail, by the text that they fail with.
var failures = map[string]func(site){
	`alice expected OFFER, but read EXPIRE from "bob"`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Send(peer.TypeOffer, "bob", 1)
		alice.Expect(peer.TypeOffer)
	},
	`alice expected OFFER, but read NEWS`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().Send("alice", peer.Message{Type: "NEWS"})
		alice.Expect(peer.TypeOffer)
	},
	`alice expected OFFER, but read NEWS "\"Two\"\nlines"`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().Send("alice", peer.Message{Type: "NEWS", Payload: json.RawMessage(`{"msg":"\"Two\"\nlines"}`)})
		alice.Expect(peer.TypeOffer)
	},
	`"two\nlines" expected OPEN, but read ERROR "The id is not valid"`: func(s site) {
		s.h.Dial("two\nlines")
	},
	`alice expected "no\ttype", but read "a \"type\"" "text"`: func(s site) {
		c := s.h.Dial("alice")
		s.srv.Realm().Send("alice", peer.Message{Type: `a "type"`, Payload: json.RawMessage(`{"msg":"text"}`)})
		c.Expect("no\ttype")
	},
	`alice expected OFFER, but nothing came for 15s`: func(s site) {
		s.h.Dial("alice").Expect(peer.TypeOffer)
	},
	`alice expected OFFER, but nothing came for 3s`: func(s site) {
		s.h.Dial("alice", peertest.Timeout(3*time.Second)).Expect(peer.TypeOffer)
	},
	`alice expected OFFER, but the server closed the connection with 4004 "removed"`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().RemoveClient("alice")
		alice.Expect(peer.TypeOffer)
	},
	`alice expected "", but the server closed the connection with 4004 "removed"`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().RemoveClient("alice")
		alice.Expect("")
	},
	`alice expected OFFER, but the test itself has ended the connection`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Vanish()
		alice.Expect(peer.TypeOffer)
	},
	`alice expected OFFER, but the connection ended without a close frame`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Freeze()
		s.srv.Close()
		alice.Expect(peer.TypeOffer)
	},
	`alice expected nothing for 10s, but read EXPIRE from "bob"`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Send(peer.TypeOffer, "bob", 1)
		alice.ExpectNothing(10 * time.Second)
	},
	`alice expected nothing for 0s, but read NEWS`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().Send("alice", peer.Message{Type: "NEWS"})
		synctest.Wait()
		alice.ExpectNothing(-1)
	},
	`alice expected nothing for 1s, but the server closed the connection with 1001 "server shutdown"`: func(s site) {
		alice := s.h.Dial("alice")
		go s.srv.Close()
		alice.ExpectNothing(time.Second)
	},
	`alice expected the server to close the connection, but read NEWS`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().Send("alice", peer.Message{Type: "NEWS"})
		synctest.Wait()
		s.srv.Realm().RemoveClient("alice")
		alice.ExpectClosed()
	},
	`alice expected the server to close the connection, but nothing came for 15s`: func(s site) {
		s.h.Dial("alice").ExpectClosed()
	},
	`alice expected the server to close the connection, but the test itself has ended the connection`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Close()
		alice.ExpectClosed()
	},
	`alice cannot send OFFER: the server closed the connection with 4004 "removed"`: func(s site) {
		alice := s.h.Dial("alice")
		s.srv.Realm().RemoveClient("alice")
		synctest.Wait()
		alice.Send(peer.TypeOffer, "bob", 1)
	},
	`alice cannot send OFFER: json: unsupported type: chan int`: func(s site) {
		s.h.Dial("alice").Send(peer.TypeOffer, "bob", make(chan int))
	},
	`alice has sent a close frame, but the server did not end the connection for 15s`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Freeze()
		alice.Close()
	},
	`alice has sent LEAVE, but the server did not end the connection for 15s`: func(s site) {
		alice := s.h.Dial("alice")
		alice.Freeze()
		alice.Leave()
	},
	`alice expected OPEN, but read ID-TAKEN "ID is taken"`: func(s site) {
		s.h.Dial("alice")
		s.h.Dial("alice", peertest.Token("other"))
	},
	`alice expected to be refused, but read OPEN`: func(s site) {
		s.h.DialRefused("alice")
	},
	`NewID expected 200 OK, but got 401 Unauthorized: "Invalid key provided"`: func(s site) {
		s.h.NewID(peertest.Key("wrong"))
	},
	`IDs expected 200 OK, but got 401 Unauthorized: "Discovery is off"`: func(s site) {
		s.h.IDs()
	},
}

func TestAFailedExpectationSaysWhatCame(t *testing.T) {
	for want, test := range failures {
		t.Run(want, func(t *testing.T) { require.Equal(t, "peertest: "+want, failure(t, test)) })
	}
}

const secret = "se cret/+ü"

// tokenFailures are tests that fail with a token. A field of the header says what goes wrong.
var tokenFailures = map[string]func(*peertest.Host){
	`alice expected OPEN, but read ERROR "No ticket (token)"`: func(h *peertest.Host) {
		h.Dial("alice", peertest.Token(secret))
	},
	`alice expected OPEN, but there was no answer to the upgrade for 15s`: func(h *peertest.Host) {
		h.Dial("alice", peertest.Token(secret), peertest.Header(http.Header{"Slow": {"1"}}))
	},
	`alice expected OPEN, but the answer to the upgrade was 404 Not Found: "id=1&token=(token)"`: func(h *peertest.Host) {
		h.Dial("alice", peertest.Token(secret), peertest.Header(http.Header{"Absent": {"1"}}))
	},
	`alice expected OPEN, but the upgrade failed: EOF`: func(h *peertest.Host) {
		h.Dial("alice", peertest.Token(secret), peertest.Header(http.Header{"Abort": {"1"}}))
	},
	`alice expected OPEN, but the upgrade failed: ` +
		`net/http: HTTP/1.x transport connection broken: malformed HTTP response "(token)"`: func(h *peertest.Host) {
		h.Dial("alice", peertest.Token(secret), peertest.Header(http.Header{"Babble": {"1"}}))
	},
	`alice expected to be refused, but the upgrade failed: EOF`: func(h *peertest.Host) {
		h.DialRefused("alice", peertest.Token(secret), peertest.Header(http.Header{"Abort": {"1"}}))
	},
	`NewID expected 200 OK, but the request failed: EOF`: func(h *peertest.Host) {
		h.NewID(peertest.Token(secret), peertest.Header(http.Header{"Abort": {"1"}}))
	},
}

// troubles is a handler in which things go wrong.
func troubles(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Slow") != "":
		<-r.Context().Done()
	case r.Header.Get("Absent") != "":
		http.Error(w, "id=1&token="+url.QueryEscape(secret), http.StatusNotFound)
	case r.Header.Get("Babble") != "":
		conn, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(conn, url.QueryEscape(secret)+"\r\n\r\n")
		conn.Close()
	case r.Header.Get("Abort") != "":
		panic(http.ErrAbortHandler)
	default:
		peer.NewServer(rejectAll).ServeHTTP(w, r)
	}
}

func TestNoFailureContainsTheToken(t *testing.T) {
	for want, test := range tokenFailures {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb := &fakeTB{TB: t}
				tb.run(func() { test(peertest.New(tb, http.HandlerFunc(troubles), "")) })
				require.Equal(t, []string{"peertest: " + want}, tb.fatal)
				require.Equal(t, "failure_test.go", tb.file)
			})
		})
	}
}

// A host that is no peer.Server can send anything.
func TestAFrameThatIsNoMessageIsAFailure(t *testing.T) {
	for name, frame := range map[string]string{"no JSON": "hello", "no type": "{}", "empty": "", "an array": "[]"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb := &fakeTB{TB: t}
				tb.run(func() { peertest.New(tb, says(frame), "/").Dial("alice") })
				require.Equal(t, []string{"peertest: alice expected OPEN, but read a frame that is not a message"}, tb.fatal)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		tb := &fakeTB{TB: t}
		tb.run(func() { peertest.New(tb, says(`{"type":"WELCOME"}`), "/").DialRefused("alice") })
		require.Equal(t, []string{"peertest: alice expected to be refused, but read WELCOME"}, tb.fatal)
		tb = &fakeTB{TB: t}
		tb.run(func() { peertest.New(tb, says(`{"type":"ERROR"}`), "/").DialRefused("alice") })
		const want = "peertest: alice expected the server to close the connection, but nothing came for 15s"
		require.Equal(t, []string{want}, tb.fatal)
		tb = &fakeTB{TB: t}
		tb.run(func() {
			site := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "online: 7") })
			peertest.New(tb, site, "/").IDs()
		})
		require.Equal(t, []string{`peertest: IDs expected a list of ids, but got "online: 7"`}, tb.fatal)
	})
}

func TestAHandlerThatDoesNotEndIsAFailure(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"answered": func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"hijacked": func(w http.ResponseWriter) {
			conn, _, err := w.(http.Hijacker).Hijack()
			assert.NoError(t, err)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				tb := &fakeTB{TB: t}
				tb.run(func() {
					h := peertest.New(tb, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						begin(w)
						<-release
					}), "/")
					res, err := h.HTTPClient().Get(h.URL)
					assert.NoError(t, err)
					assert.NoError(t, res.Body.Close())
				})
				require.Empty(t, tb.fatal)
				const want = "peertest: the handler has not returned for 15s after the connections were closed"
				require.Equal(t, []string{want}, tb.errors)
				close(release)
			})
		})
	}
}

func TestAfterTheTestNoClientConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := peer.NewServer(peer.Options{})
		tb := &fakeTB{TB: t}
		var h *peertest.Host
		tb.run(func() { h = peertest.New(tb, srv, "/") })
		_, err := h.TryDial("alice")
		require.EqualError(t, err, "peertest: alice expected OPEN, but the test has ended")
		_, err = h.HTTPClient().Get(h.URL)
		require.Error(t, err)
	})
}
