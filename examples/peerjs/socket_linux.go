//go:build !race && !msan && !asan

package main

import (
	"syscall"
	"unsafe"
)

// The runtime is not told of these system calls. In a process that has been asleep,
// the first one that it is told of wakes its monitor thread, which looks around for
// 20 µs and goes back to sleep: about half of what a heartbeat costs, and a quarter of
// a message while there are few. The monitor is there to take the processor from a
// call that waits, which these do not, and from a goroutine that computes for long,
// of which this program has none.
//
// The detectors of races and of bad memory accesses have to see the calls. With them,
// and on other systems, the server uses those of package syscall.
func init() { readSocket, writeSocket = rawRead, rawWrite }

func rawRead(fd uintptr, p []byte) (int, error) { return rawCall(syscall.SYS_READ, fd, p) }

func rawWrite(fd uintptr, p []byte) (int, error) {
	const quick = 64 << 10 // to copy more takes longer than one should keep a processor for
	return rawCall(syscall.SYS_WRITE, fd, p[:min(len(p), quick)])
}

func rawCall(trap, fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
