package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Join, Send, Receive, Leave.
var inboxChecks = []check{
	{name: "JoinMakesTheInbox", f: func(r *rig) {
		// The rig has joined a moment ago.
		r.a.send(r.b, "1")
		r.b.send(r.a, "2")
		r.b.got("1")
		r.a.got("2")
	}},
	{name: "SendToTheOwnInbox", f: func(r *rig) {
		r.a.send(r.a, "1", "2")
		r.a.got("1", "2")
	}},
	{name: "BatchesArriveInOrder", f: func(r *rig) {
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprint(i))
		}
		r.b.send(r.a, want...)
		r.a.got(want...)
	}},
	{name: "BatchesOfTwoSendersArriveInOrder", f: func(r *rig) {
		fromB := make(chan error, 1)
		go func() {
			for i := range 100 {
				if err := r.b.Send(r.ctx(), r.a.name, fmt.Append(nil, "b", i)); err != nil {
					fromB <- err
					return
				}
			}
			fromB <- nil
		}()
		var a, b []string
		for i := range 100 {
			r.a.send(r.a, fmt.Sprint("a", i))
			a, b = append(a, fmt.Sprint("a", i)), append(b, fmt.Sprint("b", i))
		}
		if err := <-fromB; err != nil {
			r.Fatalf("Send: %v", err)
		}
		r.await("200 batches", func() bool { return len(r.a.batches()) >= 200 })
		of := func(sender string) []string {
			return slices.DeleteFunc(r.a.batches(), func(s string) bool { return !strings.HasPrefix(s, sender) })
		}
		if !slices.Equal(of("a"), a) || !slices.Equal(of("b"), b) {
			r.Fatalf("got %q, want the batches of each of two senders in order", r.a.batches())
		}
	}},
	{name: "SendDoesNotKeepTheBatch", f: func(r *rig) {
		r.a.hold()
		r.b.send(r.a, "first")
		batch := []byte("second")
		if err := r.b.Send(r.ctx(), r.a.name, batch); err != nil {
			r.Fatalf("Send: %v", err)
		}
		clear(batch)
		r.a.got("first")
		r.a.resume()
		r.a.got("first", "second")
	}},
	{name: "ReceiveMayKeepTheBatch", f: func(r *rig) {
		for i := range 20 {
			r.b.send(r.a, fmt.Sprintf("batch %2d", i))
		}
		r.await("20 batches", func() bool { return len(r.a.batches()) >= 20 })
		r.a.mu.Lock()
		defer r.a.mu.Unlock()
		for _, e := range r.a.log {
			if string(e.batch) != e.text {
				r.Fatalf("the batch %q has changed to %q after Receive", e.text, e.batch)
			}
		}
	}},
	{name: "BatchesAreAnyBytes", f: func(r *rig) {
		var all []byte
		for i := range 256 {
			all = append(all, byte(i))
		}
		r.b.send(r.a, string(all), "\x00", "\r\n")
		r.a.got(string(all), "\x00", "\r\n")
	}},
	{name: "BatchesAreUpTo2MiB", f: func(r *rig) {
		big := bytes.Repeat([]byte("0123456789abcdef"), cluster.MaxBatch/16)
		r.b.send(r.a, string(big), "end")
		r.await("two batches", func() bool { return len(r.a.batches()) >= 2 })
		if have := r.a.batches(); have[0] != string(big) || have[1] != "end" {
			r.Fatalf("a batch of 2 MiB arrived as %d bytes", len(have[0]))
		}
	}},
	{name: "LargerBatchesAreErrTooBig", f: func(r *rig) {
		err := r.b.Send(r.ctx(), r.a.name, make([]byte, cluster.MaxBatch+1))
		if !errors.Is(err, cluster.ErrTooBig) {
			r.Fatalf("Send of more than 2 MiB: %v, want ErrTooBig", err)
		}
		r.b.send(r.a, "end")
		r.await("a batch", func() bool { return len(r.a.batches()) >= 1 })
		if have := r.a.batches(); len(have) != 1 || have[0] != "end" {
			r.Fatalf("a batch arrived for which Send returned ErrTooBig")
		}
	}},
	{name: "SendToNobodyIsErrNoNode", f: func(r *rig) {
		r.a.unknown("nobody-" + r.tag)
		r.a.unknown("nobody-" + r.tag) // the first one has not made it
		r.a.unknown(r.a.name[:len(r.a.name)-1])
	}},
	{name: "HandlerCallsDoNotOverlap", f: func(r *rig) {
		r.a.mu.Lock()
		r.a.slow = true
		r.a.mu.Unlock()
		for i := range 40 {
			r.b.send(r.a, fmt.Sprint(i))
		}
		r.await("40 batches", func() bool { return len(r.a.batches()) >= 40 })
	}},
	{name: "LeaveRemovesInboxAndRegistration", f: func(r *rig) {
		r.b.send(r.a, "1")
		r.a.got("1")
		if err := r.a.Leave(r.ctx()); err != nil {
			r.Fatalf("Leave: %v", err)
		}
		r.b.unknown(r.a.name)
		if !r.b.missing(r.a.name) {
			r.Fatalf("a node that has left is not missing")
		}
	}},
	{name: "LeaveWithoutANodeDoesNothing", f: func(r *rig) {
		for range 2 {
			if err := r.a.Leave(r.ctx()); err != nil {
				r.Fatalf("Leave: %v", err)
			}
		}
		r.a.send(r.b, "1")
		r.b.got("1")
	}},
	{name: "LeaveWaitsForTheHandler", f: func(r *rig) {
		r.a.hold()
		r.b.send(r.a, "1", "2", "3")
		r.a.blocked("1")
		left := make(chan error, 1)
		go func() { left <- r.a.Leave(r.ctx()) }()
		r.never("Leave returned before a call of Receive", func() bool { return len(left) > 0 })
		r.a.resume()
		if err := <-left; err != nil {
			r.Fatalf("Leave: %v", err)
		}
		before := len(r.a.events())
		r.never("the handler was called after Leave", func() bool { return len(r.a.events()) != before })
	}},
	{name: "LeaveEndsTheHandlerWhateverTheErrorIs", f: func(r *rig) {
		r.a.hold()
		r.b.send(r.a, "1", "2", "3")
		r.a.blocked("1")
		r.returns("Leave, when its context ended while Receive was running,", func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			r.a.Leave(ctx)
		})
		r.a.resume()
		r.never("the handler was called after Leave", func() bool { return len(r.a.events()) != 1 })
	}},
}
