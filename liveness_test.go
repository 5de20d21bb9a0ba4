package peer

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASilentClientIsPingedThenClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		rec := watch(r.srv)
		silent := r.rawOpen().open("silent").bare()
		start := time.Now()
		head := make([]byte, 2)
		_, err := io.ReadFull(silent, head)
		require.NoError(t, err)
		require.Equal(t, []byte{0x89, 0}, head, "a ping")
		require.Equal(t, 30*time.Second, time.Since(start))
		frame := make([]byte, 4)
		_, err = io.ReadFull(silent, frame)
		require.NoError(t, err)
		require.Equal(t, 60*time.Second, time.Since(start))
		require.Equal(t, byte(0x88), frame[0], "a close frame")
		require.Equal(t, CloseUnresponsive, int(frame[2])<<8|int(frame[3]))
		io.Copy(io.Discard, silent)
		rec.want(t, "+silent", "-silent alive timeout")
		require.Zero(t, r.srv.Realm().Len())
	})
}

func TestAnythingFromAClientIsASignOfLife(t *testing.T) {
	masked := func(op byte, payload string) []byte {
		return append([]byte{0x80 | op, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	for name, frame := range map[string][]byte{
		"heartbeat":    masked(1, `{"type":"HEARTBEAT"}`),
		"unknown type": masked(1, `{"type":"?"}`),
		"not JSON":     masked(1, `?`),
		"pong":         masked(10, ``),
		"a fragment":   masked(0, ``)[:0], // replaced below
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{})
				p := r.rawOpen().open("p").bare()
				go io.Copy(io.Discard, p)
				if name == "a fragment" {
					_, err := p.Write([]byte{0x01, 0x80, 0, 0, 0, 0}) // an empty text frame, not final
					require.NoError(t, err)
					frame = []byte{0x00, 0x80, 0, 0, 0, 0}
				}
				for range 10 {
					time.Sleep(59 * time.Second)
					_, err := p.Write(frame)
					require.NoError(t, err)
				}
				c := r.srv.Realm().Client("p")
				require.NotNil(t, c)
				synctest.Wait()
				require.Equal(t, time.Now(), c.LastSeen())
				p.Close()
			})
		})
	}
}

func TestAHiddenTabThatAnswersPingsStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a") // its library answers pings, its timers sleep
		time.Sleep(time.Hour)
		b := r.connect("b")
		b.offer("a", `1`)
		a.wantOffer("b", `1`)
	})
}

func TestANegativeAliveTimeoutNeverCloses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{AliveTimeout: -1})
		silent := r.rawOpen().open("silent").bare()
		time.Sleep(24 * time.Hour)
		require.NotNil(t, r.srv.Realm().Client("silent"))
		silent.Close()
	})
}

func TestAClientIsNotBlamedWhileTheHostHoldsItUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		srv := NewServer(Options{})
		srv.OnMessage(func(*Client, Message) { time.Sleep(10 * time.Minute) })
		r := serveBubbleRig(t, srv, nil)
		p := r.rawOpen().open("p").bare()
		go io.Copy(io.Discard, p)
		_, err := p.Write([]byte{0x81, 0x82, 0, 0, 0, 0, '{', '}'})
		require.NoError(t, err)
		time.Sleep(10*time.Minute + 59*time.Second)
		require.NotNil(t, srv.Realm().Client("p"))
		time.Sleep(2 * time.Second)
		require.Nil(t, srv.Realm().Client("p"))
		p.Close()
	})
}

func TestAClientThatTakesNothingIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		rec := watch(r.srv)
		stuck := r.rawOpen().open("stuck").bare()
		synctest.Wait()
		a := r.connect("a")
		a.offer("stuck", `1`)
		time.Sleep(DefaultWriteTimeout + time.Second)
		rec.want(t, "+stuck", "+a", "-stuck slow consumer")
		require.Empty(t, r.srv.Realm().ClientIDs()[1:])
		a.wantExpire("stuck")
		stuck.Close()
	})
}

func TestShutdownIsBoundedByItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		srv := NewServer(Options{})
		srv.OnDisconnect(func(*Client, DisconnectReason) { time.Sleep(time.Minute) })
		r := serveBubbleRig(t, srv, nil)
		a := r.connect("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, srv.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, 1001, a.wantEnd())
		require.NoError(t, srv.Close(), "waits for the rest")
		require.ErrorIs(t, srv.Realm().Send("a", Message{Type: "X"}), ErrNotConnected)
	})
}

func TestADeadClientDelaysCloseByASecondAtMost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		srv := NewServer(Options{})
		r := serveBubbleRig(t, srv, nil)
		dead := r.rawOpen().open("dead").bare()
		start := time.Now()
		require.NoError(t, srv.Close())
		require.LessOrEqual(t, time.Since(start), farewellTimeout+lingerTimeout)
		dead.Close()
	})
}

// A wall clock that is set back or forth must not expire or keep anything: all
// times are compared by their monotonic readings.
func TestTimesAreMonotonic(t *testing.T) {
	r := newRig(t, Options{})
	a := r.connect("a")
	a.offer("absent", `1`)
	a.offer("a", `2`)
	a.wantOffer("a", `2`) // so the first has been handled
	require.Contains(t, r.srv.Realm().Client("a").ConnectedSince().String(), " m=+")
	sh := r.srv.realm.shard("absent")
	sh.mu.Lock()
	defer sh.mu.Unlock()
	require.Contains(t, sh.queues["absent"].soonest().deadline.String(), " m=+")
	require.Contains(t, sh.queues["absent"].at.String(), " m=+")
}

// The alive timer may be at work when its client ends. Then there is nothing to do any more.
func TestAnAliveTimerDoesNothingForAClientThatHasEnded(t *testing.T) {
	for _, silent := range []time.Duration{0, 6 * time.Second, 11 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			_, c := quietClient(t, "pipe", Options{})
			c.opts.AliveTimeout = 10 * time.Second
			c.alive = time.AfterFunc(time.Hour, func() {})
			time.Sleep(silent)
			require.True(t, c.end(ReasonRemoved, nil, nil))
			c.checkAlive()
			require.Equal(t, ReasonRemoved, c.Reason())
			require.False(t, c.pinged)
			require.Empty(t, c.outbox.parcels)
			require.False(t, c.alive.Stop(), "it is not set again")
		})
	}
}

// iceOnly is an ICEServers that has one server.
func iceOnly(*Client) []ICEServer { return []ICEServer{{URLs: []string{"stun:stun.example:3478"}}} }

// The host makes a silent client join and leave all the time. An event that the client has not caused is no sign of
// life.
func TestAJoinByTheHostIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		r.srv.OnJoin(func(string, *Client) {})
		go io.Copy(io.Discard, r.rawOpen().upgrade("a").bare())
		synctest.Wait()
		c, start := r.srv.Realm().Client("a"), time.Now()
		for c.Reason() == 0 && time.Since(start) < time.Hour {
			time.Sleep(20 * time.Second)
			r.srv.Realm().Join("x", c)
			r.srv.Realm().Leave("x", c)
			synctest.Wait()
		}
		require.Equal(t, ReasonAliveTimeout, c.Reason())
		require.Equal(t, DefaultAliveTimeout, time.Since(start))
	})
}

func TestFreshServersAreNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ICERefresh: 50 * time.Second, ICEServers: iceOnly})
		go io.Copy(io.Discard, r.rawOpen().upgrade("a").bare())
		synctest.Wait()
		c, start := r.srv.Realm().Client("a"), time.Now()
		select {
		case <-c.Context().Done():
		case <-time.After(time.Hour):
		}
		require.Equal(t, ReasonAliveTimeout, c.Reason())
		require.Equal(t, DefaultAliveTimeout, time.Since(start))
	})
}

// A successor with another token gets the id of a client that has been silent and does not answer a ping. A join by the
// host is no answer.
func TestAJoinByTheHostIsNoAnswerToAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		r.srv.OnJoin(func(string, *Client) {})
		go io.Copy(io.Discard, r.rawOpen().upgrade("a").bare())
		synctest.Wait()
		c := r.srv.Realm().Client("a")
		time.Sleep(25 * time.Second)
		require.NoError(t, r.srv.Realm().Join("x", c))
		synctest.Wait()
		r.dial("a", "another").wantOpen()
	})
}
