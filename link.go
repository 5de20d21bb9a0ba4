package peer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Times and bounds of what goes to one other node.
const (
	receiptDelay  = 20 * time.Millisecond // receipts wait for a batch that goes anyway
	batchPause    = 2 * time.Millisecond  // after each batch, so that the next one has more in it
	minRetry      = 50 * time.Millisecond // between two attempts to send a batch
	maxRetry      = time.Second
	engineTimeout = 2 * time.Second  // of one call
	confirmWithin = 10 * time.Second // a batch that is older does not count as under way
	maxUnderWay   = 4 << 20          // bytes of messages that are not sent, or not confirmed
	keepLink      = 10 * time.Minute // for so long the number of the last batch is remembered, and a link for twice as long
	keepParts     = 10 * time.Second // of what comes back, while the rest is missing
	keepRefs      = 10 * time.Minute // of messages whose receipt has not come
)

// A link is another node of the cluster, or this one, with what is on its way to it. Its queue has
// messages, receipts, what comes back, and controls in the order in which they were made. One
// goroutine sends them while there are any.
type link struct {
	node  *node
	name  string
	index uint16 // of parcels that come from it
	kick  bell

	mu         sync.Mutex // guards the following
	batches    []*batch   // to be sent, oldest first
	receipt    receipt    // what is to be reported, behind the batches
	owed       bool       // a batch has come that is to be confirmed
	running    bool       // a goroutine sends
	sent       uint64     // number of the last batch
	got        uint64     // number of the last batch that has come
	gotAt      time.Time  // when it came
	underWay   int        // bytes of messages in batches and in unconfirmed
	unconfirm  []confirm
	refs       map[uint32]ref // number of a message -> what it is; absent: it has been reported
	lastNumber uint32         // of the last message
	blocked    map[string]struct{}
	used       time.Time

	watch vigil
}

// A batch is being filled, or waits to be sent.
type batch struct {
	b       []byte
	records int
	bytes   int // of messages
}

// A confirm is a batch that has been sent and is not confirmed yet.
type confirm struct {
	number uint64
	bytes  int
	at     time.Time
}

// A ref is a message that another node is to report on.
type ref struct {
	dst   string
	epoch uint64 // of the claim that it was sent to
	from  sender
	at    time.Time
}

func newLink(n *node, name string, index uint16) *link {
	return &link{
		node: n, name: name, index: index, kick: newBell(), refs: make(map[uint32]ref), blocked: make(map[string]struct{}), used: time.Now(),
	}
}

// sendMessage puts a message, whose pair has a deadline, into the queue and returns its number. If there is no room now, ok is
// false, and the node will be told when there is room for messages to dst.
func (l *link) sendMessage(dst string, epoch uint64, p *parcel, deadline time.Time) (number uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underWay >= maxUnderWay && !l.node.isClosing() {
		l.blocked[dst] = struct{}{}
		return 0, false
	}
	number = l.node.nextNumber()
	l.lastNumber = number
	b := l.openLocked(len(p.frame) + len(dst) + len(p.src) + 64)
	b.b = appendMessage(b.b, number, dst, epoch, p, l.node.stamp(deadline))
	b.bytes += len(p.frame)
	l.underWay += len(p.frame)
	l.refs[number] = ref{dst: dst, epoch: epoch, from: p.sender(), at: time.Now()}
	l.pushedLocked(b, true)
	return number, true
}

// What became of a message.
type verdict uint8

const (
	accepted verdict = iota
	refusedOver
	refusedLate
)

// report says what became of a message of the node.
func (l *link) report(number uint32, v verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch v {
	case accepted:
		l.receipt.accepted = append(l.receipt.accepted, number)
	case refusedOver:
		l.receipt.over = append(l.receipt.over, number)
	default:
		l.receipt.late = append(l.receipt.late, number)
	}
	l.runLocked()
}

// giveBack sends messages back that were accepted for a claim which is over now.
func (l *link) giveBack(dst string, epoch uint64, ps []parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(ps) > 0 {
		b := l.openLocked(min(size(ps), maxBatch/2))
		var n int
		b.b, n = appendBack(b.b, dst, epoch, ps, l.node.stamp)
		ps = ps[n:]
		l.pushedLocked(b, true)
	}
}

// control puts a question or an answer into the queue.
func (l *link) control(c control) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.openLocked(512)
	b.b = appendControl(b.b, &c)
	l.pushedLocked(b, true)
}

// openLocked returns the batch that a record of n bytes, about, goes into. What has been reported
// goes before it. The batch grows to twice its size at a time: append alone adds a quarter, so that most
// messages of a busy link would move the whole batch.
func (l *link) openLocked(n int) *batch {
	if !l.receipt.empty() {
		r := l.receipt
		l.receipt = receipt{}
		b := l.openLocked(4 * (len(r.accepted) + len(r.over) + len(r.late)))
		b.b = appendReceipt(b.b, &r)
		l.pushedLocked(b, false)
	}
	if last := len(l.batches) - 1; last >= 0 {
		if b := l.batches[last]; b.records == 0 || len(b.b)+n <= maxBatch {
			if cap(b.b)-len(b.b) < n {
				b.b = slices.Grow(b.b, max(n, len(b.b)))
			}
			return b
		}
	}
	b := &batch{b: appendBatchHead(make([]byte, 0, n+batchHeadSize), l.node.name)}
	l.batches = append(l.batches, b)
	return b
}

func (l *link) pushedLocked(b *batch, urgent bool) {
	b.records++
	l.runLocked()
	if urgent {
		l.kick.ring()
	}
}

// runLocked starts the goroutine that sends, unless there is one.
func (l *link) runLocked() {
	l.used = time.Now()
	if !l.running && l.node.work.begin() {
		l.running = true
		go l.run()
	}
}

// run sends until there is nothing more to send.
func (l *link) run() {
	defer l.node.work.done()
	for {
		if l.mayWait() {
			select {
			case <-l.kick:
			case <-time.After(receiptDelay):
			}
		}
		b := l.cut()
		if b == nil {
			return
		}
		l.send(b)
		sleep(l.node.ctx, batchPause)
	}
}

// mayWait reports whether there is nothing urgent.
func (l *link) mayWait() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.batches) == 0 && !l.node.isClosing()
}

// cut takes the first batch out of the queue. It returns nil, and lets the goroutine go, if there is
// none.
func (l *link) cut() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kick.hush()
	switch {
	case len(l.batches) > 0:
	case !l.receipt.empty():
		r := l.receipt
		l.receipt = receipt{}
		b := l.openLocked(0)
		b.b = appendReceipt(b.b, &r)
		b.records++
	case l.owed:
		l.openLocked(0).records++
	default:
		l.running = false
		return nil
	}
	b := l.batches[0]
	l.batches[0] = nil
	l.batches = l.batches[1:]
	if len(l.batches) == 0 {
		l.batches = nil
	}
	l.sent++
	l.owed = false
	setBatchHead(b.b, l.node.name, l.sent, l.got)
	if b.bytes > 0 {
		l.unconfirm = append(l.unconfirm, confirm{l.sent, b.bytes, time.Now()})
	}
	return b
}

// send sends one batch, again and again until the engine has it.
func (l *link) send(b *batch) {
	for retry := minRetry; ; retry = min(2*retry, maxRetry) {
		ctx, cancel := context.WithTimeout(l.node.ctx, engineTimeout)
		err := l.node.engine.Send(ctx, l.name, b.b)
		cancel()
		switch {
		case err == nil:
			l.node.stats.batches.Add(1)
			return
		case errors.Is(err, cluster.ErrTooBig), l.node.ctx.Err() != nil:
			return
		case errors.Is(err, cluster.ErrNoNode) && l.isDead():
			l.drop()
			return
		case !errors.Is(err, cluster.ErrNoNode):
			l.node.engineFailed(err)
		}
		l.node.stats.repeated.Add(1)
		sleep(l.node.ctx, retry)
	}
}

// drop drops what is to be sent to a node that is gone.
func (l *link) drop() {
	l.mu.Lock()
	for _, b := range l.batches {
		l.underWay -= b.bytes
	}
	l.batches, l.receipt, l.owed = nil, receipt{}, false
	l.mu.Unlock()
}

// received notes that a batch has come, and reports whether it is new. It confirms batches that were
// sent, and returns the ids for which there is room again.
func (l *link) received(h batchHead) (isNew bool, gap uint64, unblocked []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = time.Now()
	unblocked = l.confirmLocked(h.received)
	if h.number <= l.got {
		return false, 0, unblocked
	}
	if l.got > 0 {
		gap = h.number - l.got - 1
	}
	l.got, l.gotAt = h.number, time.Now()
	return true, gap, unblocked
}

// owe notes that the last batch is to be confirmed.
func (l *link) owe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owed = true
	l.runLocked()
}

// confirmLocked takes out what the node has received, and what is too old to count.
func (l *link) confirmLocked(received uint64) (unblocked []string) {
	for len(l.unconfirm) > 0 {
		c := l.unconfirm[0]
		if c.number > received && time.Since(c.at) < confirmWithin {
			break
		}
		l.underWay -= c.bytes
		l.unconfirm = l.unconfirm[1:]
	}
	if l.underWay >= maxUnderWay || len(l.blocked) == 0 {
		return nil
	}
	for id := range l.blocked {
		unblocked = append(unblocked, id)
	}
	clear(l.blocked)
	return unblocked
}

// takeRef returns what a number stands for, once.
func (l *link) takeRef(number uint32) (ref, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.refs[number]
	delete(l.refs, number)
	return r, ok
}

// tidy forgets what is too old, and returns the ids for which there is room again.
func (l *link) tidy(now time.Time) (unblocked []string, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for number, r := range l.refs {
		if now.Sub(r.at) > keepRefs {
			delete(l.refs, number)
		}
	}
	if l.got > 0 && now.Sub(l.gotAt) > keepLink {
		l.got = 0 // before the node forgets what it has sent, and counts from 1 again
	}
	if now.Sub(l.used) > keepLink {
		l.watch.hasUpTo = false
	}
	idle = !l.running && len(l.batches) == 0 && now.Sub(l.used) > 2*keepLink
	return l.confirmLocked(0), idle
}

// queued returns how many bytes of messages are to be sent, or under way.
func (l *link) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.underWay
}
