package chaos

import "time"

// touches reports whether a message has to do with a node: its sender is there, or its destination is
// or was.
func (h *History) touches(m *message, node int) bool {
	if node == everywhere || h.Conns[m.Conn].Node == node {
		return true
	}
	for _, i := range h.byID[m.dst] {
		c := h.Conns[i]
		if c.Node == node && c.Dialed <= m.Send.At+maxLate && c.EOF >= m.Send.At-maxLate {
			return true
		}
	}
	return false
}

// excuse returns the fault that may have done this to a message, or "".
func (h *History) excuse(m *message, t Trouble) string {
	if c := h.local(m); c != nil && t&^Late != 0 {
		return h.localExcuse(m, t, c.Node)
	}
	for i := range h.Faults {
		f := &h.Faults[i]
		if f.trouble()&t != 0 && f.covers(m.Send.At, m.Send.At+maxLife) && h.touches(m, f.Node) {
			return f.Kind
		}
	}
	return ""
}

// localExcuse is excuse for two clients of one node: they do not need the engine.
func (h *History) localExcuse(m *message, t Trouble, node int) string {
	for i := range h.Faults {
		f := &h.Faults[i]
		if !f.ofEngine() && f.Node == node && f.trouble()&t != 0 && f.covers(m.Send.At, m.Send.At+maxLife) {
			return f.Kind
		}
	}
	return ""
}

// limit is how long the outcome of a message may take.
func (h *History) limit(m *message) time.Duration {
	limit := maxLife
	if h.excuse(m, Late) != "" {
		limit = maxLate
	}
	for i := range h.Faults {
		// A node that stands still has the message in a buffer of the system, and its time begins later.
		f := &h.Faults[i]
		if (f.Kind == "stop" || f.Kind == "stall") && f.covers(m.Send.At, m.Send.At+limit) && h.touches(m, f.Node) {
			limit += f.To - f.From
		}
	}
	limit += h.unread(m, limit)
	return limit + h.slack(m.Send.At, m.Send.At+limit)
}

// unread is how long a destination that does not read keeps a message. The server has accepted it for the
// socket that it takes for connected, and passes it on to the next one. When that is depends on the client.
func (h *History) unread(m *message, within time.Duration) (most time.Duration) {
	for _, i := range h.byID[m.dst] {
		c := h.Conns[i]
		from := max(c.Quiet, m.Send.At)
		if c.Opened == never || c.Quiet > m.Send.At+within || c.EOF <= m.Send.At {
			continue
		}
		to := c.EOF
		for _, j := range h.byID[m.dst] {
			if next := h.Conns[j]; next.Opened != never && next.Opened > c.Opened {
				to = min(to, max(from, next.Opened))
			}
		}
		most = max(most, min(to, h.End)-from)
	}
	return most
}

// senderGone reports whether the sender's connection ended before the outcome had to be there.
func (h *History) senderGone(m *message) bool {
	c := h.Conns[m.Conn]
	return min(c.Ended, c.Quiet) <= m.Send.At+m.limit
}

// holder returns the socket of the destination that had been open for a while when m was sent, and
// stayed open, if nobody else had the id around that time.
func (h *History) holder(m *message) *Conn {
	from, to := m.Send.At-presence, m.Send.At+atOnce
	if s := h.Conns[m.Conn]; min(s.Ended, s.Quiet) < to || to > h.End {
		return nil
	}
	var there *Conn
	for _, i := range h.byID[m.dst] {
		switch c := h.Conns[i]; {
		case c.Opened <= from && min(c.Ended, c.Quiet) >= to:
			if there != nil {
				return nil
			}
			there = c
		case c.Thief && c.Opened == never && c.Word != "":
			// It was refused.
		case c.Dialed <= to && c.EOF+lateEffect(c) >= from:
			return nil
		}
	}
	return there
}

// lateEffect is how long after its end a socket may still change who has the id: a claim whose client
// has gone is decided all the same.
func lateEffect(c *Conn) time.Duration {
	if c.Opened == never && !c.Thief {
		return resolve
	}
	return presence
}

// local returns the holder if it is on the node of the sender.
func (h *History) local(m *message) *Conn {
	if c := h.holder(m); c != nil && c.Node == h.Conns[m.Conn].Node {
		return c
	}
	return nil
}

// joining is how long a client that has just connected may wait for the engine: it asks to join two rooms, one after
// the other, and what it sends behind that waits.
const joining = 4500 * time.Millisecond

// presentAt returns the holder, if no fault explains that a message does not reach it.
func (h *History) presentAt(m *message) *Conn {
	c := h.holder(m)
	if c == nil {
		return nil
	}
	isLocal := c.Node == h.Conns[m.Conn].Node
	for i := range h.Faults {
		f := &h.Faults[i]
		if !f.covers(m.Send.At, m.Send.At+atOnce) {
			continue
		}
		if !isLocal && f.ofEngine() || h.touches(m, f.Node) && !f.ofEngine() {
			return nil
		}
		if f.ofEngine() && m.Send.At-h.Conns[m.Conn].Opened < joining {
			return nil
		}
	}
	return c
}

// sunk returns a socket that took the message with it: it was reset while the message could be on its way.
func (h *History) sunk(m *message) *Conn {
	slack := h.slack(m.Send.At, m.Send.At+m.limit)
	for _, i := range h.byID[m.dst] {
		c := h.Conns[i]
		if c.Reset == never || c.Opened == never && c.Reset-c.Dialed < sinking+slack {
			continue
		}
		since := c.Reset - max(m.Send.At, c.Dialed)
		if since >= -sinking-slack && since <= sinking+slack+h.faultSlack(c) {
			return c
		}
	}
	return nil
}

// faultSlack is how much later messages may come to a socket because of faults.
func (h *History) faultSlack(c *Conn) time.Duration {
	for i := range h.Faults {
		if h.Faults[i].covers(c.Reset-maxLife, c.Reset) {
			return maxLife
		}
	}
	return 0
}
