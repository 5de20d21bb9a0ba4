// Package redistest starts Redis servers for tests: stand-alone, with Sentinel, or as a Redis Cluster.
// They listen on free ports of the loopback interface, keep their files in a temporary folder, write
// nothing of their data, and end with the test; on Linux also when the test's process is killed.
//
// [Start], [StartSentinel] and [StartCluster] skip the test if redis-server is not installed.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const startWithin = 20 * time.Second

// Available reports whether redis-server is installed.
func Available() bool {
	_, err := exec.LookPath("redis-server")
	return err == nil
}

// A Server is one process. Its methods fail the test when they cannot do their work.
type Server struct {
	t    testing.TB
	name string // of the program
	dir  string
	port int
	args []string

	cmd    *exec.Cmd
	ended  chan struct{}
	client *redis.Client
}

// Start starts a stand-alone server. More arguments are options of redis-server.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, "redis-server", append([]string{"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"}, args...)...)
}

func start(t testing.TB, name string, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	s := &Server{t: t, name: name, dir: t.TempDir(), args: args}
	t.Cleanup(func() {
		s.Kill()
		if s.client != nil {
			s.client.Close()
		}
	})
	for range 10 { // another process can take the port first
		s.port = freePort(t)
		if s.run() {
			return s
		}
	}
	t.Fatalf("start %s: %s", name, s.log())
	return nil
}

// Addr returns the host and port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// PID returns the number of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Client returns a client for the test's own commands.
func (s *Server) Client() *redis.Client {
	if s.client == nil {
		s.client = redis.NewClient(&redis.Options{Addr: s.Addr(), Protocol: 2, PoolSize: 4})
	}
	return s.client
}

// Do runs a command and returns the reply. A null reply is nil.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := s.Client().Do(ctx, args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatalf("%v on %s: %v", args[0], s.Addr(), err)
	}
	return v
}

// Kill ends the process at once. It may have ended already.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Restart starts the server again on the same port, empty.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	for range 50 {
		if s.run() {
			return
		}
		time.Sleep(100 * time.Millisecond) // the port is still in use
	}
	s.t.Fatalf("restart %s: %s", s.name, s.log())
}

// Stop halts the process, until Cont: connections stay open, nothing is answered.
func (s *Server) Stop() {
	s.t.Helper()
	halt(s.t, s.cmd.Process, true)
}

// Cont lets the process go on after Stop.
func (s *Server) Cont() {
	s.t.Helper()
	halt(s.t, s.cmd.Process, false)
}

// run starts the process, and reports whether it answers.
func (s *Server) run() bool {
	args := append([]string{}, s.args...)
	if s.name == "redis-sentinel" { // it writes into its file of options
		args = append([]string{filepath.Join(s.dir, "sentinel.conf")}, args...)
	}
	args = append(args, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"))
	if s.name == "redis-sentinel" {
		if err := os.WriteFile(filepath.Join(s.dir, "sentinel.conf"), nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.cmd = exec.Command(s.name, args...)
	s.cmd.SysProcAttr = attributes()
	ended := make(chan struct{})
	s.ended = ended
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.name, err)
	}
	go func(c *exec.Cmd) {
		_ = c.Wait()
		close(ended)
	}(s.cmd)
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); {
		select {
		case <-ended:
			return false
		case <-time.After(10 * time.Millisecond):
		}
		if ping(s.Addr()) {
			return true
		}
	}
	s.Kill()
	return false
}

// ping reports whether a server answers, be it that a password is missing.
func ping(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.Write([]byte("PING\r\n"))
	b := make([]byte, 64)
	n, _ := c.Read(b)
	return bytes.HasPrefix(b[:n], []byte("+PONG")) || bytes.HasPrefix(b[:n], []byte("-NOAUTH"))
}

func (s *Server) log() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return "no log"
	}
	return string(b[max(0, len(b)-2000):])
}

// freePort returns a port below those that the system gives to outgoing connections.
func freePort(t testing.TB) int {
	for range 100 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", startWithin, what)
}

// info returns a field of INFO, or "" if the server does not answer.
func (s *Server) info(section, field string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return lineOf(s.Client().Info(ctx, section).Val(), field)
}

func lineOf(info, field string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
