package turn

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// A clock tells the time since it was made, and never 0, which stands for a time that has not been. It is what
// the buckets below count in.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) + 1 }

// A bucket lets a rate and bursts through. It keeps one number, the time at which it would be empty again
// (the generic cell rate algorithm), so that the packets of a user share no lock. The zero bucket is empty.
type bucket struct{ busyUntil atomic.Int64 }

// take reports whether something that takes the time cost still fits, if the bucket holds a burst.
func (b *bucket) take(now, cost, burst time.Duration) bool {
	for {
		until := b.busyUntil.Load()
		next := max(until, int64(now)) + int64(cost)
		if next > int64(now+burst) {
			return false
		}
		if b.busyUntil.CompareAndSwap(until, next) {
			return true
		}
	}
}

// A pace is a rate with bursts, of what a limiter counts for one address.
type pace struct {
	perSecond int
	burst     int
}

const limiterSlots = 1 << 12

// A limiter counts events of addresses. Its size is fixed, however many addresses there are: an address has
// one bucket in each of two tables, and shares it with others. It is over its pace if both its buckets are, so
// a flood from one address limits another one only if that has the same two buckets by accident.
type limiter struct {
	clock clock
	seed  maphash.Seed
	cost  time.Duration
	burst time.Duration
	slots [2][limiterSlots]bucket
}

func newLimiter(c clock, p pace) *limiter {
	cost := time.Second / time.Duration(p.perSecond)
	return &limiter{clock: c, seed: maphash.MakeSeed(), cost: cost, burst: cost * time.Duration(p.burst)}
}

func (l *limiter) buckets(addr netip.Addr) (a, b *bucket) {
	h := maphash.Comparable(l.seed, addr)
	return &l.slots[0][h%limiterSlots], &l.slots[1][h>>32%limiterSlots]
}

// over reports whether the next event of an address would exceed its pace.
func (l *limiter) over(addr netip.Addr) bool {
	full := int64(l.clock.now() + l.burst - l.cost)
	a, b := l.buckets(addr)
	return a.busyUntil.Load() > full && b.busyUntil.Load() > full
}

// take counts an event of an address, and reports whether it is within its pace.
func (l *limiter) take(addr netip.Addr) bool {
	now := l.clock.now()
	a, b := l.buckets(addr)
	first, second := a.take(now, l.cost, l.burst), b.take(now, l.cost, l.burst)
	return first || second
}

// nat64 is where IPv4 addresses are in IPv6 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// groupOf returns what is counted as one address: all of one IPv6 /64, because one household or host usually
// has all of them.
func groupOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() && !addr.IsLinkLocalUnicast() && !nat64.Contains(addr) {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}
