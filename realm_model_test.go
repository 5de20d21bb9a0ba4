package peer

import (
	"fmt"
	"slices"
	"time"
)

// A model says what a server does, in the plainest way: one thing after another,
// without sockets, locks and timers. FuzzRealm holds the server to it.
type model struct {
	override bool
	conns    map[string]*modelConn  // id -> who is connected
	queues   map[string]*modelQueue // id -> what waits for it
	events   map[string][]string    // id -> what the host is told
}

// The bounds of the model and of the server that is held to it.
const (
	modelMaxOutbox  = 4
	modelMaxPerPair = 3
	modelMaxPerDest = 5
)

type modelConn struct {
	id, token string
	blocked   []string // tokens that may not take the id back
	stuck     bool     // reads nothing
	unread    []modelMessage
	given     int // how many of these were there from the start

	// What it has to read before the end, and the code of the end.
	last string
	code int
}

type modelMessage struct {
	src, text string
	keep      retention
	continues bool
	deadline  time.Time
}

type modelQueue struct {
	waits []modelMessage
	told  map[string]time.Time // sender -> until when it is known to have been refused
}

func newModel(override bool) *model {
	return &model{
		override: override, conns: make(map[string]*modelConn),
		queues: make(map[string]*modelQueue), events: make(map[string][]string),
	}
}

// connect returns the connection that a handshake makes, or nil if the id is
// taken, and the one that it takes the place of.
func (m *model) connect(id, token string, stuck bool) (c, old *modelConn) {
	old = m.conns[id]
	inherited := 0
	c = &modelConn{id: id, token: token, stuck: stuck, unread: []modelMessage{{text: `{"type":"OPEN"}`}}}
	if old != nil {
		why, keep := ReasonReplaced, keepForSamePeer
		c.blocked = old.blocked
		if old.token != token {
			if !m.override || slices.Contains(old.blocked, token) {
				return nil, nil
			}
			why, keep = ReasonOverridden, keepForSuccessor
			c.blocked = append(slices.Clone(old.blocked), old.token)
			old.last = `{"type":"OVERRIDE_CONNECTION","payload":{"msg":"Your id was taken over by another connection"}}`
		}
		m.ended(old, why)
		for _, msg := range old.unread {
			if msg.keep >= keep {
				c.unread = append(c.unread, msg)
				inherited++
			}
		}
	}
	if q := m.queues[id]; q != nil {
		c.unread = append(c.unread, q.waits...)
		delete(m.queues, id)
	}
	c.given = len(c.unread) - max(0, inherited-modelMaxOutbox)
	m.conns[id] = c
	m.events[id] = append(m.events[id], "+"+id)
	return c, old
}

// ended notes the end of a connection.
func (m *model) ended(c *modelConn, why DisconnectReason) {
	c.code = map[DisconnectReason]int{
		ReasonLeft: 1000, ReasonClientClosed: 1000, ReasonReplaced: CloseReplaced, ReasonOverridden: CloseOverridden,
		ReasonRemoved: CloseRemoved, ReasonSlowConsumer: 1008,
	}[why]
	m.events[c.id] = append(m.events[c.id], "-"+c.id+" "+why.String())
	delete(m.conns, c.id)
}

// end ends a connection. What it has not read and can wait does.
func (m *model) end(c *modelConn, why DisconnectReason) {
	m.ended(c, why)
	back := slices.DeleteFunc(slices.Clone(c.unread), func(msg modelMessage) bool { return msg.keep != keepUntilExpiry })
	if len(back) == 0 {
		return
	}
	q := m.queue(c.id)
	waits := q.waits
	q.waits = nil
	for _, msg := range back { // each before what waits, and within the same bounds
		if _, told := q.told[msg.src]; told {
			continue
		}
		all := modelQueue{waits: slices.Concat(q.waits, waits)}
		if deadline, n := all.pair(msg.src); len(all.waits) < modelMaxPerDest && n < modelMaxPerPair {
			q.waits = append(q.waits, msg)
		} else {
			if n == 0 {
				deadline = msg.deadline
			}
			q.drop(msg.src)
			waits = slices.DeleteFunc(waits, func(w modelMessage) bool { return w.src == msg.src })
			q.told[msg.src] = deadline
			defer m.expire(c.id, msg.src)
		}
	}
	q.waits = append(q.waits, waits...)
}

func (m *model) queue(id string) *modelQueue {
	if m.queues[id] == nil {
		m.queues[id] = &modelQueue{told: make(map[string]time.Time)}
	}
	return m.queues[id]
}

// route gives a message to its destination, or lets it wait.
func (m *model) route(dst string, msg modelMessage) {
	c := m.conns[dst]
	if c != nil && len(c.unread)-c.given < modelMaxOutbox {
		c.unread = append(c.unread, msg)
		return
	}
	if msg.keep == keepUntilExpiry {
		m.hold(dst, msg)
	}
	if c != nil {
		m.end(c, ReasonSlowConsumer)
	}
}

func (m *model) hold(dst string, msg modelMessage) {
	q := m.queue(dst)
	if _, told := q.told[msg.src]; told {
		if msg.continues {
			return
		}
		delete(q.told, msg.src)
	}
	deadline, n := q.pair(msg.src)
	if len(q.waits) < modelMaxPerDest && n < modelMaxPerPair {
		q.waits = append(q.waits, msg)
		return
	}
	if n == 0 {
		deadline = msg.deadline
	}
	q.drop(msg.src)
	q.told[msg.src] = deadline
	m.expire(dst, msg.src)
}

// pair returns the deadline of what src has waiting, and how much that is.
func (q *modelQueue) pair(src string) (deadline time.Time, n int) {
	for _, msg := range q.waits {
		if msg.src == src {
			if n == 0 || msg.deadline.Before(deadline) {
				deadline = msg.deadline
			}
			n++
		}
	}
	return deadline, n
}

func (q *modelQueue) drop(src string) {
	q.waits = slices.DeleteFunc(q.waits, func(msg modelMessage) bool { return msg.src == src })
}

// expire tells src that what it sent to dst came to nothing.
func (m *model) expire(dst, src string) {
	m.route(src, modelMessage{text: fmt.Sprintf(`{"type":"EXPIRE","src":%q,"dst":%q}`, dst, src), keep: keepForSuccessor})
}

// clear drops what waits for an id and returns how much that was.
func (m *model) clear(id string) int {
	q := m.queues[id]
	if q == nil {
		return 0
	}
	delete(m.queues, id)
	var told []string
	for _, msg := range q.waits {
		if !slices.Contains(told, msg.src) {
			told = append(told, msg.src)
			m.expire(id, msg.src)
		}
	}
	return len(q.waits)
}

// tick lets everything expire whose time has come, the oldest first.
func (m *model) tick(now time.Time) {
	for {
		var dst, src string
		next := now.Add(1)
		for id, q := range m.queues {
			for s, until := range q.told {
				if until.Before(next) {
					dst, src, next = id, s, until
				}
			}
			for _, msg := range q.waits {
				if msg.deadline.Before(next) {
					dst, src, next = id, msg.src, msg.deadline
				}
			}
		}
		if dst == "" {
			return
		}
		q := m.queues[dst]
		if _, told := q.told[src]; told {
			delete(q.told, src)
		} else {
			q.drop(src)
			m.expire(dst, src)
		}
		if len(q.waits)+len(q.told) == 0 && m.queues[dst] == q {
			delete(m.queues, dst)
		}
	}
}

// heldBytes is the size of all that waits, as frames.
func (m *model) heldBytes() (n int) {
	for _, q := range m.queues {
		for _, msg := range q.waits {
			n += len(textFrame([]byte(msg.text)))
		}
	}
	return n
}
