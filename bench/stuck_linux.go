package main

import (
	"errors"
	"fmt"
	"time"
)

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
	err = t.must("the bystanders' last messages", 10*time.Second, func() bool { return s.arrived == s.sent })
	if err != nil {
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
