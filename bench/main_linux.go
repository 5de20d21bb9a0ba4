// Command bench compares a host of this server with npm peer: it starts both
// in turn, drives them with the same load, and prints what each of them took. See
// README.md for what the rows mean.
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

func bench(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		rounds    = flags.Int("rounds", 3, "how often each scenario runs against each server, in turn (1 to 20)")
		only      = flags.String("only", "", "scenarios to run, separated by commas; a name stands for all that begin with it")
		quick     = flags.Bool("quick", false, "one round with shorter spans: a first look")
		large     = flags.Bool("large", false, fmt.Sprintf("also hold %d idle connections", largeSize))
		rate      = flags.Int("rate", 0, "messages per second of the open loop (default 10000)")
		jsonFile  = flags.String("json", "", "write all values to this file too")
		ours      = flags.String("ours", filepath.Join("..", "examples", "hosts", "plain"), "our server: a directory with a main package, or an executable")
		reference = flags.String("reference", "", "compare with this server instead of npm peer: a directory or an executable as for -ours")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	set := fullSettings()
	if *quick {
		set = quickSettings()
		*rounds = 1
	}
	if *large {
		set.sizes = append(set.sizes, largeSize)
	}
	if *rate != 0 {
		set.rate = *rate
	}
	if *rounds < 1 || *rounds > 20 || set.rate < 1 || set.rate > 200000 {
		return errors.New("-rounds or -rate is out of range")
	}
	list, err := choose(scenarios(set), *only)
	if err != nil {
		return err
	}
	if err := enoughFiles(slices.Max(set.sizes), list); err != nil {
		return err
	}

	tmp, err := os.MkdirTemp("", "peer-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	var sides [2]program
	if *reference == "" {
		sides[0], err = npmPeer(".")
	} else {
		sides[0], err = goServer(ctx, "reference", *reference, tmp)
	}
	if err != nil {
		return err
	}
	if sides[1], err = goServer(ctx, "ours", *ours, tmp); err != nil {
		return err
	}

	// The generator allocates next to nothing while it measures. Collecting what
	// little there is would take a core from the server now and then.
	debug.SetGCPercent(1000)

	r := describe(ctx)
	r.Rounds, r.Quick, r.Reference, r.Ours = *rounds, *quick, sides[0].name, sides[1].name
	for _, sc := range list {
		for round := range *rounds {
			for i, p := range sides {
				fmt.Fprintf(os.Stderr, "%s, round %d of %d, %s\n", sc.name, round+1, *rounds, p.name)
				runtime.GC()
				samples, err := attempt(ctx, sc, p, set, tmp)
				if err != nil {
					r.finish() // what has been measured so far is not lost
					return errors.Join(err, r.print(os.Stdout))
				}
				r.record(sc.name, i == 1, samples)
			}
		}
	}
	r.finish()
	if *jsonFile != "" {
		if err := r.writeJSON(*jsonFile); err != nil {
			return err
		}
	}
	return r.print(os.Stdout)
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
	if !slices.ContainsFunc(list, func(sc scenario) bool { return strings.HasPrefix(sc.name, "idle-") || sc.name == "shutdown" }) {
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
