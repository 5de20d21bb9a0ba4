package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What each reason is called, and with which close code it is told.
var reasonTable = []struct {
	why  DisconnectReason
	name string
	code uint16
}{
	{0, "connected", 0},
	{ReasonClientClosed, "client closed", 0},
	{ReasonConnectionLost, "connection lost", 0},
	{ReasonLeft, "left", 1000},
	{ReasonAliveTimeout, "alive timeout", 4003},
	{ReasonReplaced, "replaced by its own token", 4002},
	{ReasonOverridden, "overridden", 4001},
	{ReasonUnresponsive, "unresponsive", 4003},
	{ReasonRemoved, "removed", 4004},
	{ReasonSlowConsumer, "slow consumer", 1008},
	{ReasonMessageTooBig, "message too big", 1009},
	{ReasonInvalidText, "invalid UTF-8", 1007},
	{ReasonProtocolError, "protocol error", 1002},
	{ReasonPanic, "internal error", 1011},
	{ReasonShutdown, "server shutdown", 1001},
	{ReasonOverloaded, "server overloaded", 1013},
	{ReasonClaimLost, "claim lost", 4005},
	{reasonRefused, "refused", 1008},
}

func TestEveryReasonHasItsNameAndCloseCode(t *testing.T) {
	require.Len(t, reasonTable, numReasons)
	names := make(map[string]bool)
	for i, tc := range reasonTable {
		require.EqualValues(t, i, tc.why, "values are part of the API, in this order")
		assert.Equal(t, tc.name, tc.why.String())
		assert.EqualError(t, tc.why, tc.name, "the text that fmt prints")
		assert.False(t, names[tc.name], "%s twice", tc.name)
		names[tc.name] = true
		code, text := tc.why.closeCode()
		assert.Equal(t, tc.code, code, tc.name)
		assert.Equal(t, tc.name, text)
		assert.LessOrEqual(t, len(text), 123, "fits into a close frame")
	}
}

func TestUnknownReasonHasANumber(t *testing.T) {
	assert.Equal(t, "reason 18", DisconnectReason(numReasons).String())
	assert.Equal(t, "reason 255", DisconnectReason(255).String())
	assert.EqualError(t, DisconnectReason(200), "reason 200")
	assert.Equal(t, "255", fmt.Sprintf("%d", DisconnectReason(255)))
}

func TestReasonIsTheCauseOfTheContext(t *testing.T) {
	r := newRig(t, Options{})
	for why, end := range map[DisconnectReason]func(p *testPeer){
		ReasonClientClosed:   (*testPeer).close,
		ReasonConnectionLost: (*testPeer).drop,
		ReasonLeft:           func(p *testPeer) { p.send(`{"type":"LEAVE"}`) },
		ReasonRemoved:        func(p *testPeer) { r.srv.Realm().Client(p.id).Close() },
	} {
		p := r.connect("a peer that ends by " + why.String())
		c := r.srv.Realm().Client(p.id)
		ctx := c.Context()
		require.NoError(t, ctx.Err(), why)
		require.Zero(t, c.Reason())
		end(p)
		<-ctx.Done()
		cause := context.Cause(ctx)
		require.ErrorIs(t, cause, why)
		require.ErrorIs(t, fmt.Errorf("serving a call: %w", cause), why)
		require.NotErrorIs(t, cause, ReasonShutdown)
		var got DisconnectReason
		require.ErrorAs(t, cause, &got)
		require.Equal(t, c.Reason(), got)
		require.Equal(t, ctx, c.Context(), "there is one context")
	}
}

func TestContextAskedForTooLateHasEnded(t *testing.T) {
	r := newRig(t, Options{})
	rec := watch(r.srv)
	p := r.connect("alice")
	c := r.srv.Realm().Client("alice")
	p.close()
	rec.want(t, "+alice", "-alice client closed")
	require.ErrorIs(t, c.Context().Err(), context.Canceled)
	require.ErrorIs(t, context.Cause(c.Context()), ReasonClientClosed)
}

func TestErrorsAreTellable(t *testing.T) {
	all := []error{ErrNotConnected, ErrSlowConsumer, ErrInEvent, ErrPanic, ErrBadMessage, ErrRoomFull, ErrTooManyRooms, ErrRoomName}
	for i, a := range all {
		assert.Regexp(t, `^peer: [a-z]`, a.Error())
		for j, b := range all {
			assert.Equal(t, i == j, errors.Is(fmt.Errorf("sending: %w", a), b))
		}
	}
}

func TestRejectIsAnErrorWithItsText(t *testing.T) {
	var err error = &Reject{Type: TypeInvalidKey, Message: "no such tenant"}
	assert.EqualError(t, err, "peer: rejected: no such tenant")
	var rej *Reject
	require.ErrorAs(t, fmt.Errorf("asking the tenants: %w", err), &rej)
	assert.Equal(t, &Reject{TypeInvalidKey, "no such tenant"}, rej)
}

func TestEventsAreCalledInTheOrderOfRegistration(t *testing.T) {
	var l listeners[func() int]
	assert.Empty(t, l.get(), "the zero value has none")
	for i := range 20 {
		l.add(func() int { return i })
	}
	early := l.get()
	for i := range 20 {
		l.add(func() int { return 20 + i })
	}
	assert.Len(t, early, 20, "what is being called does not change meanwhile")
	for i, f := range l.get() {
		assert.Equal(t, i, f())
	}
	assert.Len(t, l.get(), 40)
}

func TestEventsAreRegisteredWhileOthersAreCalled(t *testing.T) {
	var l listeners[func()]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l.add(func() {})
				for _, f := range l.get() {
					f()
				}
			}
		})
	}
	wg.Wait()
	assert.Len(t, l.get(), 800, "none is lost")
}

func TestEachEventHasItsOwnListeners(t *testing.T) {
	srv := NewServer(Options{})
	srv.OnConnection(func(*Client) {})
	srv.OnDisconnect(func(*Client, DisconnectReason) {})
	srv.OnDisconnect(func(*Client, DisconnectReason) {})
	for range 3 {
		srv.OnMessage(func(*Client, Message) {})
	}
	for range 4 {
		srv.OnError(func(*Client, error) {})
	}
	ev := &srv.events
	assert.Equal(t, []int{1, 2, 3, 4}, []int{len(ev.connection.get()), len(ev.disconnect.get()), len(ev.message.get()), len(ev.error.get())})
}

func TestPanicOfTheHostBecomesAnError(t *testing.T) {
	called := false
	assert.NoError(t, guard(func() { called = true }))
	assert.True(t, called)
	err := guard(func() { panic("no mercy") })
	assert.ErrorIs(t, err, ErrPanic)
	assert.EqualError(t, err, "peer: panic in a function of the host: no mercy")
	for _, p := range []any{nil, io.EOF, 7, struct{}{}, []byte("x")} {
		assert.ErrorIs(t, guard(func() { panic(p) }), ErrPanic, "%v", p)
	}
	var m map[string]int
	assert.ErrorIs(t, guard(func() { m["a"]++ }), ErrPanic)
}

// A message at which one of the functions of OnMessage panics goes nowhere, whatever the others do.
func TestAMessageThatAFunctionPanicsAtIsNotRelayed(t *testing.T) {
	for at := range 3 {
		synctest.Test(t, func(t *testing.T) {
			srv := NewServer(Options{})
			seen := 0
			for i := range 3 {
				srv.OnMessage(func(*Client, Message) {
					if seen++; i == at {
						panic("of the host")
					}
				})
			}
			r := serveBubbleRig(t, srv, nil)
			a, b := r.connect("a"), r.connect("b")
			a.offer("b", `1`)
			require.Equal(t, 1011, a.wantEnd())
			synctest.Wait()
			require.Equal(t, 3, seen, "the others see it")
			require.Empty(t, b.frames)
		})
	}
}

// What a client may do wrong, the error that a host reads, and what its text names.
var mistakes = []struct {
	name  string
	text  string
	is    error
	names string
	reply string // "": none
}{
	{"no JSON", `hello`, ErrBadMessage, "not a JSON object", ""},
	{"half of it", `{"type":"OFFER",`, ErrBadMessage, "near byte 16", ""},
	{"an array", `[1]`, ErrBadMessage, "not a JSON object", ""},
	{"no type", `{"dst":"bob"}`, ErrUnknownType, `no "type"`, ""},
	{"a type that is a number", `{"type":1,"dst":"bob"}`, ErrUnknownType, `no "type"`, ""},
	{"a type that is not relayed", `{"type":"CHAT","dst":"bob"}`, ErrUnknownType, "CHAT is not in Options.RelayTypes", ""},
	{"a type that steers terminals", `{"type":"\u001b[2J","dst":"bob"}`, ErrUnknownType, `"\x1b[2J" is not in Options.RelayTypes`, ""},
	{"a very long type", `{"type":"` + strings.Repeat("x", 10000) + `","dst":"bob"}`, ErrUnknownType, strings.Repeat("x", 128) + " is not in", ""},
	{"a type of the server", `{"type":"OPEN","dst":"bob"}`, ErrUnknownType, "only the server sends OPEN", ""},
	{"a room's message of the server", `{"type":"ROOM-LEFT","dst":"bob","payload":{"room":"x","id":"alice"}}`, ErrUnknownType, "only the server sends ROOM-LEFT", ""},
	{"no destination", `{"type":"OFFER"}`, ErrNoDestination, `OFFER needs "dst"`, ""},
	{"an empty destination", `{"type":"NOTE","dst":""}`, ErrNoDestination, `NOTE needs "dst"`, ""},
	{"LEAVE to a number", `{"type":"LEAVE","dst":5}`, ErrNoDestination, `LEAVE needs "dst"`, ""},
	{"a relayed type for an absent peer", `{"type":"NOTE","dst":"carol"}`, ErrNotConnected, "NOTE for carol; only types in Options.HoldTypes are held", ""},
	{"joining where nobody may", `{"type":"ROOM-JOIN","payload":{"room":"lobby"}}`, ErrJoinNotAllowed, "ROOM-JOIN needs Options.AllowJoin",
		`{"type":"ROOM-REFUSED","payload":{"room":"lobby","msg":"Clients may not join rooms by themselves here"}}`},
	{"joining nothing where nobody may", `{"type":"ROOM-JOIN","payload":{"room":5}}`, ErrJoinNotAllowed, "Options.AllowJoin",
		`{"type":"ROOM-REFUSED","payload":{"room":"","msg":"Clients may not join rooms by themselves here"}}`},
	{"joining a room of a long name where nobody may", `{"type":"ROOM-JOIN","payload":{"room":"` + strings.Repeat("x", maxIDBytes+1) + `"}}`, ErrJoinNotAllowed, "Options.AllowJoin",
		`{"type":"ROOM-REFUSED","payload":{"room":"","msg":"Clients may not join rooms by themselves here"}}`},
	{"leaving where nobody may join", `{"type":"ROOM-LEAVE","payload":{"room":"lobby"}}`, ErrJoinNotAllowed, "ROOM-LEAVE needs Options.AllowJoin", ""},
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

// mistakenRig returns a rig with two peers, the errors that OnError gets, and the log.
func mistakenRig(t *testing.T, opts Options) (r *rig, a, b *testPeer, errs chan error, log *syncBuffer) {
	log, errs = &syncBuffer{}, make(chan error, 10)
	opts.RelayTypes = []MessageType{"NOTE"}
	opts.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r = newRig(t, opts)
	r.srv.OnError(func(c *Client, err error) {
		assert.Equal(t, "alice", c.ID())
		errs <- err
	})
	a, b = r.connect("alice"), r.connect("bob")
	a.offer("bob", "0") // each is read after the line about its connection
	b.wantOffer("alice", "0")
	b.offer("alice", "0")
	a.wantOffer("bob", "0")
	return r, a, b, errs, log
}

func TestAMistakeOfAClientIsReportedOnce(t *testing.T) {
	r, a, b, errs, log := mistakenRig(t, Options{})
	a.send(`{"type":"HEARTBEAT"}`)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			r.in(t)
			log.take()
			a.send(m.text)
			if m.reply != "" {
				a.want(m.reply)
			}
			a.offer("bob", "1") // what comes after it passes
			b.wantOffer("alice", "1")
			require.Len(t, errs, 1)
			err := <-errs
			require.ErrorIs(t, err, m.is)
			require.Contains(t, err.Error(), m.names)
			require.Less(t, len(err.Error()), 400)
			lines := strings.Split(strings.TrimSpace(log.take()), "\n")
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "level=DEBUG")
			require.NotContains(t, lines[0], "\x1b")
		})
	}
}

func TestAMalformedJoinIsAnswered(t *testing.T) {
	_, a, b, errs, _ := mistakenRig(t, Options{AllowJoin: anyRoom})
	for _, payload := range []string{``, `,"payload":null`, `,"payload":"lobby"`, `,"payload":["lobby"]`, `,"payload":{}`, `,"payload":{"room":5}`,
		`,"payload":{"room":null}`, `,"payload":{"room":{}}`, `,"payload":{"room":"lobby","room":5}`, `,"payload":{"ROOM":"lobby"}`} {
		a.send(`{"type":"ROOM-JOIN"` + payload + `}`)
		a.wantNotLetIn("", `A payload with the name of a "room" is needed`)
		a.send(`{"type":"ROOM-LEAVE"` + payload + `}`)
		a.offer("bob", "1")
		b.wantOffer("alice", "1")
		require.Len(t, errs, 2, payload)
		require.ErrorContains(t, <-errs, `ROOM-JOIN needs a payload with the name of a "room"`)
		err := <-errs
		require.ErrorIs(t, err, ErrBadMessage)
		require.ErrorContains(t, err, "ROOM-LEAVE")
	}
	a.send(`{"type":"ROOM-JOIN","payload":{"room":5,"room":"l\u006fbby","x":{"room":1}}}`)
	a.wantMembers("lobby", "alice")
	require.Empty(t, errs)
}

// A host may handle types of its own in OnMessage.
func TestAnUnknownTypeIsNoMistakeWhereTheHostListens(t *testing.T) {
	r, a, b, errs, log := mistakenRig(t, Options{})
	r.srv.OnMessage(func(*Client, Message) {})
	log.take()
	a.send(`{"type":"CHAT","dst":"bob"}`)
	a.send(`{"type":"CHAT"}`)
	a.offer("bob", "1")
	b.wantOffer("alice", "1")
	require.Empty(t, errs)
	require.Empty(t, log.take())
	a.send(`{"type":"OFFER"}`)
	require.ErrorIs(t, <-errs, ErrNoDestination)
}

func TestWhatIsNoMistakeIsNotReported(t *testing.T) {
	r, a, b, errs, log := mistakenRig(t, Options{HoldTypes: []MessageType{"LETTER"}})
	log.take()
	for _, text := range []string{`{"type":"LEAVE","dst":"carol"}`, `{"type":"EXPIRE","dst":"carol"}`, `{"type":"OFFER","dst":"carol"}`,
		`{"type":"LETTER","dst":"carol"}`, `{"type":"NOTE","dst":"bob"}`, `{"type":"HEARTBEAT","dst":5}`} {
		a.send(text)
	}
	b.want(`{"type":"NOTE","src":"alice","dst":"bob"}`)
	a.offer("bob", "1")
	b.wantOffer("alice", "1")
	require.Empty(t, errs)
	require.Empty(t, log.take())
	require.EqualValues(t, 2, r.srv.Stats().Dropped["absent"])
}

// A mistake is cheap while nobody is told of it: a client can make as many as it likes.
func BenchmarkMistake(b *testing.B) {
	texts := []struct{ name, text string }{{"none, relayed", `{"type":"NOTE","dst":"dst","payload":{"room":"lobby"}}`}, {"none, an offer", string(benchOffer("dst"))}}
	for _, m := range mistakes {
		if len(m.text) < 200 {
			texts = append(texts, struct{ name, text string }{m.name, m.text})
		}
	}
	for _, m := range texts {
		b.Run(m.name, func(b *testing.B) {
			s := NewServer(Options{AliveTimeout: -1, RelayTypes: []MessageType{"NOTE"}})
			src, dst := stubClient(b, s, "src", "t"), stubClient(b, s, "dst", "t")
			for _, c := range []*Client{src, dst} {
				silence(s, c)
			}
			data, ss := []byte(m.text), &session{Server: s, c: src}
			b.ReportAllocs()
			for b.Loop() {
				ss.handle(data)
				for _, c := range []*Client{src, dst} {
					for i := range c.outbox.parcels {
						c.outbox.parcels[i].release()
					}
					c.outbox.parcels, c.outbox.bytes = c.outbox.room[:0], 0
				}
			}
		})
	}
}

func TestAnErrorOfAMessageSaysWhatItIs(t *testing.T) {
	for _, data := range []string{"", "x", `{"a"`, `{"a":1}x`} {
		var e envelope
		err := e.decode([]byte(data))
		require.ErrorIs(t, err, ErrBadMessage, data)
		require.ErrorIs(t, fmt.Errorf("reading: %w", err), ErrBadMessage)
		require.False(t, errors.Is(err, ErrUnknownType))
		require.Regexp(t, "^peer: bad message: ", err.Error())
	}
}
