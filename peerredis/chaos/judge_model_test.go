package chaos

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A model is servers that make no mistake, and clients that come and go, in a time of their own. It makes
// histories for the judge.
type model struct {
	scene
	rng     *rand.Rand
	now     time.Duration
	events  modelEvents
	here    map[string]int // id -> connection that the servers think it has
	queues  map[modelPair][]*message
	waits   []*message // all that waits, in order of arrival
	arrived map[int]time.Duration
	read    map[int]time.Duration
	seqs    map[[2]any]int
}

// A modelPair is a pair on one node: each node lets the messages of its own clients wait.
type modelPair struct {
	node     int
	src, dst string
}

type modelEvent struct {
	at time.Duration
	do func()
}

type modelEvents []modelEvent

func (es modelEvents) Len() int           { return len(es) }
func (es modelEvents) Less(i, j int) bool { return es[i].at < es[j].at }
func (es modelEvents) Swap(i, j int)      { es[i], es[j] = es[j], es[i] }
func (es *modelEvents) Push(e any)        { *es = append(*es, e.(modelEvent)) }
func (es *modelEvents) Pop() any {
	last := len(*es) - 1
	e := (*es)[last]
	*es = (*es)[:last]
	return e
}

func (m *model) after(d time.Duration, do func()) { heap.Push(&m.events, modelEvent{m.now + d, do}) }

func (m *model) some(from, to time.Duration) time.Duration {
	return from + time.Duration(m.rng.Int64N(int64(to-from)))
}

// trip is the time of a frame, which does not overtake the one before.
func (m *model) trip(last map[int]time.Duration, conn int) time.Duration {
	last[conn] = max(last[conn]+1, m.now+m.some(time.Millisecond/5, 20*time.Millisecond))
	return last[conn] - m.now
}

func modelHistory(seed uint64) *History {
	m := &model{scene: newScene(), rng: rand.New(rand.NewPCG(seed, 1)), here: make(map[string]int), queues: make(map[modelPair][]*message),
		arrived: make(map[int]time.Duration), read: make(map[int]time.Duration), seqs: make(map[[2]any]int)}
	for i := range 6 {
		m.after(m.some(0, time.Second), func() { m.connect(fmt.Sprint("id", i)) })
	}
	m.End = time.Minute
	for len(m.events) > 0 {
		e := heap.Pop(&m.events).(modelEvent)
		if m.now = e.at; m.now > m.End {
			break
		}
		e.do()
	}
	return m.History
}

// connect opens a socket, uses it, and comes back some time after its end.
func (m *model) connect(id string) {
	n := len(m.Conns)
	c := &Conn{ID: id, Node: m.rng.IntN(3), Dialed: m.now, Opened: never, Ended: never, EOF: never, Quiet: never, Reset: never}
	m.Conns = append(m.Conns, c)
	m.after(m.trip(m.arrived, n), func() {
		m.here[id] = n
		m.after(m.trip(m.read, n), func() { c.Opened = m.now })
		waits := m.waits
		m.waits = nil
		for _, w := range waits {
			if w.dst != id {
				m.waits = append(m.waits, w)
				continue
			}
			k := modelPair{m.Conns[w.Conn].Node, w.src, w.dst}
			delete(m.queues, k)
			m.deliver(w, n)
		}
		m.after(50*time.Millisecond, func() { m.talk(n) })
		m.after(m.some(time.Second, 40*time.Second), func() { m.disconnect(n) })
	})
}

func (m *model) disconnect(n int) {
	c := m.Conns[n]
	c.Ended, c.Gave = m.now, true
	m.after(m.trip(m.arrived, n), func() {
		delete(m.here, c.ID)
		m.after(m.trip(m.read, n), func() { c.EOF = m.now })
		m.after(m.some(time.Millisecond, 8*time.Second), func() { m.connect(c.ID) })
	})
}

func (m *model) talk(n int) {
	c := m.Conns[n]
	if c.Ended != never {
		return
	}
	dst := fmt.Sprint("id", m.rng.IntN(7)) // id6 is nobody
	for range 1 + m.rng.IntN(4) {
		m.seqs[[2]any{n, dst}]++
		s := Send{n, dst, m.seqs[[2]any{n, dst}], "OFFER", m.now}
		m.Sends = append(m.Sends, s)
		m.after(m.trip(m.arrived, n), func() { m.arrive(&message{Send: &s, src: c.ID, dst: dst}) })
	}
	m.after(m.some(10*time.Millisecond, 1500*time.Millisecond), func() { m.talk(n) })
}

func (m *model) arrive(w *message) {
	if n, ok := m.here[w.dst]; ok {
		m.deliver(w, n)
		return
	}
	k := modelPair{m.Conns[w.Conn].Node, w.src, w.dst}
	m.waits = append(m.waits, w)
	if m.queues[k] = append(m.queues[k], w); len(m.queues[k]) == 1 {
		m.after(expireTimeout+m.some(0, time.Second), func() { m.expirePair(k, w) })
	}
}

func (m *model) deliver(w *message, n int) {
	r := Recv{n, w.Conn, w.Seq, w.Kind, 0}
	m.after(m.trip(m.read, n), func() {
		r.At = m.now
		m.Recvs = append(m.Recvs, r)
	})
}

// expirePair runs for the first message of a pair that waits.
func (m *model) expirePair(k modelPair, first *message) {
	q := m.queues[k]
	if len(q) == 0 || q[0] != first {
		return
	}
	delete(m.queues, k)
	m.waits = slices.DeleteFunc(m.waits, func(w *message) bool { return slices.Contains(q, w) })
	if n, ok := m.here[k.src]; ok {
		e := Expire{n, k.dst, 0}
		m.after(m.trip(m.read, n), func() {
			e.At = m.now
			m.Expires = append(m.Expires, e)
		})
	}
}

func TestServersWithoutMistakesAreNotAccused(t *testing.T) {
	sent, expired := 0, 0
	for seed := range uint64(100) {
		h := modelHistory(seed)
		require.Empty(t, judgePairs(h), "seed %d", seed)
		require.Empty(t, judgeSockets(h), "seed %d", seed)
		sent, expired = sent+len(h.Sends), expired+len(h.Expires)
	}
	t.Logf("%d messages, %d EXPIRE", sent, expired)
	require.Greater(t, expired, 500)
}

// Nothing is asked of a message if its sender's connection ends before its time is over. This is what the
// judge has to see of the rest.
func TestAlmostEveryMistakeIsNoticed(t *testing.T) {
	lasting := func(h *History, conn int, at time.Duration) bool {
		return h.Conns[conn].Ended > at+maxLife && at+maxLife < h.End
	}
	sendOf := func(h *History, r Recv) *Send {
		i := slices.IndexFunc(h.Sends, func(s Send) bool {
			return s.Conn == r.From && s.Dst == h.Conns[r.Conn].ID && s.Seq == r.Seq
		})
		return &h.Sends[i]
	}
	for _, c := range []struct {
		name  string
		least float64
		spoil func(h *History, rng *rand.Rand) bool // reports whether it could
	}{
		{"lost in the place of received", 0.97, func(h *History, rng *rand.Rand) bool {
			i := rng.IntN(len(h.Recvs))
			r := h.Recvs[i]
			h.Recvs = slices.Delete(h.Recvs, i, i+1)
			return lasting(h, r.From, sendOf(h, r).At)
		}},
		{"no EXPIRE", 1, func(h *History, rng *rand.Rand) bool {
			i := rng.IntN(len(h.Expires))
			e := h.Expires[i]
			h.Expires = slices.Delete(h.Expires, i, i+1)
			c := h.Conns[e.Conn]
			return c.Opened < e.At-maxLate && lasting(h, e.Conn, e.At)
		}},
		{"EXPIRE for what was received", 0.95, func(h *History, rng *rand.Rand) bool {
			r := h.Recvs[rng.IntN(len(h.Recvs))]
			s := sendOf(h, r)
			h.Expires = append(h.Expires, Expire{r.From, s.Dst, s.At + expireTimeout + ms(10)})
			return lasting(h, r.From, s.At)
		}},
		{"twice", 1, func(h *History, rng *rand.Rand) bool {
			r := h.Recvs[rng.IntN(len(h.Recvs))]
			r.At += ms(rng.IntN(5000))
			h.Recvs = append(h.Recvs, r)
			return true
		}},
		{"two in the wrong order", 1, func(h *History, rng *rand.Rand) bool {
			i := rng.IntN(len(h.Recvs))
			for j := i + 1; j < min(len(h.Recvs), i+10); j++ {
				if a, b := &h.Recvs[i], &h.Recvs[j]; a.From == b.From && a.Conn == b.Conn {
					a.Seq, b.Seq = b.Seq, a.Seq
					return true
				}
			}
			return false
		}},
		{"EXPIRE a second late", 0.97, func(h *History, rng *rand.Rand) bool {
			e := &h.Expires[rng.IntN(len(h.Expires))]
			e.At += 1600 * time.Millisecond
			c := h.Conns[e.Conn]
			return c.Opened < e.At-maxLate && lasting(h, e.Conn, e.At)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, seen := 0, 0
			for seed := range uint64(60) {
				for try := range uint64(8) {
					h := modelHistory(seed)
					if !c.spoil(h, rand.New(rand.NewPCG(seed, try+100))) {
						continue
					}
					made++
					if len(violations(judgePairs(h))) > 0 {
						seen++
					}
				}
			}
			t.Logf("%d of %d", seen, made)
			require.GreaterOrEqual(t, float64(seen)/float64(cmp.Or(made, 1)), c.least, "%d of %d", seen, made)
			require.Greater(t, made, 50)
		})
	}
}
