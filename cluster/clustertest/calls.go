package clustertest

import (
	"context"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// All calls.
var callChecks = []check{
	{name: "CallsReturnWithTheirContext", f: func(r *rig) {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for _, c := range r.calls(r.a) {
			r.returns(c.name+" with a context that has ended", func() { c.f(ended) })
		}
		r.returns("Leave with a context that has ended", func() { r.a.Leave(ended) })
	}},
	{name: "CallsReturnWithTheirContextWhenCutOff", breaks: true, f: func(r *rig) {
		r.a.granted(nowhere, cluster.Claim{ID: r.id("x"), Token: ann, Epoch: base})
		r.a.cut()
		for _, c := range append(r.calls(r.a), call{"Leave", r.a.Leave}) {
			err := make(chan error, 1)
			r.returns(c.name+", when it was cut off and its context ended,", func() {
				ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
				defer cancel()
				err <- c.f(ctx)
			})
			if <-err == nil {
				r.Fatalf("%s worked though its engine was cut off", c.name)
			}
		}
	}},
	{name: "CallsAtTheSameTime", f: func(r *rig) {
		calls := r.calls(r.a)
		r.race(5*len(calls), func(n *node, i int) (bool, error) {
			return true, r.calls(n)[i%len(calls)].f(r.ctx())
		})
	}},
	{name: "NowIsTheSameOnAllNodes", f: func(r *rig) {
		first := r.a.Now()
		began := time.Now()
		for end := began.Add(1200 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * pollEach) {
			before, b, after := r.a.Now(), r.b.Now(), r.a.Now()
			if b.Before(before.Add(-time.Second)) || b.After(after.Add(time.Second)) {
				r.Fatalf("Now is %v on one node and %v on the other one", before, b)
			}
		}
		passed, real := r.a.Now().Sub(first), time.Since(began)
		if passed < real-time.Second || passed > real+time.Second {
			r.Fatalf("Now went on by %v in %v", passed, real)
		}
	}},
}

type call struct {
	name string
	f    func(context.Context) error
}

// calls returns a call of each method that a node uses between Join and Leave. One that left out
// what it could not find out returns an error.
func (r *rig) calls(n *node) []call {
	return []call{
		{"Send", func(ctx context.Context) error { return n.Send(ctx, r.b.name, []byte("1")) }},
		{"Missing", func(ctx context.Context) error {
			all, err := n.Missing(ctx, r.b.name)
			return leftOut(err, len(all))
		}},
		{"Claim", func(ctx context.Context) error {
			_, err := n.Claim(ctx, cluster.Claim{ID: r.id("c"), Node: n.name, Token: ann, Epoch: base})
			return err
		}},
		{"Release", func(ctx context.Context) error {
			return n.Release(ctx, cluster.Claim{ID: r.id("c"), Node: n.name, Epoch: base})
		}},
		{"Find", func(ctx context.Context) error {
			all, err := n.Find(ctx, r.id("x"))
			return leftOut(err, len(all))
		}},
		{"IDs", func(ctx context.Context) error {
			_, err := n.IDs(ctx)
			return err
		}},
		{"Room", func(ctx context.Context) error {
			e := join("x")
			e.Node = n.name
			_, err := n.Room(ctx, r.id("room"), e)
			return err
		}},
	}
}

func leftOut(err error, answers int) error {
	if err == nil && answers == 0 {
		return context.DeadlineExceeded
	}
	return err
}
