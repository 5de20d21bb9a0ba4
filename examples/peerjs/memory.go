package main

import (
	"sync/atomic"
	"time"
)

// Most of what a handshake allocates is garbage when it is over. After a burst of
// them, as when a server comes back and everybody reconnects, the runtime keeps that
// memory for the next burst; here the system gets it back, a third or so of the whole
// process. It takes one garbage collection, once it is quieter again.
const (
	burst    = 1000        // connections; that they came slowly does no harm
	interval = time.Second // at which it is looked whether the burst is over ...
	few      = 100         // ... which it is when fewer than this came meanwhile
)

// A trimmer calls a function when a burst of connections is over.
type trimmer struct {
	came  atomic.Int64 // connections since the last call
	seen  int64        // of these, those that the timer knows of; owned by it while it is set
	timer *time.Timer
	free  func()
}

func newTrimmer(free func()) *trimmer {
	t := &trimmer{free: free}
	t.timer = time.AfterFunc(interval, t.look)
	t.timer.Stop()
	return t
}

// connected notes a connection.
func (t *trimmer) connected() {
	if t.came.Add(1) == burst {
		t.seen = burst
		t.timer.Reset(interval)
	}
}

func (t *trimmer) look() {
	came := t.came.Load()
	if came-t.seen >= few {
		t.seen = came
		t.timer.Reset(interval)
		return
	}
	t.came.Store(0)
	t.free()
}

func (t *trimmer) stop() { t.timer.Stop() }
