package peerredis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
)

const (
	maxInbox  = 1_000_000 // entries; the server bounds it well below
	scanCount = 1000
)

// Send implements [cluster.Engine].
func (e *Engine) Send(ctx context.Context, node string, batch []byte) error {
	if len(batch) > cluster.MaxBatch {
		return cluster.ErrTooBig
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := e.calls.XAdd(ctx, &redis.XAddArgs{Stream: e.inbox(node), NoMkStream: true,
		MaxLen: maxInbox, Approx: true, Values: []any{"b", batch}}).Err()
	switch {
	case errors.Is(err, redis.Nil):
		return cluster.ErrNoNode
	case err != nil:
		return fmt.Errorf("send to a node: %w", err)
	}
	return nil
}

// Missing implements [cluster.Engine].
func (e *Engine) Missing(ctx context.Context, nodes ...string) (map[string]bool, error) {
	missing := make(map[string]bool, len(nodes))
	err := e.get(ctx, nodes, e.alive, func(node, _ string, there bool) { missing[node] = !there })
	if err != nil {
		return nil, fmt.Errorf("look for missing nodes: %w", err)
	}
	return missing, nil
}

// Find implements [cluster.Engine].
func (e *Engine) Find(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
	places := make(map[string]cluster.Place, len(ids))
	err := e.get(ctx, ids, e.claim, func(id, value string, _ bool) { places[id] = place(value) })
	if err != nil {
		return nil, fmt.Errorf("find ids: %w", err)
	}
	return places, nil
}

// place reads the value of a claim, which begins with "node epoch ".
func place(value string) cluster.Place {
	node, rest, _ := strings.Cut(value, " ")
	epoch, _, _ := strings.Cut(rest, " ")
	return cluster.Place{Node: node, Epoch: number(epoch)}
}

// get calls f with the values of keys, which key makes of names. It leaves out those that have failed,
// and returns an error if all have. The pipeline of a cluster client cannot do that: when one master
// hangs, it also takes the answers of the others for failed.
func (e *Engine) get(ctx context.Context, names []string, key func(string) string,
	f func(name, value string, there bool)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	groups := make(map[*redis.Client][]string)
	for _, name := range names {
		m, err := master(ctx, e.calls, key(name))
		if err != nil {
			return err
		}
		groups[m] = append(groups[m], name)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the following, and calls of f
	var failed error
	answered := 0
	for m, names := range groups {
		wg.Go(func() {
			p := m.Pipeline()
			for _, name := range names {
				p.Get(ctx, key(name))
			}
			cmds := exec(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			for i, cmd := range cmds {
				if there := cmd.Err() == nil; there || errors.Is(cmd.Err(), redis.Nil) {
					f(names[i], cmd.(*redis.StringCmd).Val(), there)
					answered++
				} else {
					failed = cmd.Err()
				}
			}
		})
	}
	wg.Wait()
	if cc, ok := e.calls.(*redis.ClusterClient); ok && failed != nil {
		cc.ReloadState(ctx) // a slot may have moved
	}
	if answered > 0 {
		return nil
	}
	return failed
}

// IDs implements [cluster.Engine].
func (e *Engine) IDs(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	holders := make(map[string]string) // id -> node
	err := masters(ctx, e.calls, func(ctx context.Context, c *redis.Client) error {
		return e.scan(ctx, c, func(id string, at cluster.Place) {
			mu.Lock()
			defer mu.Unlock()
			holders[id] = at.Node
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list ids: %w", err)
	}
	nodes := make(map[string]bool)
	for _, node := range holders {
		nodes[node] = true
	}
	missing := make(map[string]bool, len(nodes))
	for some := range slices.Chunk(slices.Collect(maps.Keys(nodes)), cluster.MaxClaims) {
		m, err := e.Missing(ctx, some...)
		if err != nil {
			return nil, fmt.Errorf("list ids: %w", err)
		}
		maps.Copy(missing, m)
	}
	ids := make([]string, 0, len(holders))
	for id, node := range holders {
		if !missing[node] {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// globs are the characters of a prefix that have a meaning in a pattern.
var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// scan calls f with the claims of one master.
func (e *Engine) scan(ctx context.Context, c *redis.Client, f func(id string, at cluster.Place)) error {
	for cursor := uint64(0); ; {
		next, err := e.scanOnce(ctx, c, cursor, f)
		if err != nil || next == 0 {
			return err
		}
		cursor = next
	}
}

func (e *Engine) scanOnce(ctx context.Context, c *redis.Client, cursor uint64, f func(id string, at cluster.Place)) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	keys, next, err := c.Scan(ctx, cursor, globs.Replace(e.claim(""))+"*", scanCount).Result()
	if err != nil {
		return 0, err
	}
	p := c.Pipeline()
	for _, key := range keys {
		p.Get(ctx, key)
	}
	for i, cmd := range exec(ctx, p) {
		switch err := cmd.Err(); {
		case err == nil:
			f(strings.TrimPrefix(keys[i], e.claim("")), place(cmd.(*redis.StringCmd).Val()))
		case !errors.Is(err, redis.Nil):
			return 0, err
		}
	}
	return next, nil
}
