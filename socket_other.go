//go:build !linux || race || msan || asan

package peer

import "syscall"

func readSocket(fd uintptr, p []byte) (int, error) { return min1(sysCall(syscall.Read, fd, p)) }

func writeSocket(fd uintptr, p []byte) (int, error) { return min1(sysCall(syscall.Write, fd, p)) }

// min1 returns 0 in the place of the -1 that comes with an error.
func min1(n int, err error) (int, error) { return max(n, 0), err }

// wakeMonitor does nothing: the runtime is told of all calls.
func wakeMonitor() {}

// sysCall calls f, which takes an int or a handle, depending on the system.
func sysCall[H ~int | ~uintptr](f func(H, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	return f(H(fd), p)
}
