package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// A fault breaks one rule of the contract on both engines. The check has to fail.
type fault struct {
	rule, check string
	f           func(b *broken)
}

var bg = context.Background()

var faults = slices.Concat(inboxFaults, claimFaults, placeFaults, roomFaults, callFaults)

var inboxFaults = []fault{
	{"Join returns before the inbox is there", "JoinMakesTheInbox", func(b *broken) {
		joined := make(chan struct{})
		b.join = func(_ context.Context, node string, h cluster.Handler) error {
			go func() {
				defer close(joined)
				time.Sleep(time.Second)
				b.Engine.Join(bg, node, h)
			}()
			return nil
		}
		b.leave = func(ctx context.Context) error {
			<-joined
			return b.Engine.Leave(ctx)
		}
	}},
	{"batches to the own inbox are lost", "SendToTheOwnInbox", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if node == b.node {
				return nil
			}
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"two batches change places", "BatchesArriveInOrder", func(b *broken) {
		var mu sync.Mutex
		sent := 0
		var kept []byte
		b.send = func(ctx context.Context, node string, batch []byte) error {
			mu.Lock()
			defer mu.Unlock()
			sent++
			if sent == 100 {
				kept = bytes.Clone(batch)
				return nil
			}
			err := b.Engine.Send(ctx, node, batch)
			if kept != nil {
				b.Engine.Send(ctx, node, kept)
				kept = nil
			}
			return err
		}
	}},
	{"a batch is lost", "BatchesArriveInOrder", func(b *broken) {
		received := 0
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Lost: h.Lost, Receive: func(batch []byte) {
				if received++; received != 200 {
					h.Receive(batch)
				}
			}}
		})
	}},
	{"a batch comes twice", "BatchesOfTwoSendersArriveInOrder", func(b *broken) {
		received := 0
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Lost: h.Lost, Receive: func(batch []byte) {
				if received++; received == 150 {
					h.Receive(batch)
				}
				h.Receive(batch)
			}}
		})
	}},
	{"Send keeps the batch", "SendDoesNotKeepTheBatch", func(b *broken) {
		b.send = func(_ context.Context, node string, batch []byte) error {
			time.AfterFunc(time.Millisecond, func() { b.Engine.Send(bg, node, batch) })
			return nil
		}
	}},
	{"Receive gets the same buffer again", "ReceiveMayKeepTheBatch", func(b *broken) {
		buf := make([]byte, cluster.MaxBatch)
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Lost: h.Lost, Receive: func(batch []byte) { h.Receive(buf[:copy(buf, batch)]) }}
		})
	}},
	{"batches are strings of C", "BatchesAreAnyBytes", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			batch, _, _ = bytes.Cut(batch, []byte{0})
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"batches are of 1 MiB at most", "BatchesAreUpTo2MiB", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if len(batch) > 1<<20 {
				return cluster.ErrTooBig
			}
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"larger batches are cut", "LargerBatchesAreErrTooBig", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			return b.Engine.Send(ctx, node, batch[:min(len(batch), cluster.MaxBatch)])
		}
	}},
	{"a batch arrives in spite of ErrTooBig", "LargerBatchesAreErrTooBig", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if len(batch) <= cluster.MaxBatch {
				return b.Engine.Send(ctx, node, batch)
			}
			b.Engine.Send(ctx, node, batch[:cluster.MaxBatch])
			return cluster.ErrTooBig
		}
	}},
	{"Send to nobody works", "SendToNobodyIsErrNoNode", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if err := b.Engine.Send(ctx, node, batch); err != cluster.ErrNoNode {
				return err
			}
			return nil
		}
	}},
	{"calls of the handler overlap", "HandlerCallsDoNotOverlap", func(b *broken) {
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Lost: h.Lost, Receive: func(batch []byte) { go h.Receive(batch) }}
		})
	}},
	{"Leave keeps the inbox", "LeaveRemovesInboxAndRegistration", func(b *broken) {
		b.leave = func(ctx context.Context) error {
			err := b.Engine.Leave(ctx)
			if again := b.m.Engine(); again.Join(ctx, b.node, cluster.Handler{Receive: func([]byte) {}, Lost: func() {}}) == nil {
				b.m.Cut(b.node) // it can end its goroutines without removing anything
				ended, cancel := context.WithTimeout(bg, time.Millisecond)
				defer cancel()
				again.Leave(ended)
				b.m.Mend(b.node)
			}
			return err
		}
	}},
	{"Leave keeps the registration", "LeaveRemovesInboxAndRegistration", func(b *broken) {
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			all, err := b.Engine.Missing(ctx, nodes...)
			clear(all)
			for _, node := range nodes {
				all[node] = false
			}
			return all, err
		}
	}},
	{"Leave without a node is an error", "LeaveWithoutANodeDoesNothing", func(b *broken) {
		left := false
		b.leave = func(ctx context.Context) error {
			if left {
				return fmt.Errorf("no node")
			}
			left = true
			return b.Engine.Leave(ctx)
		}
	}},
	{"Leave does not wait for the handler", "LeaveWaitsForTheHandler", func(b *broken) {
		b.leave = func(ctx context.Context) error {
			go b.Engine.Leave(ctx)
			return nil
		}
	}},
	{"the handler is called after Leave", "LeaveEndsTheHandlerWhateverTheErrorIs", prefetches},
	{"Leave outlives its context", "LeaveEndsTheHandlerWhateverTheErrorIs", func(b *broken) {
		b.leave = func(ctx context.Context) error { return b.Engine.Leave(bg) }
	}},
	{"nodes are missing soon", "NodesThatBeatAreNotMissing", func(b *broken) {
		var joined time.Time
		b.join = func(ctx context.Context, node string, h cluster.Handler) error {
			joined = time.Now()
			return b.Engine.Join(ctx, node, h)
		}
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			all, err := b.Engine.Missing(ctx, nodes...)
			for node := range all {
				all[node] = all[node] || time.Since(joined) > cluster.MissingAfter
			}
			return all, err
		}
	}},
	{"Missing names only the nodes that are", "MissingAnswersForEachNode", func(b *broken) {
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			all, err := b.Engine.Missing(ctx, nodes...)
			maps.DeleteFunc(all, func(_ string, missing bool) bool { return !missing })
			return all, err
		}
	}},
	{"a node is missing for as long as it has no inbox", "NodesThatDoNotBeatAreMissing", func(b *broken) {
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			all := map[string]bool{}
			for _, node := range nodes {
				all[node] = b.Engine.Send(ctx, node, []byte("are you there?")) == cluster.ErrNoNode
			}
			return all, nil
		}
	}},
	{"a node is missing after its first late beat", "NodesThatDoNotBeatAreMissing", func(b *broken) {
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			all, err := b.Engine.Missing(ctx, nodes...)
			for node := range all {
				all[node] = all[node] || b.isCut(node)
			}
			return all, err
		}
	}},
	{"what is sent during a cut is lost", "ShortCutLosesNothing", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if b.isCut(node) {
				return nil
			}
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"an inbox goes with its registration", "InboxOutlivesSilence", func(b *broken) {
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if missing, _ := b.Engine.Missing(ctx, node); missing[node] {
				return cluster.ErrNoNode
			}
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"Receive is called without beats", "NoReceiveWithoutBeats", prefetches},
	{"Lost is missing after silence", "LostAfterSilence", withoutLost},
	{"Lost is missing after data is lost", "LostAfterDataIsLost", withoutLost},
	{"Lost comes after Receive", "LostAfterSilence", func(b *broken) {
		b.handled(func(h cluster.Handler) cluster.Handler {
			lost := false
			return cluster.Handler{Lost: func() { lost = true }, Receive: func(batch []byte) {
				h.Receive(batch)
				if lost {
					lost = false
					h.Lost()
				}
			}}
		})
	}},
	{"an inbox that is lost stays so", "LostAfterDataIsLost", func(b *broken) {
		var lost atomic.Bool
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Receive: h.Receive, Lost: func() {
				h.Lost()
				lost.Store(true)
			}}
		})
		b.send = func(ctx context.Context, node string, batch []byte) error {
			if lost.Load() {
				return cluster.ErrNoNode
			}
			return b.Engine.Send(ctx, node, batch)
		}
	}},
	{"Lost does not wait for Receive", "LostWaitsForReceive", func(b *broken) {
		b.handled(func(h cluster.Handler) cluster.Handler {
			return cluster.Handler{Lost: h.Lost, Receive: func(batch []byte) {
				received := make(chan struct{})
				go func() {
					defer close(received)
					h.Receive(batch)
				}()
				late := time.NewTimer(time.Second)
				defer late.Stop()
				select {
				case <-received:
				case <-late.C: // by now there was a beat
					h.Lost()
					<-received
				}
			}}
		})
	}},
}

// prefetches has batches delivered by a goroutine of its own, as a reader does that does not
// look at beats and at Leave.
func prefetches(b *broken) {
	batches, ended := make(chan []byte, 100), make(chan struct{})
	var h cluster.Handler
	b.join = func(ctx context.Context, node string, of cluster.Handler) error {
		h = of
		go func() {
			defer close(ended)
			for batch := range batches {
				h.Receive(batch)
			}
		}()
		return b.Engine.Join(ctx, node, cluster.Handler{Receive: func(batch []byte) { batches <- batch }, Lost: func() { h.Lost() }})
	}
	var once sync.Once
	b.leave = func(ctx context.Context) error {
		err := b.Engine.Leave(ctx)
		once.Do(func() { close(batches) })
		select {
		case <-ended:
		case <-ctx.Done():
		}
		return err
	}
}

func withoutLost(b *broken) {
	b.handled(func(h cluster.Handler) cluster.Handler {
		return cluster.Handler{Receive: h.Receive, Lost: func() {}}
	})
}
