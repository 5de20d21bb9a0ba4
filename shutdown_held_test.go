package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// wantWaiting wants done not to be closed although everybody had time to close it.
func wantWaiting(t *testing.T, done <-chan struct{}, why string) {
	t.Helper()
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case <-done:
		t.Error(why)
	default:
	}
}

func closedAfter(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func TestShutdownWaitsForTimersThatAreAtWork(t *testing.T) {
	srv := NewServer(Options{})
	srv.realm.timers.Add(1) // as one that expires a queue
	done := closedAfter(func() { srv.Close() })
	wantWaiting(t, done, "a timer is at work")
	srv.realm.timers.Done()
	<-done
}

// A timer that expires a queue is at work until the senders have been told.
func TestAnExpiryIsAtWorkUntilItsSendersKnow(t *testing.T) {
	srv := NewServer(Options{})
	absent, n := "absent", 0
	for ; srv.realm.shard(absent) == srv.realm.shard("sender"); n++ {
		absent = fmt.Sprint("absent", n)
	}
	told := srv.realm.shard("sender")
	told.mu.Lock() // so that nobody can be told
	out, _ := srv.realm.route(absent, parcel{src: "sender", frame: openFrame, deadline: time.Now(), keep: keepUntilExpiry})
	require.Equal(t, held, out)
	waitFor(t, func() bool { return srv.realm.heldParcels.Load() == 0 })
	done := closedAfter(srv.realm.timers.Wait)
	wantWaiting(t, done, "the sender does not know")
	told.mu.Unlock()
	<-done
	require.EqualValues(t, 1, srv.Stats().Expires)
}

// A timer may come too late: when it gets the lock, the queue that it was set for has been taken,
// and messages wait in another one.
func TestALateTimerLeavesTheNextQueueAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a")
		a.offer("absent", `1`)
		synctest.Wait()
		realm := r.srv.realm
		late := realm.shard("absent").waiting["absent"]
		require.Equal(t, 1, realm.ClearMessageQueue("absent"))
		a.wantExpire("absent")
		a.offer("absent", `2`)
		synctest.Wait()
		realm.timers.Add(1)
		realm.expire("absent", late)
		require.NoError(t, realm.check())
		r.connect("absent").wantOffer("a", `2`)
	})
}

// Clients that are in the middle of their handshake when the server closes learn why they are
// turned away, whatever they wait for: a page may try again elsewhere.
func TestAHandshakeThatTheServerClosesIn(t *testing.T) {
	const takes = 3 * time.Second // a function that ignores its context
	slow := func() { time.Sleep(takes) }
	for name, c := range map[string]struct {
		opts  Options
		wants time.Duration // when the client is told
	}{
		"Authenticate says yes": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
			}
			return nil, nil
		}}, takes},
		"Authenticate says no": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
				return nil, errors.New("no")
			}
			return nil, nil
		}}, takes},
		"Authenticate rejects": {Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
			if token != "holder" {
				slow()
				return nil, &Reject{Message: "You may not"}
			}
			return nil, nil
		}}, takes},
		"Authenticate gives up": {Options{Authenticate: func(r *http.Request, id, token string) (any, error) {
			if token != "holder" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return nil, nil
		}}, 0},
		"ValidID says no":        {Options{ValidID: func(id string) bool { slow(); return false }}, takes},
		"AllowOverride says yes": {Options{AllowOverride: func(_, _ *Client) bool { slow(); return true }}, takes},
		"AllowOverride says no":  {Options{AllowOverride: func(_, _ *Client) bool { slow(); return false }}, takes},
		"a probe":                {Options{ProbeAfter: time.Second}, 0},
	} {
		for _, id := range []string{"holder", "free"} {
			t.Run(name+", "+id, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asksHolder := c.opts.AllowOverride != nil || c.opts.ProbeAfter != 0
					if asksHolder && id == "free" || c.opts.ValidID != nil && id == "holder" {
						return
					}
					r := newBubbleRig(t, c.opts)
					if id == "holder" {
						r.dialRaw(r.socketURL("/", "holder", "holder")).pings(false)
						time.Sleep(2 * time.Second)
					}
					p := r.rawOpen()
					p.upgrade(id)
					synctest.Wait()
					start := time.Now()
					done := closedAfter(func() { closeServer(t, r.srv) })
					p.wantClose(1001)
					require.Equal(t, c.wants, time.Since(start))
					<-done
					require.Zero(t, r.srv.Realm().Len())
				})
			})
		}
	}
}

// Shutdown waits for those that are turned away too.
func TestShutdownWaitsForClientsThatAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawOpen()
		p.write([]byte(handshakeFor("/peerjs?key=wrong&id=a&token=t")))
		p.response()
		p.next() // why
		p.next() // the close frame, which is not answered
		start := time.Now()
		closeServer(t, r.srv)
		require.Equal(t, lingerTimeout, time.Since(start))
		require.Empty(t, ownGoroutines())
	})
}

// A newcomer that gives up leaves its probe to the others. Shutdown waits for the probe all the same.
func TestShutdownWaitsForAProbeThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		holder := stubClient(t, srv, "a", "t")
		fail := probeOf(srv, holder)
		ctx, giveUp := context.WithCancel(t.Context())
		gone := closedAfter(func() { srv.answers(ctx, holder) })
		synctest.Wait()
		giveUp()
		<-gone
		done := closedAfter(func() { srv.Close() })
		synctest.Wait()
		wantWaiting(t, done, "a probe is under way")
		fail()
		<-done
		holder.Close()
		holder.writers.Wait()
	})
}
