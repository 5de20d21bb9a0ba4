//go:build linux

package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An injection is one entry of the schedule.
type injection struct {
	at   time.Duration
	name string
	node int
	rand int // for what the fault itself chooses
}

// nodeFaults are the faults of nodes. The number is that of an injection.
var nodeFaults = map[string]func(w *world, node, rand int){
	"kill": func(w *world, node, rand int) {
		n := w.cluster.nodes[node]
		up := w.fault("down", node)
		end := w.fault("kill", node)
		n.kill()
		end()
		time.Sleep(time.Second + time.Duration(rand%4000)*time.Millisecond)
		w.restart(n)
		up()
	},
	"term": func(w *world, node, rand int) {
		n := w.cluster.nodes[node]
		up := w.fault("term", node)
		r, err := n.term()
		if err != nil {
			w.complain("%v", err)
		} else {
			for _, f := range judgeReport(node, r, w.now()) {
				w.complain("%v", f)
			}
		}
		time.Sleep(time.Duration(rand%3000) * time.Millisecond)
		w.restart(n)
		up()
	},
	"stop2": func(w *world, node, _ int) { w.stopNode(node, 2*time.Second) },
	"stop8": func(w *world, node, _ int) { w.stopNode(node, 8*time.Second) },
}

func (w *world) restart(n *node) {
	err := n.run()
	if err == nil {
		err = n.awaitReady()
	}
	if err != nil {
		w.complain("node %d does not start again: %v", n.i, err)
	}
}

func (w *world) stopNode(node int, d time.Duration) {
	end := w.fault("stop", node)
	w.cluster.nodes[node].signal(syscall.SIGSTOP)
	time.Sleep(d)
	w.cluster.nodes[node].signal(syscall.SIGCONT)
	end()
}

// allFaults returns the faults that a store allows, by name.
func allFaults(s *store) map[string]func(w *world, node, rand int) {
	all := maps.Clone(nodeFaults)
	maps.Copy(all, s.faults())
	return all
}

// schedule chooses faults by the seed: all kinds once in random order, then all of them again. Each lasts up to 9 seconds,
// and the next one begins when it has ended.
func schedule(seed uint64, names []string, nodes int) func() injection {
	rng := rand.New(rand.NewPCG(seed, 7))
	var left []string
	return func() injection {
		if len(left) == 0 {
			left = slices.Clone(names)
			rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		in := injection{at: time.Second + time.Duration(rng.IntN(4000))*time.Millisecond, name: left[0], node: rng.IntN(nodes), rand: rng.IntN(1 << 30)}
		left = left[1:]
		return in
	}
}

// inject makes faults until a moment.
func (w *world) inject(seed uint64, names []string, until time.Duration, note func(format string, args ...any)) {
	if len(names) == 0 {
		return
	}
	all := allFaults(w.cluster.store)
	next := schedule(seed, names, len(w.cluster.nodes))
	for {
		in := next()
		if w.now()+in.at > until {
			return
		}
		time.Sleep(in.at)
		note("%s: %s, node %d", seconds(w.now()), in.name, in.node)
		all[in.name](w, in.node, in.rand)
		note("%s: %s is over", seconds(w.now()), in.name)
	}
}

// chosenFaults are the faults that a flag names.
func chosenFaults(s *store, nodes int, flag string) ([]string, error) {
	all := allFaults(s)
	names := slices.Sorted(maps.Keys(all))
	switch flag {
	case "none":
		return nil, nil
	case "all":
		if nodes == 1 && s == nil {
			return nil, nil // clients cannot go anywhere else
		}
		return names, nil
	}
	chosen := strings.Split(flag, ",")
	for _, name := range chosen {
		if all[name] == nil {
			return nil, fmt.Errorf("there is no fault %q: %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}
