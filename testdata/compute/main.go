// Command compute is a host that computes for a second, without a call, in an event or when it
// learns that a client has ended. It serves on a loopback port that it prints, until its standard
// input ends.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gopeerjs/peer"
)

var sum uint64

// compute takes the processor for a second. It asks for the time now and then, which is no system
// call.
func compute() {
	for start := time.Now(); time.Since(start) < time.Second; {
		for i := range uint64(1 << 20) {
			sum += i * i
		}
	}
}

func main() {
	srv := peer.NewServer(peer.Options{})
	srv.OnMessage(func(_ *peer.Client, m peer.Message) {
		if m.Type == "COMPUTE" {
			compute()
		}
	})
	srv.OnConnection(func(c *peer.Client) {
		if c.ID() == "watched" {
			go func() {
				<-c.Context().Done()
				compute()
			}()
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	go http.Serve(l, srv)
	io.Copy(io.Discard, os.Stdin)
}
