package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"
)

// settings say how much of everything is done. Every number is a bound: no scenario
// goes on until something is stable.
type settings struct {
	sizes           []int // numbers of idle connections
	settle          time.Duration
	idle            time.Duration
	heartbeatRounds int
	heartbeatEvery  time.Duration

	pairs   int
	rate    int // messages per second of the open loop
	warm    time.Duration
	measure time.Duration

	churnWarm, churnCycles int

	fanIn int

	flooders, bystanders     int
	floodRate, bystanderRate int

	absent, absentSenders, held int
	absentWaves                 int           // all but the last warm up
	expireTimeout               time.Duration // of the server

	ending int // clients of a server that is asked to end
}

func fullSettings() settings {
	return settings{
		sizes:           []int{1000, 5000, 10000},
		settle:          8 * time.Second,
		idle:            3 * time.Second,
		heartbeatRounds: 3,
		heartbeatEvery:  5 * time.Second,
		pairs:           500,
		rate:            10000,
		warm:            2 * time.Second,
		measure:         6 * time.Second,
		churnWarm:       2000,
		churnCycles:     8000,
		fanIn:           200,
		flooders:        200,
		bystanders:      50,
		floodRate:       2000,
		bystanderRate:   1000,
		absent:          1000,
		absentSenders:   100,
		held:            4,
		absentWaves:     2,
		expireTimeout:   5 * time.Second,
		ending:          10000,
	}
}

func quickSettings() settings {
	s := fullSettings()
	s.settle = 3 * time.Second
	s.idle = time.Second
	s.heartbeatRounds = 1
	s.warm = time.Second
	s.measure = 2 * time.Second
	s.churnWarm, s.churnCycles = 1000, 2000
	s.absentWaves = 1
	return s
}

// trial is one run of one scenario against one fresh server.
type trial struct {
	*loop
	set settings
	pid int

	samples []sample
	ids     int // groups of ids handed out
}

// sample is one measured value.
type sample struct {
	metric, unit string
	value        float64
	goal         goal
}

// goal is what a value should be at most: a ratio of ours to npm peer's, or a value of
// ours alone. Zero means that there is none.
type goal struct{ ratio, value float64 }

// scenario is a named thing to measure.
type scenario struct {
	name string
	// limit bounds one trial, the start of the server not included.
	limit time.Duration
	run   func(t *trial) error
}

func scenarios(set settings) []scenario {
	var list []scenario
	for _, n := range set.sizes {
		list = append(list, scenario{fmt.Sprintf("idle-%d", n), 4 * time.Minute, func(t *trial) error { return idle(t, n) }})
	}
	return append(list,
		scenario{"relay-1", time.Minute, func(t *trial) error { return relay(t, 1, goal{ratio: 0.40}) }},
		scenario{"relay-16", time.Minute, func(t *trial) error { return relay(t, 16, goal{ratio: 0.33}) }},
		scenario{"open-loop", time.Minute, openLoop},
		scenario{"churn", 2 * time.Minute, churn},
		scenario{"fan-in", time.Minute, fanIn},
		scenario{"stuck", time.Minute, stuck},
		scenario{"absent", time.Minute, absent},
		scenario{"shutdown", 2 * time.Minute, shutdown},
	)
}

// attempt starts p, runs one scenario against it, and ends it.
func attempt(ctx context.Context, sc scenario, p program, set settings, tmp string, args ...string) ([]sample, error) {
	srv, err := startServer(ctx, p, tmp, args...)
	if err != nil {
		return nil, err
	}
	defer srv.stop()
	parent := ctx
	ctx, cancel := context.WithTimeoutCause(parent, sc.limit, fmt.Errorf("not done within %v", sc.limit))
	defer cancel()
	l, err := newLoop(ctx, srv.port)
	if err != nil {
		return nil, err
	}
	defer l.close() // before the server is asked to end, which may wait for its clients
	t := &trial{loop: l, set: set, pid: srv.cmd.Process.Pid}
	err = sc.run(t)
	if parent.Err() != nil {
		return nil, context.Cause(parent) // interrupted: the server's output explains nothing
	}
	if err != nil {
		return nil, fmt.Errorf("%s against %s: %w\nits output ends with:\n%s", sc.name, p.name, err, srv.tail())
	}
	return t.samples, nil
}

func (t *trial) add(metric, unit string, value float64, g goal) {
	t.samples = append(t.samples, sample{metric, unit, value, g})
}

// usage is what a span of a trial took.
type usage struct {
	server    time.Duration // CPU time of the server
	generator time.Duration // CPU time of this process
	wall      time.Duration
}

func (u usage) micros(n int) float64 { return float64(u.server) / 1e3 / float64(n) }

// span measures f.
func (t *trial) span(f func() error) (usage, error) {
	server, err := cpuTime(t.pid)
	if err != nil {
		return usage{}, err
	}
	own, err := cpuTime(syscall.Getpid())
	if err != nil {
		return usage{}, err
	}
	start := t.now()
	if err := f(); err != nil {
		return usage{}, err
	}
	wall := t.now() - start
	ownEnd, err := cpuTime(syscall.Getpid())
	if err != nil {
		return usage{}, err
	}
	serverEnd, err := cpuTime(t.pid)
	return usage{serverEnd - server, ownEnd - own, time.Duration(wall)}, err
}

// pass serves the sockets for d.
func (t *trial) pass(d time.Duration) error {
	_, err := t.run(d, nil)
	return err
}

// addGenerator reports how much of a core the generator took in a span: it shares
// the cores with the server.
func (t *trial) addGenerator(u usage) {
	t.add("load generator's own CPU", "cores", u.generator.Seconds()/u.wall.Seconds(), goal{})
}

// clients returns n clients that are not connected yet.
func (t *trial) clients(n int) []*conn {
	t.ids++
	list := make([]*conn, n)
	for i := range list {
		list[i] = &conn{index: i, id: clientID(t.ids, i)}
	}
	return list
}

// connectAll connects all of the list, some at a time, and waits for each OPEN.
func (t *trial) connectAll(list []*conn) error {
	opened, started := 0, 0
	next := func() {
		if started < len(list) {
			started++
			t.connect(list[started-1])
		}
	}
	t.onOpen = func(*conn) { opened++; next() }
	for range maxPending {
		next()
	}
	err := t.must(fmt.Sprintf("%d connections", len(list)), time.Minute, func() bool { return opened == len(list) })
	t.onOpen = nil
	return err
}

// cycle connects, awaits OPEN and closes, n times, some at a time.
func (t *trial) cycle(n int) error {
	started, ended := 0, 0
	clients := t.clients(n)
	next := func() {
		if started < n {
			started++
			t.connect(clients[started-1])
		}
	}
	t.onOpen = (*conn).sendClose
	t.onClosed = func(*conn) { ended++; next() }
	for range maxPending {
		next()
	}
	err := t.must(fmt.Sprintf("%d cycles", n), time.Minute, func() bool { return ended == n })
	t.onOpen, t.onClosed = nil, nil
	return err
}

// settled waits until the server's memory stays the same within 0.5 % for 1.5 s, at
// most the settings' time for it.
func (t *trial) settled() (memory, error) {
	var last memory
	same := 0
	for end := t.now() + int64(t.set.settle); t.now() < end && same < 3; {
		if err := t.pass(500 * time.Millisecond); err != nil {
			return memory{}, err
		}
		m, err := readMemory(t.pid)
		if err != nil {
			return memory{}, err
		}
		if d := (m.rss - last.rss) / m.rss; d < 0.005 && d > -0.005 {
			same++
		} else {
			same, last = 0, m
		}
	}
	return readMemory(t.pid)
}

// idle holds n connections that only send heartbeats.
func idle(t *trial, n int) error {
	// A first connect costs a just-in-time compiler more than a later one.
	if err := t.cycle(300); err != nil {
		return err
	}
	base, err := t.settled()
	if err != nil {
		return err
	}
	clients := t.clients(n)
	u, err := t.span(func() error {
		if err := t.connectAll(clients); err != nil {
			return err
		}
		return t.pass(200 * time.Millisecond) // what is left to do after the last OPEN
	})
	if err != nil {
		return err
	}
	t.add("CPU per connect", "µs", u.micros(n), goal{ratio: 0.7})
	connected, err := t.settled()
	if err != nil {
		return err
	}
	t.add("memory per connection, before the first heartbeat", "KiB", (connected.rss-base.rss)/float64(n)/1024, goal{})
	u, err = t.span(func() error { return t.pass(t.set.idle) })
	if err != nil {
		return err
	}
	t.add("CPU per second of silence", "ms", u.server.Seconds()*1e3/u.wall.Seconds(), goal{})

	// Spread evenly, as clients that came at different times send them. What the
	// server does meanwhile of itself is in it.
	rounds := t.set.heartbeatRounds
	u, err = t.span(func() error {
		d := time.Duration(rounds) * t.set.heartbeatEvery
		p := t.pace(float64(n)/t.set.heartbeatEvery.Seconds(), d, func(i int) { clients[i%n].sendHeartbeat() })
		defer t.unpace()
		return t.must("heartbeats", 2*d, func() bool { return p.sent >= n*rounds })
	})
	if err != nil {
		return err
	}
	t.add("CPU per heartbeat", "µs", u.micros(n*rounds), goal{ratio: 0.95})
	beating, err := t.settled()
	if err != nil {
		return err
	}
	perConnection, whole := goal{}, goal{}
	switch n {
	case 5000:
		whole.ratio = 1
	case 10000:
		perConnection.ratio = 2
	}
	t.add("memory per connection", "KiB", (beating.rss-base.rss)/float64(n)/1024, perConnection)
	t.add("memory of the whole process", "MiB", beating.rss/(1<<20), whole)
	t.add("its anonymous part", "MiB", beating.anonymous/(1<<20), goal{})

	u, count, err := closedLoop(t, clients[:200], 1)
	if err != nil {
		return err
	}
	t.add("CPU per message between 100 of its pairs", "µs", u.micros(count), goal{})
	return nil
}

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

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[min(len(values)-1, int(q*float64(len(values))))]
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

func churn(t *trial) error {
	if err := t.cycle(t.set.churnWarm); err != nil {
		return err
	}
	base, err := t.settled()
	if err != nil {
		return err
	}
	n := t.set.churnCycles
	u, err := t.span(func() error { return t.cycle(n) })
	if err != nil {
		return err
	}
	t.add("CPU per cycle", "µs", u.micros(n), goal{ratio: 0.6})
	t.add("cycles per second", "1/s", float64(n)/u.wall.Seconds(), goal{})
	after, err := t.settled()
	if err != nil {
		return err
	}
	t.add("memory growth", "MiB", (after.rss-base.rss)/(1<<20), goal{})
	t.addGenerator(u)
	return nil
}

// shutdown asks a server to end whose clients are of two kinds: one half answers close frames, as a
// browser does, and the other half does not.
func shutdown(t *trial) error {
	clients := t.clients(t.set.ending)
	for i, c := range clients {
		c.mayBeEnded, c.deaf = true, i%2 == 1
	}
	if err := t.connectAll(clients); err != nil {
		return err
	}
	var answering, deaf []float64
	start := t.now()
	t.onClosed = func(c *conn) {
		took := float64(t.now()-start) / 1e6
		if c.deaf {
			deaf = append(deaf, took)
		} else {
			answering = append(answering, took)
		}
	}
	if err := syscall.Kill(t.pid, syscall.SIGTERM); err != nil {
		return err
	}
	const patience = 15 * time.Second // npm peer ends no client that does not answer
	if _, err := t.run(patience, func() bool { return len(answering)+len(deaf) == len(clients) }); err != nil {
		return err
	}
	t.onClosed = nil
	t.add("streams that have not ended after 15 s", "", float64(len(clients)-len(answering)-len(deaf)), goal{})
	t.add("stream of a client that answers ends, p50", "ms", quantile(answering, 0.5), goal{})
	t.add("stream of a client that answers ends, last", "ms", quantile(answering, 1), goal{})
	t.add("stream of a client that does not answer ends, last", "ms", quantile(deaf, 1), goal{})
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

// memoryPeak samples the memory of a process until stop is called, which returns the
// largest sample.
func memoryPeak(pid int) (stop func() (memory, error)) {
	var (
		peak memory
		err  error
		wg   sync.WaitGroup
		quit = make(chan struct{})
	)
	wg.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			m, readErr := readMemory(pid)
			if readErr != nil {
				err = readErr
				return
			}
			if m.rss > peak.rss {
				peak = m
			}
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() (memory, error) {
		close(quit)
		wg.Wait()
		return peak, err
	}
}

// stuck lets many clients send to one, at first while it reads and then while it
// does not, and looks at pairs that have nothing to do with it. The load is the same
// before and after, so only the stuck reader makes a difference.
func stuck(t *trial) error {
	pairs := t.clients(2 * t.set.bystanders)
	crowd := t.clients(t.set.flooders + 1)
	reader := crowd[t.set.flooders]
	reader.mayBeEnded = true
	// A large buffer would take in what this scenario is about.
	reader.rcvbuf = 64 << 10
	if err := errors.Join(t.connectAll(pairs), t.connectAll(crowd)); err != nil {
		return err
	}
	flood := make([]*offer, t.set.flooders)
	for i := range flood {
		flood[i] = newOffer(i, reader.id)
	}
	inCrowd := make(map[*conn]bool, len(crowd))
	for _, c := range crowd {
		inCrowd[c] = true
	}
	s := newStream(t, pairs)
	expired := 0
	t.onMessage = func(c *conn, k kind, msg []byte, now int64) {
		switch {
		case !inCrowd[c]:
			s.receive(c, k, msg, now)
		case k == kindExpire && c != reader:
			expired++
		case k == kindOffer && c == reader:
		default:
			t.fail("client %d of the crowd got %.200s", c.index, msg)
		}
	}
	before, during := t.set.measure, t.set.measure
	d := t.set.warm + before + during
	s.latencies = make([]float64, 0, int(float64(t.set.bystanderRate)*d.Seconds())+1)
	t.pace(float64(t.set.bystanderRate), d, s.send)
	t.pace(float64(t.set.floodRate), d, func(i int) {
		i %= len(flood)
		crowd[i].write(flood[i].at(t.now()))
	})
	if err := t.pass(t.set.warm); err != nil {
		return err
	}

	s.reset()
	peak := memoryPeak(t.pid)
	err := t.pass(before)
	was, memErr := peak()
	if err := errors.Join(err, memErr); err != nil {
		return err
	}
	p99Before := quantile(s.latencies, 0.99)

	reader.pause()
	s.reset()
	peak = memoryPeak(t.pid)
	u, err := t.span(func() error { return t.pass(during) })
	is, memErr := peak()
	if err := errors.Join(err, memErr); err != nil {
		return err
	}
	p99During := quantile(s.latencies, 0.99)

	t.unpace()
	if err := t.must("the bystanders' last messages", 10*time.Second, func() bool { return s.arrived == s.sent }); err != nil {
		return fmt.Errorf("%w: %d of %d arrived", err, s.arrived, s.sent)
	}
	// The end of the connection, if there is one, is behind what is to be read.
	reader.resume()
	ended, err := t.run(2*time.Second, func() bool { return reader.state == stateClosed })
	if err != nil {
		return err
	}
	t.add("bystanders' p99 before", "µs", p99Before, goal{})
	t.add("bystanders' p99 during", "µs", p99During, goal{})
	t.add("bystanders' p99, during / before", "", p99During/p99Before, goal{value: 1.5})
	t.add("memory growth", "MiB", (is.rss-was.rss)/(1<<20), goal{value: 8})
	t.add("stuck reader was disconnected", "1 = yes", btof(ended), goal{})
	t.add("EXPIREs to the crowd", "", float64(expired), goal{})
	t.addGenerator(u)
	return nil
}

func btof(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// absent sends a few messages to each of many ids that nobody has, and waits for one
// EXPIRE for each.
func absent(t *trial) error {
	senders := t.clients(t.set.absentSenders)
	if err := t.connectAll(senders); err != nil {
		return err
	}
	for range t.set.absentWaves - 1 {
		if _, err := absentWave(t, senders); err != nil {
			return err
		}
	}
	base, err := t.settled()
	if err != nil {
		return err
	}
	peak := memoryPeak(t.pid)
	w, err := absentWave(t, senders)
	held, memErr := peak()
	if err := errors.Join(err, memErr); err != nil {
		return err
	}
	n := t.set.absent
	t.add("CPU per held message", "µs", w.used.micros(n*t.set.held), goal{})
	t.add("memory while held, growth", "MiB", (held.rss-base.rss)/(1<<20), goal{})
	t.add("EXPIREs for 1,000 absent ids", "", float64(w.expired)*1000/float64(n), goal{})
	t.add("first EXPIRE after", "s", quantile(w.after, 0), goal{})
	t.add("last EXPIRE after", "s", quantile(w.after, 1), goal{})
	return nil
}

type wave struct {
	used    usage
	expired int
	after   []float64 // seconds from the first message for an id to its EXPIRE
}

func absentWave(t *trial, senders []*conn) (wave, error) {
	n, held := t.set.absent, t.set.held
	t.ids++
	group := t.ids
	offers := make([]*offer, n)
	first := make([]int64, n)
	for i := range offers {
		offers[i] = newOffer(i, clientID(group, i))
	}
	w := wave{after: make([]float64, 0, n)}
	seen := make([]bool, n)
	t.onMessage = func(c *conn, k kind, msg []byte, now int64) {
		i, ok := idIndex(group, field(msg, "src"))
		switch {
		case k != kindExpire || !ok || i >= n || senders[i%len(senders)] != c || string(field(msg, "dst")) != c.id:
			t.fail("client %d got %.200s", c.index, msg)
		case seen[i]:
			t.fail("client %d got a second EXPIRE for one id: %.200s", c.index, msg)
		default:
			seen[i] = true
			w.expired++
			w.after = append(w.after, float64(now-first[i])/1e9)
		}
	}
	defer func() { t.onMessage = nil }()
	var err error
	w.used, err = t.span(func() error {
		// All for one id in a row, over a second or so in all.
		t.pace(float64(n*held), time.Second, func(i int) {
			now := t.now()
			if i%held == 0 {
				first[i/held] = now
			}
			senders[i/held%len(senders)].write(offers[i/held].at(now))
		})
		defer t.unpace()
		limit := time.Second + t.set.expireTimeout + 4*time.Second
		return t.must("EXPIREs", limit, func() bool { return w.expired == n })
	})
	if err != nil {
		return w, fmt.Errorf("%w: %d of %d came", err, w.expired, n)
	}
	return w, t.pass(1500 * time.Millisecond) // a second EXPIRE would come now
}
