package peer

import "time"

// A ticks is what waits until the inbox has been read up to now.
type ticks struct {
	number  uint64    // of the tick that is on its way
	sent    time.Time // when; zero: none is
	waiting []func()  // for that tick
	next    []func()  // for the one after it
}

// tick calls f when all that is in the inbox now has been read.
func (n *node) tick(f func()) {
	n.mu.Lock()
	n.ticks.next = append(n.ticks.next, f)
	var number uint64
	if n.ticks.sent.IsZero() {
		number = n.nextTickLocked()
	}
	n.mu.Unlock()
	n.sendTick(number)
}

func (n *node) nextTickLocked() uint64 {
	t := &n.ticks
	t.number++
	t.sent = time.Now()
	t.waiting, t.next = append(t.waiting, t.next...), nil
	return t.number
}

func (n *node) sendTick(number uint64) {
	if number > 0 {
		n.link(n.name).control(control{What: "tick", Number: number})
	}
}

// ticked notes that a tick has come back.
func (n *node) ticked(number uint64) {
	n.mu.Lock()
	if number != n.ticks.number || n.ticks.sent.IsZero() {
		n.mu.Unlock()
		return
	}
	fs := n.ticks.waiting
	n.ticks.waiting, n.ticks.sent = nil, time.Time{}
	number = 0
	if len(n.ticks.next) > 0 {
		number = n.nextTickLocked()
	}
	n.mu.Unlock()
	n.sendTick(number)
	for _, f := range fs {
		f()
	}
}
