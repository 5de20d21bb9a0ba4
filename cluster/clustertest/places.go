package clustertest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gopeerjs/peer/cluster"
)

// Release, Find, IDs.
var placeChecks = []check{
	{name: "ReleaseRemovesTheClaim", f: func(r *rig) {
		x, y, z := r.id("x"), r.id("y"), r.id("z")
		for _, id := range []string{x, y, z} {
			r.a.granted(nowhere, cluster.Claim{ID: id, Token: ann, Epoch: base})
		}
		err := r.a.Release(r.ctx(),
			cluster.Claim{ID: x, Node: r.a.name, Epoch: base},
			cluster.Claim{ID: r.id("none"), Node: r.a.name, Epoch: base},
			cluster.Claim{ID: z, Node: r.a.name, Epoch: base})
		if err != nil {
			r.Fatalf("Release: %v", err)
		}
		r.b.finds(x, nowhere)
		r.b.finds(y, r.a.at(base))
		r.b.finds(z, nowhere)
		r.b.granted(nowhere, cluster.Claim{ID: x, Token: bob, Epoch: base - 1}) // as if it was new
	}},
	{name: "ReleaseNeedsTheEpoch", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		for _, epoch := range []uint64{base - 1, base + 1, 0} {
			r.a.release(x, r.a.at(epoch))
			r.a.finds(x, r.a.at(base))
		}
	}},
	{name: "ReleaseNeedsTheNode", f: func(r *rig) {
		x := r.id("x")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.release(x, r.b.at(base))
		r.b.finds(x, r.a.at(base))
	}},
	{name: "FindAnswersForEachID", f: func(r *rig) {
		x, y, none := r.id("x"), r.id("y"), r.id("none")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: ann, Epoch: base + 1})
		all, err := r.a.Find(r.ctx(), none, y, x)
		place, known := all[none]
		if err != nil || len(all) != 3 || !known || place != nowhere || all[x] != r.a.at(base) || all[y] != r.b.at(base+1) {
			r.Fatalf("Find of two ids with claims and one without is %+v, %v", all, err)
		}
	}},
	{name: "IDsAreOfNodesThatAreThere", f: func(r *rig) {
		x, y, z := r.id("x"), r.id("y"), r.id("z")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: ann, Epoch: base})
		r.a.granted(nowhere, cluster.Claim{ID: z, Token: ann, Epoch: base})
		r.a.release(z, r.a.at(base))
		r.ids(x, y)
		if err := r.b.Leave(r.ctx()); err != nil {
			r.Fatalf("Leave: %v", err)
		}
		r.ids(x)
	}},
	{name: "IDsAreOfNodesThatBeat", breaks: true, f: func(r *rig) {
		x, y := r.id("x"), r.id("y")
		r.a.granted(nowhere, cluster.Claim{ID: x, Token: ann, Epoch: base})
		r.b.granted(nowhere, cluster.Claim{ID: y, Token: ann, Epoch: base})
		r.b.cut()
		r.await("the node that was cut off is missing", func() bool { return r.a.missing(r.b.name) })
		r.ids(x)
		r.a.finds(y, r.b.at(base)) // its claim is there all the same
	}},
	{name: "ManyClaimsInOneCall", f: func(r *rig) {
		var all []string
		for call := range 3 {
			cs := make([]cluster.Claim, cluster.MaxClaims)
			ids := make([]string, len(cs))
			for i := range cs {
				ids[i] = r.id(fmt.Sprint(call, "-", i))
				cs[i] = cluster.Claim{ID: ids[i], Node: r.a.name, Token: ann, Epoch: base + uint64(i)}
			}
			answers, err := r.a.Claim(r.ctx(), cs...)
			granted := func(c cluster.Claimed) bool { return c == cluster.Claimed{Granted: true} }
			if err != nil || len(answers) != len(cs) || slices.ContainsFunc(answers, func(c cluster.Claimed) bool { return !granted(c) }) {
				r.Fatalf("not all of %d claims of free ids were granted, error %v", len(cs), err)
			}
			places, err := r.b.Find(r.ctx(), ids...)
			if err != nil || len(places) != len(ids) {
				r.Fatalf("Find of %d ids has %d, error %v", len(ids), len(places), err)
			}
			for i, id := range ids {
				if places[id] != r.a.at(cs[i].Epoch) {
					r.Fatalf("Find of %q is %+v, want %+v", id, places[id], r.a.at(cs[i].Epoch))
				}
			}
			all = append(all, ids...)
		}
		r.ids(all...)
	}},
	{name: "IDsAndRoomsAreAnyBytes", f: func(r *rig) {
		var bytes []byte
		for i := range 256 {
			bytes = append(bytes, byte(i))
		}
		names := []string{
			r.id("x"), r.id("X"), r.id("x "), r.id("x\x00"), r.id("x:y"), r.id("{x}"), r.id("}x{"), r.id("x*"), r.id("x?"), r.id("[x]"),
			r.id("\r\n"), r.id("é"), r.id("e\u0301"), r.id("\xff"), r.id("\xfe\xff"), r.id("%2F"), r.id(`\"`), r.id("a/../x"),
			r.id(string(bytes)), r.id(strings.Repeat("l", 1024-len(r.id("")))),
		}
		for i, name := range names {
			r.a.granted(nowhere, cluster.Claim{ID: name, Token: ann, Epoch: base + uint64(i)})
			r.a.edits(name, cluster.Edit{Max: -1, Join: map[string][]byte{name: []byte("{}")}}, members{name: {Node: r.a.name, Data: []byte("{}")}})
		}
		for i, name := range names {
			r.b.finds(name, r.a.at(base+uint64(i)))
		}
		r.ids(names...)
		for i, name := range names {
			r.a.edits(name, cluster.Edit{Leave: []string{name}}, nil)
			r.a.release(name, r.a.at(base+uint64(i)))
		}
		r.ids()
	}},
}

// ids fails unless these are the ids of this check that IDs returns, in any order.
func (r *rig) ids(want ...string) {
	r.Helper()
	all, err := r.a.IDs(r.ctx())
	if err != nil {
		r.Fatalf("IDs: %v", err)
	}
	// Others may use the server, too. An id may be there twice, as the result is not a snapshot.
	have := slices.DeleteFunc(all, func(id string) bool { return !strings.Contains(id, r.tag) })
	slices.Sort(have)
	have = slices.Compact(have)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(have, want) {
		r.Fatalf("IDs has %d ids, want %d: %.500q and %.500q", len(have), len(want), have, want)
	}
}
