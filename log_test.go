package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// textLog returns a handler that writes lines without their time to log.
func textLog(log *syncBuffer, level slog.Level) slog.Handler {
	return slog.NewTextHandler(log, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// What concerns the host is a warning, and what a client may cause as often as it likes is for
// whoever looks for it.
func TestEveryLineOfTheLogHasItsLevel(t *testing.T) {
	const panicked = panicText + ": of the host"
	for _, c := range []struct {
		name  string
		does  func(r *rig)
		lines []string
	}{
		{"a connection", func(r *rig) {
			r.connect("a").close()
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`INFO msg="peer: disconnected" id=a why="client closed"`,
		}},
		{"a broken connection", func(r *rig) {
			p := r.rawOpen().open("a")
			p.write(rawFrame(rawFin|rawCont, ""))
			p.wantClose(1002)
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`INFO msg="peer: disconnected" id=a why="protocol error" err="peer: continuation of no message"`,
		}},
		{"a lost connection", func(r *rig) {
			r.rawOpen().open("a").conn.Close()
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`INFO msg="peer: disconnected" id=a why="connection lost" err="the other side has closed the connection"`,
		}},
		{"a refusal", func(r *rig) {
			r.dialURL(r.url+"/peerjs?key=wrong&id=a&token=t", nil).wantRefused(TypeError, "Invalid key provided")
		}, []string{
			`INFO msg="peer: connection refused" id=a why="Invalid key provided"`,
		}},
		{"an error of Authenticate", func(r *rig) {
			r.dial("a", "broken").wantRefused(TypeError, "Authentication failed")
		}, []string{
			`WARN msg="peer: error" id="" err="calling Authenticate: of the host"`,
			`INFO msg="peer: connection refused" id=a why="Authentication failed"`,
		}},
		{"a panic in Authenticate", func(r *rig) {
			r.dial("a", "panic").wantRefused(TypeError, "Authentication failed")
		}, []string{
			`WARN msg="peer: error" id="" err="calling Authenticate: ` + panicked + `"`,
			`INFO msg="peer: connection refused" id=a why="Authentication failed"`,
		}},
		{"a mistake", func(r *rig) {
			p := r.connect("a")
			p.send(`hello`)
			p.close()
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`DEBUG msg="peer: error" id=a err="peer: bad message: not a JSON object"`,
			`INFO msg="peer: disconnected" id=a why="client closed"`,
		}},
		{"an error of Authorize", func(r *rig) {
			p := r.connect("a")
			p.send(`{"type":"ANSWER","dst":"b"}`)
			p.close()
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`DEBUG msg="peer: error" id=a err="calling Authorize: of the host"`,
			`INFO msg="peer: disconnected" id=a why="client closed"`,
		}},
		{"a panic in an event", func(r *rig) {
			p := r.connect("a")
			p.send(`{"type":"PANIC"}`)
			require.Equal(r.t, 1011, p.wantEnd())
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`WARN msg="peer: error" id=a err="` + panicked + `"`,
			`INFO msg="peer: disconnected" id=a why="internal error" err="` + panicked + `"`,
		}},
		{"a panic in OnError", func(r *rig) {
			r.srv.OnError(func(*Client, error) { panic("of the host") })
			p := r.connect("a")
			p.send(`hello`)
			require.Equal(r.t, 1011, p.wantEnd())
		}, []string{
			`INFO msg="peer: connected" id=a addr=pipe`,
			`DEBUG msg="peer: error" id=a err="peer: bad message: not a JSON object"`,
			`ERROR msg="peer: error in OnError" id=a err="` + panicked + `"`,
			`INFO msg="peer: disconnected" id=a why="internal error" err="` + panicked + `"`,
		}},
	} {
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
			t.Run(fmt.Sprint(c.name, ", ", level), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := new(syncBuffer)
					srv := NewServer(Options{
						Logger: slog.New(textLog(log, level)),
						Authenticate: func(_ *http.Request, _, token string) (any, error) {
							if token == "panic" {
								panic("of the host")
							}
							if token == "broken" {
								return nil, errors.New("of the host")
							}
							return nil, nil
						},
						Authorize: func(*Client, Message) error { return errors.New("of the host") },
					})
					srv.OnMessage(func(_ *Client, m Message) {
						if m.Type == "PANIC" {
							panic("of the host")
						}
					})
					c.does(serveBubbleRig(t, srv, nil))
					synctest.Wait()
					closeServer(t, srv)
					var want []string
					for _, line := range c.lines {
						var l slog.Level
						name, _, _ := strings.Cut(line, " ")
						require.NoError(t, l.UnmarshalText([]byte(name)))
						if l >= level {
							want = append(want, "level="+line)
						}
					}
					require.Equal(t, strings.Join(want, "\n"), strings.TrimSuffix(log.take(), "\n"))
				})
			})
		}
	}
}

// panicText is how the text of a panic of the host begins.
const panicText = "peer: panic in a function of the host"

// A badHandler is a handler whose methods fail. It keeps no line.
type badHandler struct {
	fail    func()
	enabled bool // Enabled does not fail, but Handle does
	slog.Handler
}

func (h badHandler) Enabled(context.Context, slog.Level) bool {
	if !h.enabled {
		h.fail()
	}
	return true
}

func (h badHandler) Handle(context.Context, slog.Record) error {
	h.fail()
	return nil
}

// A handler of the host's that fails costs its line and nothing else: everybody is served, told
// and cleared away as ever.
func TestALogThatPanicsHarmsNobody(t *testing.T) {
	for name, enabled := range map[string]bool{"Handle": true, "Enabled": false} {
		t.Run(name, func(t *testing.T) {
			srv := NewServer(Options{
				Logger:    slog.New(badHandler{fail: func() { panic("of the log") }, enabled: enabled}),
				Authorize: func(*Client, Message) error { return errors.New("no") },
			})
			rec := watch(srv)
			srv.OnError(func(_ *Client, err error) {
				if err.Error() == "calling Authorize: no" {
					panic("of the host")
				}
			})
			r := serveRig(t, srv, nil)
			r.dialURL(r.url+"/peerjs?key=wrong&id=a&token=t", nil).wantRefused(TypeError, "Invalid key provided")
			a := r.connect("a")
			a.send(`no message`)
			a.send(`{"type":"OFFER","dst":"b"}`)
			a.wantExpire("b")
			require.Equal(t, 1011, a.wantEnd())
			rec.want(t, "+a", "! peer: bad message: not a JSON object", "! calling Authorize: no", "! "+panicText+": of the host", "-a internal error")
			closeServer(t, srv)
			wantNoGoroutines(t)
		})
	}
}

// A handler that ends its goroutine, as a failing test does, ends the connection that the line
// is about. Its events come as ever.
func TestALogThatEndsItsGoroutineLeavesNothingBehind(t *testing.T) {
	for name, does := range map[string]struct {
		at   string // the message of the line that fails
		do   func(r *rig, p *testPeer)
		want []string
	}{
		"connected":    {"peer: connected", func(_ *rig, p *testPeer) { p.close() }, []string{"+a", "-a client closed"}},
		"disconnected": {"peer: disconnected", func(_ *rig, p *testPeer) { p.close() }, []string{"+a", "-a client closed"}},
		"an error": {"peer: error", func(_ *rig, p *testPeer) { p.send(`no message`) },
			[]string{"+a", "! peer: bad message: not a JSON object", "-a internal error"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := NewServer(Options{Logger: slog.New(goexitAt{message: does.at})})
			rec := watch(srv)
			r := serveRig(t, srv, nil)
			does.do(r, r.connect("a"))
			rec.want(t, does.want...)
			closeServer(t, srv)
			assert.Zero(t, srv.Realm().Len())
			wantNoGoroutines(t)
		})
	}
}

// goexitAt is a handler that ends the goroutine at lines with this message.
type goexitAt struct {
	message string
	slog.Handler
}

func (goexitAt) Enabled(context.Context, slog.Level) bool { return true }

func (h goexitAt) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		runtime.Goexit()
	}
	return nil
}

// Whether a line would be kept is asked of the handler too, where nothing else needs the error.
func TestALogThatPanicsWhenItIsAsked(t *testing.T) {
	srv := NewServer(Options{Logger: slog.New(badHandler{fail: func() { panic("of the log") }})})
	r := serveRig(t, srv, nil)
	a := r.connect("a")
	a.send(`no message`)
	a.offer("a", `1`)
	a.wantOffer("a", `1`)
}

// The line about a panic in OnError may end its goroutine too: the other functions learn of it.
func TestOnErrorIsToldWhateverBecomesOfTheLog(t *testing.T) {
	srv := NewServer(Options{Logger: slog.New(goexitAt{message: "peer: error in OnError"})})
	srv.OnError(func(*Client, error) { panic("of the host") })
	rec := watch(srv)
	r := serveRig(t, srv, nil)
	r.connect("a").send(`no message`)
	rec.about(t, "a", "+a", "-a internal error")
	require.Contains(t, rec.all(), "! "+panicText+": of the host")
	closeServer(t, srv)
	wantNoGoroutines(t)
}

// exitHandler is a log handler that ends the goroutine of a handshake that is refused.
type exitHandler struct{ slog.Handler }

func (exitHandler) Enabled(context.Context, slog.Level) bool { return true }

func (exitHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "peer: connection refused" {
		runtime.Goexit()
	}
	return nil
}

func TestARefusalIsToldWhateverTheLogDoes(t *testing.T) {
	r := newRig(t, Options{Logger: slog.New(exitHandler{})})
	r.connect("a")
	r.dial("a", "another token").wantRefused(TypeIDTaken, isTaken)
}
