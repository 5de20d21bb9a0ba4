package main

import (
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"
)

// trial is one run of one scenario against one fresh server, or against several that have joined.
type trial struct {
	*loop
	set     settings
	pid     int       // of the first server
	servers []*server // clients are spread over them in turn

	samples []sample
	ids     int // groups of ids handed out
}

// sample is one measured value.
type sample struct {
	metric, unit string
	value        float64
	goal         goal
}

// goal is what a value should be at most: a ratio of ours to npm peer's, or a value of
// ours alone. Zero means that there is none.
type goal struct{ ratio, value float64 }

func (t *trial) add(metric, unit string, value float64, g goal) {
	t.samples = append(t.samples, sample{metric, unit, value, g})
}

// usage is what a span of a trial took.
type usage struct {
	server    time.Duration // CPU time of the servers
	generator time.Duration // CPU time of this process
	wall      time.Duration
}

func (u usage) micros(n int) float64 { return float64(u.server) / 1e3 / float64(n) }

// span measures f.
func (t *trial) span(f func() error) (usage, error) {
	server, err := t.serverCPU()
	if err != nil {
		return usage{}, err
	}
	own, err := cpuTime(syscall.Getpid())
	if err != nil {
		return usage{}, err
	}
	start := t.now()
	if err := f(); err != nil {
		return usage{}, err
	}
	wall := t.now() - start
	ownEnd, err := cpuTime(syscall.Getpid())
	if err != nil {
		return usage{}, err
	}
	serverEnd, err := t.serverCPU()
	return usage{serverEnd - server, ownEnd - own, time.Duration(wall)}, err
}

// serverCPU returns the CPU time of all servers so far.
func (t *trial) serverCPU() (sum time.Duration, err error) {
	for _, s := range t.servers {
		used, err := cpuTime(s.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// pass serves the sockets for d.
func (t *trial) pass(d time.Duration) error {
	_, err := t.run(d, nil)
	return err
}

// addGenerator reports how much of a core the generator took in a span: it shares
// the cores with the server.
func (t *trial) addGenerator(u usage) {
	t.add("load generator's own CPU", "cores", u.generator.Seconds()/u.wall.Seconds(), goal{})
}

// clients returns n clients that are not connected yet.
func (t *trial) clients(n int) []*conn {
	t.ids++
	list := make([]*conn, n)
	for i := range list {
		list[i] = &conn{index: i, id: clientID(t.ids, i), port: t.servers[i%len(t.servers)].port}
	}
	return list
}

// pairs returns 2 n clients: client i and client n+i are a pair. If there are several servers, the two
// are on different ones, and each server has as many of the first as of the second.
func (t *trial) pairs(n int) []*conn {
	list := t.clients(2 * n)
	for i := range n {
		list[n+i].port = t.servers[(i+1)%len(t.servers)].port
	}
	return list
}

// connectAll connects all of the list, some at a time, and waits for each OPEN.
func (t *trial) connectAll(list []*conn) error {
	opened, started := 0, 0
	next := func() {
		if started < len(list) {
			started++
			t.connect(list[started-1])
		}
	}
	t.onOpen = func(*conn) { opened++; next() }
	for range maxPending {
		next()
	}
	err := t.must(fmt.Sprintf("%d connections", len(list)), time.Minute, func() bool { return opened == len(list) })
	t.onOpen = nil
	return err
}

// cycle connects, awaits OPEN and closes, n times, some at a time.
func (t *trial) cycle(n int) error {
	started, ended := 0, 0
	clients := t.clients(n)
	next := func() {
		if started < n {
			started++
			t.connect(clients[started-1])
		}
	}
	t.onOpen = (*conn).sendClose
	t.onClosed = func(*conn) { ended++; next() }
	for range maxPending {
		next()
	}
	err := t.must(fmt.Sprintf("%d cycles", n), time.Minute, func() bool { return ended == n })
	t.onOpen, t.onClosed = nil, nil
	return err
}

// settled waits until the server's memory stays the same within 0.5 % for 1.5 s, at
// most the settings' time for it.
func (t *trial) settled() (memory, error) {
	var last memory
	same := 0
	for end := t.now() + int64(t.set.settle); t.now() < end && same < 3; {
		if err := t.pass(500 * time.Millisecond); err != nil {
			return memory{}, err
		}
		m, err := readMemory(t.pid)
		if err != nil {
			return memory{}, err
		}
		if d := (m.rss - last.rss) / m.rss; d < 0.005 && d > -0.005 {
			same++
		} else {
			same, last = 0, m
		}
	}
	return readMemory(t.pid)
}

// memoryPeak samples the memory of a process until stop is called, which returns the
// largest sample.
func memoryPeak(pid int) (stop func() (memory, error)) {
	var (
		peak memory
		err  error
		wg   sync.WaitGroup
		quit = make(chan struct{})
	)
	wg.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			m, readErr := readMemory(pid)
			if readErr != nil {
				err = readErr
				return
			}
			if m.rss > peak.rss {
				peak = m
			}
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() (memory, error) {
		close(quit)
		wg.Wait()
		return peak, err
	}
}

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[min(len(values)-1, int(q*float64(len(values))))]
}
