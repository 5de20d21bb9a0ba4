package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// scenario is a named thing to measure.
type scenario struct {
	name string
	// limit bounds one trial, the start of the server not included.
	limit time.Duration
	run   func(t *trial) error // nil for that of the cluster, which is not compared with npm peer
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
		scenario{clusterName, 2 * time.Minute, nil},
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
	l, err := newLoop(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close() // before the server is asked to end, which may wait for its clients
	t := &trial{loop: l, set: set, pid: srv.cmd.Process.Pid, servers: []*server{srv}}
	err = sc.run(t)
	if parent.Err() != nil {
		return nil, context.Cause(parent) // interrupted: the server's output explains nothing
	}
	if err != nil {
		return nil, fmt.Errorf("%s against %s: %w\nits output ends with:\n%s", sc.name, p.name, err, srv.tail())
	}
	return t.samples, nil
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
