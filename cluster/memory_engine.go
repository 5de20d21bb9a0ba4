package cluster

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// An engine is the [Engine] of a [Memory].
type engine struct {
	m   *Memory
	run *run // nil: no node; guarded by m.mu
}

// A run is a node from Join to Leave.
type run struct {
	node  string
	h     Handler
	ctx   context.Context // ends when Leave is called; stop is called, and looked at, under m.mu
	stop  context.CancelFunc
	wake  chan struct{} // has one element when deliver has to look again
	ended chan struct{} // closed when no goroutine of it is left

	// Guarded by m.mu.
	lost   bool      // Lost has to be called
	beaten time.Time // when the last beat that worked was sent
}

// call has an effect on the cluster under m.mu, unless a fault is in the way. An effect must not
// use what belongs to the caller: it can come later.
func (e *engine) call(ctx context.Context, effect func()) error {
	m := e.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delay > 0 {
		delay := time.NewTimer(m.delay)
		defer delay.Stop()
		waitLocked(ctx, &m.mu, delay.C)
	}
	for ctx.Err() == nil && (m.paused || e.cutLocked()) {
		waitLocked(ctx, &m.mu, m.mended)
	}
	if err := ctx.Err(); err != nil {
		if m.paused && !e.cutLocked() && m.rand.Float64() < m.fail {
			m.late = append(m.late, effect)
		}
		return err
	}
	if m.rand.Float64() < m.drop {
		return errBroken
	}
	effect()
	if m.rand.Float64() < m.fail {
		return errBroken
	}
	return nil
}

func (e *engine) cutLocked() bool { return e.run != nil && e.m.cut[e.run.node] }

// Join implements [Engine].
func (e *engine) Join(ctx context.Context, node string, h Handler) error {
	r := &run{node: node, h: h, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	r.ctx, r.stop = context.WithCancel(context.Background())
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if e.run != nil {
		return errJoined
	}
	e.run = r
	e.m.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)() // a Leave meanwhile
	err := e.beat(ctx, r)
	e.m.mu.Lock()
	if err == nil {
		err = r.ctx.Err()
	}
	if err != nil {
		r.stop()
		e.run = nil
		close(r.ended)
		return err
	}
	r.lost = false // the first beat found no inbox, as it should
	go func() {
		defer close(r.ended)
		var beats sync.WaitGroup
		beats.Go(func() { e.beats(r) })
		e.deliver(r)
		beats.Wait()
	}()
	return nil
}

// Leave implements [Engine]. One that has failed can be repeated.
func (e *engine) Leave(ctx context.Context) error {
	e.m.mu.Lock()
	r := e.run
	if r != nil {
		r.stop()
	}
	e.m.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := e.call(ctx, func() { delete(e.m.nodes, r.node) })
	if err == nil {
		e.m.mu.Lock()
		e.run = nil
		e.m.mu.Unlock()
	}
	return err
}

func (e *engine) beats(r *run) {
	each := time.NewTicker(beatEvery)
	defer each.Stop()
	for {
		select {
		case <-each.C:
		case <-r.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, beatTimeout)
		e.beat(ctx, r) // when it fails, the next one follows
		cancel()
	}
}

func (e *engine) beat(ctx context.Context, r *run) error {
	sent := time.Now()
	err := e.call(ctx, func() {
		// The effect says that something was lost, and not the answer to it: when the answer fails, the
		// next beat finds all in order.
		in, now := e.m.inboxLocked(r.node), time.Now()
		r.lost = r.lost || e.m.missingLocked(r.node)
		if in == nil {
			in = &inbox{}
			e.m.nodes[r.node] = in
		}
		in.wake = r.wake // a Join that failed can have made the inbox
		in.alive, in.until = now.Add(MissingAfter), now.Add(InboxTTL)
	})
	if err == nil {
		e.m.mu.Lock()
		r.beaten = sent
		e.m.mu.Unlock()
	}
	poke(r.wake)
	return err
}

// deliver makes all calls of the handler, so that they never overlap.
func (e *engine) deliver(r *run) {
	for {
		call, due := e.next(r)
		if call != nil {
			call()
			continue
		}
		var later <-chan time.Time // never
		if due > 0 {
			later = time.After(due)
		}
		select {
		case <-r.wake:
		case <-later:
		case <-r.ctx.Done():
			return
		}
	}
}

// next returns the next call of the handler, or when to look again; 0 means when r.wake says so.
func (e *engine) next(r *run) (call func(), due time.Duration) {
	m := e.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, 0
	}
	if r.lost {
		r.lost = false
		return r.h.Lost, 0
	}
	in := m.inboxLocked(r.node)
	if m.paused || m.cut[r.node] || time.Since(r.beaten) > beatFresh || in == nil || len(in.batches) == 0 {
		return nil, 0
	}
	first := in.batches[0]
	if due = time.Until(first.due); due > 0 {
		return nil, due
	}
	in.batches = in.batches[1:]
	return func() { r.h.Receive(first.data) }, 0
}

// Send implements [Engine].
func (e *engine) Send(ctx context.Context, node string, data []byte) error {
	if len(data) > MaxBatch {
		return ErrTooBig
	}
	data = bytes.Clone(data)
	found := false
	err := e.call(ctx, func() {
		in := e.m.inboxLocked(node)
		if found = in != nil; found {
			in.batches = append(in.batches, batch{data, time.Now().Add(e.m.delay)})
			poke(in.wake)
		}
	})
	if err == nil && !found {
		return ErrNoNode
	}
	return err
}

// Missing implements [Engine].
func (e *engine) Missing(ctx context.Context, nodes ...string) (map[string]bool, error) {
	return ask(e, ctx, nodes, e.m.missingLocked)
}

// Find implements [Engine].
func (e *engine) Find(ctx context.Context, ids ...string) (map[string]Place, error) {
	return ask(e, ctx, ids, e.m.placeLocked)
}

// Claim implements [Engine].
func (e *engine) Claim(ctx context.Context, cs ...Claim) ([]Claimed, error) {
	cs = slices.Clone(cs)
	answers := make([]Claimed, len(cs))
	err := e.call(ctx, func() {
		for i, c := range cs {
			answers[i] = e.m.grantLocked(c)
		}
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// Release implements [Engine].
func (e *engine) Release(ctx context.Context, cs ...Claim) error {
	cs = slices.Clone(cs)
	return e.call(ctx, func() {
		for _, c := range cs {
			if e.m.placeLocked(c.ID) == (Place{c.Node, c.Epoch}) {
				delete(e.m.claims, c.ID)
			}
		}
	})
}

// IDs implements [Engine].
func (e *engine) IDs(ctx context.Context) ([]string, error) {
	var ids []string
	err := e.call(ctx, func() {
		for id := range e.m.claims {
			if r := e.m.claimLocked(id); r != nil && !e.m.missingLocked(r.Node) {
				ids = append(ids, id)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Room implements [Engine].
func (e *engine) Room(ctx context.Context, room string, edit Edit) (map[string]Member, error) {
	edit.Leave, edit.Renew, edit.Join = slices.Clone(edit.Leave), maps.Clone(edit.Renew), maps.Clone(edit.Join)
	for _, m := range []map[string][]byte{edit.Renew, edit.Join} {
		for id, data := range m {
			m[id] = bytes.Clone(data)
		}
	}
	var members map[string]Member
	err := e.call(ctx, func() { members = e.m.editLocked(room, edit) })
	switch {
	case err != nil:
		return nil, err
	case members == nil:
		return nil, ErrTooLate
	}
	return members, nil
}

// Now implements [Engine].
func (e *engine) Now() time.Time { return time.Now() }

// ask is a call that asks the same about each of the names.
func ask[V any](e *engine, ctx context.Context, names []string, about func(string) V) (map[string]V, error) {
	names = slices.Clone(names)
	answers := make(map[string]V, len(names))
	err := e.call(ctx, func() {
		for _, name := range names {
			answers[name] = about(name)
		}
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// waitLocked lets go of mu until something comes from c or ctx ends.
func waitLocked[T any](ctx context.Context, mu *sync.Mutex, c <-chan T) {
	mu.Unlock()
	defer mu.Lock()
	select {
	case <-c:
	case <-ctx.Done():
	}
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
