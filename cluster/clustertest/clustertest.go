// Package clustertest has the contract of a [cluster.Engine] as a test, for authors of engines:
//
//	func TestEngine(t *testing.T) {
//		clustertest.Test(t, func(t *testing.T) (a, b cluster.Engine) {
//			return newEngine(t, server), newEngine(t, server)
//		}, nil)
//	}
//
// Each subtest makes engines of its own, joins with them as nodes of new names and uses ids and rooms
// of new names, so all subtests can share one server. What an engine does when it is cut off, or
// has lost its data, is tested if it is a [Breaker].
package clustertest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// A Breaker is an engine that the tests can break. An author makes one of an engine and, for
// example, a proxy between the engine and its server.
type Breaker interface {
	cluster.Engine

	// Cut separates this engine from the cluster until Mend: nothing that it sends arrives, and it
	// receives nothing.
	Cut()

	// Mend ends a Cut. Without a Cut it does nothing.
	Mend()

	// Forget removes all data of the cluster: claims, rooms, inboxes and registrations of all nodes.
	Forget()
}

// Test runs the contract as subtests. The function engines returns two engines of one cluster that
// have not joined; the subtest calls Leave. It is called once for each subtest, and can have
// their server stopped by t.Cleanup.
//
// The function advance lets at least d pass for the claims, rooms and inboxes of the cluster, in real
// time or not; the engines may miss beats meanwhile. If it is nil, the subtests that let minutes pass
// are skipped. Subtests that break the cluster are skipped unless both engines are Breakers.
//
// Without the skipped ones, Test takes about six seconds of real time. Within a bubble of
// testing/synctest it does not work, as it has subtests; see [TestInBubbles].
func Test(t *testing.T, engines func(*testing.T) (a, b cluster.Engine), advance func(d time.Duration)) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			if c.minutes && advance == nil {
				t.Skip("lets minutes pass, and advance is nil")
			}
			a, b := engines(t)
			if c.breaks && !canBreak(a, b) {
				t.Skip("breaks the cluster, and the engines are no Breakers")
			}
			c.run(t, a, b, advance)
		})
	}
}

// TestInBubbles is [Test] with each subtest in a bubble of testing/synctest, in which time passes at
// once. It is for engines that do no I/O outside of the bubble.
func TestInBubbles(t *testing.T, engines func(*testing.T) (a, b cluster.Engine)) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := engines(t)
				if c.breaks && !canBreak(a, b) {
					t.Skip("breaks the cluster, and the engines are no Breakers")
				}
				c.run(t, a, b, time.Sleep)
			})
		})
	}
}

func canBreak(a, b cluster.Engine) bool {
	_, first := a.(Breaker)
	_, second := b.(Breaker)
	return first && second
}

// A check is one subtest.
type check struct {
	name    string
	minutes bool // it calls advance
	breaks  bool // it needs Breakers
	f       func(*rig)
}

func checks() []check {
	return slices.Concat(inboxChecks, missingChecks, lostChecks, claimChecks, placeChecks, roomChecks, callChecks)
}

func (c check) run(t tester, a, b cluster.Engine, advance func(time.Duration)) {
	r := newRig(t, a, b, advance)
	c.f(r)
	r.quiet()
}
