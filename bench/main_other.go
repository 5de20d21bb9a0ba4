//go:build !linux

// Command bench compares this module's server with npm peer. It drives sockets
// through epoll and reads /proc, so it runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux (epoll and /proc)")
	os.Exit(1)
}
