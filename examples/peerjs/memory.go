package main

import (
	"sync/atomic"
	"time"
)

// Most of what a handshake allocates is garbage when it is over. After a burst of
// them, as when a server comes back and everybody reconnects, the runtime keeps that
// memory for the next burst; here the system gets it back, a third or so of the whole
// process. It takes one garbage collection, once it is quiet again.
const (
	burst = 1000        // connections
	quiet = time.Second // without one
)

// A trimmer calls a function when a burst of connections is over.
type trimmer struct {
	came  atomic.Int64 // connections since the last call; that they came slowly does no harm
	timer *time.Timer
}

func newTrimmer(free func()) *trimmer {
	t := new(trimmer)
	t.timer = time.AfterFunc(quiet, func() {
		t.came.Store(0)
		free()
	})
	t.timer.Stop()
	return t
}

// connected notes a connection.
func (t *trimmer) connected() {
	if t.came.Add(1) >= burst {
		t.timer.Reset(quiet)
	}
}

func (t *trimmer) stop() { t.timer.Stop() }
