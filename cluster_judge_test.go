package peer

import (
	"cmp"
	"slices"
	"time"
)

// judge judges what became of all messages.
func (w *theatre) judge(p scene) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pairs := make(map[[2]string][]*stageMessage)
	for _, m := range w.messages {
		pair := [2]string{w.conns[m.conn].id, m.dst}
		pairs[pair] = append(pairs[pair], m)
		if len(m.got) > 1 && !p.twice {
			w.t.Errorf("%v came %d times: %v", m.offerKey, len(m.got), m.got)
		}
	}
	for pair, ms := range pairs {
		slices.SortFunc(ms, func(a, b *stageMessage) int {
			return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.conn, b.conn), cmp.Compare(a.n, b.n))
		})
		if !p.order {
			w.judgeOrder(ms)
		}
		w.judgeFates(p, ms, w.expires[pair])
	}
}

// judgeOrder judges the messages of a pair by their numbers, as they came.
func (w *theatre) judgeOrder(ms []*stageMessage) {
	var came []*stageMessage
	for _, m := range ms {
		if len(m.got) > 0 {
			came = append(came, m)
		}
	}
	slices.SortFunc(came, func(a, b *stageMessage) int {
		opened := func(m *stageMessage) int { return w.conns[m.got[0].conn].opened }
		return cmp.Or(cmp.Compare(opened(a), opened(b)), cmp.Compare(a.got[0].place, b.got[0].place))
	})
	last := make(map[int]*stageMessage) // connection of the sender -> the latest that came
	for _, m := range came {
		if before := last[m.conn]; before != nil && before.n > m.n {
			w.t.Errorf("%v came after %v: %v, %v", m.offerKey, before.offerKey, m.got, before.got)
			w.tell(m.conn, m.got[0].conn, before.got[0].conn)
		}
		last[m.conn] = m
	}
}

// tell says what is known of connections.
func (w *theatre) tell(conns ...int) {
	for _, i := range conns {
		c := w.conns[i]
		w.t.Logf("connection %d: %s on node %d, from %s to %s, slow: %v",
			i, c.id, c.node, c.began.Sub(w.began()), c.end.Sub(w.began()), c.slow)
	}
}

// judgeFates judges the messages of a pair, in the order in which they were sent, and the EXPIRE for them.
func (w *theatre) judgeFates(p scene, ms []*stageMessage, expires []time.Time) {
	slices.SortFunc(expires, time.Time.Compare)
	for i, at := range expires { // each is for something that did not come
		missing := 0
		for _, m := range ms {
			if len(m.got) == 0 && !m.at.After(at) {
				missing++
			}
		}
		if missing <= i && !p.both {
			w.t.Errorf("%s to %s: EXPIRE %d of %d after %s, but only %d messages are missing by then",
				w.conns[ms[0].conn].id, ms[0].dst, i+1, len(expires), at.Sub(w.began()), missing)
		}
	}
	for _, m := range ms {
		limit := stageLimit
		if w.conns[m.conn].slow { // it reads the EXPIRE some time
			limit += 4 * stageStall
		}
		end := w.conns[m.conn].end
		if end.IsZero() {
			end = time.Now()
		}
		if len(m.got) > 0 || p.lost || end.Sub(m.at) < limit {
			continue
		}
		if !slices.ContainsFunc(expires, func(at time.Time) bool { return !at.Before(m.at) && at.Sub(m.at) < limit }) {
			w.t.Errorf("%v was sent after %s, and has neither come nor expired: %v",
				m.offerKey, m.at.Sub(w.began()), expires)
			w.tell(m.conn)
		}
	}
}
