package peerredis

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/gopeerjs/peer/peerredis/redistest"
	"github.com/stretchr/testify/require"
)

// cpu returns the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if len(files) == 0 {
		b.Skip("reads /proc/<pid>/task/<tid>/schedstat")
	}
	var sum time.Duration
	for _, f := range files {
		text, _ := os.ReadFile(f)
		var ns int64
		fmt.Sscan(string(text), &ns)
		sum += time.Duration(ns)
	}
	return sum
}

// BenchmarkClaims reports how many claims a second one core of Redis takes, for new claims, renewals
// and claims with another node's claim in the way.
func BenchmarkClaims(b *testing.B) {
	s := redistest.Start(b)
	e := engine(b, at(s))
	const ids = 20_000
	round := func(epoch, own uint64, node string) {
		for i := 0; i < ids; i += cluster.MaxClaims {
			var cs []cluster.Claim
			for id := range cluster.MaxClaims {
				cs = append(cs, cluster.Claim{ID: fmt.Sprint("an-id-of-the-usual-length-", i+id), Node: node, Epoch: epoch, Own: own})
			}
			_, err := e.Claim(b.Context(), cs...)
			require.NoError(b, err)
		}
	}
	const holder, other = "AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"
	epoch := uint64(time.Now().UnixMicro())
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"new", func() { s.Do("flushall"); round(epoch, 0, holder) }},
		{"renewed", func() { round(epoch, epoch, holder) }},
		{"refused", func() { round(epoch+1, epoch-1, other) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var used time.Duration
			for b.Loop() {
				before := cpu(b, s.PID())
				c.run()
				used += cpu(b, s.PID()) - before
			}
			b.ReportMetric(float64(b.N)*ids/used.Seconds(), "claims/core-s")
			b.ReportMetric(used.Seconds()*1e6/float64(b.N)/ids, "µs/claim")
		})
	}
}

// BenchmarkBatches reports the time of Redis for a batch that is sent and received: one after the other,
// and in a stream of them.
func BenchmarkBatches(b *testing.B) {
	for _, size := range []int{600, 6000, 60_000} {
		for _, window := range []int{1, 64} {
			b.Run(fmt.Sprintf("%d_bytes/%d_under_way", size, window), func(b *testing.B) {
				s := redistest.Start(b)
				e := engine(b, at(s))
				got := make(chan struct{}, window)
				require.NoError(b, e.Join(b.Context(), "n", cluster.Handler{
					Receive: func([]byte) { got <- struct{}{} }, Lost: func() { b.Error(lost) }}))
				batch := make([]byte, size)
				b.ResetTimer()
				before := cpu(b, s.PID())
				for i := range b.N {
					if i >= window {
						<-got
					}
					require.NoError(b, e.Send(b.Context(), "n", batch))
				}
				for range min(b.N, window) {
					<-got
				}
				b.StopTimer()
				used := cpu(b, s.PID()) - before
				b.ReportMetric(used.Seconds()*1e6/float64(b.N), "µs-redis/batch")
				require.NoError(b, e.Leave(b.Context()))
			})
		}
	}
}
