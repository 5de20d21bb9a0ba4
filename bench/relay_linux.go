package main

import (
	"bytes"
	"fmt"
	"time"
)

// received checks an OFFER on arrival and returns the stamp in it. The first message
// of a connection is compared as a whole.
func (t *trial) received(c *conn, k kind, msg []byte) (src int, sent int64) {
	if k != kindOffer {
		t.fail("client %d got %.200s, not an OFFER", c.index, msg)
		return 0, 0
	}
	src, sent, at, ok := readStamp(msg, c.stampAt)
	if !ok {
		t.fail("an OFFER without its stamp: %.200s", msg)
		return 0, 0
	}
	c.stampAt = at
	if !c.checked {
		c.checked = true
		if !bytes.Contains(msg, []byte(sdp)) || string(field(msg, "dst")) != c.id || len(field(msg, "src")) != len(c.id) {
			t.fail("an OFFER came changed: %s", msg)
		}
	}
	return src, sent
}

// closedLoop sends OFFERs from the first half of the clients to the second, with
// depth of them in flight for each pair: an arrival starts the next. It returns what
// the measured span took and how many messages arrived in it.
func closedLoop(t *trial, clients []*conn, depth int) (usage, int, error) {
	pairs := len(clients) / 2
	offers := make([]*offer, pairs)
	receivers := make(map[*conn]int, pairs)
	order := make([]int64, pairs) // when the last that arrived was sent
	for i := range offers {
		offers[i] = newOffer(i, clients[pairs+i].id)
		receivers[clients[pairs+i]] = i
	}
	sent, arrived, stop := 0, 0, false
	send := func(i int) {
		clients[i].write(offers[i].at(t.now()))
		sent++
	}
	t.onMessage = func(c *conn, k kind, msg []byte, now int64) {
		i, at := t.received(c, k, msg)
		if i >= pairs || clients[pairs+i] != c || at < order[i] {
			t.fail("client %d got a message of client %d out of order", c.index, i)
			return
		}
		order[i] = at
		arrived++
		if !stop {
			send(i)
		}
	}
	defer func() { t.onMessage = nil }()
	for i := range pairs * depth {
		send(i % pairs)
	}
	if err := t.pass(t.set.warm); err != nil {
		return usage{}, 0, err
	}
	before := arrived
	u, err := t.span(func() error { return t.pass(t.set.measure) })
	if err != nil {
		return usage{}, 0, err
	}
	count := arrived - before
	stop = true
	if err := t.must("the last messages", 10*time.Second, func() bool { return arrived == sent }); err != nil {
		return usage{}, 0, fmt.Errorf("%w: %d of %d arrived", err, arrived, sent)
	}
	return u, count, nil
}

func relay(t *trial, depth int, g goal) error {
	clients := t.clients(2 * t.set.pairs)
	if err := t.connectAll(clients); err != nil {
		return err
	}
	u, count, err := closedLoop(t, clients, depth)
	if err != nil {
		return err
	}
	t.add("CPU per message", "µs", u.micros(count), g)
	t.add("messages per second", "1/s", float64(count)/u.wall.Seconds(), goal{})
	t.addGenerator(u)
	return nil
}

// stream is an open loop of OFFERs between pairs of clients and the latencies of
// those that arrived.
type stream struct {
	t             *trial
	senders       []*conn
	offers        []*offer
	sent, arrived int
	latencies     []float64 // microseconds
	firstStamp    int64     // sent before it: not counted
}

func newStream(t *trial, clients []*conn) *stream {
	n := len(clients) / 2
	s := &stream{t: t, senders: clients[:n]}
	for i := range n {
		s.offers = append(s.offers, newOffer(i, clients[n+i].id))
	}
	return s
}

func (s *stream) send(i int) {
	i %= len(s.offers)
	s.senders[i].write(s.offers[i].at(s.t.now()))
	s.sent++
}

func (s *stream) receive(c *conn, k kind, msg []byte, now int64) {
	_, at := s.t.received(c, k, msg)
	s.arrived++
	if at >= s.firstStamp {
		s.latencies = append(s.latencies, float64(now-at)/1e3)
	}
}

// reset forgets the latencies so far, and those of messages that are under way.
func (s *stream) reset() {
	s.latencies = s.latencies[:0]
	s.firstStamp = s.t.now()
}

// lateness is the time in microseconds that all but 1 % of the sends were late at
// most. It says how far the latencies can be believed.
func lateness(p *pacer) float64 {
	late := make([]float64, len(p.late))
	for i, d := range p.late {
		late[i] = float64(d) / 1e3
	}
	return quantile(late, 0.99)
}

func openLoop(t *trial) error {
	clients := t.clients(2 * t.set.pairs)
	if err := t.connectAll(clients); err != nil {
		return err
	}
	s := newStream(t, clients)
	s.latencies = make([]float64, 0, int(float64(t.set.rate)*(t.set.warm+t.set.measure).Seconds())+1)
	t.onMessage = s.receive
	p := t.pace(float64(t.set.rate), t.set.warm+t.set.measure, s.send)
	if err := t.pass(t.set.warm); err != nil {
		return err
	}
	before := s.arrived
	s.reset()
	p.late = p.late[:0]
	u, err := t.span(func() error { return t.pass(t.set.measure) })
	if err != nil {
		return err
	}
	count := s.arrived - before
	late := lateness(p)
	t.unpace()
	if err := t.must("the last messages", 10*time.Second, func() bool { return s.arrived == s.sent }); err != nil {
		return fmt.Errorf("%w: %d of %d arrived", err, s.arrived, s.sent)
	}
	t.add("CPU per message", "µs", u.micros(count), goal{ratio: 1})
	t.add("messages per second", "1/s", float64(count)/u.wall.Seconds(), goal{})
	t.add("latency p50", "µs", quantile(s.latencies, 0.5), goal{})
	t.add("latency p99", "µs", quantile(s.latencies, 0.99), goal{ratio: 0.25})
	t.add("latency p99.9", "µs", quantile(s.latencies, 0.999), goal{})
	t.add(lateMetric, "µs", late, goal{})
	t.addGenerator(u)
	return nil
}

// fanIn sends from many clients to one, with one message of each in flight.
func fanIn(t *trial) error {
	clients := t.clients(t.set.fanIn + 1)
	if err := t.connectAll(clients); err != nil {
		return err
	}
	receiver := clients[t.set.fanIn]
	offers := make([]*offer, t.set.fanIn)
	for i := range offers {
		offers[i] = newOffer(i, receiver.id)
	}
	sent, arrived, stop := 0, 0, false
	var latencies []float64
	send := func(i int) {
		clients[i].write(offers[i].at(t.now()))
		sent++
	}
	t.onMessage = func(c *conn, k kind, msg []byte, now int64) {
		i, at := t.received(c, k, msg)
		if c != receiver || i >= len(offers) {
			t.fail("client %d got a message of client %d", c.index, i)
			return
		}
		arrived++
		latencies = append(latencies, float64(now-at)/1e3)
		if !stop {
			send(i)
		}
	}
	for i := range offers {
		send(i)
	}
	if err := t.pass(t.set.warm); err != nil {
		return err
	}
	before := arrived
	latencies = latencies[:0]
	u, err := t.span(func() error { return t.pass(t.set.measure) })
	if err != nil {
		return err
	}
	count := arrived - before
	p99 := quantile(latencies, 0.99)
	stop = true
	if err := t.must("the last messages", 10*time.Second, func() bool { return arrived == sent }); err != nil {
		return fmt.Errorf("%w: %d of %d arrived", err, arrived, sent)
	}
	t.add("CPU per message", "µs", u.micros(count), goal{})
	t.add("messages per second", "1/s", float64(count)/u.wall.Seconds(), goal{})
	t.add("latency p99", "µs", p99, goal{})
	t.addGenerator(u)
	return nil
}
