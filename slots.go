package peer

// mayReplace reports whether the limit per address has a slot for c if c takes the id of holder
// over.
func (r *Realm) mayReplace(holder, c *Client) bool {
	limit := r.opts.ConcurrentLimitPerAddr
	if limit <= 0 || !c.limitAddr.IsValid() || c.limitAddr == holder.limitAddr {
		return true
	}
	r.addrMu.Lock()
	defer r.addrMu.Unlock()
	return r.addrs[c.limitAddr] < limit
}

// takeSlot counts c in the place of its predecessor, which may be nil. If a limit forbids that, it
// returns the error of the limit.
func (r *Realm) takeSlot(c, predecessor *Client) error {
	if limit := r.opts.ConcurrentLimitPerAddr; limit > 0 {
		r.addrMu.Lock()
		defer r.addrMu.Unlock()
		taken := r.addrs[c.limitAddr]
		if predecessor != nil && predecessor.limitAddr == c.limitAddr {
			taken--
		}
		if taken >= limit && c.limitAddr.IsValid() {
			return errAddrLimit
		}
	}
	if predecessor != nil {
		r.countAddrLocked(predecessor, -1)
		r.countAddrLocked(c, +1)
		return nil
	}
	for {
		n := r.live.Load()
		if r.opts.ConcurrentLimit >= 0 && n >= int64(r.opts.ConcurrentLimit) {
			return errLimit
		}
		if r.live.CompareAndSwap(n, n+1) {
			r.countAddrLocked(c, +1)
			return nil
		}
	}
}

// notePeak notes how many clients there are, when one more has been admitted.
func (r *Realm) notePeak() {
	n := r.live.Load()
	for peak := r.peak.Load(); n > peak && !r.peak.CompareAndSwap(peak, n); {
		peak = r.peak.Load()
	}
}

// freeSlot frees the slot that takeSlot took.
func (r *Realm) freeSlot(c *Client) {
	r.live.Add(-1)
	if r.opts.ConcurrentLimitPerAddr > 0 {
		r.addrMu.Lock()
		r.countAddrLocked(c, -1)
		r.addrMu.Unlock()
	}
}

func (r *Realm) countAddrLocked(c *Client, d int) {
	if r.opts.ConcurrentLimitPerAddr <= 0 {
		return
	}
	if r.addrs[c.limitAddr] += d; r.addrs[c.limitAddr] == 0 {
		delete(r.addrs, c.limitAddr)
	}
}
