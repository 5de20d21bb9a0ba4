package peer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// A node is a server as a part of a cluster. A server without [Options.Cluster] has none, and none of
// its code runs.
type node struct {
	// Fixed at construction.
	engine  cluster.Engine
	name    string
	realm   *Realm
	fail    func(error)           // tells the host
	answer  func(*link, *control) // deals with a control of another node; must not block
	refuse  func(*Client)         // ends a client whose claim is lost
	gone    func(*link)           // is told of a node that is dead
	finder  finder
	claims  claims
	ctx     context.Context // ends when nothing is to be sent any more
	cancel  context.CancelFunc
	stop    chan struct{} // closed when the server closes: ends run
	work    work
	joined  atomic.Bool
	closing atomic.Bool
	epochs  atomic.Uint64 // the greatest epoch that it has made or read
	numbers atomic.Uint32 // of the last message
	failed  onceAMinute   // errors of the engine are reported
	stats   nodeStats
	census  census

	mu        sync.Mutex // guards the following
	links     map[string]*link
	byIndex   []*link // the place of this node is 0
	joining   chan struct{}
	joinErr   error
	shared    map[string]bool // nodes that this one shares a room with
	ticks     ticks
	parts     map[partKey]*part
	asked     uint64               // number of the last question
	questions map[uint64]*question // by number; absent: nobody waits
}

type nodeStats struct {
	batches, repeated, gaps, refused, returned, finds, claims, lost, errors atomic.Uint64
}

func newNode(engine cluster.Engine, realm *Realm) *node {
	var name [16]byte
	rand.Read(name[:]) // never fails
	n := &node{
		engine: engine, realm: realm, name: base64.RawURLEncoding.EncodeToString(name[:]),
		links: make(map[string]*link), byIndex: make([]*link, 1), parts: make(map[partKey]*part), questions: make(map[uint64]*question),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.work.idle, n.stop = make(chan struct{}), make(chan struct{})
	n.finder.init(n)
	n.claims.node, n.claims.kick = n, newBell()
	return n
}

// join makes the server a node of the cluster, if it is none yet.
func (n *node) join(ctx context.Context) error {
	if n.joined.Load() {
		return nil
	}
	n.mu.Lock()
	done := n.joining
	if done == nil {
		if !n.work.begin() {
			n.mu.Unlock()
			return errClosed
		}
		done = make(chan struct{})
		n.joining = done
		go n.tryJoin(done)
	}
	n.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.joined.Load() {
		return nil
	}
	return n.joinErr
}

func (n *node) tryJoin(done chan struct{}) {
	defer n.work.done()
	ctx, cancel := context.WithTimeout(n.ctx, engineTimeout)
	defer cancel()
	err := n.engine.Join(ctx, n.name, cluster.Handler{Receive: n.receive, Lost: n.lostData})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joining, n.joinErr = nil, err
	if err == nil {
		n.joined.Store(true)
		if n.work.begin() {
			go n.run()
		}
	}
	close(done)
}

// run does once a second what has to be done again and again.
func (n *node) run() {
	defer n.work.done()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			n.tidy(now)
			n.claims.renewSome()
			n.realm.tidyRooms(now)
			n.watch(now)
		case <-n.stop:
			return
		}
	}
}

// isClosing reports whether the server is being shut down: then no queue is too full.
func (n *node) isClosing() bool { return n.closing.Load() }

// stamp returns a deadline as other nodes read it.
func (n *node) stamp(deadline time.Time) int64 {
	if deadline.IsZero() {
		return 0
	}
	return n.engine.Now().Add(time.Until(deadline)).UnixMicro()
}

// unstamp returns a deadline of another node.
func (n *node) unstamp(deadline int64) time.Time {
	if deadline == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.UnixMicro(deadline).Sub(n.engine.Now()))
}

// nextNumber returns the number of the next message, which is not 0.
func (n *node) nextNumber() uint32 {
	for {
		if number := n.numbers.Add(1); number != 0 {
			return number
		}
	}
}

// nextEpoch returns an epoch that is greater than all that this node has made or read.
func (n *node) nextEpoch() uint64 {
	for {
		last := n.epochs.Load()
		next := max(last+1, uint64(max(0, n.engine.Now().UnixMicro())))
		if n.epochs.CompareAndSwap(last, next) {
			return next
		}
	}
}

// saw notes an epoch that was read. One that no clock can have made is left out, for a single one
// could use up all that are left.
func (n *node) saw(epoch uint64) {
	const ahead = 24 * time.Hour
	if epoch > uint64(max(0, n.engine.Now().Add(ahead).UnixMicro())) {
		return
	}
	for last := n.epochs.Load(); epoch > last && !n.epochs.CompareAndSwap(last, epoch); last = n.epochs.Load() {
	}
}

// link returns the link to a node, and makes it if there is none.
func (n *node) link(name string) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(name)
}

func (n *node) linkLocked(name string) *link {
	l := n.links[name]
	if l == nil {
		l = newLink(n, name, n.freeIndexLocked())
		n.links[name] = l
		n.byIndex[l.index] = l
	}
	return l
}

func (n *node) freeIndexLocked() uint16 {
	const most = 60_000
	if len(n.byIndex) < most {
		n.byIndex = append(n.byIndex, nil)
		return uint16(len(n.byIndex) - 1)
	}
	for i := 1; i < most; i++ {
		if n.byIndex[i] == nil {
			return uint16(i)
		}
	}
	return most - 1 // so many nodes in ten minutes: nothing comes back to one of them
}

// origin returns the link to the node that a parcel comes from, or nil if it is forgotten.
func (n *node) origin(index uint16) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if int(index) < len(n.byIndex) {
		return n.byIndex[index]
	}
	return nil
}

// allLinks returns the links to all nodes.
func (n *node) allLinks() []*link {
	n.mu.Lock()
	defer n.mu.Unlock()
	ls := make([]*link, 0, len(n.links))
	for _, l := range n.links {
		ls = append(ls, l)
	}
	return ls
}

// receive is called by the engine for each batch of the inbox.
func (n *node) receive(b []byte) {
	r := batchReader{b: b}
	h, err := r.head()
	var rs []farRecord
	if err == nil {
		rs, err = r.records()
	}
	if err != nil {
		n.stats.errors.Add(1)
		n.complain(err)
		return
	}
	l := n.link(h.sender)
	n.alive(l)
	isNew, gap, unblocked := l.received(h)
	n.realm.pushAll(unblocked)
	if !isNew {
		n.stats.repeated.Add(1)
		return
	}
	if gap > 0 {
		n.stats.gaps.Add(gap)
		n.complain(fmt.Errorf("%d batches of a node are missing", gap))
	}
	var ds deliveries
	owes := false
	for i := range rs {
		owes = n.handle(l, &rs[i], &ds) || owes
	}
	ds.finish()
	if owes && l.name != n.name {
		l.owe()
	}
}

// handle deals with one record, and reports whether the batch is to be confirmed.
func (n *node) handle(l *link, rec *farRecord, ds *deliveries) (owes bool) {
	switch rec.kind {
	case recordMessage:
		n.realm.accept(l, rec, ds)
	case recordReceipt:
		n.realm.settle(l, &rec.receipt)
		return false
	case recordBack:
		ds.finish() // what comes back can go into the outbox of a client that is connected now
		*ds = nil
		n.realm.takeBack(l, rec)
	case recordControl:
		if rec.control.What == "tick" && l.name == n.name {
			n.ticked(rec.control.Number)
		} else {
			n.answer(l, &rec.control)
		}
	}
	return true
}

// complain tells the host of what other nodes or the engine did, once a minute. The host may block, and
// may end its goroutine, so it gets one of its own.
func (n *node) complain(err error) {
	if !n.failed.may() || !n.work.begin() {
		return
	}
	if !errors.Is(err, ErrEngine) {
		err = fmt.Errorf("%w: %w", ErrEngine, err)
	}
	go func() {
		defer n.work.done()
		n.fail(err)
	}()
}

// engineFailed notes an error of the engine.
func (n *node) engineFailed(err error) {
	n.stats.errors.Add(1)
	if n.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		n.complain(err)
	}
}

// tidy forgets what is not needed any more.
func (n *node) tidy(now time.Time) {
	for _, l := range n.allLinks() {
		unblocked, idle := l.tidy(now)
		n.realm.pushAll(unblocked)
		if idle && l.name != n.name {
			n.mu.Lock()
			delete(n.links, l.name)
			n.byIndex[l.index] = nil
			n.mu.Unlock()
		}
	}
	n.mu.Lock()
	number := uint64(0)
	if t := &n.ticks; !t.sent.IsZero() && now.Sub(t.sent) > engineTimeout { // it is lost
		number = n.nextTickLocked()
	}
	n.mu.Unlock()
	n.sendTick(number)
	n.realm.dropParts(now)
	n.realm.forgetRoutes(now)
}

// end sends what is to be sent, for a second at most, and leaves the cluster. No client is connected
// any more.
func (n *node) end() {
	close(n.stop)
	n.work.close()
	timer := time.AfterFunc(flushTimeout, n.cancel)
	<-n.work.idle
	timer.Stop()
	n.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), engineTimeout)
	defer cancel()
	if err := n.engine.Leave(ctx); err != nil {
		n.fail(fmt.Errorf("%w: leaving: %w", ErrEngine, err))
	}
}

const flushTimeout = time.Second
