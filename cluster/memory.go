package cluster

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	beatEvery   = time.Second
	beatTimeout = 2 * time.Second // a beat without an answer for this long has failed
	beatFresh   = 2 * time.Second // how old a beat may be for Receive to be called
)

var (
	errBroken = errors.New("cluster: memory broken on purpose")
	errJoined = errors.New("cluster: the engine has a node already")
)

// A Memory is a cluster within one process, for tests: they make an engine for each server, and break
// the cluster on purpose. It keeps the contract of [Engine] while it is broken, too. NewMemory makes
// one. Its methods may be called concurrently, and those that break something act at once, also
// on calls that wait.
//
// It tells the time by package time, and has two goroutines for each node from Join to Leave, so it
// works within a bubble of testing/synctest.
type Memory struct {
	mu sync.Mutex // guards the following, and the fields of engines and runs that say so

	nodes  map[string]*inbox  // name -> its inbox; none: left, never joined, or its TTL is over
	claims map[string]*record // id -> its claim; none: not claimed
	rooms  map[string]*room   // name -> its members; none: nobody is in it

	rand       *rand.Rand
	fail, drop float64
	delay      time.Duration
	paused     bool
	cut        map[string]bool // nodes that do not reach the cluster
	mended     chan struct{}   // closed, and replaced, by Resume and Mend
	late       []func()        // effects of calls that ended during a pause, for Resume
}

type inbox struct {
	batches      []batch
	wake         chan struct{} // of the run of this node
	alive, until time.Time     // from then on the node is missing; after that the inbox is gone
}

type batch struct {
	data []byte
	due  time.Time
}

type record struct {
	Place
	token   [16]byte
	before  Place // the place before it
	renewed bool  // then before does not count any more
	until   time.Time
}

type room struct {
	members map[string]Member
	until   time.Time
}

// NewMemory returns an empty cluster without faults, whose randomness has the seed 1.
func NewMemory() *Memory {
	m := &Memory{cut: map[string]bool{}, mended: make(chan struct{})}
	m.Seed(1)
	m.Forget()
	return m
}

// Engine returns a new engine of this cluster, for one server.
func (m *Memory) Engine() Engine { return &engine{m: m} }

// Seed starts the randomness of [Memory.Fail] and [Memory.Drop] anew.
func (m *Memory) Seed(seed int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rand = rand.New(rand.NewPCG(uint64(seed), 0))
}

// Fail makes calls, and beats, return an error with the probability p although they have had their
// effect, from 0 (the default) to 1. With the same probability, a call whose context ends during a
// pause has its effect when the pause ends.
func (m *Memory) Fail(p float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = p
}

// Drop makes calls, and beats, return an error with the probability p without any effect, from
// 0 (the default) to 1. It comes before [Memory.Fail].
func (m *Memory) Drop(p float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop = p
}

// Delay makes each call that begins from now on, and the delivery of each batch sent from now on,
// take d longer. The default is 0. With more than 2 s all beats fail.
func (m *Memory) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// Pause makes calls and deliveries wait until [Memory.Resume], as if the process that has the data
// was stopped. A call returns an error when its context ends. Claims, rooms and inboxes grow old
// meanwhile, and nodes become missing.
func (m *Memory) Pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = true
}

// Resume ends a pause.
func (m *Memory) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = false
	for _, effect := range m.late {
		effect()
	}
	m.late = nil
	m.wakeLocked()
}

// Forget loses all claims, rooms, inboxes and registrations, as if the process that has the data
// had started anew. An engine finds that out by its next beat, makes the inbox of its node again
// and calls [Handler].Lost.
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes, m.claims, m.rooms = map[string]*inbox{}, map[string]*record{}, map[string]*room{}
}

// Cut separates the engine that this node has joined with from the cluster, until [Memory.Mend]:
// its calls wait until their context ends and have no effect then, it does not beat, and it
// receives nothing. The node need not have joined yet.
func (m *Memory) Cut(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[node] = true
}

// Mend ends a [Memory.Cut]. For a node that is not cut off it does nothing.
func (m *Memory) Mend(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.cut, node)
	m.wakeLocked()
}

// wakeLocked lets all that waits for the end of a fault look again.
func (m *Memory) wakeLocked() {
	close(m.mended)
	m.mended = make(chan struct{})
	for _, in := range m.nodes {
		poke(in.wake)
	}
}

// inboxLocked returns nil if there is no such inbox.
func (m *Memory) inboxLocked(node string) *inbox {
	if in := m.nodes[node]; in != nil && !time.Now().After(in.until) {
		return in
	}
	delete(m.nodes, node)
	return nil
}

func (m *Memory) missingLocked(node string) bool {
	in := m.inboxLocked(node)
	return in == nil || !time.Now().Before(in.alive)
}

// claimLocked returns nil if the id is not claimed.
func (m *Memory) claimLocked(id string) *record {
	if r := m.claims[id]; r != nil && !time.Now().After(r.until) {
		return r
	}
	delete(m.claims, id)
	return nil
}

func (m *Memory) placeLocked(id string) Place {
	if r := m.claimLocked(id); r != nil {
		return r.Place
	}
	return Place{}
}

// isLate reports whether what had to be done before a time is too late.
func isLate(before time.Time) bool { return !before.IsZero() && !time.Now().Before(before) }

// grantLocked is one step of [Engine.Claim].
func (m *Memory) grantLocked(c Claim) Claimed {
	next := &record{Place: Place{c.Node, c.Epoch}, token: c.Token, renewed: c.Own != 0, until: time.Now().Add(ClaimTTL)}
	old := m.claimLocked(c.ID)
	again := old != nil && old.Place == next.Place && old.token == c.Token
	if c.Own == 0 && !again && isLate(c.Before) {
		return Claimed{}
	}
	if old != nil {
		same := old.Node == c.Node
		granted := again || c.Epoch > old.Epoch && (same || old.token == c.Token || old.Epoch == c.Over)
		if c.Own != 0 {
			granted = same || old.Epoch <= c.Own
		}
		if !granted {
			return Claimed{Previous: old.Place}
		}
		next.before = old.Place
		if same && !old.renewed {
			next.before = old.before
		}
	} else if c.Epoch == 0 {
		return Claimed{} // it is not greater than no epoch
	}
	m.claims[c.ID] = next
	return Claimed{Granted: true, Previous: next.before}
}

// editLocked is the step of [Engine.Room]. It returns nil if it comes too late.
func (m *Memory) editLocked(name string, e Edit) map[string]Member {
	if isLate(e.Before) {
		return nil
	}
	r := m.rooms[name]
	if r == nil || time.Now().After(r.until) {
		r = &room{members: map[string]Member{}}
	}
	maps.DeleteFunc(r.members, func(_ string, member Member) bool { return member.Node == e.Gone })
	for _, id := range e.Leave {
		if r.members[id].Node == e.Node {
			delete(r.members, id)
		}
	}
	for id, data := range e.Renew {
		if member, there := r.members[id]; !there || member.Node == e.Node {
			r.members[id] = Member{e.Node, data}
		}
		r.until = time.Now().Add(ClaimTTL)
	}
	for _, id := range slices.Sorted(maps.Keys(e.Join)) { // sorted, so that a seed repeats a run
		if _, here := r.members[id]; here || e.Max < 0 || len(r.members) < e.Max {
			r.members[id] = Member{e.Node, e.Join[id]}
		}
		r.until = time.Now().Add(ClaimTTL)
	}
	m.rooms[name] = r
	if len(r.members) == 0 {
		delete(m.rooms, name)
	}
	all := make(map[string]Member, len(r.members))
	for id, member := range r.members {
		all[id] = Member{member.Node, bytes.Clone(member.Data)}
	}
	return all
}
