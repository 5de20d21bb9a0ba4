package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	assert.Equal(t, "reason 17", DisconnectReason(numReasons).String())
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
