package main

import (
	"errors"
	"fmt"
	"time"
)

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
