//go:build linux

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A report is the result of a run.
type report struct {
	w       *world
	cfg     runConfig
	history *History
	found   []Finding
	times   [2][]time.Duration // of messages to somebody connected, without a fault in between: on one node, across
}

const (
	maxExceptions = 0.001 // of all messages
	aroundFinding = 20 * time.Second
	shownEach     = 3  // exceptions of each class
	maxPrinted    = 12 // violations with all details
)

// judgeTotals judges what is of the run as a whole.
func (r *report) judgeTotals() (found []Finding) {
	r.measure()
	h := r.history
	note := func(rule, format string, args ...any) {
		found = append(found, Finding{Rule: rule, At: h.End, Text: fmt.Sprintf(format, args...)})
	}
	n := 0
	for _, f := range r.found {
		if f.Class != "" && f.Class != ofReset && (f.Rule == "lost" || f.Rule == "both" || f.Rule == "twice") {
			n++
		}
	}
	if float64(n) > maxExceptions*float64(len(h.Sends))+1 {
		note("exceptions", "%d of %d messages", n, len(h.Sends))
	}
	if p99 := quantile(r.times[0], 0.99); *p99Flag > 0 && p99 > *p99Flag {
		note("p99", "%v between clients of one node", p99)
	}
	if len(h.Recvs) == 0 {
		note("traffic", "no message was received")
	}
	return found
}

// measure fills times. What the judge's own process was late is taken off.
func (r *report) measure() {
	h := r.history
	h.index()
	sends := make(map[messageKey]*Send, len(h.Sends))
	for i := range h.Sends {
		s := &h.Sends[i]
		sends[messageKey{s.Conn, s.Dst, s.Seq}] = s
	}
	for _, v := range h.Recvs {
		s := sends[messageKey{v.From, h.Conns[v.Conn].ID, v.Seq}]
		if s == nil {
			continue
		}
		m := &message{Send: s, src: h.Conns[s.Conn].ID, dst: s.Dst}
		c := h.presentAt(m)
		if c == nil {
			continue
		}
		across := 0
		if c.Node != h.Conns[s.Conn].Node {
			across = 1
		}
		took := v.At - s.At
		if took > 10*time.Millisecond {
			took = max(0, took-h.slack(s.At, v.At)/2)
		}
		r.times[across] = append(r.times[across], took)
	}
	for _, t := range r.times {
		slices.Sort(t)
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(10 * time.Microsecond)
}

// print writes the result to the log of the test.
func (r *report) print() {
	h, logf := r.history, r.w.t.Logf
	for i := range h.Faults {
		logf("fault: %v", &h.Faults[i])
	}
	bad := violations(r.found)
	for i, f := range bad {
		if i == maxPrinted {
			logf("%d more violations:", len(bad)-i)
		}
		logf("%v", f)
		if i < maxPrinted {
			logf("%s", r.circumstances(f))
		}
	}
	shown := make(map[string]int)
	for _, f := range r.found {
		if k := f.Rule + "/" + f.Class; f.Class != "" {
			if shown[k]++; shown[k] <= shownEach {
				logf("%v", f)
			}
		}
	}
	logf("%s", r.summary())
}

// summary is one line.
func (r *report) summary() string {
	h := r.history
	faults, classes, rules := map[string]int{}, map[string]int{}, map[string]int{}
	for _, f := range h.Faults {
		faults[f.Kind]++
	}
	for _, f := range r.found {
		if f.Class != "" {
			classes[f.Rule+" by "+f.Class]++
		} else {
			rules[f.Rule]++
		}
	}
	opened, lag := 0, time.Duration(0)
	for _, c := range h.Conns {
		if c.Opened != never {
			opened++
		}
	}
	for _, l := range h.Lags {
		lag = max(lag, l.By)
	}
	return fmt.Sprintf("SUMMARY store=%s nodes=%d clients=%d seed=%d duration=%v sent=%d received=%d expires=%d sockets=%d opened=%d "+
		"faults={%s} exceptions={%s} violations={%s} counts={%s} local p50=%v p99=%v across p50=%v p99=%v judge late by %v at most",
		r.cfg.store, r.cfg.nodes, r.cfg.clients, r.cfg.seed, r.cfg.duration, len(h.Sends), len(h.Recvs), len(h.Expires), len(h.Conns), opened,
		list(faults), list(classes), list(rules), list(r.w.notes.counts), quantile(r.times[0], .5), quantile(r.times[0], .99),
		quantile(r.times[1], .5), quantile(r.times[1], .99), lag.Round(time.Millisecond))
}

func list(counts map[string]int) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		s = append(s, fmt.Sprintf("%s: %d", k, counts[k]))
	}
	return strings.Join(s, ", ")
}

// circumstances are what happened around a finding: faults, sockets and messages of both ids, and the logs of the nodes.
func (r *report) circumstances(f Finding) string {
	h := r.history
	from, to := f.At-aroundFinding, f.At+aroundFinding
	var b strings.Builder
	for i := range h.Faults {
		if g := &h.Faults[i]; g.covers(from, to) {
			fmt.Fprintf(&b, "    fault: %v\n", g)
		}
	}
	for i, c := range h.Conns {
		if (c.ID == f.Src || c.ID == f.Dst) && c.Dialed <= to && c.EOF >= from {
			fmt.Fprintf(&b, "    connection %d of %s, node %d: dialed %s, open %s, ended %s, eof %s, quiet %s, reset %s, left %v, code %d %s, thief %v\n",
				i, c.ID, c.Node, seconds(c.Dialed), seconds(c.Opened), seconds(c.Ended), seconds(c.EOF), seconds(c.Quiet), seconds(c.Reset),
				c.Gave, c.Code, c.Word, c.Thief)
		}
	}
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	if f.Dst != "" {
		for _, s := range h.Sends {
			if h.Conns[s.Conn].ID == f.Src && s.Dst == f.Dst {
				lines = append(lines, line{s.At, fmt.Sprintf("sent %s %d on %d", s.Kind, s.Seq, s.Conn)})
			}
		}
		for _, v := range h.Recvs {
			if h.Conns[v.Conn].ID == f.Dst && h.Conns[v.From].ID == f.Src {
				lines = append(lines, line{v.At, fmt.Sprintf("got %s %d of %d on %d", v.Kind, v.Seq, v.From, v.Conn)})
			}
		}
		for _, e := range h.Expires {
			if h.Conns[e.Conn].ID == f.Src && e.Dst == f.Dst {
				lines = append(lines, line{e.At, fmt.Sprintf("EXPIRE on %d", e.Conn)})
			}
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	for _, l := range lines {
		if l.at >= from && l.at <= to {
			fmt.Fprintf(&b, "    %s %s\n", seconds(l.at), l.text)
		}
	}
	if f.Rule == "rooms" && f.Dst != "" {
		for _, id := range []string{f.Src, f.Dst} {
			for _, c := range r.w.clients {
				if c.id == id {
					for _, l := range c.toldOf(f.Dst, from-aroundFinding) {
						fmt.Fprintf(&b, "    %s was told at %s\n", id, l)
					}
				}
			}
		}
	}
	if f.Src != "" || f.Dst != "" {
		for _, n := range r.w.cluster.nodes {
			b.WriteString(n.about(from, to, f.Src, f.Dst))
		}
	}
	return b.String()
}
