package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type user struct{ name string }

func TestAuthenticateKnowsTheUser(t *testing.T) {
	r := newRig(t, Options{Authenticate: func(r *http.Request, id, token string) (any, error) {
		c, err := r.Cookie("session")
		if err != nil {
			return nil, err
		}
		return &user{strings.Join([]string{c.Value, r.Header.Get("X-Room"), r.URL.Query().Get("version"), id, token}, " ")}, nil
	}})
	users := make(chan any, 1)
	r.srv.OnConnection(func(c *Client) { users <- c.User() })
	r.dialURL(r.socketURL("/", "a", "t"), http.Header{"Cookie": {"session=ann"}, "X-Room": {"7"}}).wantOpen()
	require.Equal(t, &user{"ann 7 1.5.5 a t"}, <-users)
	require.Equal(t, &user{"ann 7 1.5.5 a t"}, r.srv.Realm().Client("a").User())
}

func TestWithoutAuthenticateThereIsNoUser(t *testing.T) {
	r := newRig(t, Options{})
	r.connect("a")
	require.Nil(t, r.srv.Realm().Client("a").User())
}

// verdicts are what Authenticate may come to, beside a user.
var verdicts = []struct {
	name         string
	authenticate func() error // may panic
	typ          MessageType
	message      string
	status       int    // with RejectBeforeUpgrade
	event        string // "" for none
}{
	{"reject", func() error { return &Reject{Message: "Log in first"} }, TypeError, "Log in first", 403, ""},
	{"reject as ERROR", func() error { return &Reject{TypeError, "Log in first"} }, TypeError, "Log in first", 403, ""},
	{"reject as INVALID-KEY", func() error { return &Reject{TypeInvalidKey, "Key has expired"} }, TypeInvalidKey, "Key has expired", 403, ""},
	{"reject as ID-TAKEN", func() error { return &Reject{TypeIDTaken, "Reserved"} }, TypeIDTaken, "Reserved", 403, ""},
	{"reject as something else", func() error { return &Reject{TypeOpen, "Welcome"} }, TypeError, "Welcome", 403, ""},
	{"reject within", func() error { return fmt.Errorf("secret: %w", &Reject{Message: "Log in first"}) }, TypeError, "Log in first", 403, ""},
	{"reject with quotes", func() error { return &Reject{Message: "\"Ö\"\n\\"} }, TypeError, "\"Ö\"\n\\", 403, ""},
	{"error", func() error { return errors.New("secret") }, TypeError, "Authentication failed", 401, "! calling Authenticate: secret"},
	{"panic", func() error { panic("secret") }, TypeError, "Authentication failed", 401,
		"! calling Authenticate: peer: panic in a function of the host: secret"},
}

func TestAuthenticateRefuses(t *testing.T) {
	for _, c := range verdicts {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{Authenticate: func(*http.Request, string, string) (any, error) {
				return "nobody", c.authenticate()
			}})
			rec := watch(r.srv)
			r.dial("a", "t").wantRefused(c.typ, c.message)
			r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"), chatter()).wantTurnedAway(c.typ, c.message)
			waitFor(t, func() bool { return r.srv.Stats().Refused["authentication"] == 2 })
			if c.event == "" {
				require.Empty(t, rec.all())
			} else {
				rec.want(t, c.event, c.event)
			}
			require.Zero(t, r.srv.Realm().Len())
		})
	}
}

func TestAnAuthenticationErrorCanBeTold(t *testing.T) {
	failure := errors.New("database")
	r := newRig(t, Options{Authenticate: func(_ *http.Request, id, _ string) (any, error) {
		if id == "panic" {
			panic("secret")
		}
		return nil, failure
	}})
	errs := make(chan error, 2)
	r.srv.OnError(func(c *Client, err error) {
		assert.True(t, c == nil)
		errs <- err
	})
	r.dial("a", "t").wantRefused(TypeError, "Authentication failed")
	require.ErrorIs(t, <-errs, failure)
	r.dial("panic", "t").wantRefused(TypeError, "Authentication failed")
	require.ErrorIs(t, <-errs, ErrPanic)
}

// Authenticate is not asked about what is refused anyway, and who is not
// authenticated does not learn which ids are taken, nor touches them.
func TestAuthenticateHasItsPlaceInTheOrder(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, Options{ConcurrentLimit: 1, AllowOverride: OverrideAlways, Authenticate: func(_ *http.Request, _, token string) (any, error) {
		calls.Add(1)
		if strings.HasPrefix(token, "bad") {
			return nil, &Reject{Message: "Who are you?"}
		}
		return nil, nil
	}})
	rec := watch(r.srv)
	for _, c := range refusals {
		r.dialURL(r.url+"/peerjs?"+c.query, nil).wantRefused(TypeError, c.message)
	}
	require.Zero(t, calls.Load())
	a := r.dial("a", "t")
	a.wantOpen()
	r.dial("a", "bad").wantRefused(TypeError, "Who are you?")
	r.dial("b", "bad").wantRefused(TypeError, "Who are you?")
	r.dial("b", "good").wantRefused(TypeError, isFull)
	require.EqualValues(t, 4, calls.Load())
	a.offer("a", `1`)
	a.wantOffer("a", `1`)
	rec.want(t, "+a")
}

func TestASlowAuthenticationDelaysNobodyElse(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	r := newRig(t, Options{Authenticate: func(_ *http.Request, _, token string) (any, error) {
		if token == "slow" {
			asked <- true
			<-answer
		}
		return nil, nil
	}})
	slow := r.dial("a", "slow")
	<-asked
	r.connect("a") // has the id before the slow one asks for it
	r.connect("b")
	answer <- true
	slow.wantRefused(TypeIDTaken, isTaken)
}

func TestAuthenticateIsCancelledByTheEndOfTheServer(t *testing.T) {
	for _, before := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan struct{})
			r := newBubbleRig(t, Options{
				HandshakeTimeout:    -1,
				RejectBeforeUpgrade: before,
				Authenticate: func(r *http.Request, id, token string) (any, error) {
					close(asked)
					<-r.Context().Done()
					return nil, r.Context().Err()
				},
			})
			p := r.rawOpen()
			p.write([]byte(handshakeFor(socketTarget("a", "t"))))
			if !before {
				p.response()
			}
			<-asked
			start := time.Now()
			closeServer(t, r.srv)
			require.LessOrEqual(t, time.Since(start), farewellTimeout+lingerTimeout)
			p.conn.Close()
		})
	}
}

// There is one time for all: what Authenticate took is gone when the holder is asked.
func TestAHandshakeHasOneTimeoutForAll(t *testing.T) {
	const timeout, takes = 10 * time.Second, 8 * time.Second
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{
			HandshakeTimeout: timeout, ProbeTimeout: timeout,
			Authenticate: func(_ *http.Request, id, token string) (any, error) {
				if token == "newcomer" {
					time.Sleep(takes)
				}
				return nil, nil
			},
		})
		r.rawOpen(smallWrites).openAs("a", "holder")
		time.Sleep(DefaultProbeAfter)
		start := time.Now()
		r.dial("a", "newcomer").wantRefused(TypeError, "The handshake took too long")
		require.Equal(t, timeout, time.Since(start))
	})
}

// A client that goes while the host thinks ends the context of its request,
// however it goes and whatever it has said before.
func TestAuthenticateIsCancelledWhenTheClientGoes(t *testing.T) {
	const heartbeat = `{"type":"HEARTBEAT"}`
	goodbye := rawCloseFrame(1001, "")
	for _, c := range []struct {
		name   string
		behind []byte // sent with the request
		during []byte // sent while the host thinks
	}{
		{name: "hangs up"},
		{name: "says goodbye and hangs up", during: goodbye},
		{name: "sent something, hangs up", behind: rawTextFrame(heartbeat)},
		{name: "sends something, hangs up", during: rawTextFrame(heartbeat)},
		{name: "sends an offer and its candidates, hangs up", during: chatter()[:20<<10]},
	} {
		test := func(t *testing.T, newRig func(testing.TB, Options) *rig, timeout time.Duration) {
			asked, cause := make(chan bool), make(chan error, 1)
			r := newRig(t, Options{HandshakeTimeout: timeout, Authenticate: func(r *http.Request, _, _ string) (any, error) {
				asked <- true
				<-r.Context().Done()
				cause <- r.Context().Err()
				return nil, r.Context().Err()
			}})
			rec := watch(r.srv)
			p := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"), c.behind)
			<-asked
			if c.during != nil {
				p.write(c.during)
			}
			p.conn.Close()
			require.Equal(t, context.Canceled, <-cause, "the host was left to think for %v", timeout)
			waitFor(t, func() bool { return r.srv.Stats().Refused["gave up"] == 1 })
			require.Empty(t, rec.all())
		}
		t.Run(c.name, func(t *testing.T) { test(t, newRig, 5*time.Second) })
		t.Run(c.name+", not a plain socket", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newBubbleRig, time.Hour) })
		})
	}
}

func TestAuthenticateIsCancelledByAHalfClose(t *testing.T) {
	asked, cause := make(chan bool), make(chan error, 1)
	r := newRig(t, Options{HandshakeTimeout: waitLimit, Authenticate: func(r *http.Request, _, _ string) (any, error) {
		asked <- true
		<-r.Context().Done()
		cause <- r.Context().Err()
		return nil, errors.New("interrupted")
	}})
	p := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"))
	<-asked
	require.NoError(t, p.conn.(*net.TCPConn).CloseWrite())
	require.Equal(t, context.Canceled, <-cause)
}

func TestTheHandshakeTimeout(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout time.Duration // option
		want    time.Duration
		late    bool // the host says yes when the time is over
	}{
		{"default", 0, DefaultHandshakeTimeout, false},
		{"default, late", 0, DefaultHandshakeTimeout, true},
		{"own", 3 * time.Second, 3 * time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{HandshakeTimeout: c.timeout, Authenticate: func(r *http.Request, _, _ string) (any, error) {
					<-r.Context().Done()
					assert.Equal(t, context.DeadlineExceeded, r.Context().Err())
					if c.late {
						return "user", nil
					}
					return nil, fmt.Errorf("asking: %w", r.Context().Err())
				}})
				rec := watch(r.srv)
				start := time.Now()
				r.dial("a", "t").wantRefused(TypeError, "Authentication took too long")
				require.Equal(t, c.want, time.Since(start))
				synctest.Wait()
				require.Empty(t, rec.all())
				require.EqualValues(t, 1, r.srv.Stats().Refused["gave up"])
			})
		})
	}
	t.Run("none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newBubbleRig(t, Options{HandshakeTimeout: -1, Authenticate: func(r *http.Request, _, _ string) (any, error) {
				time.Sleep(time.Hour)
				return nil, r.Context().Err()
			}})
			start := time.Now()
			p := r.dial("a", "t")
			select {
			case f := <-p.frames:
				require.Equal(t, `{"type":"OPEN"}`, f)
			case <-time.After(2 * time.Hour):
				t.Fatal("no answer")
			}
			require.Equal(t, time.Hour, time.Since(start))
		})
	})
}

// The watch over a client whose request is being authenticated leaves no trace on
// the connection that comes of it.
func TestAnAuthenticatedConnectionEndsForItsOwnReason(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(p *rawPeer)
		want string
	}{
		{"close frame", func(p *rawPeer) { p.write(rawCloseFrame(1000, "")) }, "client closed"},
		{"hangs up", func(p *rawPeer) { p.conn.Close() }, "connection lost"},
		{"frame without mask", func(p *rawPeer) { p.write([]byte{0x81, 1, 'x'}) }, "protocol error"},
		{"reserved opcode", func(p *rawPeer) { p.tryWrite(rawFrame(rawFin|3, "")) }, "protocol error"},
		{"not UTF-8", func(p *rawPeer) { p.write(rawTextFrame("\xff")) }, "invalid UTF-8"},
	} {
		opts := Options{Authenticate: func(*http.Request, string, string) (any, error) { return nil, nil }}
		test := func(t *testing.T, r *rig) {
			rec := watch(r.srv)
			p := r.rawOpen(smallWrites).openAs("a", "t")
			rec.want(t, "+a")
			c.end(p)
			rec.want(t, "+a", "-a "+c.want)
		}
		t.Run(c.name, func(t *testing.T) { test(t, newRig(t, opts)) })
		t.Run(c.name+", not a plain socket", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newBubbleRig(t, opts)) })
		})
	}
}

func TestRejectBeforeUpgrade(t *testing.T) {
	answer := func(r *rig, u string) (int, string) {
		r.t.Helper()
		_, res, err := r.tryDial(u, nil)
		require.Error(r.t, err)
		require.Equal(r.t, textPlain, res.Header.Get("Content-Type"))
		body := make([]byte, 1024)
		n, _ := res.Body.Read(body)
		return res.StatusCode, strings.TrimSuffix(string(body[:n]), "\n")
	}
	t.Run("parameters", func(t *testing.T) {
		r := newRig(t, Options{RejectBeforeUpgrade: true})
		for _, c := range refusals {
			status, text := answer(r, r.url+"/peerjs?"+c.query)
			require.Equal(t, c.status, status, c.name)
			require.Equal(t, c.message, text, c.name)
		}
		wantIntroduced(r.connect("a"), r.connect("b"))
		r.dial("a", "other").wantRefused(TypeIDTaken, isTaken) // a matter of the id: after the upgrade
	})
	for _, c := range verdicts {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{RejectBeforeUpgrade: true, Authenticate: func(_ *http.Request, id, _ string) (any, error) {
				if id == "friend" {
					return &user{"friend"}, nil
				}
				return nil, c.authenticate()
			}})
			rec := watch(r.srv)
			status, text := answer(r, r.socketURL("/", "a", "t"))
			require.Equal(t, c.status, status)
			require.Equal(t, c.message, text)
			require.EqualValues(t, 1, r.srv.Stats().Refused["authentication"])
			r.connect("friend")
			require.Equal(t, &user{"friend"}, r.srv.Realm().Client("friend").User())
			if c.event != "" {
				rec.about(t, "!", c.event)
			} else {
				rec.want(t, "+friend")
			}
		})
	}
}

// A token may be a login that an identity provider has signed, with all its claims.
func TestALongTokenReachesAuthenticate(t *testing.T) {
	r := newRig(t, Options{
		Authenticate:  func(_ *http.Request, _, token string) (any, error) { return len(token), nil },
		AllowOverride: func(old, new *Client) bool { return true },
	})
	for i, n := range []int{1025, 1651, 4096, DefaultMaxTokenBytes} {
		token := strings.Repeat("t", n)
		p := r.dial(fmt.Sprint("peer", i), token)
		p.wantOpen()
		c := r.srv.Realm().Client(p.id)
		require.Equal(t, n, c.User())
		require.Equal(t, token, c.Token())
		r.dial(p.id, "another").wantOpen()
		require.Equal(t, []tokenHash{hashOf(token)}, r.srv.Realm().Client(p.id).blocked)
		p.wantFrameOfType(TypeOverride)
		p = r.dial(p.id, token) // barred, however long it is
		p.wantRefused(TypeIDTaken, isTaken)
	}
}

func TestTheBoundOnATokenIsAnOption(t *testing.T) {
	const tooLong = "The token is too long"
	for _, c := range []struct{ max, takes, refuses int }{{0, 8 << 10, 8<<10 + 1}, {100, 100, 101}, {-1, 100_000, 0}} {
		r := newRig(t, Options{MaxTokenBytes: c.max})
		r.dial("a", strings.Repeat("t", c.takes)).wantOpen()
		if c.refuses > 0 {
			r.dial("b", strings.Repeat("t", c.refuses)).wantRefused(TypeError, tooLong)
		}
	}
}
