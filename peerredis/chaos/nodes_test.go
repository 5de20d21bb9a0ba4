//go:build linux

package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A nodeSet is the processes of the nodes.
type nodeSet struct {
	t     *testing.T
	start time.Time
	store *store
	nodes []*node
}

// A node is one place of a node. Its process may be killed and started again.
type node struct {
	set           *nodeSet
	i             int
	addr, control string
	sabotage      string

	mu     sync.Mutex // guards the following
	cmd    *exec.Cmd
	exited chan struct{}
	lines  []logLine // of all its processes
	stalls []Fault
	report *endReport
}

type logLine struct {
	at   time.Duration
	text string
}

const maxLines = 200_000

func newNodes(t *testing.T, n int, s *store, sabotage string) *nodeSet {
	ns := &nodeSet{t: t, start: time.Now(), store: s}
	t.Cleanup(ns.killAll)
	for i := range n {
		nd := &node{set: ns, i: i, addr: freeAddr(t), control: freeAddr(t)}
		if i == 0 {
			nd.sabotage = sabotage
		}
		ns.nodes = append(ns.nodes, nd)
		if err := nd.run(); err != nil {
			t.Fatal(err)
		}
	}
	for _, nd := range ns.nodes {
		if err := nd.awaitReady(); err != nil {
			t.Fatalf("node %d: %v\n%s", nd.i, err, nd.about(0, never))
		}
	}
	return ns
}

// freeAddr returns an address below those that the system gives to outgoing connections: it stays free while a node
// is down.
func freeAddr(t *testing.T) string {
	for range 1000 {
		addr := fmt.Sprint("127.0.0.1:", 20000+time.Now().UnixNano()/1000%12000)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// run starts the process. The system kills it when this process ends.
func (n *node) run() error {
	config, err := json.Marshal(nodeConfig{Index: n.i, Listen: n.addr, Control: n.control, Start: n.set.start,
		Engine: n.set.store.config(n.i), Sabotage: n.sabotage})
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeEnv+"="+string(config))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	// Pdeathsig is of the thread that starts the process. It has to live for as long as this process does.
	started := make(chan error)
	exited := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		if cmd.Process != nil {
			n.read(out)
			_ = cmd.Wait()
		}
		close(exited)
		runtime.UnlockOSThread()
	}()
	err = <-started
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.exited = cmd, exited
	return err
}

// read keeps what the process writes.
func (n *node) read(out io.Reader) {
	r := bufio.NewReader(out)
	for {
		text, err := r.ReadString('\n')
		if err != nil {
			return
		}
		n.mu.Lock()
		var from, to int64
		switch {
		case strings.HasPrefix(text, `{"Took"`):
			n.report = new(endReport)
			if err := json.Unmarshal([]byte(text), n.report); err != nil {
				n.report.Errors = append(n.report.Errors, err.Error())
			}
		case strings.HasPrefix(text, "STALL"):
			if _, err := fmt.Sscanf(text, stallLine, &from, &to); err == nil {
				n.stalls = append(n.stalls, Fault{"stall", n.i, time.Duration(from) * time.Millisecond, time.Duration(to) * time.Millisecond})
			}
		}
		n.lines = append(n.lines, logLine{time.Since(n.set.start), strings.TrimRight(text, "\n")})
		if len(n.lines) > maxLines {
			n.lines = n.lines[maxLines/2:]
		}
		n.mu.Unlock()
	}
}

// about returns what the node logged about some ids, or everything without ids.
func (n *node) about(from, to time.Duration, ids ...string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, l := range n.lines {
		match := len(ids) == 0
		for _, id := range ids {
			match = match || id != "" && strings.Contains(l.text, id)
		}
		if match && from <= l.at && l.at <= to {
			fmt.Fprintf(&b, "    node %d: %.400s\n", n.i, l.text)
		}
	}
	return b.String()
}

func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.cmd.Process.Signal(s)
}

func (n *node) awaitExit(within time.Duration) bool {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	select {
	case <-exited:
		return true
	case <-time.After(within):
		return false
	}
}

func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	<-n.exited
}

func (ns *nodeSet) killAll() {
	for _, n := range ns.nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			n.kill()
		}
	}
}

var judgeHTTP = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (n *node) get(path string) ([]byte, error) {
	res, err := judgeHTTP.Get("http://" + n.control + path)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return b, err
}

func (n *node) state() (st nodeState, err error) {
	b, err := n.get("/state")
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	return st, err
}

func (n *node) awaitReady() (err error) {
	for range 200 {
		if _, err = n.get("/ready"); err == nil {
			return nil
		}
		if n.awaitExit(50 * time.Millisecond) {
			return errors.New("the process has ended")
		}
	}
	return err
}

func (ns *nodeSet) stalls() (fs []Fault) {
	for _, n := range ns.nodes {
		n.mu.Lock()
		fs = append(fs, n.stalls...)
		n.mu.Unlock()
	}
	return fs
}

func (ns *nodeSet) claims(ids []string) (map[string]string, error) { return ns.store.claims(ids) }

// term ends the node as a deployment does, and returns its report.
func (n *node) term() (*endReport, error) {
	n.mu.Lock()
	n.report = nil
	n.mu.Unlock()
	n.signal(syscall.SIGTERM)
	if !n.awaitExit(shutdownLimit + 5*time.Second) {
		stacks, _ := n.get("/stacks")
		n.kill()
		return nil, fmt.Errorf("node %d did not end in time\n%s", n.i, stacks)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.report == nil {
		return nil, fmt.Errorf("node %d ended without a report: %v", n.i, n.cmd.ProcessState)
	}
	return n.report, nil
}

// judgeReport wants nothing to be left of a node.
func judgeReport(n int, r *endReport, at time.Duration) (found []Finding) {
	note := func(format string, args ...any) {
		found = append(found, Finding{Rule: "shutdown", At: at, Text: fmt.Sprintf("node %d: ", n) + fmt.Sprintf(format, args...)})
	}
	for _, err := range r.Errors {
		note("%s", err)
	}
	if r.Took > shutdownWithin {
		note("the shutdown took %v", r.Took)
	}
	if r.Leaked != "" {
		note("goroutines are left:\n%s", r.Leaked)
	}
	st := r.Stats
	if st.Clients != 0 || st.HeldMessages != 0 || st.HeldBytes != 0 || st.PartialBytes != 0 || st.Rooms != 0 || st.Members != 0 {
		note("clients %d, held %d (%d bytes), partial %d, rooms %d, members %d are left",
			st.Clients, st.HeldMessages, st.HeldBytes, st.PartialBytes, st.Rooms, st.Members)
	}
	return found
}

// shutDown ends all nodes at the same time.
func (ns *nodeSet) shutDown() (found []Finding) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range ns.nodes {
		wg.Go(func() {
			r, err := n.term()
			at := time.Since(ns.start)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				found = append(found, Finding{Rule: "shutdown", At: at, Text: err.Error()})
				return
			}
			found = append(found, judgeReport(n.i, r, at)...)
		})
	}
	wg.Wait()
	return found
}
