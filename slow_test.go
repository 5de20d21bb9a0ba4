package peer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// flooders is how many clients send to one that does not read.
const flooders = 200

// floodInABubble lets all flooders send to a client that reads nothing at all, so
// that nothing is written to it, until it has been closed for that. Each sends
// each offers, numbered.
func floodInABubble(t *testing.T, opts Options, each int) (r *rig, senders []*testPeer) {
	t.Helper()
	opts.WriteTimeout = -1
	r = newBubbleRig(t, opts)
	rec := watch(r.srv)
	stuck := r.rawOpen(smallReads).upgrade("stuck")
	rec.wait(t, 1)
	for i := range flooders {
		senders = append(senders, r.connect(fmt.Sprint("sender", i)))
	}
	for n := range each {
		parallel(flooders, func(i int) { senders[i].offer("stuck", fmt.Sprint(n)) })
	}
	synctest.Wait()
	require.Equal(t, "-stuck slow consumer", rec.last(t, 2+flooders))
	require.Len(t, rec.all(), 2+flooders, "nobody else has gone")
	stuck.wantClose(1008)
	stuck.conn.Close()
	return r, senders
}

// noHeldBounds is for tests in which everything must be held.
var noHeldBounds = Options{
	MaxOutboxMessages: 300, MaxOutboxBytes: -1, MaxHeldPerPair: -1, MaxHeldPerDestination: -1,
}

func TestWhatASlowClientWasNotSentExpiresOncePerSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = 5
		start := time.Now()
		r, senders := floodInABubble(t, noHeldBounds, each)
		st := r.srv.Stats()
		require.EqualValues(t, each*flooders, st.Returned+st.Held, "all of it waits")
		time.Sleep(4 * time.Second)
		for _, p := range senders {
			require.Empty(t, p.frames)
		}
		for _, p := range senders {
			p.wantExpire("stuck")
			require.Equal(t, DefaultExpireTimeout, time.Since(start), "of the first message, wherever it was since then")
		}
		time.Sleep(time.Minute)
		for _, p := range senders {
			require.Empty(t, p.frames)
		}
		require.EqualValues(t, each*flooders, r.srv.Stats().Dropped["expired"])
		require.Zero(t, r.srv.Stats().HeldBytes)
	})
}

func TestWhatASlowClientWasNotSentReachesItsSuccessorInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = 5
		r, senders := floodInABubble(t, noHeldBounds, each)
		next := r.connect("stuck")
		senders[0].offer("stuck", fmt.Sprint(each)) // while next has all the rest before it
		got := make(map[string]int)
		for range each*flooders + 1 {
			var m struct {
				Src     string
				Payload int
			}
			require.NoError(t, json.Unmarshal([]byte(next.next()), &m))
			require.Equal(t, got[m.Src], m.Payload, "from %s", m.Src)
			got[m.Src]++
		}
		require.Len(t, got, flooders)
		time.Sleep(time.Minute)
		for _, p := range append(senders, next) {
			require.Empty(t, p.frames)
		}
		require.Zero(t, total(r.srv.Stats().Dropped))
	})
}

// With the bounds on what is held, too, every message is either delivered or
// dropped, and no sender of a dropped one is left without an answer.
func TestNothingSentToASlowClientIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = 10
		r, senders := floodInABubble(t, Options{MaxOutboxMessages: 300, MaxHeldPerPair: 8, MaxHeldPerDestination: 500}, each)
		next := r.connect("stuck")
		time.Sleep(time.Minute)
		delivered := make(map[string]int)
		for len(next.frames) > 0 {
			var m struct{ Src string }
			require.NoError(t, json.Unmarshal([]byte(next.next()), &m))
			delivered[m.Src]++
		}
		dropped := uint64(0)
		for _, p := range senders {
			if missing := each - delivered[p.id]; missing > 0 {
				dropped += uint64(missing)
				require.NotEmpty(t, p.frames, "%s misses %d messages without an answer", p.id, missing)
				p.wantExpire("stuck")
			}
		}
		require.Equal(t, dropped, total(r.srv.Stats().Dropped))
		require.NotZero(t, dropped)
	})
}

// An id that is taken over again and again, and never read, must not gather more
// and more.
func TestTakeoversDoNotGrowAnOutbox(t *testing.T) {
	for name, opts := range map[string]Options{
		"messages": {MaxOutboxMessages: 20, MaxOutboxBytes: -1},
		"bytes":    {MaxOutboxMessages: -1, MaxOutboxBytes: 2000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, opts)
				sender := r.connect("sender")
				for range 10 {
					p := r.rawOpen()
					p.write([]byte(handshakeFor(socketTarget("a", "token"))))
					require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
					defer p.conn.Close()
					synctest.Wait()
					c := r.srv.Realm().Client("a")
					for range 15 {
						sender.offer("a", `"of about a hundred bytes, with all that is around it as it is sent"`)
						synctest.Wait()
						if c.Reason() == ReasonSlowConsumer {
							return
						}
						c.mu.Lock()
						if opts.MaxOutboxMessages > 0 {
							require.LessOrEqual(t, len(c.outbox.parcels), 2*opts.MaxOutboxMessages+1)
						} else { // and OPEN
							require.LessOrEqual(t, c.outbox.bytes, 2*opts.MaxOutboxBytes+len(openFrame))
						}
						c.mu.Unlock()
					}
				}
				t.Fatal("it has not been closed")
			})
		})
	}
}

// A flood is what many clients send to one over real sockets.
type flood struct {
	senders []*rawPeer
	stop    atomic.Bool
	done    sync.WaitGroup
	answers atomic.Int64
}

// flood connects n clients each of which sends so many messages a second to dst
// until it is told to stop, and reads what comes back.
func (r *rig) flood(n int, dst string, rate int) *flood {
	f := new(flood)
	for i := range n {
		f.senders = append(f.senders, r.rawOpen().open(fmt.Sprint("flooder", i)))
	}
	text, _ := offerOfSize(dst, 2<<10)
	frame := rawTextFrame(text)
	for _, p := range f.senders {
		f.done.Go(func() {
			for {
				if _, _, err := p.read(); err != nil {
					return
				}
				f.answers.Add(1)
			}
		})
		f.done.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(rate))
			defer tick.Stop()
			for !f.stop.Load() && p.tryWrite(frame) == nil {
				<-tick.C
			}
		})
	}
	return f
}

// end stops the flood and waits until it has.
func (f *flood) end() {
	f.stop.Store(true)
	for _, p := range f.senders {
		p.conn.Close()
	}
	f.done.Wait()
}

func TestAFloodedClientThatDoesNotReadIsClosedAlone(t *testing.T) {
	t.Parallel()
	const messages, bytes = 128, 256 << 10
	r := newRig(t, Options{MaxOutboxMessages: messages, MaxOutboxBytes: bytes, MaxHeldBytes: bytes})
	rec := watch(r.srv)
	by := r.bystanders()
	r.rawOpen(smallReads).upgrade("stuck")
	rec.wait(t, 3)
	stuck := r.srv.Realm().Client("stuck")
	stuck.socket.conn.(*net.TCPConn).SetWriteBuffer(16 << 10) // else the system takes megabytes
	f := r.flood(flooders, "stuck", 20)
	defer f.end()
	ended := func() bool { return slices.Contains(rec.all(), "-stuck slow consumer") }
	bounded := func() {
		stuck.mu.Lock()
		defer stuck.mu.Unlock()
		require.LessOrEqual(t, len(stuck.outbox.parcels), messages+1)
		require.LessOrEqual(t, stuck.outbox.bytes, bytes)
		require.LessOrEqual(t, r.srv.Stats().HeldBytes, bytes)
	}
	for start := time.Now(); !ended(); {
		by.talk()
		bounded()
		require.Less(t, time.Since(start), waitLimit)
	}
	before := f.answers.Load()
	for f.answers.Load() < before+2*flooders { // the flood goes on, to an absent id
		by.talk()
		bounded()
	}
	f.stop.Store(true)
	for _, line := range rec.all() {
		assert.True(t, strings.HasPrefix(line, "+") || line == "-stuck slow consumer", line)
	}
	for i := range flooders {
		require.NotNil(t, r.srv.Realm().Client(fmt.Sprint("flooder", i)))
	}
}

// BenchmarkBystandersOfAFloodedClient measures how long messages of unrelated
// pairs take while 200 clients send 50 messages a second each to one that does
// not read, and comes back whenever it has been closed for that.
func BenchmarkBystandersOfAFloodedClient(b *testing.B) {
	const pairs, warmup, rate = 4, 2000, 50
	r := newRig(b, Options{})
	from, to := make([]*testPeer, pairs), make([]*testPeer, pairs)
	for i := range pairs {
		from[i], to[i] = r.connect(fmt.Sprint("from", i)), r.connect(fmt.Sprint("to", i))
	}
	var took []time.Duration
	once := func(i int) {
		start := time.Now()
		from[i%pairs].offer(to[i%pairs].id, `1`)
		to[i%pairs].wantOffer(from[i%pairs].id, `1`)
		took = append(took, time.Since(start))
	}
	report := func(name string, took []time.Duration) {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"-p99-µs")
	}
	for i := range warmup {
		once(i)
	}
	before := took
	took = nil
	var closed atomic.Int64
	again := make(chan struct{}, 1)
	again <- struct{}{}
	r.srv.OnDisconnect(func(c *Client, why DisconnectReason) {
		if c.ID() == "stuck" {
			closed.Add(1)
			again <- struct{}{}
		}
	})
	stopped := make(chan struct{})
	go func() {
		for {
			select {
			case <-again:
				r.rawOpen(smallReads).upgrade("stuck")
			case <-stopped:
				return
			}
		}
	}()
	f := r.flood(flooders, "stuck", rate)
	for i := 0; b.Loop(); i++ {
		once(i)
	}
	report("before", before)
	report("during", took)
	b.ReportMetric(float64(closed.Load()), "closed")
	close(stopped)
	f.end()
}

// What waits for a slow client takes the memory that it counts for, or little more:
// the buffers of the pool are larger than most messages.
func TestABacklogKeepsFewBuffersOfThePool(t *testing.T) {
	s := NewServer(Options{MaxOutboxMessages: -1, AliveTimeout: -1})
	c := stubClient(t, s, "slow", "t")
	silence(s, c)
	sent := make([][]byte, 2*longOutbox)
	for i := range sent {
		frame, buf := frameBuffer(pooledFrame / 2)
		require.NotNil(t, buf)
		sent[i] = fmt.Appendf(frame, "%0*d", pooledFrame/2, i)
		_, err := c.enqueue(parcel{frame: sent[i], buf: buf, src: "src", keep: keepUntilExpiry})
		require.NoError(t, err)
		sent[i] = bytes.Clone(sent[i])
	}
	for i, p := range c.outbox.parcels {
		require.Equal(t, i < longOutbox, p.buf != nil)
		require.Equal(t, sent[i], p.frame)
	}
}
