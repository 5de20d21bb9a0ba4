package peer

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unbounded are options under which nothing but the fixed bounds refuses a message.
var unbounded = Options{
	MaxOutboxMessages: -1, MaxOutboxBytes: -1, MaxHeldPerPair: -1, MaxHeldPerDestination: -1, MaxHeldBytes: -1,
}

// routed hands a short message of src to an absent id, and returns what became of it.
func routed(r *Realm, dst, src string, continues bool) outcome {
	out, _ := r.route(dst, parcel{frame: []byte("frame"), src: src, deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry, continues: continues})
	return out
}

func TestAllThatIsHeldIsBoundedInMessages(t *testing.T) {
	t.Parallel()
	s := NewServer(unbounded)
	defer s.Close()
	const each = 1000
	for i := range maxHeldParcels / each {
		dst := fmt.Sprint("dst", i)
		for n := range each {
			if out := routed(s.realm, dst, "src", false); out != held {
				t.Fatal(i*each+n, " messages are held, and no more: ", out)
			}
		}
	}
	for range 3 {
		require.Equal(t, notKept, routed(s.realm, "dst", "src", false), "one more")
		require.EqualValues(t, maxHeldParcels, s.realm.heldParcels.Load())
	}
	require.NoError(t, s.realm.check())
	require.Equal(t, each, s.realm.ClearMessageQueue("dst0"))
	for range each {
		require.Equal(t, held, routed(s.realm, "dst", "other", false), "there is room again")
	}
	require.Equal(t, notKept, routed(s.realm, "dst", "other", false))
	require.EqualValues(t, maxHeldParcels-each, s.realm.heldParcels.Load(), "with what the sender had waiting there")
	require.NoError(t, s.realm.check())
}

// What cannot be held for want of bytes does not count as held.
func TestARefusedMessageIsNotCounted(t *testing.T) {
	s := NewServer(Options{MaxHeldBytes: 12})
	defer s.Close()
	for i, want := range []outcome{held, held, notKept, notKept} {
		require.Equal(t, want, routed(s.realm, fmt.Sprint("dst", i), "src", false))
		require.EqualValues(t, min(i+1, 2), s.realm.heldParcels.Load())
		require.EqualValues(t, 5*min(i+1, 2), s.realm.heldBytes.Load())
	}
	require.NoError(t, s.realm.check())
}

// A sender whose refusal is not remembered is answered again, not left without an answer.
func TestRefusalsThatAreRememberedAreBounded(t *testing.T) {
	s := NewServer(Options{MaxHeldBytes: 1})
	defer s.Close()
	for i := range maxExpiredPairs {
		src := fmt.Sprint("src", i)
		require.Equal(t, notKept, routed(s.realm, "dst", src, false))
		if i == 0 || i == maxExpiredPairs-1 {
			require.Equal(t, ignored, routed(s.realm, "dst", src, true), "it has read EXPIRE: %d", i)
		}
	}
	for range 3 {
		require.Equal(t, notKept, routed(s.realm, "dst", "one more", true))
		require.Equal(t, notKept, routed(s.realm, "another dst", "src0", true))
		require.EqualValues(t, maxExpiredPairs, s.realm.expiredPairs.Load())
	}
	require.Equal(t, ignored, routed(s.realm, "dst", "src0", true))
	require.NoError(t, s.realm.check())
}

// stuckOutbox is a server with a client that is not written to and has these messages of two
// senders in its outbox, by turns. What was sent to it comes back when it is removed.
func stuckOutbox(t *testing.T, opts Options, messages int) (s *Server, remove func()) {
	opts.AliveTimeout = -1
	s = NewServer(opts)
	c := stubClient(t, s, "dst", "t")
	silence(s, c)
	for i := range messages {
		require.Equal(t, delivered, routed(s.realm, "dst", "ab"[i%2:i%2+1], false))
	}
	return s, func() {
		c.mu.Lock()
		c.writer = broken // there is nobody to write the close frame
		c.mu.Unlock()
		c.end(ReasonRemoved, nil, nil)
		s.realm.remove(c)
		c.writers.Wait()
	}
}

func TestWhatComesBackIsHeldWithinTheBounds(t *testing.T) {
	for name, c := range map[string]struct {
		opts              Options
		returned, dropped uint64
		expires           uint64
		heldParcels       int64
	}{
		"all of it fits":      {Options{MaxHeldPerPair: 3, MaxHeldPerDestination: 6, MaxHeldBytes: 30}, 6, 0, 0, 6},
		"a pair has too many": {Options{MaxHeldPerPair: 2}, 4, 6, 2, 0},
		"there are too many":  {Options{MaxHeldPerDestination: 5}, 5, 3, 1, 3},
		"there is no room":    {Options{MaxHeldBytes: 29}, 5, 3, 1, 3},
		"nothing has room":    {Options{MaxHeldBytes: 4}, 0, 6, 2, 0},
		"one has room alone":  {Options{MaxHeldPerPair: -1, MaxHeldPerDestination: 1}, 1, 6, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, remove := stuckOutbox(t, c.opts, 6)
			defer s.Close()
			remove()
			st := s.Stats()
			require.Equal(t, c.returned, st.Returned)
			require.Equal(t, c.dropped, st.Dropped["over a bound"])
			require.Equal(t, c.expires, st.Expires, "one for each sender of what does not fit")
			require.Equal(t, c.heldParcels, s.realm.heldParcels.Load())
			require.NoError(t, s.realm.check())
		})
	}
}

// Not even then is a sender told twice.
func TestWhatComesBackIsAnsweredOnceThoughNoRefusalIsRemembered(t *testing.T) {
	s, remove := stuckOutbox(t, Options{MaxHeldBytes: 4}, 6)
	defer s.Close()
	s.realm.expiredPairs.Store(maxExpiredPairs)
	remove()
	require.EqualValues(t, maxExpiredPairs, s.realm.expiredPairs.Load())
	s.realm.expiredPairs.Store(0)
	st := s.Stats()
	require.EqualValues(t, 2, st.Expires)
	require.EqualValues(t, 6, st.Dropped["over a bound"])
	require.NoError(t, s.realm.check())
	require.Empty(t, s.realm.shard("dst").queues, "nothing is left of the queue")
}

func TestTheSendersOfWhatComesBackReadExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, sender, silent := silentRig(t, Options{MaxHeldPerPair: 2, AliveTimeout: -1})
		other := r.connect("other")
		for i := range 3 {
			sender.offer("silent", fmt.Sprint(i))
		}
		other.offer("silent", `0`)
		synctest.Wait()
		start := time.Now()
		silent.conn.Close()
		sender.wantExpire("silent")
		require.Zero(t, time.Since(start), "at once")
		other.wantExpire("silent")
		require.Equal(t, DefaultExpireTimeout, time.Since(start))
		time.Sleep(time.Minute)
		require.Empty(t, sender.frames)
		require.Empty(t, other.frames)
	})
}

func TestAPairMayHoldSoMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxHeldPerPair: 3})
		start := time.Now()
		a, b := r.connect("a"), r.connect("b")
		for i := range 3 {
			a.offer("absent", fmt.Sprint(i))
			b.offer("absent", fmt.Sprint(i))
		}
		a.offer("other", `0`)
		synctest.Wait()
		require.Empty(t, a.frames)
		a.offer("absent", `3`)
		a.wantExpire("absent")
		require.Zero(t, time.Since(start), "at once")
		st := r.srv.Stats()
		require.EqualValues(t, 4, st.Dropped["over a bound"])
		require.EqualValues(t, 1, st.Expires)
		absent := r.connect("absent")
		for i := range 3 {
			absent.wantOffer("b", fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		a.wantExpire("other")
		require.Empty(t, a.frames, "one EXPIRE for the pair")
		require.Empty(t, b.frames)
		require.Empty(t, absent.frames)
	})
}

func TestADestinationMayHaveSoMuchHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxHeldPerDestination: 4})
		start := time.Now()
		a, b, c := r.connect("a"), r.connect("b"), r.connect("c")
		for i := range 2 {
			a.offer("absent", fmt.Sprint(i))
			b.offer("absent", fmt.Sprint(i))
		}
		synctest.Wait() // nothing orders what two clients send
		c.offer("other", `0`)
		c.offer("absent", `0`)
		c.wantExpire("absent")
		b.offer("absent", `2`)
		b.wantExpire("absent") // and what it had waiting is gone
		require.Zero(t, time.Since(start), "at once")
		c.offer("absent", `1`) // there is room again
		absent := r.connect("absent")
		absent.wantOffer("a", `0`)
		absent.wantOffer("a", `1`)
		absent.wantOffer("c", `1`)
		time.Sleep(time.Minute)
		c.wantExpire("other")
		require.Empty(t, a.frames)
		require.Empty(t, b.frames)
		require.Empty(t, c.frames)
		require.Empty(t, absent.frames)
	})
}

func TestAllDestinationsTogetherMayHaveSoMuchHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := len(textFrame([]byte(`{"type":"OFFER","src":"a","dst":"absent0","payload":0}`)))
		r := newBubbleRig(t, Options{MaxHeldBytes: 5 * size})
		start := time.Now()
		a := r.connect("a")
		for i := range 5 {
			a.offer(fmt.Sprint("absent", i), fmt.Sprint(i))
		}
		synctest.Wait()
		require.Empty(t, a.frames)
		require.Equal(t, 5*size, r.srv.Stats().HeldBytes)
		a.offer("absent5", `5`)
		a.wantExpire("absent5")
		require.Zero(t, time.Since(start), "at once")
		absent := r.connect("absent0")
		absent.wantOffer("a", `0`)
		a.offer("absent5", `6`) // there is room again
		synctest.Wait()
		require.Empty(t, a.frames)
		time.Sleep(5 * time.Second)
		for range 5 {
			require.Contains(t, a.next(), `"EXPIRE"`)
		}
		require.Zero(t, r.srv.Stats().HeldBytes)
	})
}

func TestTheBoundOnAllThatIsHeldHoldsForManyAtOnce(t *testing.T) {
	const bound, size, senders, each = 1 << 20, 1 << 10, 16, 200 // three times the bound in all
	r := newRealm(new(Options{MaxHeldBytes: bound}.withDefaults()))
	p := parcel{src: "a", frame: make([]byte, size), deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry}
	for range 5 {
		parallel(senders, func(i int) {
			for n := range each {
				r.route(fmt.Sprint(i, n), p)
				assert.LessOrEqual(t, r.heldBytes.Load(), int64(bound+senders*size), "with what is asked for and not granted")
			}
		})
		require.EqualValues(t, bound, r.heldBytes.Load())
		for i := range senders {
			for n := range each {
				r.ClearMessageQueue(fmt.Sprint(i, n))
			}
		}
		require.NoError(t, r.check())
	}
	r.timers.Wait()
}

// An offer and its candidates are one negotiation: it fails once.
func TestOverABoundThereIsOneExpireForAPair(t *testing.T) {
	for name, opts := range map[string]Options{
		"pair":        {MaxHeldPerPair: 1},
		"destination": {MaxHeldPerDestination: 1},
		"all":         {MaxHeldBytes: 80},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, opts)
				a, b := r.connect("a"), r.connect("b")
				if name != "pair" {
					b.offer("absent", `0`)
				}
				synctest.Wait()
				a.offer("absent", `0`)
				for range 5 {
					a.send(`{"type":"CANDIDATE","dst":"absent"}`)
				}
				a.wantExpire("absent")
				time.Sleep(time.Minute)
				require.Empty(t, a.frames)
			})
		})
	}
}

func TestWithoutBoundsAnyNumberIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{
			MaxHeldPerPair: -1, MaxHeldPerDestination: -1, MaxHeldBytes: -1, MaxOutboxBytes: -1, MaxOutboxMessages: -1,
		})
		a := r.connect("a")
		const n = 2 * DefaultMaxHeldPerDestination
		for i := range n {
			a.offer("absent", fmt.Sprint(i))
		}
		synctest.Wait()
		big := parcel{src: "a", frame: make([]byte, DefaultMaxHeldBytes/2+1), deadline: time.Now().Add(time.Minute), keep: keepUntilExpiry}
		for _, id := range []string{"b", "c", "d"} {
			out, _ := r.srv.realm.route(id, big)
			require.Equal(t, held, out)
		}
		require.Greater(t, r.srv.Stats().HeldBytes, DefaultMaxHeldBytes)
		require.Empty(t, a.frames)
		absent := r.connect("absent")
		for i := range n {
			absent.wantOffer("a", fmt.Sprint(i))
		}
	})
}

// A refusal is remembered under the id that was asked for, which nobody has to pay
// for: so that must not be long.
func TestALongDestinationIsNotRemembered(t *testing.T) {
	s := NewServer(Options{MaxHeldPerDestination: 1})
	defer s.Close()
	route := func(dst, src string) outcome {
		out, _ := s.realm.route(dst, parcel{frame: []byte("f"), src: src, deadline: time.Now().Add(time.Minute), keep: keepUntilExpiry})
		return out
	}
	long := strings.Repeat("d", maxIDBytes+1)
	for _, dst := range []string{long[1:], long} {
		require.Equal(t, held, route(dst, "first"))
		require.Equal(t, notKept, route(dst, "second"))
	}
	require.EqualValues(t, 1, s.realm.expiredPairs.Load(), "an id of the usual length is")
	require.NoError(t, s.realm.check())

	full := NewServer(Options{MaxHeldBytes: 1})
	defer full.Close()
	out, _ := full.realm.route(long, parcel{frame: []byte("frame"), src: "s", keep: keepUntilExpiry})
	require.Equal(t, notKept, out)
	require.Empty(t, full.realm.shard(long).queues)
}
