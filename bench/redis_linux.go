package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// redisServer is a Redis of the benchmark's own, and a connection that asks it what it has done.
type redisServer struct {
	*server
	conn  net.Conn
	reply *bufio.Reader
}

// errNoRedis says that what needs a Redis cannot be measured here.
var errNoRedis = errors.New("redis-server is not installed")

// startRedis starts a Redis without persistence on a free port.
func startRedis(ctx context.Context, tmp string) (*redisServer, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errNoRedis
	}
	for range 5 { // another process can take the port first
		var port int
		if port, err = freePort(); err != nil {
			return nil, err
		}
		var s *server
		s, err = spawn("redis", tmp, []string{path, "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
			"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", tmp})
		if err != nil {
			return nil, err
		}
		s.port = port
		r := &redisServer{server: s}
		if err = r.dial(ctx); err == nil {
			return r, nil
		}
		err = fmt.Errorf("starting redis-server: %w\n%s", err, s.tail())
		r.stop()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// dial connects as soon as the server answers.
func (r *redisServer) dial(ctx context.Context) error {
	for range 400 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.exited:
			return errors.New("it ended at once")
		case <-time.After(25 * time.Millisecond):
		}
		c, err := net.Dial("tcp", r.addr())
		if err != nil {
			continue
		}
		r.conn, r.reply = c, bufio.NewReader(c)
		// Another process than ours may have the port.
		info, err := r.info("server")
		if err != nil {
			return err
		}
		if want := "process_id:" + strconv.Itoa(r.cmd.Process.Pid) + "\r\n"; !strings.Contains(info, want) {
			return errors.New("another server has its port")
		}
		return nil
	}
	return errors.New("it does not answer")
}

func (r *redisServer) addr() string { return "127.0.0.1:" + strconv.Itoa(r.port) }

// stop ends the process and waits for its end.
func (r *redisServer) stop() {
	if r.conn != nil {
		r.conn.Close()
	}
	r.server.stop()
}

// info returns a section of what the server says of itself.
func (r *redisServer) info(section string) (string, error) {
	r.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(r.conn, "INFO "+section+"\r\n"); err != nil {
		return "", err
	}
	text, err := readBulk(r.reply)
	if err != nil {
		return "", fmt.Errorf("INFO %s: %w", section, err)
	}
	return text, nil
}

// readBulk reads a reply that is a text: "$", its length, and the text.
func readBulk(r *bufio.Reader) (string, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	digits, ok := strings.CutPrefix(strings.TrimSpace(head), "$")
	n, err := strconv.ParseUint(digits, 10, 24)
	if !ok || err != nil {
		return "", fmt.Errorf("the reply %q is not a text", head)
	}
	text := make([]byte, n+2) // with the end of the line
	if _, err := io.ReadFull(r, text); err != nil {
		return "", err
	}
	return string(text[:n]), nil
}

// commands says how often each command was called, those in scripts included. Names are in lower case;
// a subcommand follows its command and a vertical bar.
type commands map[string]int64

// parseCommands reads the section commandstats of INFO.
func parseCommands(info string) (commands, error) {
	c := make(commands)
	for line := range strings.Lines(info) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "cmdstat_")
		if !ok {
			continue
		}
		name, values, _ := strings.Cut(rest, ":")
		first, _, _ := strings.Cut(values, ",")
		digits, ok := strings.CutPrefix(first, "calls=")
		n, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil || n < 0 {
			return nil, fmt.Errorf("not a line of commandstats: %q", line)
		}
		c[strings.ToLower(name)] = n
	}
	return c, nil
}

// since returns how often each command was called since before.
func (c commands) since(before commands) commands {
	d := make(commands)
	for name, n := range c {
		if n -= before[name]; n != 0 {
			d[name] = n
		}
	}
	return d
}

// all returns the number of all calls.
func (c commands) all() (sum int64) {
	for _, n := range c {
		sum += n
	}
	return sum
}

// scripts returns the number of calls of scripts.
func (c commands) scripts() int64 { return c["evalsha"] + c["eval"] }

// redisUse is what a span took of Redis.
type redisUse struct {
	cpu time.Duration
	did commands
}

func (u redisUse) micros(n int) float64 { return float64(u.cpu) / 1e3 / float64(n) }

// measure returns what f takes of Redis, without the questions for it.
func (r *redisServer) measure(f func() error) (u redisUse, err error) {
	count := func() (commands, error) {
		info, err := r.info("commandstats")
		if err != nil {
			return nil, err
		}
		return parseCommands(info)
	}
	before, err := count()
	if err != nil {
		return u, err
	}
	used, err := cpuTime(r.cmd.Process.Pid)
	if err != nil {
		return u, err
	}
	if err := f(); err != nil {
		return u, err
	}
	usedEnd, err := cpuTime(r.cmd.Process.Pid)
	if err != nil {
		return u, err
	}
	after, err := count()
	if err != nil {
		return u, err
	}
	after["info"]-- // the first question was counted after its answer
	return redisUse{usedEnd - used, after.since(before)}, nil
}
