//go:build !race && !msan && !asan

package peer

import (
	"bytes"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSystemCallsReadAndWriteWhatThoseOfPackageSyscallDo(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer syscall.Close(fds[0])
	near, far := uintptr(fds[0]), uintptr(fds[1])
	buf := make([]byte, 100)

	n, err := readSocket(far, buf)
	require.Equal(t, syscall.EAGAIN, err)
	require.Zero(t, n)
	n, err = writeSocket(near, []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, 5, n)
	n, err = readSocket(far, buf[:3])
	require.NoError(t, err)
	require.Equal(t, "hel", string(buf[:n]))
	n, err = readSocket(far, buf)
	require.NoError(t, err)
	require.Equal(t, "lo", string(buf[:n]))

	big := bytes.Repeat([]byte("x"), 1<<20)
	n, err = writeSocket(near, big)
	require.NoError(t, err)
	require.LessOrEqual(t, n, joinedBytes, "no more than can be copied in a moment")
	for err == nil {
		_, err = writeSocket(near, big)
	}
	require.Equal(t, syscall.EAGAIN, err, "it never waits")

	n, err = writeSocket(near, nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, syscall.Close(fds[1]))
	_, err = writeSocket(near, []byte("x"))
	require.Equal(t, syscall.EPIPE, err)
	_, err = readSocket(^uintptr(0), buf)
	require.Equal(t, syscall.EBADF, err)
}
