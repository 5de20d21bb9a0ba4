package peerredis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
)

const (
	beatEvery   = time.Second
	beatTimeout = time.Second            // two beats fit into MissingAfter, so one connection may fail
	infoTimeout = 500 * time.Millisecond // a master that hangs must not hold up the beats
)

// beat keeps the node registered.
func (n *node) beat() {
	defer close(n.silent)
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		sent := time.Now()
		if n.beatOnce() == nil {
			n.mu.Lock()
			n.sent = sent
			n.mu.Unlock()
			n.open()
		}
	}
}

func (n *node) beatOnce() error {
	ctx, cancel := context.WithTimeout(n.ctx, beatTimeout)
	defer cancel()
	there, err := n.write(ctx, false)
	if err != nil {
		return err
	}
	if n.otherMasters(n.ctx) || !there {
		n.lost()
	}
	if !there {
		// From here on batches arrive. They wait for Lost.
		_, err = n.write(ctx, true)
	}
	return err
}

// write is one beat. It reports whether the keys of the node were there and the inbox goes on behind the
// last entry that was received. It makes them only if make is set: otherwise a beat whose answer is lost
// could hide that they were gone.
func (n *node) write(ctx context.Context, make bool) (there bool, err error) {
	n.mu.Lock()
	last := n.last
	n.mu.Unlock()
	// The beat is an entry, and trims what was received.
	xadd := &redis.XAddArgs{Stream: n.in, NoMkStream: !make, MinID: last, Values: []any{"t", ""}}
	set := redis.SetArgs{Mode: "XX", TTL: cluster.MissingAfter}
	if make {
		set.Mode = ""
		if last != "0-0" {
			// After a failover to a machine whose clock is behind, the reader would wait until that clock
			// has caught up with the last entry. Entries never come before one that is there.
			xadd.ID = after(last)
		}
	}
	p := n.e.beats.TxPipeline()
	entry := p.XAdd(ctx, xadd)
	p.PExpire(ctx, n.in, cluster.InboxTTL)
	alive := p.SetArgs(ctx, n.e.alive(n.name), "", set)
	now := p.Time(ctx)
	sent := time.Now()
	exec(ctx, p)
	trip := time.Since(sent)
	for _, err := range []error{entry.Err(), alive.Err(), now.Err()} {
		if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "ERR The ID specified in XADD") {
			return false, fmt.Errorf("beat: %w", err)
		}
	}
	n.e.clock.Store(&clock{redis: now.Val(), here: sent.Add(trip / 2)})
	return entry.Err() == nil && alive.Err() == nil && !less(entry.Val(), last), nil
}

// less compares ids of entries: two numbers, joined by a hyphen.
func less(a, b string) bool {
	am, as, _ := strings.Cut(a, "-")
	bm, bs, _ := strings.Cut(b, "-")
	return number(am) < number(bm) || am == bm && number(as) < number(bs)
}

// after returns the next id.
func after(id string) string {
	ms, seq, _ := strings.Cut(id, "-")
	return ms + "-" + strconv.FormatUint(number(seq)+1, 10)
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// otherMasters reports whether there is a master that was not there before. It may have lost the claims
// of other nodes, which the keys of this node do not show. It knows nothing of masters that do not
// answer or do not show who they are.
func (n *node) otherMasters(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	var mu sync.Mutex
	var ids []string
	_ = masters(ctx, n.e.beats, func(ctx context.Context, c *redis.Client) error {
		p := c.Pipeline()
		server, replication := p.Info(ctx, "server"), p.Info(ctx, "replication")
		exec(ctx, p)
		run, replid := field(server.Val(), "run_id:"), field(replication.Val(), "master_replid:")
		if run != "" || replid != "" {
			mu.Lock()
			ids = append(ids, run+" "+replid)
			mu.Unlock()
		}
		return nil
	})
	first, other := len(n.masters) == 0, false
	for _, id := range ids {
		other = other || !n.masters[id]
		n.masters[id] = true
	}
	return other && !first
}

func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
