package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// work counts the goroutines that a server has to wait for.
type work struct {
	mu     sync.Mutex // guards the following
	n      int
	closed bool
	idle   chan struct{} // closed when closed and n is 0
}

// begin counts one more, unless the server has closed.
func (w *work) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.n++
	return true
}

// fork counts one more. The caller must be counted itself, so the server has not ended yet.
func (w *work) fork() {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
}

func (w *work) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.closed {
		wakeMonitor() // the host may compute when Shutdown has returned
		close(w.idle)
	}
}

func (w *work) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.n == 0 {
		close(w.idle)
	}
	w.closed = true
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// A onceAMinute lets something through once a minute at most.
type onceAMinute struct{ last atomic.Int64 } // when, in seconds since 1970

func (o *onceAMinute) may() bool {
	now, last := time.Now().Unix(), o.last.Load()
	return now-last >= 60 && o.last.CompareAndSwap(last, now)
}

// A bell wakes a goroutine that waits for it.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // it has been rung already
	}
}

// hush takes back what has been rung.
func (b bell) hush() {
	select {
	case <-b:
	default:
	}
}
