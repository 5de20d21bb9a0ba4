package peer

import "crypto/sha256"

// An ownClaim is the claim of this node for an id. It is present from the moment before the engine is
// asked, so that a message that comes at once finds it. It is guarded by the lock of the shard of its
// id.
type ownClaim struct {
	id        string
	first     uint64   // its first epoch
	epoch     uint64   // its present one
	granted   uint64   // the last one that the engine has granted; 0: none
	token     [16]byte // of its client, as the engine has it
	newcomer  *Client  // that is being admitted; nil: a client has the id
	settled   chan struct{}
	over      bool // the claim has ended
	givenAway bool // to another node: it is not released
	renewing  bool // a renewal is under way, or waits
}

// tokenOf returns what stands for a token in a claim.
func tokenOf(id, token string) (t [16]byte) {
	sum := sha256.Sum256([]byte(id + "\x00" + token))
	copy(t[:], sum[:])
	return t
}

// hold makes a claim present for a newcomer.
func (r *Realm) hold(c *Client) (*ownClaim, uint64) {
	epoch := r.node.nextEpoch()
	h := &ownClaim{id: c.id, first: epoch, epoch: epoch, token: tokenOf(c.id, c.token), newcomer: c, settled: make(chan struct{})}
	sh := r.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.clients[c.id] != nil || sh.closed {
		return nil, 0
	}
	sh.endClaimLocked(r, c.id, nil, true)
	sh.far.claims[c.id] = h
	return h, epoch
}

// drop ends a claim whose client has not been admitted.
func (r *Realm) drop(h *ownClaim, release bool) {
	sh := r.shard(h.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.far.claims[h.id] == h && sh.clients[h.id] == nil {
		sh.endClaimLocked(r, h.id, nil, release)
		sh.pushLocked(r, h.id)
	}
}

// endClaimLocked ends the claim of an id, if there is one. What other nodes have sent for it goes back;
// rest is what was in the outbox of its client. It returns the parcels of rest that are of this node.
func (sh *shard) endClaimLocked(r *Realm, id string, rest []parcel, release bool) (local []parcel) {
	h := sh.far.claims[id]
	if h == nil {
		return rest
	}
	delete(sh.far.claims, id)
	if h.newcomer = nil; h.settled != nil {
		close(h.settled)
		h.settled = nil
	}
	if w := sh.queues[id]; w != nil {
		far, t := w.takeFar()
		r.book(t)
		sh.armLocked(r, id, w)
		rest = append(rest, far...)
	}
	if h.over, h.givenAway = true, !release; release {
		r.node.claims.releaseLocked(h)
	}
	local = sh.giveBackLocked(r, id, h.epoch, rest)
	if sh.closed { // nothing is held any more
		sh.traffic.dropped[dropShutdown].Add(uint64(len(sh.takeLocked(r, id))))
	}
	return local
}

// mayAdmitLocked reports whether the id of c is claimed for c.
func (sh *shard) mayAdmitLocked(c *Client) bool {
	if sh.far == nil {
		return true
	}
	h := sh.far.claims[c.id]
	return h != nil && h.newcomer == c && h.granted != 0
}

// admittedLocked notes that c has the id that is claimed for it.
func (sh *shard) admittedLocked(r *Realm, c *Client) {
	if sh.far == nil {
		return
	}
	delete(sh.far.routes, c.id)
	h := sh.far.claims[c.id]
	if h == nil {
		return
	}
	if h.newcomer = nil; h.settled != nil {
		close(h.settled)
		h.settled = nil
	}
	if token := tokenOf(c.id, c.token); h.token != token {
		r.node.claims.moveLocked(h, token)
	}
}
