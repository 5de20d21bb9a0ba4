package main

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gopeerjs/peer/turn"
	"github.com/pion/stun/v4"
)

var (
	serveAt   = flag.String("serve", "", "be the server, at this address (turnbench starts itself)")
	transport = flag.String("transport", "udp", "how clients connect: udp or tcp")
	clients   = flag.Int("clients", 8, "clients, each with a relay and a peer")
	window    = flag.Int("window", 6, "packets that each client has on their way")
	size      = flag.Int("size", 1200, "bytes of a packet, a multiple of 4")
	duration  = flag.Duration("time", 5*time.Second, "how long one measurement lasts")
	rounds    = flag.Int("rounds", 3, "measurements of each server")
	only      = flag.String("only", "", "measure only this server: turn or coturn")
)

const (
	secretVariable = "TURNBENCH_SECRET"
	serverIP       = "127.0.0.1"
	peerIP         = "127.0.0.2"
	warmUp         = time.Second
)

func main() {
	flag.Parse()
	log.SetFlags(0)
	if *serveAt != "" {
		serve()
		return
	}
	if *size%4 != 0 || *size < 4 || *size > 1400 || *clients < 1 || *window < 1 || *rounds < 1 {
		log.Fatal("turnbench: a flag is out of range")
	}
	b := make([]byte, 16)
	rand.Read(b) // never fails
	secret := hex.EncodeToString(b)
	servers := slices.DeleteFunc([]string{"turn", "coturn"}, func(s string) bool { return *only != "" && s != *only })
	results := make(map[string][]result)
	for round := range *rounds {
		for _, name := range servers {
			r, err := measure(name, secret)
			if err != nil {
				log.Fatalf("turnbench: measuring %s: %v", name, err)
			}
			fmt.Printf("round %d  %-6s  %v\n", round+1, name, r)
			results[name] = append(results[name], r)
		}
	}
	for _, name := range servers {
		rs := results[name]
		fmt.Printf("median   %-6s  %6.0f Mbit/s  %6.1f µs CPU per Mbit\n",
			name, median(rs, result.mbitPerSecond), median(rs, result.cpuPerMbit))
	}
}

// median returns the median of a figure.
func median(rs []result, figure func(result) float64) float64 {
	var all []float64
	for _, r := range rs {
		all = append(all, figure(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// A result is one measurement.
type result struct {
	mbit    float64 // relayed, both directions
	elapsed time.Duration
	cpu     time.Duration // of the server's process
	stalls  int64         // times at which a client had to send its window again
}

func (r result) mbitPerSecond() float64 { return r.mbit / r.elapsed.Seconds() }

func (r result) cpuPerMbit() float64 { return float64(r.cpu.Microseconds()) / r.mbit }

func (r result) String() string {
	return fmt.Sprintf("%6.0f Mbit/s  %6.1f µs CPU per Mbit  %3.0f %% of a processor  %d stalls",
		r.mbitPerSecond(), r.cpuPerMbit(), 100*r.cpu.Seconds()/r.elapsed.Seconds(), r.stalls)
}

// serve is the process with module turn.
func serve() {
	opts := turn.Options{
		PublicIP: netip.MustParseAddr(serverIP), BindIP: netip.MustParseAddr(serverIP),
		Secret: []byte(os.Getenv(secretVariable)), UserBytesPerSecond: -1,
		AllowPeer: func(addr netip.Addr) bool { return addr == netip.MustParseAddr(peerIP) },
	}
	pc, err := net.ListenPacket("udp4", *serveAt)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp4", *serveAt)
	if err != nil {
		log.Fatal(err)
	}
	opts.UDP, opts.TCP = []net.PacketConn{pc}, []net.Listener{ln}
	if _, err := turn.New(opts); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadByte() // until turnbench ends
}

// measure starts a server and lets all clients send for a while.
func measure(name, secret string) (result, error) {
	addr, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	dir, err := os.MkdirTemp("", "turnbench")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	server, err := start(name, addr, secret, dir)
	if err != nil {
		return result{}, err
	}
	defer server.Wait()
	defer server.Process.Kill()
	l := &load{server: addr, secret: secret}
	defer l.close()
	for range *clients {
		if err := l.add(); err != nil {
			return result{}, err
		}
	}
	var all sync.WaitGroup
	l.run(&all)
	time.Sleep(warmUp)
	before, err := cpuOf(server.Process.Pid)
	if err != nil {
		return result{}, err
	}
	begin, packets, stalls := time.Now(), l.packets.Load(), l.stalls.Load()
	time.Sleep(*duration)
	after, err := cpuOf(server.Process.Pid)
	if err != nil {
		return result{}, err
	}
	r := result{
		mbit:    float64(l.packets.Load()-packets) * float64(*size) * 8 / 1e6,
		elapsed: time.Since(begin), cpu: after - before, stalls: l.stalls.Load() - stalls,
	}
	l.close()
	all.Wait()
	if r.mbit == 0 {
		return r, fmt.Errorf("nothing was relayed")
	}
	return r, nil
}

// start starts a server's process, and waits until it listens.
func start(name, addr, secret, dir string) (*exec.Cmd, error) {
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(os.Args[0], "-serve", addr)
	if name == "coturn" {
		cmd = exec.Command("turnserver",
			"-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", filepath.Join(dir, "log"), "--simple-log",
			"--listening-ip", host, "--relay-ip", host, "--listening-port", port,
			"--use-auth-secret", "--static-auth-secret", secret, "--realm", "turnbench", "--allow-loopback-peers",
			"--userdb", filepath.Join(dir, "turndb"), "--pidfile", filepath.Join(dir, "pid"))
	}
	cmd.Env = append(os.Environ(), secretVariable+"="+secret)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting: %w", err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := errors.Join(listens("tcp", addr), listens("udp", addr))
		if err == nil {
			return cmd, nil
		}
		if time.Since(begin) > 10*time.Second {
			cmd.Process.Kill()
			cmd.Wait()
			return nil, fmt.Errorf("it does not listen: %w", err)
		}
	}
}

// listens asks for a binding, which needs no credentials.
func listens(network, addr string) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(stallAfter))
	if _, err := c.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 2000))
	return err
}

// freeAddr returns an address at which nobody listens.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp4", serverIP+":0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// cpuOf returns the CPU time of a process so far, in user and system mode.
func cpuOf(pid int) (time.Duration, error) {
	const tick = time.Second / 100 // USER_HZ is 100 on all systems that Go supports
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may have spaces. utime and stime are fields 14 and 15.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, cmp.Or(err1, err2)
}
