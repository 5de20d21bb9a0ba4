package peerredis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
)

// node is what has joined. Locks are taken in the order calls, mu.
type node struct {
	e        *Engine
	name     string
	in       string
	ctx      context.Context // ends with Leave
	stop     context.CancelFunc
	running  sync.WaitGroup // the reader, the beat, calls of Lost
	opened   chan struct{}  // has a value when Receive may be possible again
	returned chan struct{}  // is closed after these have ended
	silent   chan struct{}  // is closed after the last beat

	calls sync.Mutex // is held while h is called
	h     cluster.Handler

	mu   sync.Mutex // guards the following
	left bool       // no call of h begins
	gone bool       // something may be lost: Lost is called before the next Receive
	last string     // id of the last entry that was received
	sent time.Time  // of the last beat that worked

	masters map[string]bool // that were seen; owned by the beat
}

// Join implements [cluster.Engine].
func (e *Engine) Join(ctx context.Context, name string, h cluster.Handler) error {
	if err := checkNode(name); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	defer e.unlock()
	if e.node != nil {
		return errors.New("join: a node has joined already")
	}
	n := &node{e: e, name: name, h: h, in: e.inbox(name), last: "0-0", masters: map[string]bool{},
		opened: make(chan struct{}, 1), returned: make(chan struct{}), silent: make(chan struct{})}
	short, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sent := time.Now()
	if _, err := n.write(short, true); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	// What the reader may not do would be an error that nobody sees.
	once := &redis.XReadArgs{Streams: []string{n.in}, ID: n.last, Count: 1, Block: -1}
	if err := e.reader.XRead(short, once).Err(); err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("join: read the inbox: %w", err)
	}
	n.otherMasters(short)
	n.sent = sent
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.running.Go(n.read)
	n.running.Go(n.beat)
	go func() {
		n.running.Wait()
		close(n.returned)
	}()
	e.node = n
	return nil
}

// Leave implements [cluster.Engine].
func (e *Engine) Leave(ctx context.Context) error {
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	defer e.unlock()
	n := e.node
	if n == nil {
		return nil
	}
	e.node = nil
	n.end()
	err := n.remove(ctx)
	select {
	case <-n.returned:
	case <-ctx.Done():
	}
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// remove wakes the reader by an entry, and removes the keys of the node after its last beat, which could
// make them again.
func (n *node) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n.e.calls.XAdd(ctx, &redis.XAddArgs{Stream: n.in, NoMkStream: true, Values: []any{"t", ""}})
	select {
	case <-n.silent:
	case <-ctx.Done():
	}
	return n.e.calls.Del(ctx, n.in, n.e.alive(n.name)).Err()
}

func (e *Engine) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) unlock() { <-e.turn }

// end tells reader and beat to end. When it returns, no call of h begins.
func (n *node) end() {
	n.stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left = true
}
