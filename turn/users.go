package turn

import (
	"container/list"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
)

const (
	goneAfter     = time.Minute     // how long the credentials of an id that has gone still make relays
	clockSkew     = 5 * time.Minute // how much longer than TTL the credentials of other servers may last
	maxRemembered = 1 << 16         // users of which is known that they were revoked or have gone
)

// A user is one id, by its name in the usernames of TURN.
type user struct {
	name  string
	meter *meter

	// Guarded by users.mu.
	relays  map[*relay]struct{}
	client  *peer.Client // connected, and has credentials of this server; nil: none is
	token   uint64       // a hash of the token of the client, also when it has gone
	issued  int64        // the latest expiry (Unix seconds) of the credentials of the client
	revoked int64        // credentials that expire at this time or earlier make no relay
	left    int64        // credentials that expire at this time or earlier make no relay from leftAt on
	leftAt  time.Time
	ended   bool          // the host has revoked it, or another client has overridden it
	memory  *list.Element // in list; nil: nothing is remembered
	list    *list.List    // users.revoked or users.gone
	past    Usage         // of relays that have ended
}

// users knows who has relays, who is connected and who must not make relays. No packet takes its lock: relays
// are found by their port, and know their user.
type users struct {
	opts  *Options
	seed  maphash.Seed
	bound int // of revoked and gone together

	mu      sync.Mutex       // guards the following
	all     map[string]*user // name -> user; absent: nothing is known
	revoked *list.List       // of *user, the earliest first
	gone    *list.List       // of *user that have left and were not revoked, the earliest first
	relays  int              // of all users
	peak    int
	past    Usage         // of relays that have ended
	closing bool          // no relay is made any more
	idle    chan struct{} // closed when there is no relay; nil: nobody waits
}

func newUsers(opts *Options) *users {
	return &users{
		opts: opts, seed: maphash.MakeSeed(), bound: maxRemembered, all: make(map[string]*user),
		revoked: list.New(), gone: list.New(),
	}
}

// getLocked returns the user with a name, and makes it if there is none.
func (us *users) getLocked(name string) *user {
	u := us.all[name]
	if u == nil {
		u = &user{name: name, meter: newMeter(us.opts.UserBytesPerSecond), relays: make(map[*relay]struct{})}
		us.all[name] = u
	}
	return u
}

// tidyLocked forgets a user of which nothing must be known.
func (us *users) tidyLocked(u *user) {
	if len(u.relays) == 0 && u.client == nil && u.memory == nil {
		delete(us.all, u.name)
	}
}

// rememberLocked bounds what is remembered, in number and in time.
func (us *users) rememberLocked(u *user, now time.Time) {
	if u.memory != nil {
		u.list.Remove(u.memory)
	}
	if u.list = us.gone; u.ended {
		u.list = us.revoked
	}
	u.memory = u.list.PushBack(u)
	us.expireLocked(now)
}

func (us *users) rememberedLocked() int { return us.revoked.Len() + us.gone.Len() }

// expireLocked forgets what is remembered of credentials that have expired, and what exceeds the bound. Those that
// have left go first: anybody can connect and leave, and must not make the server forget whom its host has revoked.
func (us *users) expireLocked(now time.Time) {
	for _, l := range []*list.List{us.gone, us.revoked} {
		for e := l.Front(); e != nil; e = l.Front() {
			u := e.Value.(*user)
			if us.rememberedLocked() <= us.bound && max(u.revoked, u.left) >= now.Unix() {
				break
			}
			us.forgetLocked(u)
		}
	}
}

func (us *users) forgetLocked(u *user) {
	u.list.Remove(u.memory)
	u.memory, u.list, u.ended, u.revoked, u.left = nil, nil, false, 0, 0
	us.tidyLocked(u)
}

// issue notes that a client gets credentials that expire at a time, and returns when they have to expire: later
// than those that make no relay. c is nil if nobody would tell when it ends: then nothing is noted, as nothing
// would take the note back. The same holds for a client that has ended meanwhile.
func (us *users) issue(name string, c *peer.Client, expiry int64) int64 {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.all[name]
	tracked := c != nil && c.Reason() == 0
	if tracked {
		u = us.getLocked(name)
		us.connectLocked(u, c)
	}
	if u == nil {
		return expiry
	}
	expiry = max(expiry, u.revoked+1, u.left+1)
	if tracked {
		u.issued = max(u.issued, expiry)
	}
	return expiry
}

// connectLocked notes which client a user is. If the same page is back, by its token, the credentials are good
// that it got before.
func (us *users) connectLocked(u *user, c *peer.Client) {
	if u.client == c {
		return
	}
	token := maphash.String(us.seed, c.Token())
	if u.token != token {
		u.issued = 0
	} else if u.left = 0; u.revoked == 0 && u.memory != nil {
		u.list.Remove(u.memory)
		u.memory, u.list = nil, nil
	}
	u.client, u.token = c, token
}

// isLocked reports whether c, which has ended, is the connection of a user. Its predecessor stands for it if c
// ended before it got credentials.
func (u *user) isLocked(c *peer.Client) bool {
	return u != nil && u.client != nil && (u.client == c || u.client.Reason() != 0)
}

// leave notes that a client has ended: its credentials make relays for one more minute.
func (us *users) leave(name string, c *peer.Client, now time.Time) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.all[name]; u.isLocked(c) {
		u.client = nil
		if u.left > 0 && !now.Before(u.leftAt) { // the minute of the one before has passed, and does not come back
			u.revoked = max(u.revoked, u.left)
		}
		u.left, u.leftAt = u.issued, now.Add(goneAfter)
		us.rememberLocked(u, now)
	}
}

// move notes that a client has ended because the same page is connected to another server.
func (us *users) move(name string, c *peer.Client) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.all[name]; u.isLocked(c) {
		u.client = nil
		us.tidyLocked(u)
	}
}

// revoke makes the credentials of a user worthless, and returns its relays, which the caller has to end. If c
// is not nil, it is the client that has ended.
func (us *users) revoke(name string, c *peer.Client, now time.Time) (ended []*relay) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.getLocked(name)
	// What this server has issued is known exactly. Otherwise another server may have issued it just now.
	last := u.issued
	if u.client == nil {
		last = max(last, now.Add(us.opts.TTL).Unix())
	}
	u.ended, u.revoked = true, max(u.revoked, last)
	if c != nil && u.isLocked(c) {
		u.client = nil
	}
	us.rememberLocked(u, now)
	return slices.Collect(maps.Keys(u.relays))
}

// check returns why credentials may not make a relay, or none.
func (us *users) check(name string, expiry int64, now time.Time) refusal {
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.checkLocked(name, expiry, now)
}

func (us *users) checkLocked(name string, expiry int64, now time.Time) refusal {
	switch u := us.all[name]; {
	case us.closing:
		return refusedClosing
	case expiry <= now.Unix():
		return refusedExpired
	case expiry > now.Add(us.opts.TTL+clockSkew).Unix() && (u == nil || expiry > u.issued):
		return refusedTooLong
	case u != nil && expiry <= u.revoked:
		return refusedRevoked
	case u != nil && expiry <= u.left && !now.Before(u.leftAt):
		return refusedGone
	}
	return none
}

// hasRoom returns why a user may not make one more relay, or none.
func (us *users) hasRoom(name string) refusal {
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.hasRoomLocked(us.all[name])
}

func (us *users) hasRoomLocked(u *user) refusal {
	if u != nil && full(len(u.relays), us.opts.MaxPerUser) {
		return refusedUserLimit
	}
	if full(us.relays, us.opts.MaxRelays) {
		return refusedRelayLimit
	}
	return none
}

// add makes r a relay of a user, and checks again what may have changed since its request was authenticated.
func (us *users) add(r *relay, name string, expiry int64, now time.Time) refusal {
	us.mu.Lock()
	defer us.mu.Unlock()
	if why := us.checkLocked(name, expiry, now); why != none {
		return why
	}
	if why := us.hasRoomLocked(us.all[name]); why != none {
		return why
	}
	r.user = us.getLocked(name)
	r.user.relays[r] = struct{}{}
	us.relays++
	us.peak = max(us.peak, us.relays)
	return none
}

// remove takes a relay from its user, and keeps what it has counted.
func (us *users) remove(r *relay) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := r.user
	delete(u.relays, r)
	u.past.add(r.usage())
	us.past.add(r.usage())
	us.relays--
	if us.relays == 0 && us.idle != nil {
		close(us.idle)
		us.idle = nil
	}
	us.tidyLocked(u)
}

// close lets no relay be made any more, and returns a channel that is closed when there is none left.
func (us *users) close() <-chan struct{} {
	us.mu.Lock()
	defer us.mu.Unlock()
	us.closing = true
	if us.idle == nil {
		us.idle = make(chan struct{})
	}
	idle := us.idle
	if us.relays == 0 {
		close(us.idle)
		us.idle = nil
	}
	return idle
}

// usage returns what was relayed for a user.
func (us *users) usage(name string) Usage {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.all[name]
	if u == nil {
		return Usage{}
	}
	return u.usageLocked()
}

func (u *user) usageLocked() Usage {
	sum := u.past
	for r := range u.relays {
		sum.add(r.usage())
	}
	sum.Relays = len(u.relays)
	return sum
}

// snapshot fills in what users know.
func (us *users) snapshot(st *Stats, now time.Time) {
	us.mu.Lock()
	defer us.mu.Unlock()
	us.expireLocked(now)
	st.Usage = us.past
	for _, u := range us.all {
		if len(u.relays) > 0 {
			st.Users++
		}
		for r := range u.relays {
			st.Usage.add(r.usage())
		}
	}
	st.Relays, st.PeakRelays, st.Remembered = us.relays, us.peak, us.rememberedLocked()
}

func (us *users) isClosing() bool {
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.closing
}
