package peer

import (
	"context"
	"time"
)

// A vigil is what a node knows about whether another one is alive. It is guarded by the lock of the
// link.
type vigil struct {
	since   time.Time // of the first answer of the engine in a row without a gap; zero: none
	last    time.Time // of the last one
	named   int       // how many of the last answers in a row named it as missing
	asked   bool      // a tick is on its way
	dead    bool      // until a batch comes from it, or it is not named
	upTo    uint32    // the number of the last message that was sent to it before it was dead
	hasUpTo bool
}

// When a node is dead.
const (
	watchFor   = 3 * time.Second         // answers about it came for so long
	watchGap   = 2200 * time.Millisecond // without such a gap
	watchNamed = 2                       // and so many of them named it
	watchIdle  = 15 * time.Second        // nobody asks about a node that nothing was sent to or came from for so long
)

// watch asks which nodes are missing, and finds out which of them are dead.
func (n *node) watch(now time.Time) {
	var names []string
	ls := make(map[string]*link)
	for _, l := range n.allLinks() {
		if l.name != n.name && (l.isOfInterest(now) || n.shares(l.name)) && len(names) < maxClaims {
			names = append(names, l.name)
			ls[l.name] = l
		}
	}
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, time.Second)
	missing, err := n.engine.Missing(ctx, names...)
	cancel()
	if err != nil {
		n.engineFailed(err)
	}
	for name, l := range ls {
		isMissing, known := missing[name]
		if l.note(time.Now(), isMissing, known && err == nil) {
			n.tick(func() {
				if l.suspected() {
					n.died(l)
				}
			})
		}
	}
}

// isOfInterest reports whether something may be on its way to the node, or from it.
func (l *link) isOfInterest(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watch.dead || l.running || l.underWay > 0 || now.Sub(l.used) < watchIdle
}

// note notes an answer of the engine. It reports whether the node is dead, unless a batch from it is
// in the inbox.
func (l *link) note(now time.Time, missing, known bool) (suspect bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.watch
	switch {
	case !known:
		w.since, w.named = time.Time{}, 0
		return false
	case w.since.IsZero() || now.Sub(w.last) > watchGap:
		w.since, w.named = now, 0
	}
	w.last = now
	if !missing {
		w.named, w.dead = 0, false
		return false
	}
	w.named++
	if w.dead || w.asked || w.named < watchNamed || now.Sub(w.since) < watchFor {
		return false
	}
	w.asked = true
	return true
}

// suspected notes that the tick has come back, and reports whether the node is dead now.
func (l *link) suspected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.watch
	w.asked = false
	if w.named == 0 {
		return false
	}
	w.dead, w.upTo, w.hasUpTo = true, l.lastNumber, l.lastNumber != 0
	return true
}

func (l *link) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watch.dead
}

// wasBefore reports whether a message was sent to the node before the node was found dead.
func (l *link) wasBefore(number uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watch.hasUpTo && int32(number-l.watch.upTo) <= 0
}

// alive notes a batch from the node.
func (n *node) alive(l *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch.named, l.watch.dead = 0, false
}

// died deals with a node that is dead.
func (n *node) died(l *link) {
	n.realm.dropNode(l)
	n.gone(l)
}

// share notes with which nodes this one shares a room.
func (n *node) share(nodes map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shared = nodes
	for name := range nodes {
		if isNodeName(name) {
			n.linkLocked(name)
		}
	}
}

func (n *node) shares(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shared[name]
}
