package peer

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The system calls of a socket are hidden from the runtime, whose monitor sleeps while the
// process does nothing. A host that then computes must not keep everybody waiting until it is
// done. This is about time, so it is timed: without wakeMonitor the others wait for a second.
//
// The detectors of races see every call, so the program is built without them.
func TestAHostThatComputesDelaysNobodyForLong(t *testing.T) {
	slow(t)
	program := filepath.Join(t.TempDir(), "compute")
	out, err := exec.Command("go", "build", "-o", program, "./testdata/compute").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, begin := range map[string]func(p *rawPeer){
		"in an event":                      func(p *rawPeer) { p.text(`{"type":"COMPUTE"}`) },
		"when it learns of a client's end": func(p *rawPeer) { p.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				r, end := computeRig(t, program)
				a, b, p := r.rawOpen().open("alice"), r.rawOpen().open("bob"), r.rawOpen().open("watched")
				time.Sleep(200 * time.Millisecond) // the monitor goes to sleep
				begin(p)
				time.Sleep(10 * time.Millisecond) // the host computes
				start := time.Now()
				a.text(`{"type":"OFFER","dst":"bob"}`)
				b.want(`{"type":"OFFER","src":"alice","dst":"bob"}`)
				took := time.Since(start)
				end()
				t.Log(took)
				require.Less(t, took, 500*time.Millisecond)
			}
		})
	}
}

// computeRig starts the program with one processor.
func computeRig(t *testing.T, program string) (r *rig, end func()) {
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	end = sync.OnceFunc(func() {
		stdin.Close()
		require.NoError(t, cmd.Wait())
	})
	t.Cleanup(end)
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	addr = strings.TrimSpace(addr)
	return &rig{t: t, url: "http://" + addr, dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}, end
}
