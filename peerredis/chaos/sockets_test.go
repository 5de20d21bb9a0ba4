package chaos

import (
	"fmt"
	"time"
)

// Close codes of the server, as docs of the protocol name them.
const (
	codeAway         = 1001
	codePolicy       = 1008
	codeOverridden   = 4001
	codeReplaced     = 4002
	codeUnresponsive = 4003
	codeClaimLost    = 4005
)

// resolve is how long the servers take to decide about an id at most.
const resolve = 12 * time.Second

// judgeSockets judges how sockets began and ended.
func judgeSockets(h *History) (found []Finding) {
	h.index()
	for i, c := range h.Conns {
		if c.Dialed > h.End || c.Opened == never && min(c.Ended, c.EOF) > h.End {
			continue
		}
		note := func(rule string, t Trouble, at time.Duration, node int, format string, args ...any) {
			f := Finding{Rule: rule, Src: c.ID, At: at, Text: fmt.Sprintf("connection %d of %s (node %d, thief: %v, %s to %s): ",
				i, c.ID, c.Node, c.Thief, seconds(c.Dialed), seconds(c.EOF)) + fmt.Sprintf(format, args...)}
			f.Class = h.excuseSocket(t, at, node)
			found = append(found, f)
		}
		switch {
		case c.Opened == never:
			h.judgeRefusal(c, note)
		default:
			if c.Thief {
				h.judgeTheft(c, note)
			}
			if c.EOF < h.End {
				h.judgeEnding(i, c, note)
			}
		}
	}
	return found
}

type noter func(rule string, t Trouble, at time.Duration, node int, format string, args ...any)

// excuseSocket returns a fault that may have done this to a socket. The node everywhere stands for faults of
// any node and of the engine.
func (h *History) excuseSocket(t Trouble, at time.Duration, node int) string {
	for i := range h.Faults {
		f := &h.Faults[i]
		if f.trouble()&t != 0 && f.covers(at-resolve, at) && (node == everywhere || f.Node == node || f.Node == everywhere) {
			return f.Kind
		}
	}
	return ""
}

func (h *History) judgeRefusal(c *Conn, note noter) {
	switch {
	case c.Word == "ID-TAKEN" && c.Thief:
	case c.Word == "ID-TAKEN":
		for _, i := range h.byID[c.ID] {
			if o := h.Conns[i]; o.Thief && o.Dialed <= c.EOF && o.EOF >= c.Dialed-resolve {
				return
			}
		}
		note("own id refused", Refused, c.EOF, everywhere, "ID-TAKEN for the token that has the id")
	case c.Reset != never, c.Gave && c.Ended-c.Dialed < atOnce:
	default:
		word := c.Word
		if word == "" {
			word = fmt.Sprintf("no answer within %s", seconds(min(c.Ended, c.EOF)-c.Dialed))
		}
		if h.slack(c.Dialed, c.Ended) > atOnce {
			return
		}
		note("socket refused", Refused, min(c.Ended, c.EOF), everywhere, "%s", word)
	}
}

// judgeTheft judges a socket that got the id of another token.
func (h *History) judgeTheft(c *Conn, note noter) {
	for _, i := range h.byID[c.ID] {
		o := h.Conns[i]
		if !o.Thief && o.Opened <= c.Dialed-presence && min(o.Ended, o.Quiet, o.EOF) >= c.Opened+presence {
			note("stolen id", Stolen, c.Opened, everywhere, "the owner was connected by connection %d (node %d)", i, o.Node)
		}
	}
}

// judgeEnding judges the end of a socket that was open.
func (h *History) judgeEnding(i int, c *Conn, note noter) {
	switch {
	case c.Gave && (c.Code < 4000 || c.Ended < c.EOF): // the client left, whatever the server said
	case c.Code == codeReplaced:
		for _, j := range h.byID[c.ID] {
			if o := h.Conns[j]; j != i && o.Thief == c.Thief && o.Dialed <= c.EOF && o.EOF+lateEffect(o) >= c.Opened {
				return
			}
		}
		note("replaced by nobody", 0, c.EOF, c.Node, "close code %d", c.Code)
	case c.Code == codeClaimLost:
		rival := false
		for _, j := range h.byID[c.ID] {
			o := h.Conns[j]
			if o.Thief == c.Thief && o.Opened != never && o.Opened > c.Opened && o.Dialed <= c.EOF && c.EOF <= o.Opened+deadAfter {
				return // it was replaced, and its node learned that from the engine
			}
			rival = rival || j != i && o.Dialed <= c.EOF && o.EOF >= c.EOF-2*resolve
		}
		if !rival {
			note("claim lost to nobody", 0, c.EOF, c.Node, "close code %d", c.Code)
			return
		}
		note("claim lost", Stolen, c.EOF, everywhere, "close code %d", c.Code)
	case c.Code == codeUnresponsive:
		if c.Quiet == never {
			h.nodeFault(note, c, "unresponsive", "stop", "stall", "blackhole")
		}
	case c.Code == codePolicy && c.Quiet < c.EOF: // its buffers were full
	case c.Code == codeAway:
		h.nodeFault(note, c, "shut down", "term")
	case c.Code == 0 && c.Quiet < c.EOF: // its buffers were full
	case c.Code == 0:
		h.nodeFault(note, c, "no close frame", "kill", "term")
	default:
		note("closed", 0, c.EOF, c.Node, "close code %d", c.Code)
	}
}

// nodeFault notes an end that only some faults of the socket's node explain. They explain it, so it is no exception then.
func (h *History) nodeFault(note noter, c *Conn, rule string, kinds ...string) {
	for i := range h.Faults {
		f := &h.Faults[i]
		for _, kind := range kinds {
			if f.Kind == kind && f.Node == c.Node && f.covers(c.EOF-settle, c.EOF) {
				return
			}
		}
	}
	note(rule, 0, c.EOF, c.Node, "close code %d", c.Code)
}
