package peer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What was relayed to a connection that has died, and was not written, is held again. The tests
// of this file are about the bounds that hold for it, which are those for new messages.

// A pile is a rig with clients that read nothing and senders that have sent each of them
// candidates.
type pile struct {
	*rig         // of the senders
	far     *rig // of the stuck clients; the same one, if there is one server
	stuck   []*rawPeer
	senders []*testPeer
}

func stuckID(i int) string { return fmt.Sprint("stuck", i) }

// newPile lets senders send so many candidates each, numbered, to each of the stuck clients: all
// of the first sender, then all of the second.
func newPile(t *testing.T, opts Options, stuck int, each ...int) *pile {
	t.Helper()
	opts.WriteTimeout = -1
	r := newBubbleRig(t, opts)
	return pileOn(t, r, r, stuck, each...)
}

// onPiles is newPile in bubbles: with one server, and with stuck clients on another one than the senders. In
// both cases the bounds are those of the server of the senders.
func onPiles(t *testing.T, opts Options, stuck int, each []int, test func(t *testing.T, p *pile)) {
	opts.WriteTimeout = -1
	onNodesInBubbles(t, opts, func(t *testing.T, r *rig) {
		rs := r.nodes()
		test(t, pileOn(t, rs[0], rs[len(rs)-1], stuck, each...))
	})
}

func pileOn(t *testing.T, r, far *rig, stuck int, each ...int) *pile {
	p := &pile{rig: r, far: far}
	for i := range each {
		p.senders = append(p.senders, p.connect(fmt.Sprint("sender", i)))
	}
	for i := range stuck {
		p.stuck = append(p.stuck, far.rawOpen(smallReads).upgrade(stuckID(i)))
	}
	synctest.Wait()
	for i, n := range each {
		p.candidates(i, 0, n)
	}
	if r == far {
		require.Zero(t, p.srv.Stats().Held)
	}
	require.Zero(t, p.srv.Stats().HeldMessages)
	return p
}

// candidates lets a sender send the candidates from to to-1 to all stuck clients.
func (p *pile) candidates(sender, from, to int) {
	p.t.Helper()
	for n := from; n < to; n++ {
		for i := range p.stuck {
			p.senders[sender].send(fmt.Sprintf(`{"type":"CANDIDATE","dst":%q,"payload":%d}`, stuckID(i), 100+n))
		}
		if p.rig != p.far && n%3 == 2 && p.srv.opts.MaxHeldPerPair >= 0 { // what is not reported yet counts for the bounds
			p.awaitReceipts()
		}
	}
	if p.rig != p.far {
		p.awaitReceipts()
	}
	synctest.Wait()
}

// awaitReceipts waits until the other node has reported what became of what was sent.
func (p *pile) awaitReceipts() {
	time.Sleep(receiptDelay + 4*batchPause)
	synctest.Wait()
}

// candidateSize is the size of such a candidate as a frame.
var candidateSize = len(textFrame([]byte(`{"type":"CANDIDATE","src":"sender0","dst":"stuck0","payload":100}`)))

// die ends the sockets, one after the other.
func (p *pile) die() {
	p.t.Helper()
	for _, s := range p.stuck {
		s.conn.Close()
		synctest.Wait()
		if p.rig != p.far {
			p.awaitReceipts()
		}
	}
	require.Equal(p.t, len(p.senders), p.srv.Stats().Clients)
}

// wantHeld lets a stuck client come back, and wants it to get so many candidates of each sender,
// in order, and nothing else.
func (p *pile) wantHeld(stuck int, each map[int]int) {
	p.t.Helper()
	back := p.far.connect(stuckID(stuck))
	for i := range p.senders {
		for n := range each[i] {
			back.want(fmt.Sprintf(`{"type":"CANDIDATE","src":"sender%d","dst":%q,"payload":%d}`, i, back.id, 100+n))
		}
	}
	synctest.Wait()
	require.Empty(p.t, back.frames)
	back.drop()
	synctest.Wait()
}

// wantExpires wants a sender to have read one EXPIRE for each of these stuck clients, and nothing
// else.
func (p *pile) wantExpires(sender int, stuck ...int) {
	p.t.Helper()
	for _, i := range stuck {
		p.senders[sender].wantExpire(stuckID(i))
	}
	require.Empty(p.t, p.senders[sender].frames)
}

func TestWhatComesBackObeysEveryBound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		opts  Options
		each  []int         // candidates of each sender to each of three clients
		held  []map[int]int // what is held for each of these: sender -> candidates
		loses [][]int       // for each sender the clients that it reads EXPIRE for
	}{
		{"within MaxHeldPerPair", Options{MaxHeldPerPair: 10}, []int{10, 10},
			[]map[int]int{{0: 10, 1: 10}, {0: 10, 1: 10}, {0: 10, 1: 10}}, [][]int{{}, {}}},
		{"over MaxHeldPerPair", Options{MaxHeldPerPair: 10}, []int{11, 10, 30},
			[]map[int]int{{1: 10}, {1: 10}, {1: 10}}, [][]int{{0, 1, 2}, {}, {0, 1, 2}}},
		{"within MaxHeldPerDestination", Options{MaxHeldPerDestination: 20}, []int{10, 10},
			[]map[int]int{{0: 10, 1: 10}, {0: 10, 1: 10}, {0: 10, 1: 10}}, [][]int{{}, {}}},
		{"over MaxHeldPerDestination", Options{MaxHeldPerDestination: 20}, []int{10, 11},
			[]map[int]int{{0: 10}, {0: 10}, {0: 10}}, [][]int{{}, {0, 1, 2}}},
		{"room for a later sender", Options{MaxHeldPerDestination: 20}, []int{10, 15, 10},
			[]map[int]int{{0: 10, 2: 10}, {0: 10, 2: 10}, {0: 10, 2: 10}}, [][]int{{}, {0, 1, 2}, {}}},
		{"within MaxHeldBytes", Options{MaxHeldBytes: 60 * candidateSize}, []int{10, 10},
			[]map[int]int{{0: 10, 1: 10}, {0: 10, 1: 10}, {0: 10, 1: 10}}, [][]int{{}, {}}},
		{"over MaxHeldBytes", Options{MaxHeldBytes: 60*candidateSize - 1}, []int{10, 10},
			[]map[int]int{{0: 10, 1: 10}, {0: 10, 1: 10}, {0: 10}}, [][]int{{}, {2}}},
		{"over MaxHeldBytes by far", Options{MaxHeldBytes: 10 * candidateSize}, []int{10, 10},
			[]map[int]int{{0: 10}, {}, {}}, [][]int{{1, 2}, {0, 1, 2}}},
		{"no bounds", Options{MaxHeldPerPair: -1, MaxHeldPerDestination: -1, MaxHeldBytes: -1}, []int{300, 300},
			[]map[int]int{{0: 300, 1: 300}, {0: 300, 1: 300}, {0: 300, 1: 300}}, [][]int{{}, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onPiles(t, c.opts, 3, c.each, func(t *testing.T, p *pile) {
				start := time.Now()
				p.die()
				held, sent := 0, 0
				for _, each := range c.held {
					for _, n := range each {
						held += n
					}
					for _, n := range c.each {
						sent += n
					}
				}
				st := p.srv.Stats()
				require.EqualValues(t, held, p.srv.realm.heldParcels.Load())
				require.Equal(t, held*candidateSize, st.HeldBytes)
				require.EqualValues(t, sent-held, st.Dropped["over a bound"])
				require.GreaterOrEqual(t, st.Returned, uint64(held), "some of it was dropped later")
				require.NoError(t, p.srv.realm.check())
				for i, stuck := range c.loses {
					p.wantExpires(i, stuck...)
				}
				// What goes on of a negotiation that has failed is not answered again.
				for i, stuck := range c.loses {
					for _, n := range stuck {
						p.senders[i].send(fmt.Sprintf(`{"type":"CANDIDATE","dst":%q,"payload":1}`, stuckID(n)))
					}
				}
				if p.rig == p.far {
					require.Zero(t, time.Since(start))
				}
				for i, each := range c.held {
					p.wantHeld(i, each)
				}
				time.Sleep(time.Minute)
				for i := range p.senders {
					p.wantExpires(i)
				}
				require.Zero(t, p.srv.Stats().HeldBytes)
			})
		})
	}
}

// MaxOutboxBytes bounds what waits for one absent destination. A connection can leave more: what
// had been held for it, and what was relayed to it.
func TestWhatComesBackObeysTheBoundOnBytesOfADestination(t *testing.T) {
	for _, c := range []struct {
		candidates int  // the bound, in candidates
		less       int  // bytes less than that
		fits       bool // what both senders have sent
	}{{20, 0, true}, {20, 1, false}, {15, 0, false}} {
		synctest.Test(t, func(t *testing.T) {
			r := newBubbleRig(t, Options{MaxOutboxBytes: c.candidates*candidateSize - c.less, WriteTimeout: -1})
			p := &pile{rig: r, far: r, senders: []*testPeer{r.connect("sender0"), r.connect("sender1")}}
			p.stuck = []*rawPeer{nil} // it comes later
			p.candidates(0, 0, 10)
			p.stuck[0] = p.rawOpen(smallReads).upgrade(stuckID(0))
			synctest.Wait()
			p.candidates(1, 0, 10)
			p.die()
			if c.fits {
				p.wantHeld(0, map[int]int{0: 10, 1: 10})
			} else {
				p.wantExpires(1, 0)
				p.wantHeld(0, map[int]int{0: 10})
			}
			p.wantExpires(0)
		})
	}
}

func TestWhatCameBackCountsForTheBounds(t *testing.T) {
	onPiles(t, Options{MaxHeldPerPair: 10}, 1, []int{10}, func(t *testing.T, p *pile) {
		p.die()
		p.candidates(0, 10, 11)
		p.wantExpires(0, 0)
		p.candidates(0, 11, 12)
		p.senders[0].offer(stuckID(0), `1`) // is a new question
		synctest.Wait()
		p.wantExpires(0)
		back := p.connect(stuckID(0))
		back.wantOffer("sender0", `1`)
		synctest.Wait()
		require.Empty(t, back.frames)
	})
}

// What came back goes before what has been held meanwhile, and a pair expires with the first
// message of it, wherever that was.
func TestWhatCameBackGoesFirst(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			p := newPile(t, Options{}, 1, 5)
			c := p.srv.Realm().Client(stuckID(0))
			time.Sleep(time.Second)
			c.mu.Lock() // it ends, and is not out of the realm yet
			todo := c.endLocked(ReasonRemoved, nil, nil)
			c.mu.Unlock()
			p.candidates(0, 5, 10)
			require.EqualValues(t, 5, p.srv.Stats().Held)
			c.do(todo)
			synctest.Wait()
			require.EqualValues(t, 10, p.srv.realm.heldParcels.Load())
			if late {
				p.senders[0].wantExpire(stuckID(0))
				require.Equal(t, DefaultExpireTimeout, time.Since(start))
			} else {
				time.Sleep(time.Until(start.Add(DefaultExpireTimeout - 1)))
				p.wantHeld(0, map[int]int{0: 10})
			}
			time.Sleep(time.Minute)
			require.Empty(t, p.senders[0].frames)
			p.stuck[0].conn.Close()
		})
	}
}

// The bound on all messages that are held, whatever their size, holds for what comes back.
func TestWhatComesBackObeysTheBoundOnAllMessages(t *testing.T) {
	t.Parallel()
	const each = 1000
	s := NewServer(Options{
		AliveTimeout: -1, ExpireTimeout: -1, MaxOutboxMessages: -1, MaxOutboxBytes: -1,
		MaxHeldPerPair: -1, MaxHeldPerDestination: -1, MaxHeldBytes: -1,
	})
	src := stubClient(t, s, "src", "t")
	silence(s, src)
	p := parcel{src: "src", frame: textFrame([]byte(`{}`)), deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry, continues: true}
	dies := func(i, n int) {
		c := stubClient(t, s, stuckID(i), "t")
		silence(s, c)
		for range n {
			out, _ := s.realm.route(c.id, p)
			require.Equal(t, delivered, out)
		}
		c.mu.Lock()
		c.endLocked(ReasonConnectionLost, nil, nil)
		c.mu.Unlock()
		s.realm.remove(c)
	}
	const last = maxHeldParcels / each
	for i := range last {
		dies(i, each)
	}
	require.EqualValues(t, maxHeldParcels, s.realm.heldParcels.Load())
	require.Empty(t, src.outbox.parcels)
	dies(last, each)
	require.EqualValues(t, maxHeldParcels, s.realm.heldParcels.Load())
	require.Len(t, src.outbox.parcels, 1, "one EXPIRE for the pair")
	require.EqualValues(t, each, s.Stats().Dropped["over a bound"])

	require.Equal(t, each, s.realm.ClearMessageQueue(stuckID(0)))
	dies(last+1, each-1)
	dies(last+2, 1)
	require.EqualValues(t, maxHeldParcels, s.realm.heldParcels.Load(), "the last one fits")
	dies(last+3, 1)
	require.EqualValues(t, maxHeldParcels, s.realm.heldParcels.Load(), "and one more does not")
	require.NoError(t, s.realm.check())
	for _, sh := range s.realm.close() {
		sh.outbox = outbox{}
	}
}
