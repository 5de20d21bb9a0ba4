package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// through makes the members through one node, without data.
func (n *node) through(ids ...string) members {
	all := members{}
	for _, id := range ids {
		all[id] = cluster.Member{Node: n.name}
	}
	return all
}

// and adds members.
func (m members) and(others members) members {
	for id, member := range others {
		m[id] = member
	}
	return m
}

// join is an edit by which these ids join, without data and bound.
func join(ids ...string) cluster.Edit {
	e := cluster.Edit{Join: map[string][]byte{}, Max: -1}
	for _, id := range ids {
		e.Join[id] = nil
	}
	return e
}

// upTo is an edit by which these ids join while there are fewer than bound members.
func upTo(bound int, ids ...string) cluster.Edit {
	e := join(ids...)
	e.Max = bound
	return e
}

// Room.
var roomChecks = []check{
	{name: "RoomOfNobody", f: func(r *rig) {
		r.a.edits(r.id("room"), cluster.Edit{}, nil)
	}},
	{name: "RoomHasWhoJoined", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		r.b.edits(room, join("z"), r.a.through("x", "y").and(r.b.through("z")))
		r.b.edits(r.id("other"), join("z"), r.b.through("z"))
		r.a.edits(room, cluster.Edit{}, r.a.through("x", "y").and(r.b.through("z")))
	}},
	{name: "RoomHasTheData", f: func(r *rig) {
		room := r.id("room")
		large := append(append([]byte{'"'}, bytes.Repeat([]byte("é"), cluster.MaxData/2-1)...), '"')
		small := []byte(`{"name":"X\u0000\"","n":[1,-2.5e3,null]}`)
		r.a.edits(room, cluster.Edit{Max: -1, Join: map[string][]byte{"x": small, "y": large, "z": {}}},
			members{"x": {Node: r.a.name, Data: small}, "y": {Node: r.a.name, Data: large}, "z": {Node: r.a.name}})
		r.a.edits(room, cluster.Edit{Max: -1, Join: map[string][]byte{"x": []byte("1"), "y": nil}},
			members{"x": {Node: r.a.name, Data: []byte("1")}, "y": {Node: r.a.name}, "z": {Node: r.a.name}})
	}},
	{name: "RoomWithoutWhoLeft", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y", "z"), r.a.through("x", "y", "z"))
		r.a.edits(room, cluster.Edit{Leave: []string{"x", "nobody", "z"}}, r.a.through("y"))
		r.a.edits(room, cluster.Edit{Leave: []string{"y"}}, nil)
	}},
	{name: "LeaveOnlyThroughTheNode", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x"), r.a.through("x"))
		r.b.edits(room, cluster.Edit{Leave: []string{"x"}}, r.a.through("x"))
	}},
	{name: "MemberMovesToTheNode", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		r.b.edits(room, cluster.Edit{Max: -1, Join: map[string][]byte{"x": []byte("1")}},
			members{"x": {Node: r.b.name, Data: []byte("1")}}.and(r.a.through("y")))
		r.a.edits(room, cluster.Edit{Leave: []string{"x"}}, members{"x": {Node: r.b.name, Data: []byte("1")}}.and(r.a.through("y")))
	}},
	{name: "MembersThroughTheNodeGoneLeave", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		r.b.edits(room, join("z"), r.a.through("x", "y").and(r.b.through("z")))
		r.b.edits(room, cluster.Edit{Gone: r.a.name}, r.b.through("z"))
		r.b.edits(room, cluster.Edit{Gone: r.a.name}, r.b.through("z"))
	}},
	{name: "RoomIsBounded", f: func(r *rig) {
		room := r.id("room")
		if have := r.a.edit(room, upTo(3, "u", "v", "w", "x", "y")); len(have) != 3 {
			r.Fatalf("of five that join a room of at most three, %d are members", len(have))
		}
		three := r.a.edit(room, cluster.Edit{})
		r.b.edits(room, upTo(3, "z"), three)
		r.b.edits(room, upTo(2, "z"), three)
		r.b.edits(room, upTo(0, "z"), three)
		r.b.edits(room, upTo(4, "z"), r.b.through("z").and(three))
		r.b.edits(room, upTo(-1, "0", "1"), r.b.through("z", "0", "1").and(three))
	}},
	{name: "MembersOfAFullRoomStay", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		r.b.edits(room, upTo(2, "x"), r.b.through("x").and(r.a.through("y"))) // x moves
		e := cluster.Edit{Max: 1, Join: map[string][]byte{"x": []byte("1")}}
		r.b.edits(room, e, members{"x": {Node: r.b.name, Data: []byte("1")}}.and(r.a.through("y")))
	}},
	{name: "EditThatComesTooLate", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		for _, e := range []cluster.Edit{join("z"), {Node: r.a.name, Leave: []string{"x"}}, {Gone: r.a.name}, {}} {
			e.Node, e.Before = r.a.name, r.a.Now().Add(-2*time.Second)
			if _, err := r.a.Room(r.ctx(), room, e); !errors.Is(err, cluster.ErrTooLate) {
				r.Fatalf("the edit %+v, too late: error %v, want ErrTooLate", e, err)
			}
		}
		e := join("z")
		e.Before = r.a.Now().Add(time.Hour)
		r.b.edits(room, e, r.a.through("x", "y").and(r.b.through("z")))
	}},
	{name: "EditLeavesBeforeItJoins", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		e := upTo(2, "y", "z")
		e.Leave = []string{"x", "y"}
		r.a.edits(room, e, r.a.through("y", "z"))
	}},
	{name: "EditTakesOutTheNodeGoneFirst", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		e := upTo(1, "x")
		e.Gone = r.a.name
		r.a.edits(room, e, r.a.through("x"))
		e = upTo(1, "z")
		e.Gone = r.a.name
		r.b.edits(room, e, r.b.through("z"))
	}},
	{name: "RoomIsAtomic", f: func(r *rig) {
		for round := range 5 {
			room := r.id(fmt.Sprint("room", round))
			joined := r.race(20, func(n *node, i int) (bool, error) {
				id := fmt.Sprint(i)
				e := upTo(7, id)
				e.Node = n.name
				all, err := n.Room(r.ctx(), room, e)
				_, in := all[id]
				return in && len(all) <= 7, err
			})
			if have := r.a.edit(room, cluster.Edit{}); joined != 7 || len(have) != 7 {
				r.Fatalf("of 20 that join a room of at most 7 at once, %d joined and %d are members", joined, len(have))
			}
		}
	}},
	{name: "RenewalLeavesMembersElsewhere", f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x", "y"), r.a.through("x", "y"))
		e := cluster.Edit{Node: r.b.name, Renew: map[string][]byte{"x": []byte("1"), "z": []byte("2")}}
		r.b.edits(room, e, members{"z": {Node: r.b.name, Data: []byte("2")}}.and(r.a.through("x", "y")))
		e = cluster.Edit{Node: r.a.name, Renew: map[string][]byte{"y": []byte("3")}}
		r.a.edits(room, e, members{"z": {Node: r.b.name, Data: []byte("2")}, "y": {Node: r.a.name, Data: []byte("3")}}.and(r.a.through("x")))
	}},
	{name: "RenewalNeedsNoRoom", f: func(r *rig) {
		room := r.id("room")
		r.b.edits(room, join("v", "w"), r.b.through("v", "w"))
		e := upTo(2, "z")
		e.Renew = map[string][]byte{"x": nil, "y": nil}
		e.Node = r.a.name
		r.a.edits(room, e, r.a.through("x", "y").and(r.b.through("v", "w")))
		r.a.edits(room, cluster.Edit{Leave: []string{"x", "y"}}, r.b.through("v", "w"))
		e.Max = 5
		r.a.edits(room, e, r.a.through("x", "y", "z").and(r.b.through("v", "w")))
		e.Leave = []string{"x"}
		r.a.edits(room, e, r.a.through("x", "y", "z").and(r.b.through("v", "w"))) // it leaves first
	}},
	{name: "RenewedRoomsLive", minutes: true, f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x"), r.a.through("x"))
		r.advance(cluster.ClaimTTL - 10*time.Second)
		r.a.edits(room, cluster.Edit{Node: r.a.name, Renew: map[string][]byte{"x": nil}}, r.a.through("x"))
		r.advance(cluster.ClaimTTL - 10*time.Second)
		r.b.edits(room, cluster.Edit{}, r.a.through("x"))
	}},
	{name: "RoomsLiveFiveMinutes", minutes: true, f: func(r *rig) {
		room := r.id("room")
		r.a.edits(room, join("x"), r.a.through("x"))
		r.advance(cluster.ClaimTTL - 10*time.Second)
		r.b.edits(room, join("y"), r.a.through("x").and(r.b.through("y"))) // makes all of the room again
		r.advance(cluster.ClaimTTL - 10*time.Second)
		r.a.edits(room, cluster.Edit{}, r.a.through("x").and(r.b.through("y")))
	}},
}
