package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is the program itself in a child process.
func TestMain(m *testing.M) {
	if os.Getenv("PLAIN_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTheProgramServesUntilItIsAskedToEnd(t *testing.T) {
	cmd := exec.Command(os.Args[0], "--port", "0", "--host", "127.0.0.1", "--concurrent_limit", "-1")
	cmd.Env = append(os.Environ(), "PLAIN_CHILD=1")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill() // has no effect when it has ended
	lines := bufio.NewReader(said)
	url, err := lines.ReadString('\n')
	require.NoError(t, err)
	res, err := http.Get(strings.TrimSpace(url) + "peerjs/id")
	require.NoError(t, err)
	id, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	res.Body.Close()
	require.Len(t, id, 36)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait(), "%s", rest)
}
