package clustertest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer/cluster"
)

// A broken engine is that of a Memory, in which functions that are not nil replace its methods.
type broken struct {
	cluster.Engine
	m    *cluster.Memory
	node string

	// What the engines of one Memory share: for each node that is cut off its name, and what a fault needs.
	shared *sync.Map

	join    func(context.Context, string, cluster.Handler) error
	leave   func(context.Context) error
	send    func(context.Context, string, []byte) error
	missing func(context.Context, ...string) (map[string]bool, error)
	claim   func(context.Context, ...cluster.Claim) ([]cluster.Claimed, error)
	release func(context.Context, ...cluster.Claim) error
	find    func(context.Context, ...string) (map[string]cluster.Place, error)
	ids     func(context.Context) ([]string, error)
	room    func(context.Context, string, cluster.Edit) (map[string]cluster.Member, error)
	now     func() time.Time
}

func (b *broken) Cut() {
	b.shared.Store(b.node, true)
	b.m.Cut(b.node)
}

func (b *broken) Mend() {
	b.shared.Delete(b.node)
	b.m.Mend(b.node)
}

func (b *broken) Forget() { b.m.Forget() }

func (b *broken) isCut(node string) bool {
	_, cut := b.shared.Load(node)
	return cut
}

func (b *broken) Join(ctx context.Context, node string, h cluster.Handler) error {
	b.node = node
	if b.join != nil {
		return b.join(ctx, node, h)
	}
	return b.Engine.Join(ctx, node, h)
}

func (b *broken) Leave(ctx context.Context) error {
	if b.leave != nil {
		return b.leave(ctx)
	}
	return b.Engine.Leave(ctx)
}

func (b *broken) Send(ctx context.Context, node string, batch []byte) error {
	if b.send != nil {
		return b.send(ctx, node, batch)
	}
	return b.Engine.Send(ctx, node, batch)
}

func (b *broken) Missing(ctx context.Context, nodes ...string) (map[string]bool, error) {
	if b.missing != nil {
		return b.missing(ctx, nodes...)
	}
	return b.Engine.Missing(ctx, nodes...)
}

func (b *broken) Claim(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
	if b.claim != nil {
		return b.claim(ctx, cs...)
	}
	return b.Engine.Claim(ctx, cs...)
}

func (b *broken) Release(ctx context.Context, cs ...cluster.Claim) error {
	if b.release != nil {
		return b.release(ctx, cs...)
	}
	return b.Engine.Release(ctx, cs...)
}

func (b *broken) Find(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
	if b.find != nil {
		return b.find(ctx, ids...)
	}
	return b.Engine.Find(ctx, ids...)
}

func (b *broken) IDs(ctx context.Context) ([]string, error) {
	if b.ids != nil {
		return b.ids(ctx)
	}
	return b.Engine.IDs(ctx)
}

func (b *broken) Room(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
	if b.room != nil {
		return b.room(ctx, room, e)
	}
	return b.Engine.Room(ctx, room, e)
}

func (b *broken) Now() time.Time {
	if b.now != nil {
		return b.now()
	}
	return b.Engine.Now()
}

// eachClaim changes each claim before the engine gets it.
func (b *broken) eachClaim(change func(ctx context.Context, c *cluster.Claim)) {
	b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
		cs = slices.Clone(cs)
		for i := range cs {
			change(ctx, &cs[i])
		}
		return b.Engine.Claim(ctx, cs...)
	}
}

// eachAnswer changes each answer to a claim.
func (b *broken) eachAnswer(change func(c cluster.Claim, answer *cluster.Claimed)) {
	b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
		all, err := b.Engine.Claim(ctx, cs...)
		for i := range all {
			change(cs[i], &all[i])
		}
		return all, err
	}
}

// eachEdit changes each edit.
func (b *broken) eachEdit(change func(ctx context.Context, room string, e *cluster.Edit)) {
	b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
		change(ctx, room, &e)
		return b.Engine.Room(ctx, room, e)
	}
}

// handled gives the engine another handler, made of that of the node.
func (b *broken) handled(change func(h cluster.Handler) cluster.Handler) {
	b.join = func(ctx context.Context, node string, h cluster.Handler) error {
		return b.Engine.Join(ctx, node, change(h))
	}
}

// place returns the place of an id.
func (b *broken) place(ctx context.Context, id string) cluster.Place {
	all, _ := b.Engine.Find(ctx, id)
	return all[id]
}

// expires runs f when d has passed since the last call of the function for the same name.
func expires(d time.Duration, f func(name string)) func(name string) {
	var mu sync.Mutex
	last := map[string]*time.Timer{}
	return func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if t := last[name]; t != nil {
			t.Stop()
		}
		last[name] = time.AfterFunc(d, func() { f(name) })
	}
}

// A recorder is a tester for a check that may fail.
type recorder struct {
	mu       sync.Mutex // guards the following
	failure  string
	cleanups []func()
}

func (*recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.mu.Lock()
	r.failure = fmt.Sprintf(format, args...)
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// cleanup runs the functions, also those that are added meanwhile.
func (r *recorder) cleanup() {
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		f := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		f()
	}
}

// failure runs a check in a bubble, on engines that are broken in this way, and returns why it failed.
func (c check) failure(t *testing.T, breakIt func(*broken)) (failure string) {
	synctest.Test(t, func(*testing.T) {
		m, shared := cluster.NewMemory(), new(sync.Map)
		a := &broken{Engine: m.Engine(), m: m, shared: shared}
		b := &broken{Engine: m.Engine(), m: m, shared: shared}
		breakIt(a)
		breakIt(b)
		r := new(recorder)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.run(r, a, b, time.Sleep)
		}()
		<-done
		r.cleanup()
		time.Sleep(2 * time.Minute) // calls that a broken engine makes too long end
		failure = r.failure
	})
	return failure
}

// Each check fails when an engine breaks the rule that it is about, and no check fails otherwise.
func TestBrokenEnginesFail(t *testing.T) {
	all := map[string]check{}
	proven := map[string]bool{}
	for _, c := range checks() {
		require.NotContains(t, all, c.name)
		all[c.name] = c
	}
	for _, f := range faults {
		require.Contains(t, all, f.check)
		proven[f.check] = true
		t.Run(f.check+"/"+f.rule, func(t *testing.T) {
			failure := all[f.check].failure(t, f.f)
			assert.NotEmpty(t, failure)
			t.Log(failure)
		})
	}
	for name, c := range all {
		assert.True(t, proven[name], "no broken engine fails %s", name)
		assert.Empty(t, c.failure(t, func(*broken) {}), name)
	}
}
