//go:build !linux

package redistest

import (
	"os"
	"syscall"
	"testing"
)

func attributes() *syscall.SysProcAttr { return nil }

func halt(t testing.TB, _ *os.Process, _ bool) { t.Skip("stops and continues servers on Linux only") }
