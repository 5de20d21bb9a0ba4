package peerredis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	readBlock   = time.Second
	readTimeout = 3 * time.Second // go-redis alone waits 11 s on a half-open connection
	readCount   = 16
	readAgain   = 50 * time.Millisecond // after an error
	freshFor    = 2 * time.Second       // after the sending of a beat, for which batches are received
)

// read receives what is in the inbox.
func (n *node) read() {
	for n.ctx.Err() == nil {
		n.mu.Lock()
		last := n.last
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(n.ctx, readTimeout)
		streams, err := n.e.reader.XRead(ctx, &redis.XReadArgs{
			Streams: []string{n.in}, ID: last, Count: readCount, Block: readBlock}).Result()
		cancel()
		if err != nil && !errors.Is(err, redis.Nil) {
			select {
			case <-n.ctx.Done():
			case <-time.After(readAgain):
			}
			continue
		}
		for _, s := range streams {
			for _, entry := range s.Messages {
				if batch, ok := entry.Values["b"].(string); ok && !n.receive([]byte(batch)) {
					return
				}
				n.mu.Lock()
				n.last = entry.ID
				n.mu.Unlock()
			}
		}
	}
}

// receive hands over a batch as soon as the gate is open. It reports whether it could, before the end.
func (n *node) receive(batch []byte) bool {
	for n.ctx.Err() == nil {
		if n.try(batch) {
			return true
		}
		select {
		case <-n.opened:
		case <-n.ctx.Done():
		}
	}
	return false
}

func (n *node) try(batch []byte) bool {
	n.calls.Lock()
	defer n.calls.Unlock()
	n.mu.Lock()
	open := !n.left && !n.gone && fresh(n.sent)
	n.mu.Unlock()
	if open {
		n.h.Receive(batch)
	}
	return open
}

// fresh reports whether a beat was sent less than two seconds ago. It also asks the wall clock, since the
// monotonic one stands still while a machine is suspended.
func fresh(sent time.Time) bool {
	now := time.Now()
	return now.Sub(sent) <= freshFor && now.Round(0).Sub(sent.Round(0)) <= freshFor
}

// lost closes the gate until Lost has returned. It does not wait for that, nor for a batch that is being
// received: the beats have to go on.
func (n *node) lost() {
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	n.running.Go(func() {
		n.calls.Lock()
		defer n.calls.Unlock()
		n.mu.Lock()
		call := n.gone && !n.left // one call is enough for all before it
		n.gone = false
		n.mu.Unlock()
		if call {
			n.h.Lost()
			n.open()
		}
	})
}

// open lets the reader look at the gate.
func (n *node) open() {
	select {
	case n.opened <- struct{}{}:
	default:
	}
}
