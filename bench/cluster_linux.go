package main

import (
	"context"
	"fmt"
	"time"
)

// clusterName is the scenario that compares two nodes that Redis joins with one node.
const clusterName = "cluster"

// A leg is a way in which the scenario cluster runs. All legs have the same load.
type leg int

const (
	legWithout leg = iota // one server without a cluster
	legOne                // one node of a cluster
	legTwo                // two nodes; the two clients of a pair are on different ones
	numLegs
)

func (l leg) String() string { return [...]string{"no cluster", "one node", "two nodes"}[l] }

// Names of parts and metrics that the calculation reads too.
const (
	partBefore  = "before a node joins"
	partQuiet   = "nobody connected"
	partCrowd   = "a crowd is connected"
	partConnect = "connect + disconnect"

	metricNodes    = "CPU of the nodes"
	metricRedis    = "CPU of Redis"
	metricCommands = "Redis commands"
	metricScripts  = "scripts among them"
	metricRenewal  = "CPU of Redis for a renewal"
)

// rateName is the part of the table about messages at a rate, and callName the one about calls.
func rateName(rate int) string { return fmt.Sprintf("message, %d/s", rate) }
func callName(rate int) string { return fmt.Sprintf("call, %d/s", rate) }

// clusterGoal is what a value of two nodes should be at most, or with added, by how much it should
// exceed the value of one node at most. Zero: there is none.
type clusterGoal struct {
	most  float64
	added bool
}

// The goals of the design.
var (
	goalScripts = clusterGoal{most: 2} // a claim and its release
	goalAlone   = clusterGoal{most: 1000, added: true}
	redisGoals  = map[int]clusterGoal{2000: {most: 30}, 10000: {most: 8}}
	nodesGoals  = map[int]clusterGoal{2000: {most: 100, added: true}, 10000: {most: 30, added: true}}
	delayGoals  = map[int]clusterGoal{10000: {most: 4000, added: true}}
)

// busyError says that messages of a part expired, or that none arrived in its time: no value of the part
// means anything then.
type busyError struct{ part string }

func (e *busyError) Error() string { return e.part + ": the machine was too busy" }

// note is one value of a leg.
type note struct {
	part, metric, unit string
	value              float64
	goal               clusterGoal
}

// legTrial is one run of one leg.
type legTrial struct {
	*trial
	leg   leg
	redis *redisServer // nil without a cluster
	notes []note
}

// runLeg starts what the leg needs, measures it, and ends it.
func runLeg(ctx context.Context, which leg, p program, set settings, tmp string) ([]note, error) {
	var redis *redisServer
	var args []string
	if which != legWithout {
		var err error
		if redis, err = startRedis(ctx, tmp); err != nil {
			return nil, err
		}
		defer redis.stop() // after the nodes
		args = []string{"--redis", "redis://" + redis.addr()}
	}
	var nodes []*server
	for range map[leg]int{legWithout: 1, legOne: 1, legTwo: 2}[which] {
		srv, err := startServer(ctx, p, tmp, args...)
		if err != nil {
			return nil, err
		}
		defer srv.stop()
		nodes = append(nodes, srv)
	}
	const limit = 2 * time.Minute
	parent := ctx
	ctx, cancel := context.WithTimeoutCause(parent, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	l, err := newLoop(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close() // before the servers are asked to end, which may wait for their clients
	t := &legTrial{trial: &trial{loop: l, set: set, servers: nodes}, leg: which, redis: redis}
	err = t.run()
	if parent.Err() != nil {
		return nil, context.Cause(parent)
	}
	if err != nil {
		err = fmt.Errorf("%s, %v: %w", clusterName, which, err)
		for _, srv := range nodes {
			err = fmt.Errorf("%w\nthe output of a node ends with:\n%s", err, srv.tail())
		}
	}
	return t.notes, err
}

// run does all that is measured of a leg.
func (t *legTrial) run() error {
	set := t.set.cluster
	if _, err := t.wait(partBefore); err != nil {
		return err
	}
	if err := t.cycle(set.cycles / 5); err != nil { // the first ones let the nodes join
		return err
	}
	if err := t.pass(set.quiet / 5); err != nil {
		return err
	}
	quiet, err := t.wait(partQuiet)
	if err != nil {
		return err
	}
	if err := t.connects(); err != nil {
		return err
	}
	last := len(set.loads) - 1
	for _, l := range set.loads[:last] {
		if err := t.messages(l); err != nil {
			return err
		}
	}
	for _, l := range set.calls {
		if err := t.makeCalls(l); err != nil {
			return err
		}
	}
	if err := t.crowd(quiet); err != nil {
		return err
	}
	return t.messages(set.loads[last]) // nothing comes after it, if the machine is too busy for it
}

// use is what a span took of the nodes and of Redis.
type use struct {
	usage
	redis redisUse
}

func (t *legTrial) measure(f func() error) (u use, err error) {
	if t.redis == nil {
		u.usage, err = t.span(f)
		return u, err
	}
	u.redis, err = t.redis.measure(func() error {
		var err error
		u.usage, err = t.span(f)
		return err
	})
	return u, err
}

func (t *legTrial) note(part, metric, unit string, value float64, g clusterGoal) {
	t.notes = append(t.notes, note{part, metric, unit, value, g})
}

// noteUse notes what each of n things took.
func (t *legTrial) noteUse(part string, u use, n int, nodes, redis clusterGoal) {
	t.note(part, metricNodes, "µs", u.micros(n), nodes)
	if t.redis != nil {
		t.note(part, metricRedis, "µs", u.redis.micros(n), redis)
		t.note(part, metricCommands, "", float64(u.redis.did.all())/float64(n), clusterGoal{})
	}
}

// wait measures what a second costs in which no client does anything.
func (t *legTrial) wait(part string) (use, error) {
	u, err := t.measure(func() error { return t.pass(t.set.cluster.quiet) })
	if err != nil {
		return u, err
	}
	t.note(part, metricNodes+" per second", "ms", u.server.Seconds()*1e3/u.wall.Seconds(), clusterGoal{})
	if t.redis != nil {
		t.note(part, metricRedis+" per second", "ms", u.redis.cpu.Seconds()*1e3/u.wall.Seconds(), clusterGoal{})
		t.note(part, metricCommands+" per second", "", float64(u.redis.did.all())/u.wall.Seconds(), clusterGoal{})
	}
	return u, nil
}

// connects measures connect and disconnect.
func (t *legTrial) connects() error {
	n := t.set.cluster.cycles
	u, err := t.measure(func() error {
		if err := t.cycle(n); err != nil {
			return err
		}
		return t.pass(200 * time.Millisecond) // the last releases
	})
	if err != nil {
		return err
	}
	t.noteUse(partConnect, u, n, clusterGoal{}, clusterGoal{})
	if t.redis != nil {
		t.note(partConnect, metricScripts, "", float64(u.redis.did.scripts())/float64(n), goalScripts)
	}
	return nil
}

// messages measures messages at a fixed rate: half of the pairs from the first to the second node, and
// half the other way round.
func (t *legTrial) messages(l load) error {
	set, part := t.set.cluster, rateName(l.rate)
	pairs := t.pairs(l.pairs)
	if err := t.connectAll(pairs); err != nil {
		return err
	}
	s := newStream(t.trial, pairs)
	s.latencies = make([]float64, 0, int(float64(l.rate)*(set.warm+set.measure).Seconds())+1)
	t.onMessage = func(c *conn, k kind, msg []byte, now int64) {
		if k == kindExpire {
			t.fail("a message expired: %w", &busyError{part})
			return
		}
		s.receive(c, k, msg, now)
	}
	defer func() { t.onMessage = nil }()
	p := t.pace(float64(l.rate), set.warm+set.measure, s.send)
	defer t.unpace()
	if err := t.pass(set.warm); err != nil {
		return err
	}
	before := s.arrived
	s.reset()
	p.late = p.late[:0]
	u, err := t.measure(func() error { return t.pass(set.measure) })
	if err != nil {
		return err
	}
	count, late := s.arrived-before, lateness(p)
	t.unpace()
	if err := t.must("the last messages", 10*time.Second, func() bool { return s.arrived == s.sent }); err != nil {
		return fmt.Errorf("%w: %d of %d arrived", err, s.arrived, s.sent)
	}
	if len(s.latencies) == 0 {
		return &busyError{part}
	}
	delay := delayGoals[l.rate]
	if l == set.loads[0] {
		delay = goalAlone
	}
	t.noteUse(part, u, count, nodesGoals[l.rate], redisGoals[l.rate])
	t.note(part, "latency p50", "µs", quantile(s.latencies, 0.5), delay)
	t.note(part, "latency p99", "µs", quantile(s.latencies, 0.99), clusterGoal{})
	t.note(part, lateMetric, "µs", late, clusterGoal{})
	return t.disconnect(pairs)
}

// makeCalls measures calls between clients that have not heard of each other before.
func (t *legTrial) makeCalls(l callLoad) error {
	part, pairs := callName(l.rate), t.pairs(l.calls)
	if err := t.connectAll(pairs); err != nil {
		return err
	}
	c := newCalls(t.trial, pairs)
	u, err := t.measure(func() error { return c.run(float64(l.rate)) })
	if err != nil {
		return err
	}
	t.noteUse(part, u, c.n, clusterGoal{}, clusterGoal{})
	t.note(part, "from the OFFER to the last CANDIDATE, p50", "µs", quantile(c.took, 0.5), clusterGoal{})
	t.note(part, "from the OFFER to the last CANDIDATE, p99", "µs", quantile(c.took, 0.99), clusterGoal{})
	return t.disconnect(pairs)
}

// crowd measures what clients cost that are connected and do nothing: the renewals of their claims.
func (t *legTrial) crowd(quiet use) error {
	clients := t.clients(t.set.cluster.crowd)
	if err := t.connectAll(clients); err != nil {
		return err
	}
	if err := t.pass(t.set.cluster.quiet / 5); err != nil {
		return err
	}
	u, err := t.wait(partCrowd)
	if err != nil {
		return err
	}
	if renewals := u.redis.did.scripts(); renewals > 0 { // else the time was too short
		t.note(partCrowd, metricScripts+" per second", "", float64(renewals)/u.wall.Seconds(), clusterGoal{})
		more := u.redis.cpu.Seconds() - quiet.redis.cpu.Seconds()*u.wall.Seconds()/quiet.wall.Seconds()
		t.note(partCrowd, metricRenewal, "µs", more*1e6/float64(renewals), clusterGoal{})
	}
	return t.disconnect(clients)
}

// disconnect ends clients, and waits for their end.
func (t *legTrial) disconnect(list []*conn) error {
	ended := 0
	t.onClosed = func(*conn) { ended++ }
	defer func() { t.onClosed = nil }()
	for _, c := range list {
		c.sendClose()
	}
	return t.must("disconnects", time.Minute, func() bool { return ended == len(list) })
}
