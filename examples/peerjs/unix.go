package main

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// unixPrefix begins a host that is the path of a Unix socket.
const unixPrefix = "unix:"

// removeStale removes the socket file that a program has left which was killed. A socket
// on which a program listens stays, and so does a file that is no socket.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return nil // listening will tell
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return nil
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return os.Remove(path)
}
