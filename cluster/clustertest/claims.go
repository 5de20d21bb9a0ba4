package clustertest

import (
	"fmt"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Claim.
var claimChecks = []check{
	{name: "ClaimOfAFreeID", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.a.finds(x, r.a.at(base))
		r.b.finds(x, r.a.at(base))
	}},
	{name: "ClaimNeedsAGreaterEpoch", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base + 10})
		for _, low := range []uint64{base + 9, base + 10, 1} {
			r.b.refused(r.a.at(base+10), cluster.Claim{ID: x, Token: ann, Epoch: low})
			r.b.refused(r.a.at(base+10), cluster.Claim{ID: x, Token: bob, Epoch: low, Over: base + 10})
			r.a.refused(r.a.at(base+10), cluster.Claim{ID: x, Token: bob, Epoch: low})
		}
		r.a.refused(r.a.at(base+10), cluster.Claim{ID: x, Token: ann, Epoch: base + 9})
		r.a.finds(x, r.a.at(base+10))
	}},
	{name: "EpochsAreNumbers", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: 9})
		r.b.granted(r.a.at(9), cluster.Claim{ID: x, Token: ann, Epoch: 10})
		r.a.granted(r.b.at(10), cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.a.refused(r.b.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: 10})
	}},
	{name: "ClaimOfTheSameNode", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
		r.a.finds(x, r.a.at(base+1))
		r.b.refused(r.a.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: base + 2}) // the token is bob's now
		r.b.granted(r.a.at(base+1), cluster.Claim{ID: x, Token: bob, Epoch: base + 2})
	}},
	{name: "ClaimWithTheSameToken", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.a.finds(x, r.b.at(base+1))
	}},
	{name: "ClaimWithAnotherTokenIsRefused", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 2, Over: base - 1})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 2, Over: base + 1})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Epoch: base + 2})
	}},
	{name: "RefusedClaimChangesNothing", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
		r.a.finds(x, r.a.at(base))
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 2})
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
	}},
	{name: "ClaimThatComesTooLate", f: func(r *rig) {
		x, free := r.id("x"), r.id("free")
		late, early := r.a.Now().Add(-2*time.Second), r.a.Now().Add(time.Hour)
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base, Before: early})
		r.a.refused(nowhere, cluster.Claim{ID: free, Token: ann, Epoch: base, Before: late})
		r.a.refused(nowhere, cluster.Claim{ID: x, Token: bob, Epoch: base + 1, Before: late})
		r.b.refused(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base + 1, Before: late})
		r.b.refused(nowhere, cluster.Claim{ID: x, Token: bob, Epoch: base + 1, Over: base, Before: late})
		r.a.finds(free, nowhere)
		r.a.finds(x, r.a.at(base))
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base, Before: late}) // it is there already
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1, Before: early})
	}},
	{name: "ClaimOverAnEpoch", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 1, Over: base})
		r.b.finds(x, r.b.at(base+1))
		r.a.granted(r.b.at(base+1), cluster.Claim{ID: x, Token: bob, Epoch: base + 2})
	}},
	{name: "SameClaimIsGrantedAgain", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		for range 2 {
			r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		}
		r.b.refused(r.b.at(base+1), cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
		r.a.refused(r.b.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.b.finds(x, r.b.at(base+1))
	}},
	{name: "RenewalMayKeepTheEpoch", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		for range 2 {
			r.a.renewed(cluster.Claim{ID: x, Token: ann, Epoch: base, Own: base})
			r.a.finds(x, r.a.at(base))
		}
	}},
	{name: "RenewalMayRaiseTheEpoch", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		for range 2 { // the second one repeats the first, as after an error
			r.a.renewed(cluster.Claim{ID: x, Token: ann, Epoch: base + 5, Own: base})
			r.a.finds(x, r.a.at(base+5))
		}
		r.b.refused(r.a.at(base+5), cluster.Claim{ID: x, Token: ann, Epoch: base + 4})
	}},
	{name: "RenewalSetsTheToken", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.a.renewed(cluster.Claim{ID: x, Token: bob, Epoch: base, Own: base})
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
	}},
	{name: "RenewalOfALostClaim", f: func(r *rig) {
		x := r.id("x")
		r.a.renewed(cluster.Claim{ID: x, Token: ann, Epoch: base, Own: base})
		r.a.finds(x, r.a.at(base))
		r.b.refused(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 1})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
	}},
	{name: "RenewalIsRefusedAfterAGreaterEpochElsewhere", f: func(r *rig) {
		x, y := r.id("x"), r.id("y")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		for _, epoch := range []uint64{base, base + 1, base + 9} { // the token is the same, too
			r.a.refused(r.b.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: epoch, Own: base})
		}
		r.a.finds(x, r.b.at(base+1))
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: bob, Epoch: base + 1})
		r.a.refused(r.b.at(base+1), cluster.Claim{ID: y, Token: ann, Epoch: base + 9, Own: base})
	}},
	{name: "RenewalIsGrantedAfterALowerEpochElsewhere", f: func(r *rig) {
		x, y := r.id("x"), r.id("y")
		r.b.granted(nowhere, cluster.Claim{ID: x, Token: bob, Epoch: base - 1})
		r.a.granted(r.b.at(base-1), cluster.Claim{ID: x, Token: ann, Epoch: base, Own: base})
		r.a.finds(x, r.a.at(base))
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: bob, Epoch: base})
		r.a.granted(r.b.at(base), cluster.Claim{ID: y, Token: ann, Epoch: base + 1, Own: base})
		r.a.finds(y, r.a.at(base+1))
	}},
	{name: "PreviousOutlivesClaimsOfTheSameNode", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 2})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: bob, Epoch: base + 3})
		r.a.granted(r.b.at(base+3), cluster.Claim{ID: x, Token: bob, Epoch: base + 4})
	}},
	{name: "PreviousIsForgottenByARenewal", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(r.a.at(base), cluster.Claim{ID: x, Token: ann, Epoch: base + 1})
		r.b.renewed(cluster.Claim{ID: x, Token: ann, Epoch: base + 1, Own: base + 1})
		r.b.granted(r.b.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: base + 2})
		r.b.granted(r.b.at(base+1), cluster.Claim{ID: x, Token: ann, Epoch: base + 3}) // that one is not renewed
	}},
	{name: "ClaimsAreAnsweredInOrder", f: func(r *rig) {
		x, y, z := r.id("x"), r.id("y"), r.id("z")
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: bob, Epoch: base})
		all, err := r.a.Claim(r.ctx(),
			cluster.Claim{ID: z, Node: r.a.name, Token: ann, Epoch: base + 3},
			cluster.Claim{ID: y, Node: r.a.name, Token: ann, Epoch: base + 2},
			cluster.Claim{ID: x, Node: r.a.name, Token: ann, Epoch: base + 1})
		granted := cluster.Claimed{Granted: true}
		if err != nil || len(all) != 3 || all[0] != granted || all[2] != granted || all[1] != (cluster.Claimed{Previous: r.b.at(base)}) {
			r.Fatalf("three claims, of which the second one is refused, got the answers %+v, %v", all, err)
		}
		r.b.finds(x, r.a.at(base+1))
		r.b.finds(y, r.b.at(base))
		r.b.finds(z, r.a.at(base+3))
	}},
	{name: "ClaimIsAtomic", f: func(r *rig) {
		for round := range 10 {
			granted := r.race(20, func(n *node, i int) (bool, error) {
				all, err := n.Claim(r.ctx(), cluster.Claim{ID: r.id(fmt.Sprint("x", round)), Node: n.name, Token: [16]byte{byte(i)}, Epoch: base})
				return err == nil && all[0].Granted, err
			})
			if granted != 1 {
				r.Fatalf("%d of 20 claims of a free id with the same epoch were granted, want 1", granted)
			}
		}
	}},
	{name: "ClaimsLiveFiveMinutes", minutes: true, f: func(r *rig) {
		x, y, z := r.id("x"), r.id("y"), r.id("z")
		ours := []cluster.Claim{{ID: x, Token: ann, Epoch: base}, {ID: y, Token: ann, Epoch: base}, {ID: z, Token: ann, Epoch: base}}
		for _, c := range ours {
			r.a.granted(nowhere, c)
		}
		r.advance(cluster.ClaimTTL - 10*time.Second)
		for _, c := range ours {
			r.b.finds(c.ID, r.a.at(base))
			r.b.refused(r.a.at(base), cluster.Claim{ID: c.ID, Token: bob, Epoch: base + 1})
		}
		// Each of these makes the claim again.
		r.a.renewed(cluster.Claim{ID: x, Token: ann, Epoch: base, Own: base})
		r.a.granted(nowhere, cluster.Claim{ID: y, Token: ann, Epoch: base})
		r.a.granted(nowhere, cluster.Claim{ID: z, Token: ann, Epoch: base + 1})
		r.advance(cluster.ClaimTTL - 10*time.Second)
		r.b.finds(x, r.a.at(base))
		r.b.finds(y, r.a.at(base))
		r.b.finds(z, r.a.at(base+1))
	}},
}

// race runs f on both nodes, n times at once, and returns how often it reported true.
func (r *rig) race(n int, f func(n *node, i int) (bool, error)) int {
	r.Helper()
	var wg sync.WaitGroup
	won, errs := make(chan bool, n), make(chan error, n)
	for i := range n {
		wg.Go(func() {
			ok, err := f([]*node{r.a, r.b}[i%2], i)
			if err != nil {
				errs <- err
			} else if ok {
				won <- true
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		r.Fatalf("one of %d calls at once: %v", n, <-errs)
	}
	return len(won)
}
