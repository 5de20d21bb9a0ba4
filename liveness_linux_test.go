package peer

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// inNamespace runs the calling test again in a process with a network of its own,
// whose loopback interface can be switched off, and reports whether this is that
// process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "PEER_TEST_NETWORK"
	if os.Getenv(marker) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Skipf("this system gives no process a network of its own: %v", err)
	}
	require.NoError(t, err, "%s", out)
	return false
}

// setLoopback switches the loopback interface on or off.
func setLoopback(t *testing.T, on bool) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer syscall.Close(fd)
	req := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{name: [16]byte{'l', 'o'}}
	if on {
		req.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req)))
	require.Zero(t, errno)
}

func TestAPeerThatVanishesWithoutAWordIsGivenUp(t *testing.T) {
	slow(t)
	t.Parallel()
	if !inNamespace(t) {
		return
	}
	setLoopback(t, true)
	r := newRig(t, Options{AliveTimeout: time.Second, ExpireTimeout: time.Minute})
	rec := watch(r.srv)
	r.connect("a")
	rec.want(t, "+a")
	setLoopback(t, false) // no packet comes or goes any more, and nobody is told
	rec.want(t, "+a", "-a alive timeout")
	require.Zero(t, r.srv.Realm().Len())
	setLoopback(t, true)
	again := r.dial("a", "another token")
	again.wantOpen()
	r.connect("b").offer("a", `1`)
	again.wantOffer("b", `1`)
}
