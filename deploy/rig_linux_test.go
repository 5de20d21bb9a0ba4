// Package deploy tries out the files beside it: with the programs that read them, where these are installed, and
// with the servers that they start.
package deploy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

const testVersion = "v1.2.3"

// programs has the servers, by the names of their directories in examples.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "deploy")
	if err != nil {
		panic(err)
	}
	programs = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var buildPeerjs = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("./archives", testVersion, programs, "linux/"+runtime.GOARCH).CombinedOutput()
	if err != nil {
		return string(out), err
	}
	name := "peerjs_" + strings.TrimPrefix(testVersion, "v") + "_linux_" + runtime.GOARCH
	out, err = exec.Command("tar", "-C", programs, "-xzf", filepath.Join(programs, name+".tar.gz")).CombinedOutput()
	return filepath.Join(programs, name, "peerjs") + string(out), err
})

var buildCluster = sync.OnceValues(func() (string, error) {
	file := filepath.Join(programs, "cluster")
	out, err := exec.Command("go", "build", "-C", "../examples/cluster", "-o", file, ".").CombinedOutput()
	return file + string(out), err
})

// binary returns the file of a server: of examples/peerjs that of the archive.
func binary(t *testing.T, name string) string {
	t.Helper()
	build := map[string]func() (string, error){"peerjs": buildPeerjs, "cluster": buildCluster}[name]
	require.NotNil(t, build, name)
	file, err := build()
	require.NoError(t, err, file)
	return file
}

// requireFlags wants a server to accept flags and variables. With --version it checks them and ends.
func requireFlags(t *testing.T, name string, flags, env []string) {
	t.Helper()
	cmd := exec.Command(binary(t, name), append(append([]string{}, flags...), "--version")...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, flags, out)
}

// A process is one that a test has started.
type process struct {
	cmd   *exec.Cmd
	lines chan string // what it prints

	mu  sync.Mutex
	all bytes.Buffer // guarded by mu; what it has printed
}

// start starts a program, which ends with the test.
func start(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), lines: make(chan string, 1000)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	require.NoError(t, p.cmd.Start())
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for in := bufio.NewScanner(r); in.Scan(); {
			p.mu.Lock()
			p.all.WriteString(in.Text() + "\n")
			p.mu.Unlock()
			select {
			case p.lines <- in.Text():
			default: // nobody waits for so many
			}
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		<-read
		r.Close()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.all.String())
		}
	})
	return p
}

// want waits for a line that matches a pattern, and returns the parts in parentheses.
func (p *process) want(t *testing.T, pattern string) []string {
	t.Helper()
	late := time.After(waitLimit)
	for {
		select {
		case line := <-p.lines:
			if parts := regexp.MustCompile(pattern).FindStringSubmatch(line); parts != nil {
				return parts
			}
		case <-late:
			t.Fatalf("no line came; want %s", pattern)
		}
	}
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// startServer starts a server with flags, on a free port of loopback, and returns its address.
func startServer(t *testing.T, name string, flags, env []string) (*process, string) {
	t.Helper()
	p := start(t, env, binary(t, name), append(append([]string{}, flags...), "--host", "127.0.0.1", "--port", "0")...)
	return p, p.want(t, `listening on \D*(127\.0\.0\.1:\d+)`)[1]
}

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// decode reads a document of YAML, in which a key stands once.
func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(text), &v), text)
	return v
}

func skipIfAbsent(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skip(program + " is not installed")
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// status asks until somebody listens, and returns the status of the answer.
func status(t *testing.T, browser *http.Client, url string) int {
	t.Helper()
	var res *http.Response
	require.Eventually(t, func() (ok bool) {
		var err error
		res, err = browser.Get(url)
		return err == nil
	}, waitLimit, 20*time.Millisecond, url)
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}
