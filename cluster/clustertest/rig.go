package clustertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

const (
	patience = 10 * time.Second       // how long a call, or what has to come, may take
	glance   = 200 * time.Millisecond // how long a check looks for what must not come
	pollEach = 10 * time.Millisecond

	// Epochs are microseconds since 1970, so the checks use numbers of that size.
	base = 1_800_000_000_000_000
)

var (
	ann, bob = [16]byte{1, 0, 0xff}, [16]byte{1, 0, 0xfe} // tokens
	nowhere  cluster.Place
)

// A tester is what a check uses of a *testing.T. The tests of this package have another one.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// A rig is two nodes of a cluster, and a vocabulary for checks. Its methods that can fail are for
// the goroutine of the check.
type rig struct {
	tester
	a, b    *node
	tag     string // is in all names
	advance func(time.Duration)
}

// newRig joins with both engines.
func newRig(t tester, a, b cluster.Engine, advance func(time.Duration)) *rig {
	r := &rig{tester: t, tag: rand.Text()[:12], advance: advance}
	r.a, r.b = &node{Engine: a, r: r, name: "a-" + r.tag}, &node{Engine: b, r: r, name: "b_" + r.tag}
	for _, n := range []*node{r.a, r.b} {
		t.Cleanup(func() {
			n.mend()
			n.resume()
			n.Leave(r.ctx())
		})
		if err := n.Join(r.ctx(), n.name, n.handler()); err != nil {
			r.Fatalf("Join: %v", err)
		}
	}
	return r
}

// quiet fails if calls of a handler have overlapped.
func (r *rig) quiet() {
	for _, n := range []*node{r.a, r.b} {
		n.mu.Lock()
		overlapped := n.overlapped
		n.mu.Unlock()
		if overlapped {
			r.Fatalf("calls of a handler overlapped")
		}
	}
}

// ctx returns a context that ends when a call has taken too long.
func (r *rig) ctx() context.Context { return r.ctxOf(patience) }

func (r *rig) ctxOf(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	r.Cleanup(cancel)
	return ctx
}

// id returns a name that nobody else uses.
func (r *rig) id(name string) string { return name + "." + r.tag }

// await waits until done reports true.
func (r *rig) await(what string, done func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(pollEach) {
		if time.Now().After(end) {
			r.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// never looks for a moment that done does not report true.
func (r *rig) never(what string, done func() bool) {
	r.Helper()
	for end := time.Now().Add(glance); time.Now().Before(end); time.Sleep(pollEach) {
		if done() {
			r.Fatalf("%s", what)
		}
	}
}

// returns fails if f takes longer than patience. It does not wait for f then.
func (r *rig) returns(what string, f func()) {
	r.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		r.Fatalf("%s did not return", what)
	}
}

// A node has an engine, and a handler that keeps what it gets.
type node struct {
	cluster.Engine
	r    *rig
	name string

	mu         sync.Mutex // guards the following
	log        []event
	calls      int           // of the handler, that have not returned
	held       chan struct{} // not nil: Receive waits until it is closed
	slow       bool          // calls of the handler take a moment
	overlapped bool
}

type event struct {
	lost  bool
	batch []byte // as Receive got it
	text  string // as it was then
}

func (n *node) handler() cluster.Handler {
	return cluster.Handler{
		Receive: func(b []byte) { n.handle(event{batch: b, text: string(b)}) },
		Lost:    func() { n.handle(event{lost: true}) },
	}
}

func (n *node) handle(e event) {
	n.mu.Lock()
	n.log = append(n.log, e)
	n.calls++
	n.overlapped = n.overlapped || n.calls > 1
	held, slow := n.held, n.slow
	n.mu.Unlock()
	if held != nil && !e.lost {
		<-held
	}
	if slow {
		time.Sleep(pollEach / 2)
	}
	n.mu.Lock()
	n.calls--
	n.mu.Unlock()
}

// hold lets Receive wait until resume.
func (n *node) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = make(chan struct{})
}

func (n *node) resume() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held != nil {
		close(n.held)
		n.held = nil
	}
}

func (n *node) cut() { n.Engine.(Breaker).Cut() }

func (n *node) mend() {
	if b, ok := n.Engine.(Breaker); ok {
		b.Mend()
	}
}

func (n *node) forget() { n.Engine.(Breaker).Forget() }

// events returns what the handler got, "lost" for a call of Lost.
func (n *node) events() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for _, e := range n.log {
		if e.lost {
			e.text = "lost"
		}
		all = append(all, e.text)
	}
	return all
}

// batches returns what Receive got.
func (n *node) batches() []string {
	return slices.DeleteFunc(n.events(), func(e string) bool { return e == "lost" })
}

// lost reports whether Lost was called.
func (n *node) lost() bool { return slices.Contains(n.events(), "lost") }

// lostBefore fails unless Lost was called between two batches, or at first if after is empty.
func (n *node) lostBefore(after, batch string) {
	n.r.Helper()
	events := n.events()
	from, to := slices.Index(events, after)+1, slices.Index(events, batch)
	if to < from || !slices.Contains(events[from:to], "lost") {
		n.r.Fatalf("Lost was not called between the batches %q and %q: %q", after, batch, events)
	}
}

// got waits until Receive has got these batches and fails if it has got others.
func (n *node) got(want ...string) {
	n.r.Helper()
	n.r.await(fmt.Sprintf("%d batches", len(want)), func() bool { return len(n.batches()) >= len(want) })
	if have := n.batches(); !slices.Equal(have, want) {
		n.r.Fatalf("got the batches %.2000q, want %.2000q", have, want)
	}
}

// blocked waits until Receive is held in its call for this batch, which is the first one. It leaves
// a moment for an engine that reads ahead.
func (n *node) blocked(batch string) {
	n.r.Helper()
	n.got(batch)
	n.r.never("Receive was called during a call of it", func() bool { return len(n.batches()) > 1 })
}

// send sends batches to a node.
func (n *node) send(to *node, batches ...string) {
	n.r.Helper()
	for _, b := range batches {
		if err := n.Send(n.r.ctx(), to.name, []byte(b)); err != nil {
			n.r.Fatalf("Send: %v", err)
		}
	}
}

// unknown fails unless there is no inbox of this name.
func (n *node) unknown(name string) {
	n.r.Helper()
	if err := n.Send(n.r.ctx(), name, []byte("x")); !errors.Is(err, cluster.ErrNoNode) {
		n.r.Fatalf("Send to a node without an inbox: %v, want ErrNoNode", err)
	}
}

// missing returns whether a node is missing.
func (n *node) missing(name string) bool {
	n.r.Helper()
	all, err := n.Missing(n.r.ctx(), name)
	if err != nil {
		n.r.Fatalf("Missing: %v", err)
	}
	missing, known := all[name]
	if !known || len(all) != 1 {
		n.r.Fatalf("Missing of %q is %v", name, all)
	}
	return missing
}

// ask makes one claim, of the node itself unless it says another one.
func (n *node) ask(c cluster.Claim) cluster.Claimed {
	n.r.Helper()
	if c.Node == "" {
		c.Node = n.name
	}
	all, err := n.Claim(n.r.ctx(), c)
	if err != nil || len(all) != 1 {
		n.r.Fatalf("Claim: %d answers to one claim, error %v", len(all), err)
	}
	return all[0]
}

// granted fails unless the claim is granted, after this place.
func (n *node) granted(previous cluster.Place, c cluster.Claim) {
	n.r.Helper()
	if have := n.ask(c); have != (cluster.Claimed{Granted: true, Previous: previous}) {
		n.r.Fatalf("the claim %+v got the answer %+v, want granted, with the place before %+v", c, have, previous)
	}
}

// renewed fails unless the claim is granted.
func (n *node) renewed(c cluster.Claim) {
	n.r.Helper()
	if have := n.ask(c); !have.Granted {
		n.r.Fatalf("the renewal %+v got the answer %+v, want granted", c, have)
	}
}

// refused fails unless the claim is refused because of this place.
func (n *node) refused(there cluster.Place, c cluster.Claim) {
	n.r.Helper()
	if have := n.ask(c); have != (cluster.Claimed{Previous: there}) {
		n.r.Fatalf("the claim %+v got the answer %+v, want refused, because of %+v", c, have, there)
	}
}

// at is a place of a node.
func (n *node) at(epoch uint64) cluster.Place { return cluster.Place{Node: n.name, Epoch: epoch} }

// finds fails unless this is the place of an id.
func (n *node) finds(id string, want cluster.Place) {
	n.r.Helper()
	all, err := n.Find(n.r.ctx(), id)
	if err != nil {
		n.r.Fatalf("Find: %v", err)
	}
	if have, known := all[id]; !known || have != want || len(all) != 1 {
		n.r.Fatalf("Find of %q is %+v, want %+v", id, all, want)
	}
}

// release removes a claim.
func (n *node) release(id string, p cluster.Place) {
	n.r.Helper()
	if err := n.Release(n.r.ctx(), cluster.Claim{ID: id, Node: p.Node, Epoch: p.Epoch}); err != nil {
		n.r.Fatalf("Release: %v", err)
	}
}

// members is what a room should have: id -> node and data.
type members map[string]cluster.Member

// edit changes a room, as the node itself unless the edit is the zero Edit, and returns the members.
func (n *node) edit(room string, e cluster.Edit) members {
	n.r.Helper()
	if e.Join != nil || e.Leave != nil {
		e.Node = n.name
	}
	all, err := n.Room(n.r.ctx(), room, e)
	if err != nil {
		n.r.Fatalf("Room: %v", err)
	}
	return all
}

// edits changes a room and fails unless these are its members then, for both nodes.
func (n *node) edits(room string, e cluster.Edit, want members) {
	n.r.Helper()
	if have := n.edit(room, e); !have.equal(want) {
		n.r.Fatalf("after the edit %+v the room has the members %v, want %v", e, have, want)
	}
	for _, reader := range []*node{n.r.a, n.r.b} {
		if have := reader.edit(room, cluster.Edit{}); !have.equal(want) {
			n.r.Fatalf("after the edit %+v a node reads the members %v, want %v", e, have, want)
		}
	}
}

func (m members) equal(other members) bool {
	for id, member := range m {
		o, in := other[id]
		if !in || o.Node != member.Node || !bytes.Equal(o.Data, member.Data) {
			return false
		}
	}
	return len(m) == len(other)
}
