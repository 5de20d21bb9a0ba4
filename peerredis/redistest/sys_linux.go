package redistest

import (
	"os"
	"syscall"
	"testing"
)

// attributes make the process end with that of the test.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func halt(t testing.TB, p *os.Process, stop bool) {
	sig := syscall.SIGCONT
	if stop {
		sig = syscall.SIGSTOP
	}
	if err := p.Signal(sig); err != nil {
		t.Fatalf("stop or continue a server: %v", err)
	}
}
