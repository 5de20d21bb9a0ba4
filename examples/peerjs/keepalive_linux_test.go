package main

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

// The system need not probe connections whose clients are pinged, but where nobody
// pings it is what finds the dead ones.
func TestSomebodyLooksAfterSilentConnections(t *testing.T) {
	for timeout, want := range map[time.Duration]int{
		0:           0, // the default
		time.Minute: 0,
		-1:          1,
	} {
		l, err := listen(config{host: "127.0.0.1", opts: peer.Options{AliveTimeout: timeout}})
		require.NoError(t, err)
		defer l.Close()
		far, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer far.Close()
		conn, err := l.Accept()
		require.NoError(t, err)
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		var probes int
		require.NoError(t, raw.Control(func(fd uintptr) {
			probes, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		}))
		require.NoError(t, err)
		require.Equal(t, want, probes, "%v", timeout)
	}
}
