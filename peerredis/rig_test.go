package peerredis

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	logging.Disable() // of each connection that the tests break
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("16") // the tests wait most of the time
	}
	m.Run()
}

// inbox is a node and what its handler was called with, in order: batches, and "lost".
type inbox struct {
	*Engine
	name string

	mu  sync.Mutex // guards the following
	log []string
}

const lost = "lost"

// engine makes an engine that is closed with the test.
func engine(t testing.TB, o redis.UniversalOptions) *Engine {
	e := New(o, Options{})
	t.Cleanup(func() { e.Close() })
	return e
}

// join makes a node.
func join(t testing.TB, o redis.UniversalOptions) *inbox {
	t.Helper()
	n := &inbox{Engine: engine(t, o), name: rand.Text()}
	require.NoError(t, n.Join(t.Context(), n.name, cluster.Handler{
		Receive: func(b []byte) { n.add(string(b)) },
		Lost:    func() { n.add(lost) },
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n.Leave(ctx)
	})
	return n
}

func (n *inbox) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, s)
}

func (n *inbox) got() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.log...)
}

// batches is what was received, without repetitions, which a sender makes after an error.
func (n *inbox) batches() []string {
	var bs []string
	for _, s := range n.got() {
		if s != lost && (len(bs) == 0 || bs[len(bs)-1] != s) {
			bs = append(bs, s)
		}
	}
	return bs
}

func (n *inbox) lost() (times int) {
	for _, s := range n.got() {
		if s == lost {
			times++
		}
	}
	return times
}

// send repeats a batch until it is accepted, as the server does.
func (n *inbox) send(t testing.TB, to *inbox, batch string) {
	t.Helper()
	for range 500 {
		if n.Send(t.Context(), to.name, []byte(batch)) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%.100s is not accepted", batch)
}

// until waits for a condition.
func until(t testing.TB, within time.Duration, ok func() bool, what ...any) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, fmt.Sprint(what...))
		}
	}
}

func numbers(from, to int) []string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprint("batch ", i))
	}
	return s
}

func token(s string) (t [16]byte) {
	copy(t[:], s)
	return t
}
