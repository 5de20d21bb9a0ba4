//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package peer

import "syscall"

// peekSocket looks at what the reader of a plain socket would get next, without taking it.
func peekSocket(fd uintptr) peeked {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	for err == syscall.EINTR {
		n, _, err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	switch {
	case err == nil && n > 0:
		return peekedBytes
	case err != nil && wouldBlock(err):
		return peekedNothing
	}
	return peekedEnd
}
