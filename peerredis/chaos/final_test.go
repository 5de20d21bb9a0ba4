package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Snapshot is what everybody believes when all has been quiet for a while.
type Snapshot struct {
	At      time.Duration
	Clients []Belief
	Nodes   []NodeBelief
	// Claims are the names of nodes that the engine has for the ids; nil: there is no engine.
	Claims map[string]string
	// Listed are the members of rooms that the nodes name, by node and room; a node may leave a room out.
	Listed []map[string][]string
}

// A Belief is what one client believes.
type Belief struct {
	ID      string
	Sockets []int                        // connections of the id that are open, whoever has them
	On      []int                        // their nodes
	Rooms   map[string]map[string]string // room -> member -> data: the rooms that it is in, and what it was told of them
	Data    map[string]string            // room -> own data
}

// A NodeBelief is what one node says.
type NodeBelief struct {
	IDs     []string
	Clients int // that it counts
}

// judgeEnd judges a snapshot.
func judgeEnd(s *Snapshot) (found []Finding) {
	note := func(rule, id, format string, args ...any) {
		found = append(found, Finding{Rule: rule, Src: id, At: s.At, Text: fmt.Sprintf(format, args...)})
	}
	on := make(map[string][]int) // id -> nodes that list it
	for n, node := range s.Nodes {
		for _, id := range node.IDs {
			on[id] = append(on[id], n)
		}
		if len(node.IDs) != node.Clients {
			note("counter", "", "node %d counts %d clients and lists %d", n, node.Clients, len(node.IDs))
		}
	}
	known := make(map[string]bool)
	for _, c := range s.Clients {
		known[c.ID] = true
		switch {
		case len(c.Sockets) != 1:
			note("holders", c.ID, "%s has %d open sockets: %v, on nodes %v", c.ID, len(c.Sockets), c.Sockets, c.On)
		case !slices.Equal(on[c.ID], c.On):
			note("holders", c.ID, "%s is connected to node %v (connection %d), and listed by nodes %v", c.ID, c.On, c.Sockets[0], on[c.ID])
		}
	}
	for id, nodes := range on {
		if !known[id] {
			note("holders", id, "%s is listed by nodes %v, but no client has it", id, nodes)
		}
	}
	judgeClaims(s, note)
	judgeRooms(s, note, func(other string) { found[len(found)-1].Dst = other })
	return found
}

// judgeClaims wants the claim of each id to name the node that the client is connected to. The engine
// has names for nodes, so each node must have one name, and each name one node.
func judgeClaims(s *Snapshot, note func(rule, id, format string, args ...any)) {
	if s.Claims == nil {
		return
	}
	names, votes := make(map[int]string), make(map[int]map[string]int)
	for _, c := range s.Clients {
		if name := s.Claims[c.ID]; len(c.On) == 1 && name != "" {
			if votes[c.On[0]] == nil {
				votes[c.On[0]] = make(map[string]int)
			}
			votes[c.On[0]][name]++
		}
	}
	taken := make(map[string]int)
	for n, v := range votes {
		for name, count := range v {
			if count > v[names[n]] || names[n] == "" {
				names[n] = name
			}
		}
		if other, twice := taken[names[n]]; twice {
			note("claims", "", "nodes %d and %d both seem to be %q", n, other, names[n])
		}
		taken[names[n]] = n
	}
	for _, c := range s.Clients {
		if len(c.On) != 1 {
			continue
		}
		if name := s.Claims[c.ID]; name == "" {
			note("claims", c.ID, "%s is connected to node %d, and has no claim", c.ID, c.On[0])
		} else if name != names[c.On[0]] {
			note("claims", c.ID, "%s is connected to node %d (%s), and claimed by %s", c.ID, c.On[0], names[c.On[0]], name)
		}
	}
}

// judgeRooms wants all members of a room to have the same list, which is the list of its members.
func judgeRooms(s *Snapshot, note func(rule, id, format string, args ...any), about func(other string)) {
	truth := make(map[string]map[string]string)
	for _, c := range s.Clients {
		for room, data := range c.Data {
			if truth[room] == nil {
				truth[room] = make(map[string]string)
			}
			truth[room][c.ID] = data
		}
	}
	for _, c := range s.Clients {
		for _, room := range slices.Sorted(maps.Keys(c.Data)) {
			if told := c.Rooms[room]; !maps.Equal(told, truth[room]) {
				text, other := difference(told, truth[room])
				note("rooms", c.ID, "%s in %s has a list that differs: %s", c.ID, room, text)
				about(other)
			}
		}
	}
	for n, rooms := range s.Listed {
		for room, ids := range rooms {
			told := make(map[string]string)
			for _, id := range ids {
				told[id] = truth[room][id]
			}
			if !maps.Equal(told, truth[room]) {
				text, _ := difference(told, truth[room])
				note("rooms", "", "node %d has another list of %s: %s", n, room, text)
			}
		}
	}
}

// difference says what is wrong with a list of members, and names the first one.
func difference(told, truth map[string]string) (text, first string) {
	for _, id := range slices.Sorted(maps.Keys(truth)) {
		data, ok := told[id]
		switch {
		case !ok:
			text += " -" + id
		case data != truth[id]:
			text += fmt.Sprintf(" %s: %q in the place of %q", id, data, truth[id])
		default:
			continue
		}
		first = cmp.Or(first, id)
	}
	for _, id := range slices.Sorted(maps.Keys(told)) {
		if _, ok := truth[id]; !ok {
			text, first = text+" +"+id, cmp.Or(first, id)
		}
	}
	return text, first
}
