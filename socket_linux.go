//go:build !race && !msan && !asan

package peer

import (
	"syscall"
	"unsafe"
)

// The runtime is not told of the calls that read and write a plain socket. In a process that
// has been asleep, the first call that the runtime is told of wakes its monitor thread, which
// looks around for 20 µs and goes back to sleep: about half of what a heartbeat costs.
//
// While the monitor sleeps, nothing takes the processor from a goroutine that computes. So the
// monitor is woken before a function of the host runs, see wakeMonitor.
//
// The detectors of races and of bad memory accesses have to see the calls.

func readSocket(fd uintptr, p []byte) (int, error) { return rawCall(syscall.SYS_READ, fd, p) }

func writeSocket(fd uintptr, p []byte) (int, error) {
	return rawCall(syscall.SYS_WRITE, fd, p[:min(len(p), joinedBytes)]) // to copy more takes too long for a call that nobody can interrupt
}

func rawCall(trap, fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// wakeMonitor makes the shortest system call that the runtime is told of.
func wakeMonitor() { syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) }
