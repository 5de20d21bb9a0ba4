package peer

import (
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file are about steps that must not come apart: to find a destination or hold the message, and to
// find the server open and be counted.

// inTurns runs two functions that need a mutex. Each time that one of them gives it back, the other one has it next: a
// mutex does so when somebody has waited for it for a millisecond, and has found it taken again then.
func inTurns(mu *sync.Mutex, first, second func()) {
	const starve = 3 * time.Millisecond
	var both sync.WaitGroup
	mu.Lock()
	both.Go(first)
	time.Sleep(starve)
	both.Go(second)
	time.Sleep(starve)
	mu.Unlock()
	mu.Lock() // before first has woken up
	time.Sleep(starve)
	mu.Unlock()
	both.Wait()
}

func TestNoMessageWaitsWhileItsDestinationIsConnected(t *testing.T) {
	const rounds = 10
	srv := NewServer(Options{AliveTimeout: -1})
	defer closeServer(t, srv)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	sh, deadline := srv.realm.shard("a"), time.Now().Add(time.Hour)
	for round := range 2 * rounds {
		c := benchClient(srv, near, "a", "t")
		admit := func() {
			_, err := srv.realm.admit(c, nil, true)
			assert.NoError(t, err)
		}
		route := func() {
			srv.realm.route("a", parcel{frame: []byte("f"), src: "b", deadline: deadline, keep: keepUntilExpiry})
		}
		if round < rounds {
			inTurns(&sh.mu, route, admit)
		} else {
			inTurns(&sh.mu, admit, route)
		}
		sh.mu.Lock()
		waits := sh.waiting["a"] != nil
		sh.mu.Unlock()
		require.False(t, waits, "a message waits for a client that is there")
		require.Len(t, c.outbox.parcels, 2, "OPEN and the message")
		c.writer = busy // nothing is written
		c.end(ReasonRemoved, nil, nil)
		srv.realm.remove(c)
		require.Equal(t, 1, srv.Realm().ClearMessageQueue("a"))
	}
}

// Nothing of a server begins after Shutdown has returned: not even an upgrade, to say so.
func TestAHandshakeAfterTheEndIsAnsweredWithoutAnUpgrade(t *testing.T) {
	r := newRig(t, Options{})
	closeServer(t, r.srv)
	_, res, err := r.tryDial(r.socketURL("/", "a", "t"), nil)
	require.Error(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.EqualValues(t, 1, r.srv.Stats().Refused["shutdown"])
}

// The host can close a newcomer in AllowOverride and let it have the id all the same. It is announced then, and has ended.
func TestAClientThatEndsBeforeItIsAdmittedStaysEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AllowOverride: func(_, newcomer *Client) bool {
			newcomer.Close()
			return true
		}})
		r := serveBubbleRig(t, srv, nil)
		r.connect("a")
		synctest.Wait()
		told := make(chan *Client, 1)
		srv.OnConnection(func(c *Client) {
			assert.Equal(t, ReasonRemoved, c.Reason())
			assert.ErrorIs(t, c.Send(Message{Type: "X"}), ErrNotConnected)
			assert.ErrorIs(t, srv.Realm().Send("a", Message{Type: "X"}), ErrNotConnected)
			assert.ErrorIs(t, srv.Realm().Join("x", c), ErrNotConnected)
			assert.Nil(t, srv.Realm().Client("a"))
			told <- c
		})
		require.Equal(t, CloseRemoved, r.dial("a", "another").wantEnd())
		require.Nil(t, (<-told).alive, "nobody is asked for a sign of life any more")
		synctest.Wait()
		require.Zero(t, srv.Realm().Len())
	})
}
