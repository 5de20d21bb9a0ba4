// Command bench compares a host of this server with npm peer: it starts both
// in turn, drives them with the same load, and prints what each of them took. It also
// compares two nodes of a cluster with one. See README.md for what the rows mean.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// largeSize is the largest number of idle connections that fits a limit of 20,000
// files for each process.
const largeSize = 19000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	rounds                          int
	only, jsonFile, ours, ref, node string
	quick                           bool
	set                             settings
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	hosts := filepath.Join("..", "examples", "hosts")
	rate, large := 0, false
	flags.IntVar(&o.rounds, "rounds", 3, "how often each scenario runs against each server, in turn (1 to 20)")
	flags.StringVar(&o.only, "only", "", "scenarios to run, separated by commas; a name stands for all that begin with it")
	flags.BoolVar(&o.quick, "quick", false, "one round with shorter spans: a first look")
	flags.BoolVar(&large, "large", false, fmt.Sprintf("also hold %d idle connections", largeSize))
	flags.IntVar(&rate, "rate", 0, "messages per second of the open loop (default 10000)")
	flags.StringVar(&o.jsonFile, "json", "", "write all values to this file too")
	flags.StringVar(&o.ours, "ours", filepath.Join(hosts, "plain"),
		"our server: a directory with a main package, or an executable")
	flags.StringVar(&o.ref, "reference", "",
		"compare with this server instead of npm peer: a directory or an executable as for -ours")
	flags.StringVar(&o.node, "node", filepath.Join(hosts, "cluster"),
		"the server of the scenario cluster, which has the flag --redis: a directory or an executable as for -ours")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.set = fullSettings()
	if o.quick {
		o.set, o.rounds = quickSettings(), 1
	}
	if large {
		o.set.sizes = append(o.set.sizes, largeSize)
	}
	if rate != 0 {
		o.set.rate = rate
	}
	if o.rounds < 1 || o.rounds > 20 || o.set.rate < 1 || o.set.rate > 200000 {
		return o, errors.New("-rounds or -rate is out of range")
	}
	return o, nil
}

func bench(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	list, err := choose(scenarios(o.set), o.only)
	if err != nil {
		return err
	}
	if err := enoughFiles(slices.Max(o.set.sizes), list); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "peer-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	// The generator allocates next to nothing while it measures. Collecting what
	// little there is would take a core from the server now and then.
	debug.SetGCPercent(1000)

	r := describe(ctx)
	r.Rounds, r.Quick = o.rounds, o.quick
	isCluster := func(sc scenario) bool { return sc.name == clusterName }
	if beside := slices.DeleteFunc(slices.Clone(list), isCluster); len(beside) > 0 {
		err = r.runBeside(ctx, beside, o, tmp)
	}
	if err == nil && slices.ContainsFunc(list, isCluster) {
		err = r.runCluster(ctx, o, tmp)
	}
	r.finish() // what has been measured so far is not lost
	if err == nil && o.jsonFile != "" {
		err = r.writeJSON(o.jsonFile)
	}
	if len(r.Rows) > 0 || r.Cluster != nil {
		err = errors.Join(err, r.print(os.Stdout, o.set))
	}
	return err
}

// runBeside measures scenarios on both sides in turn.
func (r *result) runBeside(ctx context.Context, list []scenario, o options, tmp string) (err error) {
	var sides [2]program
	if o.ref == "" {
		sides[0], err = npmPeer(".")
	} else {
		sides[0], err = goServer(ctx, "reference", o.ref, tmp)
	}
	if err != nil {
		return err
	}
	if sides[1], err = goServer(ctx, "ours", o.ours, tmp); err != nil {
		return err
	}
	r.Reference, r.Ours = sides[0].name, sides[1].name
	for _, sc := range list {
		for round := range o.rounds {
			for i, p := range sides {
				fmt.Fprintf(os.Stderr, "%s, round %d of %d, %s\n", sc.name, round+1, o.rounds, p.name)
				runtime.GC()
				samples, err := attempt(ctx, sc, p, o.set, tmp)
				if err != nil {
					return err
				}
				r.record(sc.name, i == 1, samples)
			}
		}
	}
	return nil
}

// runCluster measures the legs of the scenario cluster in turn.
func (r *result) runCluster(ctx context.Context, o options, tmp string) error {
	p, err := goServer(ctx, "node", o.node, tmp)
	if err != nil {
		return err
	}
	r.Cluster = new(clusterResult)
	if _, err := exec.LookPath("redis-server"); err != nil {
		r.Cluster.Skipped = errNoRedis.Error()
		return nil
	}
	for round := range o.rounds {
		var notes [numLegs][]note
		tooBusy := make(map[string]bool) // parts
		for l := range numLegs {
			fmt.Fprintf(os.Stderr, "%s, round %d of %d, %v\n", clusterName, round+1, o.rounds, l)
			runtime.GC()
			notes[l], err = runLeg(ctx, l, p, o.set, tmp)
			if busy := (*busyError)(nil); errors.As(err, &busy) {
				tooBusy[busy.part] = true
				fmt.Fprintf(os.Stderr, "%v does not count in this round: the machine was too busy\n", busy.part)
			} else if err != nil {
				return err
			}
		}
		for l := range numLegs {
			r.Cluster.record(l, slices.DeleteFunc(notes[l], func(n note) bool { return tooBusy[n.part] }))
		}
	}
	return nil
}

// choose returns the scenarios that only names, or all.
func choose(all []scenario, only string) ([]scenario, error) {
	if only == "" {
		return all, nil
	}
	var chosen []scenario
	wanted := strings.Split(only, ",")
	matches := func(name, w string) bool { return name == w || strings.HasPrefix(name, w+"-") }
	for _, w := range wanted {
		if !slices.ContainsFunc(all, func(sc scenario) bool { return matches(sc.name, w) }) {
			var names []string
			for _, sc := range all {
				names = append(names, sc.name)
			}
			return nil, fmt.Errorf("no scenario %q; there are %s", w, strings.Join(names, ", "))
		}
	}
	for _, sc := range all {
		if slices.ContainsFunc(wanted, func(w string) bool { return matches(sc.name, w) }) {
			chosen = append(chosen, sc)
		}
	}
	return chosen, nil
}

// enoughFiles reports an error if this process may not hold the sockets that the
// scenarios need. Its children may hold as many.
func enoughFiles(largest int, list []scenario) error {
	if !slices.ContainsFunc(list, func(sc scenario) bool {
		return strings.HasPrefix(sc.name, "idle-") || sc.name == "shutdown" || sc.name == clusterName
	}) {
		return nil
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if need := uint64(largest + 200); limit.Max < need {
		return fmt.Errorf("%d idle connections need %d files, the limit (ulimit -Hn) is %d", largest, need, limit.Max)
	}
	return nil
}

// describe tells where a result comes from.
func describe(ctx context.Context) *result {
	r := &result{Time: time.Now().UTC().Format(time.RFC3339), Go: runtime.Version(), Cores: runtime.NumCPU()}
	output := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	r.Node, r.Kernel, r.Processor = output("node", "--version"), output("uname", "-r"), "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(text) {
			if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(name)) == "model name" {
				r.Processor = string(bytes.TrimSpace(value))
				break
			}
		}
	}
	return r
}
