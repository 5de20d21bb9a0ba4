package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Times of claims.
const (
	renewWithin = 100 * time.Second // each claim is made again so often
	againAfter  = 2 * time.Second   // after a loss of data, which may go on until then
	againWithin = 8 * time.Second   // each claim is made again once more from then on
	lostWait    = 3 * time.Second   // after a loss of data no new id is claimed, so that the holders come first
)

// claims tells the engine of claims, renewals and ends of claims, in order. One goroutine does that,
// while there is something to tell.
type claims struct {
	node *node

	mu        sync.Mutex // guards the following
	running   bool
	kick      bell
	fresh     []*claimOp
	renewals  []*claimOp
	releases  []cluster.Claim
	freshAt   time.Time // not before that
	renewAt   time.Time // not before that
	nextShard float64   // to be renewed
	lostAt    time.Time // when data was lost last; zero: never
}

// A claimOp is a claim that the engine is to be told of.
type claimOp struct {
	h     *ownClaim
	token [16]byte // that the claim is to have; if moves, or if it is new
	moves bool     // it is a renewal with another token
	claim cluster.Claim

	// Guarded by the lock of claims.
	tried     bool
	answered  bool
	abandoned func(cluster.Claimed) // what to do in the place of done; nil: somebody waits

	got  cluster.Claimed // before done is closed
	done chan struct{}   // closed when the engine has answered
}

// ask lets the engine be asked for a new claim, which is of no use after d.
func (cl *claims) ask(h *ownClaim, epoch, over uint64, d time.Duration) *claimOp {
	op := &claimOp{h: h, token: h.token, done: make(chan struct{})}
	op.claim = cluster.Claim{ID: h.id, Node: cl.node.name, Token: h.token, Epoch: epoch, Over: over,
		Before: cl.node.engine.Now().Add(d)}
	cl.mu.Lock()
	cl.fresh = append(cl.fresh, op)
	cl.startLocked()
	cl.mu.Unlock()
	return op
}

// renewLocked lets a claim be renewed. It needs the lock of the shard too.
func (cl *claims) renewLocked(h *ownClaim) { cl.againLocked(&claimOp{h: h}) }

// moveLocked lets a claim be renewed with another token. It needs the lock of the shard too.
func (cl *claims) moveLocked(h *ownClaim, token [16]byte) *claimOp {
	return cl.againLocked(&claimOp{h: h, token: token, moves: true})
}

func (cl *claims) againLocked(op *claimOp) *claimOp {
	op.done, op.h.renewing = make(chan struct{}), true
	cl.mu.Lock()
	cl.renewals = append(cl.renewals, op)
	cl.startLocked()
	cl.mu.Unlock()
	return op
}

// releaseLocked lets the engine forget a claim that has ended. It needs the lock of the shard too.
func (cl *claims) releaseLocked(h *ownClaim) {
	h.over = true
	if h.granted == 0 || h.renewing || h.givenAway { // when the answer comes, it is released
		return
	}
	cl.mu.Lock()
	cl.releases = append(cl.releases, cluster.Claim{ID: h.id, Node: cl.node.name, Epoch: h.granted})
	cl.startLocked()
	cl.mu.Unlock()
}

// abandon notes that nobody waits for the answer any more. If the engine may have been asked, then is
// called with its answer, which comes some time. It reports whether then will be called. If the answer
// has come already, it is returned.
func (cl *claims) abandon(op *claimOp, then func(cluster.Claimed)) (got cluster.Claimed, answered, later bool) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if op.answered {
		return op.got, true, false
	}
	op.abandoned = then
	return got, false, op.tried
}

func (cl *claims) startLocked() {
	if !cl.running && cl.node.work.begin() {
		cl.running = true
		go cl.run()
	}
	cl.kick.ring()
}

func (cl *claims) run() {
	defer cl.node.work.done()
	for {
		ops, releases, wait := cl.take()
		switch {
		case len(ops)+len(releases) > 0:
		case wait < 0:
			return
		default:
			timer := time.NewTimer(wait)
			select {
			case <-cl.kick:
			case <-timer.C:
			case <-cl.node.stop: // all claims end now
				cl.hurry()
			}
			timer.Stop()
			continue
		}
		if !cl.claim(ops) || !cl.release(releases) {
			return
		}
	}
}

// hurry lets nothing wait for its time.
func (cl *claims) hurry() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.freshAt, cl.renewAt = time.Time{}, time.Time{}
}

// take returns what the engine is to be told next, or how long to wait; negative: there is nothing, and
// the goroutine ends.
func (cl *claims) take() (ops []*claimOp, releases []cluster.Claim, wait time.Duration) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	now := time.Now()
	wait = -1
	take := func(queue *[]*claimOp, at time.Time) {
		if d := at.Sub(now); d > 0 && len(*queue) > 0 {
			if wait < 0 || d < wait {
				wait = d
			}
			return
		}
		n := min(len(*queue), maxClaims-len(ops))
		for _, op := range (*queue)[:n] {
			if op.abandoned == nil { // else the engine was never asked
				op.tried = true
				ops = append(ops, op)
			}
		}
		if *queue = (*queue)[n:]; len(*queue) == 0 {
			*queue = nil
		} else {
			wait = 0
		}
	}
	take(&cl.fresh, cl.freshAt)
	take(&cl.renewals, cl.renewAt)
	n := min(len(cl.releases), maxClaims)
	releases, cl.releases = cl.releases[:n:n], cl.releases[n:]
	if len(ops)+len(releases) == 0 && wait < 0 {
		cl.running = false
	}
	return ops, releases, wait
}

// claim asks the engine until it answers, and reports whether it has.
func (cl *claims) claim(ops []*claimOp) bool {
	n := cl.node
	ops = n.realm.prepare(ops)
	if len(ops) == 0 {
		return true
	}
	cs := make([]cluster.Claim, len(ops))
	for i, op := range ops {
		cs[i] = op.claim
	}
	var got []cluster.Claimed
	ok := n.insist(func(ctx context.Context) (err error) {
		if got, err = n.engine.Claim(ctx, cs...); err == nil && len(got) != len(cs) {
			err = errors.New("the engine answered another number of claims")
		}
		return err
	})
	if !ok {
		return false
	}
	n.stats.claims.Add(uint64(len(ops)))
	for i, op := range ops {
		cl.answer(op, got[i])
	}
	return true
}

func (cl *claims) release(cs []cluster.Claim) bool {
	return len(cs) == 0 || cl.node.insist(func(ctx context.Context) error { return cl.node.engine.Release(ctx, cs...) })
}

// insist calls the engine until it answers, or the node has nothing to do with it any more.
func (n *node) insist(call func(ctx context.Context) error) bool {
	for retry := minRetry; ; retry = min(2*retry, maxRetry) {
		ctx, cancel := context.WithTimeout(n.ctx, engineTimeout)
		err := call(ctx)
		cancel()
		if err == nil {
			return true
		}
		if n.ctx.Err() != nil {
			return false
		}
		n.engineFailed(err)
		sleep(n.ctx, retry)
	}
}

// answer passes the answer of the engine on.
func (cl *claims) answer(op *claimOp, got cluster.Claimed) {
	cl.node.saw(got.Previous.Epoch)
	lost := cl.node.realm.claimed(op, got)
	cl.mu.Lock()
	op.answered, op.got = true, got
	then := op.abandoned
	close(op.done)
	cl.mu.Unlock()
	if then != nil {
		then(got)
	}
	if lost != nil {
		cl.node.refuse(lost)
	}
}

// prepare fills in the renewals, and leaves out those of claims that have ended.
func (r *Realm) prepare(ops []*claimOp) (rest []*claimOp) {
	for _, op := range ops {
		if op.claim.ID != "" { // it is new
			rest = append(rest, op)
			continue
		}
		sh := r.shard(op.h.id)
		sh.mu.Lock()
		h := op.h
		if h.over {
			h.renewing = false
			r.node.claims.releaseLocked(h)
			close(op.done)
		} else {
			if !op.moves {
				op.token = h.token
			}
			op.claim = cluster.Claim{ID: h.id, Node: r.node.name, Token: op.token, Epoch: h.epoch, Own: h.granted}
			rest = append(rest, op)
		}
		sh.mu.Unlock()
	}
	return rest
}

// claimed notes the answer of the engine. It returns the client whose claim is lost, or nil.
func (r *Realm) claimed(op *claimOp, got cluster.Claimed) (lost *Client) {
	sh := r.shard(op.h.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	h, renewal := op.h, op.claim.Own != 0
	if renewal {
		h.renewing = false
	}
	switch {
	case got.Granted:
		h.granted, h.token = op.claim.Epoch, op.token
		if h.over && renewal {
			r.node.claims.releaseLocked(h)
		} else if !h.over && h.epoch != h.granted { // data was lost meanwhile
			r.node.claims.renewLocked(h)
		}
	case renewal && !h.over && sh.far.claims[h.id] == h:
		if lost = sh.clients[h.id]; lost == nil {
			h.granted = 0 // the newcomer is to ask again
		}
	}
	return lost
}

// writesAgain reports whether all that was written after a loss of data is written once more: what took
// it may have been a master that was replaced and did not know that yet.
func writesAgain(lost, now time.Time) bool {
	since := now.Sub(lost)
	return since >= againAfter && since <= againAfter+againWithin+time.Second
}

func (cl *claims) lost() time.Time {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.lostAt
}

// renewSome renews some of the claims, so that each is renewed in time.
func (cl *claims) renewSome() {
	cl.mu.Lock()
	from, within := int(cl.nextShard), renewWithin
	if writesAgain(cl.lostAt, time.Now()) {
		within = againWithin
	}
	cl.nextShard += numShards / within.Seconds()
	to := int(cl.nextShard)
	if cl.nextShard >= numShards {
		cl.nextShard -= numShards
	}
	cl.mu.Unlock()
	for i := from; i < to; i++ {
		cl.node.realm.renewShard(&cl.node.realm.shards[i%numShards])
	}
}

func (r *Realm) renewShard(sh *shard) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, h := range sh.far.claims {
		if h.granted != 0 && !h.renewing {
			r.node.claims.renewLocked(h)
		}
	}
}

// lostData is called by the engine when it may have lost data, or others may have thought this node
// dead. They may have sent again what they sent before, so that must be refused from now on: every
// claim gets a new epoch before anything else is read.
func (n *node) lostData() {
	n.stats.lost.Add(1)
	n.claims.mu.Lock()
	n.claims.lostAt = time.Now()
	n.claims.freshAt = time.Now().Add(lostWait)
	n.claims.renewAt = time.Now().Add(rand.N(time.Second))
	n.claims.mu.Unlock()
	for i := range n.realm.shards {
		sh := &n.realm.shards[i]
		sh.mu.Lock()
		for _, h := range sh.far.claims {
			h.epoch = n.nextEpoch()
		}
		sh.mu.Unlock()
		n.realm.renewShard(sh)
	}
	n.realm.renewRooms()
}
