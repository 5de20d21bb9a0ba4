package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// serverLimit is the concurrent_limit that both servers are started with: more than
// a process that may hold 20,000 files can reach.
const serverLimit = 25000

// program is a server that can be started: npm peer, or a build of ours.
type program struct {
	name string
	argv []string
	// fixedPort is set for a program that cannot choose a port itself.
	fixedPort bool
}

// npmPeer returns the reference server that npm ci installed in dir.
func npmPeer(dir string) (program, error) {
	script := filepath.Join(dir, "node_modules", "peer", "dist", "bin", "peerjs.js")
	if _, err := os.Stat(script); err != nil {
		return program{}, fmt.Errorf("npm peer is not installed (run npm ci): %w", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return program{}, err
	}
	return program{name: "npm", argv: []string{node, script}, fixedPort: true}, nil
}

// goServer returns the server at path: an executable, or a directory with a main
// package, which is built into tmp.
func goServer(ctx context.Context, name, path, tmp string) (program, error) {
	info, err := os.Stat(path)
	if err != nil {
		return program{}, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return program{}, err
	}
	if info.IsDir() {
		binary := filepath.Join(tmp, name)
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
		build.Dir = path
		if out, err := build.CombinedOutput(); err != nil {
			return program{}, fmt.Errorf("building %s: %w\n%s", path, err, out)
		}
		path = binary
	}
	return program{name: name, argv: []string{path}}, nil
}

// server is a running server process.
type server struct {
	port   int
	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed when the process has ended and is reaped
}

var addressLine = regexp.MustCompile(`http://127\.0\.0\.1:(\d+)/`)

// startServer starts p on a loopback port and waits until it answers.
func startServer(ctx context.Context, p program, tmp string, args ...string) (*server, error) {
	port := 0
	if p.fixedPort {
		var err error
		if port, err = freePort(); err != nil {
			return nil, err
		}
	}
	argv := append(append([]string(nil), p.argv...),
		"--port", strconv.Itoa(port), "--host", "127.0.0.1", "--concurrent_limit", strconv.Itoa(serverLimit))
	argv = append(argv, args...)
	s, err := spawn(p.name, tmp, argv)
	if err != nil {
		return nil, err
	}
	s.port = port
	if err := s.ready(ctx); err != nil {
		err = fmt.Errorf("starting %s: %w\n%s", p.name, err, s.tail())
		s.stop()
		return nil, err
	}
	return s, nil
}

// spawn starts a process.
//
// Its output goes to a file: a pipe would wake the load generator for each line
// that the process logs.
func spawn(name, tmp string, argv []string) (*server, error) {
	log, err := os.CreateTemp(tmp, name+"-*.log")
	if err != nil {
		return nil, err
	}
	s := &server{log: log, exited: make(chan struct{})}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// Should the benchmark itself be killed, its servers go with it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		s.cmd.Wait() // how it ended does not matter: that it did is seen by its clients
		close(s.exited)
	}()
	return s, nil
}

// ready waits until the server answers HTTP.
func (s *server) ready(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 400 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.exited:
			return errors.New("it ended at once")
		case <-time.After(25 * time.Millisecond):
		}
		if s.port == 0 {
			out, err := os.ReadFile(s.log.Name())
			if err != nil {
				return err
			}
			m := addressLine.FindSubmatch(out)
			if m == nil {
				continue
			}
			s.port, err = strconv.Atoi(string(m[1]))
			if err != nil {
				return err
			}
		}
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", s.port))
		if err == nil {
			resp.Body.Close()
			return nil
		}
	}
	return errors.New("it does not answer")
}

// stop ends the process and waits for its end.
func (s *server) stop() {
	defer s.log.Close()
	for _, end := range []func() error{
		func() error { return s.cmd.Process.Signal(syscall.SIGTERM) },
		s.cmd.Process.Kill,
	} {
		end() // fails only when the process has ended already
		select {
		case <-s.exited:
			return
		case <-time.After(3 * time.Second):
		}
	}
}

// tail returns the end of what the server printed.
func (s *server) tail() []byte {
	out, err := os.ReadFile(s.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return out[max(0, len(out)-2000):]
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// cpuTime returns the CPU time of a process so far, user and system, of all its
// threads including those that have ended.
//
// It reads the process's own CPU clock, which the kernel keeps in nanoseconds;
// /proc/PID/stat has the same sum in ticks of 10 ms, which is too coarse for a span
// of a few seconds.
func cpuTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED; the bits above hold the complement of the process id
	var ts syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(^pid<<3|schedClock), uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, errno)
	}
	return time.Duration(ts.Nano()), nil
}

// memory is what a process holds, in bytes. Socket buffers are the kernel's and not
// in it.
type memory struct {
	rss       float64 // all resident pages, the program's own text among them
	anonymous float64 // those not backed by a file: heap and stacks
}

func readMemory(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range bytes.Lines(text) {
		var to *float64
		switch {
		case bytes.HasPrefix(line, []byte("Rss:")):
			to = &m.rss
		case bytes.HasPrefix(line, []byte("Anonymous:")):
			to = &m.anonymous
		default:
			continue
		}
		kb, err := strconv.ParseFloat(string(bytes.Fields(line)[1]), 64)
		if err != nil {
			return memory{}, fmt.Errorf("reading smaps_rollup: %w", err)
		}
		*to = kb * 1024
	}
	if m.rss == 0 {
		return memory{}, fmt.Errorf("no Rss in smaps_rollup of process %d", pid)
	}
	return m, nil
}
