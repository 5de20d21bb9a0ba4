//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// A hook is a function of the host that the server calls.
type hook string

const (
	hookAuthenticate hook = "Authenticate"
	hookConnection   hook = "OnConnection"
	hookMessage      hook = "OnMessage"
	hookAuthorize    hook = "Authorize"
	hookError        hook = "OnError"
	hookOverrideOld  hook = "AllowOverride, the old one"
	hookOverrideNew  hook = "AllowOverride, the new one"
	hookDisconnect   hook = "OnDisconnect"
)

// hooks are in the order in which provoke has them called.
var hooks = []hook{
	hookAuthenticate, hookConnection, hookMessage, hookAuthorize, hookError, hookOverrideOld, hookOverrideNew, hookDisconnect,
}

// A hookRig is a server of which one hook, called for mallory, does something
// that it should not.
type hookRig struct {
	*rig
	hook   hook
	rec    *record
	events *timeline
	by     bystanders
	called chan struct{} // closed when the hook has returned
}

// newHookRig returns a rig with bystanders on which do runs inside of the hook,
// once. c is nil where there is no client yet.
func newHookRig(t *testing.T, h hook, opts Options, do func(srv *Server, c *Client)) *hookRig {
	t.Helper()
	var srv *Server
	hr := &hookRig{hook: h, called: make(chan struct{})}
	var once atomic.Bool
	act := func(at hook, id string, c *Client) {
		if at == h && id == "mallory" && once.CompareAndSwap(false, true) {
			defer close(hr.called)
			do(srv, c)
		}
	}
	opts.Authenticate = func(r *http.Request, id, token string) (any, error) {
		act(hookAuthenticate, id, nil)
		return id, nil
	}
	opts.Authorize = func(from *Client, m Message) error {
		act(hookAuthorize, from.ID(), from)
		return nil
	}
	opts.AllowOverride = func(old, new *Client) bool {
		act(hookOverrideOld, old.ID(), old)
		act(hookOverrideNew, old.ID(), new)
		return false
	}
	srv = NewServer(opts)
	hr.rec, hr.events = watch(srv), followEvents(srv)
	srv.OnConnection(func(c *Client) { act(hookConnection, c.ID(), c) })
	srv.OnMessage(func(c *Client, m Message) { act(hookMessage, c.ID(), c) })
	srv.OnDisconnect(func(c *Client, why DisconnectReason) { act(hookDisconnect, c.ID(), c) })
	srv.OnError(func(c *Client, err error) {
		if c != nil && errors.Is(err, ErrBadMessage) {
			act(hookError, c.ID(), c)
		}
	})
	hr.rig = serveRig(t, srv, nil)
	hr.by = hr.bystanders()
	hr.rec.wait(t, 2)
	return hr
}

// provoke lets mallory do what calls the hook, as far as its connection lasts, and
// returns when mallory has gone and the hook has returned.
func (hr *hookRig) provoke() {
	hr.t.Helper()
	p := hr.rawOpen()
	p.upgrade("mallory")
	if p.isOpened() {
		p.tryWrite(rawTextFrame(`{"type":"OFFER","dst":"absent"}`))
		p.tryWrite(rawTextFrame(`no message`))
		if hr.hook == hookOverrideOld || hr.hook == hookOverrideNew {
			other := hr.rawOpen()
			if other.handshake("mallory").StatusCode == http.StatusSwitchingProtocols {
				if other.isOpened() { // the hook has removed mallory
					other.tryWrite(rawCloseFrame(1000, ""))
				}
				other.skipToEnd()
			}
			other.conn.Close()
		}
		p.tryWrite(rawCloseFrame(1000, ""))
	}
	p.skipToEnd()
	p.conn.Close()
	hr.await(hr.called)
}

// isOpened reads one frame and reports whether it is OPEN. A close frame is answered.
func (p *rawPeer) isOpened() bool {
	first, payload, err := p.read()
	if err == nil && first == rawFin|rawClose {
		p.answerClose()
	}
	return err == nil && string(payload) == `{"type":"OPEN"}`
}

func (hr *hookRig) await(ch <-chan struct{}) {
	hr.t.Helper()
	select {
	case <-ch:
	case <-time.After(waitLimit):
		hr.t.Fatal("the hook has not returned")
	}
}

// settle shuts the server down and wants every connection's events to have come
// in order, and nothing to be left.
func (hr *hookRig) settle(t *testing.T) {
	t.Helper()
	closeServer(t, hr.srv)
	hr.events.check(t)
	assert.Empty(t, hr.srv.Realm().ClientIDs())
	wantNoGoroutines(t)
}

// wantNoGoroutines wants no goroutine of a server to be left. One that has told
// so still needs a moment to be gone.
func wantNoGoroutines(t *testing.T) {
	t.Helper()
	for start := time.Now(); len(ownGoroutines()) > 0 && time.Since(start) < waitLimit/4; {
		runtime.Gosched()
	}
	assert.Empty(t, ownGoroutines())
}

// endsMallory reports whether a hook belongs to the connection of mallory, which
// ends if it fails.
func (h hook) endsMallory() bool {
	return h == hookConnection || h == hookMessage || h == hookAuthorize || h == hookError
}

func TestAPanicOfTheHostEndsThatConnectionOnly(t *testing.T) {
	for _, h := range hooks {
		t.Run(string(h), func(t *testing.T) {
			hr := newHookRig(t, h, Options{}, func(*Server, *Client) { panic("of the host") })
			hr.provoke()
			hr.by.talk()
			hr.dial("mallory", "yet another token").wantOpen()
			hr.settle(t)
			lines := fmt.Sprint(hr.rec.all())
			require.Contains(t, lines, ErrPanic.Error()+": of the host")
			if h.endsMallory() {
				require.Contains(t, lines, "-mallory internal error")
			} else {
				require.NotContains(t, lines, "internal error")
			}
		})
	}
}

func TestAHookThatEndsItsGoroutineEndsThatConnectionOnly(t *testing.T) {
	for _, h := range hooks {
		t.Run(string(h), func(t *testing.T) {
			hr := newHookRig(t, h, Options{}, func(*Server, *Client) { runtime.Goexit() })
			hr.provoke()
			hr.by.talk()
			hr.dial("mallory", "yet another token").wantOpen()
			hr.settle(t)
			if h.endsMallory() {
				require.Contains(t, hr.rec.all(), "-mallory internal error")
			}
		})
	}
}

// What one of several functions of an event does to its goroutine is nothing to the others.
func TestEveryFunctionOfAnEventRuns(t *testing.T) {
	for name, fail := range map[string]func(){
		"runtime.Goexit": runtime.Goexit,
		"panic":          func() { panic("of the host") },
	} {
		for _, h := range []hook{hookConnection, hookMessage, hookDisconnect, hookError} {
			t.Run(name+" in "+string(h), func(t *testing.T) {
				srv := NewServer(Options{})
				var mu sync.Mutex
				calls := make(map[string]int)
				function := func(at hook, i int) {
					mu.Lock()
					calls[fmt.Sprint(at, " ", i)]++
					first := calls[fmt.Sprint(at, " ", i)] == 1
					mu.Unlock()
					if at == h && i%2 == 1 && first {
						fail()
					}
				}
				var errs []error
				for i := range 5 {
					srv.OnConnection(func(*Client) { function(hookConnection, i) })
					srv.OnMessage(func(*Client, Message) { function(hookMessage, i) })
					srv.OnDisconnect(func(*Client, DisconnectReason) { function(hookDisconnect, i) })
					srv.OnError(func(c *Client, err error) {
						if i == 0 {
							mu.Lock()
							errs = append(errs, err)
							mu.Unlock()
						}
						if errors.Is(err, ErrBadMessage) {
							function(hookError, i)
						}
					})
				}
				r := serveRig(t, srv, nil)
				p := r.rawOpen()
				p.upgrade("mallory")
				p.tryWrite(rawTextFrame(`{"type":"HEARTBEAT"}`))
				p.tryWrite(rawTextFrame(`no message`))
				p.tryWrite(rawCloseFrame(1000, ""))
				p.skipToEnd()
				closeServer(t, srv)
				wantNoGoroutines(t)
				want := map[string]int{}
				for i := range 5 {
					want[fmt.Sprint(hookConnection, " ", i)] = 1
					want[fmt.Sprint(hookDisconnect, " ", i)] = 1
					if h != hookConnection { // else it is not read any more
						want[fmt.Sprint(hookMessage, " ", i)] = 1
					}
					if h != hookConnection && h != hookMessage {
						want[fmt.Sprint(hookError, " ", i)] = 1
					}
				}
				require.Equal(t, want, calls)
				failures := 0
				for _, err := range errs {
					if errors.Is(err, ErrPanic) {
						failures++
					}
				}
				require.Equal(t, 2, failures, "%v", errs)
			})
		}
	}
}

// A decision that ends its goroutine is a refusal, and OnError learns of it.
func TestADecisionThatEndsItsGoroutineIsReported(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
		ask  func(r *rig)
	}{
		{"Authenticate", Options{Authenticate: func(*http.Request, string, string) (any, error) { runtime.Goexit(); return nil, nil }},
			func(r *rig) { r.dial("mallory", "t").wantRefused(TypeError, "Internal error") }},
		{"ValidID", Options{ValidID: func(string) bool { runtime.Goexit(); return true }},
			func(r *rig) { r.dial("mallory", "t").wantRefused(TypeError, "Internal error") }},
		{"AllowOverride", Options{AllowOverride: func(_, _ *Client) bool { runtime.Goexit(); return true }}, func(r *rig) {
			a := r.connect("mallory")
			r.dial("mallory", "t").wantRefused(TypeError, "Internal error")
			a.offer("mallory", "1") // the holder stays
			a.wantOffer("mallory", "1")
			a.close()
		}},
		{"Authenticate before the upgrade", Options{RejectBeforeUpgrade: true, Authenticate: func(*http.Request, string, string) (any, error) { runtime.Goexit(); return nil, nil }},
			func(r *rig) {
				_, _, err := r.tryDial(r.socketURL("/", "mallory", "t"), nil)
				require.Error(r.t, err)
			}},
		{"GenerateClientID", Options{GenerateClientID: func(*http.Request) (string, error) { runtime.Goexit(); return "", nil }},
			func(r *rig) {
				res, err := r.http().Get(r.url + "/peerjs/id")
				if err == nil {
					res.Body.Close()
				}
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.opts)
			errs := make(chan error, 10)
			r.srv.OnError(func(_ *Client, err error) { errs <- err })
			c.ask(r)
			require.ErrorIs(t, <-errs, ErrPanic)
			closeServer(t, r.srv)
			require.Empty(t, errs)
			wantNoGoroutines(t)
			if c.name != "GenerateClientID" {
				require.EqualValues(t, 1, r.srv.Stats().Refused["authentication"])
			}
		})
	}
}

func TestAHookMayCallBack(t *testing.T) {
	for name, call := range map[string]func(srv *Server, c *Client){
		"RemoveClient of itself":  func(srv *Server, c *Client) { srv.Realm().RemoveClient("mallory") },
		"RemoveClient of another": func(srv *Server, c *Client) { assert.True(t, srv.Realm().RemoveClient("victim")) },
		"Realm.Send to itself":    func(srv *Server, c *Client) { srv.Realm().Send("mallory", Message{Type: "X"}) },
		"Realm.Send to another": func(srv *Server, c *Client) {
			assert.NoError(t, srv.Realm().Send("victim", Message{Type: "X"}))
		},
		"ClearMessageQueue": func(srv *Server, c *Client) { srv.Realm().ClearMessageQueue("absent") },
		"Client.Send": func(srv *Server, c *Client) {
			if c != nil {
				c.Send(Message{Type: "X"})
			}
		},
		"Client.Close": func(srv *Server, c *Client) {
			if c != nil {
				c.Close()
			}
		},
		"Client.Context": func(srv *Server, c *Client) {
			if c != nil {
				c.Context()
			}
		},
		"questions": func(srv *Server, c *Client) {
			assert.Contains(t, srv.Realm().ClientIDs(), "victim")
			assert.NotZero(t, srv.Realm().Len())
			assert.NotZero(t, srv.Stats().Accepted)
			for c := range srv.Realm().Clients() {
				assert.NotEmpty(t, c.ID()+c.Token()+c.RemoteAddr())
				assert.NotZero(t, c.ConnectedSince())
				assert.False(t, c.LastSeen().IsZero())
			}
		},
		"a registration": func(srv *Server, c *Client) { srv.OnMessage(func(*Client, Message) {}) },
	} {
		for _, h := range hooks {
			t.Run(name+", "+string(h), func(t *testing.T) {
				hr := newHookRig(t, h, Options{}, call)
				hr.connect("victim")
				hr.provoke()
				hr.by.talk()
				hr.dial("mallory", "yet another token").wantOpen()
				hr.settle(t)
				require.NotContains(t, fmt.Sprint(hr.rec.all()), "internal error")
			})
		}
	}
}

func TestAHookThatBlocksHoldsUpItsConnectionOnly(t *testing.T) {
	for _, h := range hooks {
		t.Run(string(h), func(t *testing.T) {
			inside, release := make(chan struct{}), make(chan struct{})
			hr := newHookRig(t, h, Options{}, func(*Server, *Client) {
				close(inside)
				<-release
			})
			provoked := make(chan struct{})
			go func() {
				defer close(provoked)
				hr.provoke()
			}()
			hr.await(inside)
			hr.by.talk()
			late := hr.connect("late")
			late.offer("bob", `1`)
			hr.by.b.wantOffer("late", `1`)
			hr.srv.Realm().RemoveClient("mallory")
			require.Nil(t, hr.srv.Realm().Client("mallory"))
			hr.by.a.offer("mallory", `2`)                    // is held
			again := hr.dial("mallory", "yet another token") // its events have to wait, and OPEN with them
			waitFor(t, func() bool { return hr.srv.Realm().Client("mallory") != nil })
			close(release)
			again.wantOpen()
			again.wantOffer("alice", `2`)
			hr.await(provoked)
			late.offer("mallory", `3`)
			again.wantOffer("late", `3`)
			hr.settle(t)
		})
	}
}

// While the host has a connection in its hands, the server does not read it and
// cannot know whether its client is alive.
func TestAClientIsNotBlamedForAHookThatBlocks(t *testing.T) {
	for _, h := range []hook{hookConnection, hookMessage, hookAuthorize, hookError} {
		t.Run(string(h), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				block := func(at hook) {
					if at == h {
						time.Sleep(10 * time.Second)
					}
				}
				srv := NewServer(Options{
					AliveTimeout: 4 * time.Second,
					Authorize:    func(*Client, Message) error { block(hookAuthorize); return nil },
				})
				srv.OnConnection(func(*Client) { block(hookConnection) })
				srv.OnMessage(func(*Client, Message) { block(hookMessage) })
				srv.OnError(func(*Client, error) { block(hookError) })
				rec := watch(srv)
				p := serveBubbleRig(t, srv, nil).connect("patient")
				go func() { // nothing reads it for some time
					p.ws.Write(t.Context(), websocket.MessageText, []byte(`no message`))
					p.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"OFFER","dst":"patient","payload":1}`))
				}()
				p.wantOffer("patient", `1`)
				require.NotContains(t, fmt.Sprint(rec.all()), "-patient")
			})
		})
	}
}
