package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How an EXPIRE is attributed. It names a pair, not messages: it is for all messages of the pair that
// wait at that moment, and it comes when the oldest of them has waited for ExpireTimeout. So
//
//   - an EXPIRE needs an oldest message: one that was not received, and that was sent between minAge
//     and the limit before. Without one it is for a message that was received too, or a second one
//     for the same messages;
//   - it covers that message and all others of the same connection that were sent up to it and not
//     received. What was sent up to `flight` before it was read may have been on its way: it is covered,
//     or has an EXPIRE of its own;
//   - it does not cover a message that a later one of the same connection has overtaken: order is kept, so
//     the first one had gone by then;
//   - a message to a destination that was connected all the time is not covered by any: it has to come.
//
// Each message that was not received must be covered. Nothing is asked of messages whose sender's
// connection has ended meanwhile: its EXPIRE may have found nobody.
const (
	maxLife  = 6500 * time.Millisecond  // from send to receipt or EXPIRE
	maxLate  = 12500 * time.Millisecond // the same around some faults
	minAge   = 4900 * time.Millisecond  // of the oldest message that an EXPIRE is for
	flight   = 400 * time.Millisecond   // of a frame between client and server, both ways
	presence = time.Second              // how long a destination is connected until everybody knows
	atOnce   = 3 * time.Second          // to a destination that is connected
	sinking  = 300 * time.Millisecond   // what was written so short before a reset may be lost
)

// ofReset excuses what is lost with a connection that the client resets. It is no fault of anybody.
const ofReset = "reset of a socket"

type outcome uint8

const (
	open    outcome = iota
	maybe           // an EXPIRE may have been for it
	covered         // an EXPIRE was for it
	got
)

// A message is a Send with what became of it.
type message struct {
	*Send
	src, dst string
	recvs    []Recv
	outcome
	overtaken time.Duration // when a later one of the connection was received
	limit     time.Duration // for its outcome
}

// A pairJudge judges the messages of one pair.
type pairJudge struct {
	h        *History
	src, dst string
	ms       []*message // in the order in which they were sent
	expires  []Expire   // in the order in which they were read
	found    []Finding
}

type messageKey struct {
	conn int
	dst  string
	seq  int
}

// judgePairs judges all messages.
func judgePairs(h *History) (found []Finding) {
	h.index()
	pairs := make(map[[2]string]*pairJudge)
	at := func(src, dst string) *pairJudge {
		k := [2]string{src, dst}
		if pairs[k] == nil {
			pairs[k] = &pairJudge{h: h, src: src, dst: dst}
		}
		return pairs[k]
	}
	byKey := make(map[messageKey]*message, len(h.Sends))
	for i := range h.Sends {
		s := &h.Sends[i]
		m := &message{Send: s, src: h.Conns[s.Conn].ID, dst: s.Dst, overtaken: never}
		p := at(m.src, m.dst)
		p.ms = append(p.ms, m)
		byKey[messageKey{s.Conn, s.Dst, s.Seq}] = m
	}
	for _, r := range h.Recvs {
		m := byKey[messageKey{r.From, h.Conns[r.Conn].ID, r.Seq}]
		if m == nil || m.Kind != r.Kind {
			found = append(found, Finding{Rule: "not sent", Dst: h.Conns[r.Conn].ID, At: r.At,
				Text: fmt.Sprintf("a %s of connection %d with number %d", r.Kind, r.From, r.Seq)})
			continue
		}
		m.recvs = append(m.recvs, r)
	}
	for _, e := range h.Expires {
		p := at(h.Conns[e.Conn].ID, e.Dst)
		p.expires = append(p.expires, e)
	}
	for _, p := range pairs {
		found = append(found, p.judge()...)
	}
	slices.SortFunc(found, func(a, b Finding) int { return cmp.Compare(a.At, b.At) })
	return found
}

func (p *pairJudge) judge() []Finding {
	slices.SortStableFunc(p.ms, func(a, b *message) int { return cmp.Compare(a.At, b.At) })
	slices.SortStableFunc(p.expires, func(a, b Expire) int { return cmp.Compare(a.At, b.At) })
	for _, m := range p.ms {
		p.receipts(m)
	}
	p.order()
	for _, e := range p.expires {
		p.attribute(e)
	}
	for _, m := range p.ms {
		p.fate(m)
	}
	return p.found
}

// find notes a finding about a message, which a trouble in question may excuse.
func (p *pairJudge) find(rule string, m *message, t Trouble, at time.Duration, format string, args ...any) {
	class := ""
	if t != 0 {
		class = p.h.excuse(m, t)
	}
	p.found = append(p.found, Finding{Rule: rule, Class: class, Src: p.src, Dst: p.dst, At: at, Text: fmt.Sprintf(
		"%s %d of connection %d (node %d), %s to %s, sent at %s", m.Kind, m.Seq, m.Conn, p.h.Conns[m.Conn].Node,
		p.src, p.dst, seconds(m.Send.At)) + ": " + fmt.Sprintf(format, args...)})
}

// receipts judges when, where and how often a message came.
func (p *pairJudge) receipts(m *message) {
	h := p.h
	slices.SortStableFunc(m.recvs, func(a, b Recv) int {
		return cmp.Or(cmp.Compare(h.Conns[a.Conn].Opened, h.Conns[b.Conn].Opened), cmp.Compare(a.At, b.At))
	})
	m.limit = h.limit(m)
	if len(m.recvs) == 0 {
		return
	}
	m.outcome = got
	if len(m.recvs) > 1 {
		p.find("twice", m, Twice, m.recvs[1].At, "on connections %d and %d", m.recvs[0].Conn, m.recvs[1].Conn)
	}
	if r := m.recvs[0]; r.At-m.Send.At > m.limit && m.must() {
		p.find("late", m, 0, r.At, "received after %s", seconds(r.At-m.Send.At))
	}
}

// order judges whether messages came in the order of their connection, and notes what was overtaken.
func (p *pairJudge) order() {
	last := make(map[int]*message) // connection -> the latest message that was received so far
	var rs []*message
	for _, m := range p.ms {
		if m.outcome == got {
			rs = append(rs, m)
		}
	}
	first := func(m *message) (time.Duration, time.Duration) {
		return p.h.Conns[m.recvs[0].Conn].Opened, m.recvs[0].At
	}
	slices.SortStableFunc(rs, func(a, b *message) int {
		ao, aa := first(a)
		bo, ba := first(b)
		return cmp.Or(cmp.Compare(ao, bo), cmp.Compare(aa, ba))
	})
	for _, m := range rs {
		if was := last[m.Conn]; was != nil && was.Seq > m.Seq {
			p.find("order", m, Order, m.recvs[0].At, "received after number %d", was.Seq)
			continue
		}
		last[m.Conn] = m
	}
	soonest := make(map[int]time.Duration)
	for i := len(p.ms) - 1; i >= 0; i-- {
		m := p.ms[i]
		if at, ok := soonest[m.Conn]; ok {
			m.overtaken = at
		}
		if m.outcome == got {
			soonest[m.Conn] = min(m.recvs[0].At, m.overtaken)
		}
	}
}

// attribute finds the messages that an EXPIRE was for.
func (p *pairJudge) attribute(e Expire) {
	slack := p.h.slack(e.At-maxLife, e.At)
	var oldest, early *message
	mine := func(m *message) bool { return m.Conn == e.Conn }
	for _, m := range p.ms {
		age := e.At - m.Send.At
		if !m.must() || age < 0 || m.outcome == covered || m.outcome == got || m.Conn > e.Conn {
			continue
		}
		excused := p.h.excuse(m, Late|Both) != ""
		if age > m.limit || e.At > m.overtaken+flight+slack && !excused {
			continue
		}
		if age < minAge && !excused {
			early = cmp.Or(early, m)
			continue
		}
		if oldest == nil || mine(m) && !mine(oldest) {
			oldest = m
		}
	}
	if oldest == nil {
		p.unexplained(e, early)
		return
	}
	for _, m := range p.ms {
		age := e.At - m.Send.At
		if !m.must() || m.outcome != open && m.outcome != maybe || age < 0 || age > m.limit ||
			e.At > m.overtaken+flight+slack && p.h.excuse(m, Late|Both) == "" {
			continue
		}
		if m.Conn == oldest.Conn && age > flight+slack {
			m.outcome = covered
		} else {
			m.outcome = maybe
		}
	}
	if oldest.outcome == maybe {
		oldest.outcome = covered
	}
}

// unexplained judges an EXPIRE for nothing that is missing.
func (p *pairJudge) unexplained(e Expire, early *message) {
	if early != nil {
		p.find("early EXPIRE", early, Late|Both, e.At, "EXPIRE after %s", seconds(e.At-early.Send.At))
		early.outcome = covered
		return
	}
	for _, m := range p.ms {
		if age := e.At - m.Send.At; m.must() && m.outcome <= maybe && age > m.limit && age <= 2*maxLate && !p.h.senderGone(m) {
			p.find("late EXPIRE", m, 0, e.At, "EXPIRE after %s", seconds(age))
			m.outcome = covered
			return
		}
	}
	for _, m := range p.ms { // read late, because the client had stopped reading
		if m.must() && m.Conn == e.Conn && m.outcome <= maybe && m.Send.At < e.At && p.h.senderGone(m) {
			return
		}
	}
	var last *message // the best candidate for a message that came and expired
	for _, m := range p.ms {
		if age := e.At - m.Send.At; m.must() && age >= 0 && age <= m.limit && m.outcome == got {
			if last == nil || p.h.excuse(m, Both) != "" {
				last = m
			}
		}
	}
	if last != nil {
		p.find("both", last, Both, e.At, "EXPIRE at %s, but nothing of the pair is missing (came at %s)",
			seconds(e.At), seconds(last.recvs[0].At))
		return
	}
	for _, m := range p.ms {
		if age := e.At - m.Send.At; m.must() && m.outcome == covered && age >= 0 && age <= 2*maxLate {
			last = m
		}
	}
	if last != nil {
		p.find("second EXPIRE", last, Both|Twice|Late, e.At, "EXPIRE at %s, but everything missing has expired", seconds(e.At))
		return
	}
	p.found = append(p.found, Finding{Rule: "EXPIRE for nothing", Src: p.src, Dst: p.dst, At: e.At,
		Text: fmt.Sprintf("connection %d: %s to %s", e.Conn, p.src, p.dst)})
}

// fate judges a message by its outcome.
func (p *pairJudge) fate(m *message) {
	if !m.must() {
		return
	}
	h := p.h
	if c := h.presentAt(m); c != nil {
		if m.outcome != got {
			p.find("lost", m, 0, m.Send.At, "%s was connected all the time (node %d), the message did not come%s", p.dst, c.Node,
				map[bool]string{true: ", it expired", false: ""}[m.outcome == covered])
			return
		}
		if took := m.recvs[0].At - m.Send.At; took > atOnce+h.slack(m.Send.At, m.recvs[0].At) {
			p.find("slow", m, 0, m.recvs[0].At, "%s was connected all the time, the message took %s", p.dst, seconds(took))
		}
	}
	if m.outcome != open || h.senderGone(m) || m.Send.At+m.limit > h.End {
		return
	}
	if c := h.sunk(m); c != nil {
		p.found = append(p.found, Finding{Rule: "lost", Class: ofReset, Src: p.src, Dst: p.dst, At: m.Send.At,
			Text: fmt.Sprintf("connection %d, number %d", m.Conn, m.Seq)})
		return
	}
	if m.Kind != "OFFER" && p.continuesExpired(m) {
		return
	}
	p.find("lost", m, Lost, m.Send.At, "neither received nor expired (overtaken: %s)", seconds(m.overtaken))
}

// continuesExpired reports whether a message continues an offer that expired early: it is dropped without
// another EXPIRE. An EXPIRE comes early only around faults.
func (p *pairJudge) continuesExpired(m *message) bool {
	if p.h.excuse(m, Late|Both) == "" {
		return false
	}
	for _, e := range p.expires {
		if e.At-flight <= m.Send.At && m.Send.At-e.At <= maxLife {
			return true
		}
	}
	return false
}
