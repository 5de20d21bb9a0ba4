//go:build linux

package chaos

import (
	"flag"
	"os"
	"testing"
	"time"
)

// Flags of TestChaos. They are the first words of `go test . -args`.
var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the run; 0: of the clock")
	durationFlag = flag.Duration("duration", 0, "how long the clients live; 0: 60s with more than one node, else 15s")
	storeFlag    = flag.String("store", "alone", "none, alone, sentinel or cluster")
	nodesFlag    = flag.Int("nodes", 0, "number of nodes; 0: 3 if they can be joined, else 1")
	clientsFlag  = flag.Int("clients", 300, "number of clients")
	faultsFlag   = flag.String("faults", "all", `faults, separated by commas; "all" or "none"`)
	pauseFlag    = flag.Duration("pause", 3500*time.Millisecond, "between the calls of one client, on average")
	p99Flag      = flag.Duration("p99", 0, "the longest p99 of messages between clients of one node; 0: it is not judged")
	breakFlag    = flag.String("break", "", "what node 0 does wrong: twice, order, expire or end")
)

func TestMain(m *testing.M) {
	if config := os.Getenv(nodeEnv); config != "" {
		runNode(config)
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// calmFor is how long nothing happens before everybody is asked what they believe, and restFor how long
// the last messages have for their outcome.
const (
	calmFor = 10 * time.Second
	restFor = maxLife + 500*time.Millisecond
)

func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	cfg := runConfig{seed: *seedFlag, duration: *durationFlag, store: *storeFlag, nodes: *nodesFlag, clients: *clientsFlag,
		faults: *faultsFlag, sabotage: *breakFlag}
	if cfg.seed == 0 {
		cfg.seed = uint64(time.Now().UnixNano() % 1e6)
	}
	if cfg.nodes == 0 {
		if cfg.nodes = 1; clustered && cfg.store != "none" {
			cfg.nodes = 3
		}
	}
	if cfg.duration == 0 {
		if cfg.duration = 15 * time.Second; cfg.nodes > 1 {
			cfg.duration = time.Minute
		}
	}
	r := chaos(t, cfg)
	r.print()
	if n := len(violations(r.found)); n > 0 {
		t.Errorf("%d violations; run again with -seed %d", n, cfg.seed)
	}
}

// A server that does something wrong has to be noticed, or the judge is of no use.
func TestTheJudgeNotices(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for sabotage, rules := range map[string][]string{
		"twice": {"twice"}, "order": {"not sent"}, "expire": {"both", "second EXPIRE", "early EXPIRE"}, "end": {"closed"},
	} {
		t.Run(sabotage, func(t *testing.T) {
			t.Parallel()
			r := chaos(t, runConfig{seed: 1, duration: 3 * time.Second, store: "none", nodes: 1, clients: 60, faults: "none", sabotage: sabotage})
			seen := make(map[string]int)
			for _, f := range violations(r.found) {
				seen[f.Rule]++
			}
			for _, rule := range rules {
				if seen[rule] > 0 {
					return
				}
			}
			t.Errorf("the judge saw nothing of %q: %v", sabotage, seen)
		})
	}
}

type runConfig struct {
	seed           uint64
	duration       time.Duration
	store          string
	nodes, clients int
	faults         string
	sabotage       string
}

// chaos is one run.
func chaos(t *testing.T, cfg runConfig) *report {
	st := newStore(t, cfg.store, cfg.nodes)
	names, err := chosenFaults(st, cfg.nodes, cfg.faults)
	if err != nil {
		t.Fatal(err)
	}
	ns := newNodes(t, cfg.nodes, st, cfg.sabotage)
	w := newWorld(t, cfg.seed, cfg.clients, ns)
	t.Cleanup(func() { w.stop(); w.running.Wait() })
	w.begin(cfg.seed)
	quiet := cfg.duration
	if len(names) > 0 {
		const warmUp = 3 * time.Second
		time.Sleep(warmUp)
		quiet = max(cfg.duration-calmFor, 2*warmUp)
		w.inject(cfg.seed, names, quiet, t.Logf)
	}
	time.Sleep(quiet - w.now())
	w.quieten()
	rest := calmFor
	if len(names) == 0 {
		rest /= 2
	}
	time.Sleep(rest)
	r := &report{w: w, cfg: cfg}
	r.found = append(r.found, w.judgeBeliefs()...)
	w.silent.Store(true)
	time.Sleep(restFor)
	end := w.now()
	w.stop()
	r.found = append(r.found, ns.shutDown()...)
	w.running.Wait()
	r.history = w.history(end)
	r.found = append(r.found, judgePairs(r.history)...)
	r.found = append(r.found, judgeSockets(r.history)...)
	for _, line := range st.leftovers() {
		r.found = append(r.found, Finding{Rule: "keys", At: end, Text: line})
	}
	for _, line := range w.notes.complaints {
		r.found = append(r.found, Finding{Rule: "complaint", At: end, Text: line})
	}
	r.found = append(r.found, r.judgeTotals()...)
	return r
}

// judgeBeliefs asks everybody what they believe. If a process did not get its turn lately, that may have been a fault
// too, and they are asked again.
func (w *world) judgeBeliefs() (found []Finding) {
	for range 3 {
		s, err := w.snapshot()
		if err != nil {
			found = []Finding{{Rule: "state", At: w.now(), Text: err.Error()}}
		} else {
			found = judgeEnd(s)
		}
		if len(found) == 0 || !w.starved(w.now()-calmFor-settle) {
			break
		}
		time.Sleep(calmFor / 2)
	}
	return found
}

// starved reports whether a process did not get its turn for long since a moment.
func (w *world) starved(since time.Duration) bool {
	for _, f := range w.cluster.stalls() {
		if f.To > since && !w.halted(f) {
			return true
		}
	}
	w.notes.Lock()
	defer w.notes.Unlock()
	for _, l := range w.notes.lags {
		if l.At > since && l.By > stallFrom {
			return true
		}
	}
	return false
}

// halted reports whether a stall is a halt that was made on purpose.
func (w *world) halted(stall Fault) bool {
	w.notes.Lock()
	defer w.notes.Unlock()
	for _, f := range w.notes.faults {
		if f.Kind == "stop" && f.Node == stall.Node && f.From < stall.To && stall.From < f.To {
			return true
		}
	}
	return false
}
