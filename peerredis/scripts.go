package peerredis

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed claim.lua
	claimSource string
	//go:embed release.lua
	releaseSource string
	//go:embed room.lua
	roomSource string

	claimScript   = script{claimSource, redis.NewScript(claimSource).Hash()}
	releaseScript = script{releaseSource, redis.NewScript(releaseSource).Hash()}
	roomScript    = script{roomSource, redis.NewScript(roomSource).Hash()}
)

// script has one key, so that it works in a Redis Cluster.
type script struct{ source, hash string }

// run runs the script for each key in one pipeline, and again with its source where Redis does not have
// it. It returns the first error of a reply.
func (e *Engine) run(ctx context.Context, s script, keys []string, args func(int) []any) ([]*redis.Cmd, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cmds := make([]*redis.Cmd, len(keys))
	p := e.calls.Pipeline()
	for i, key := range keys {
		cmds[i] = p.EvalSha(ctx, s.hash, []string{key}, args(i)...)
	}
	exec(ctx, p)
	again := e.calls.Pipeline()
	for i, key := range keys {
		if redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			cmds[i] = again.Eval(ctx, s.source, []string{key}, args(i)...)
		}
	}
	exec(ctx, again)
	for _, c := range cmds {
		if c.Err() != nil {
			return nil, c.Err()
		}
	}
	return cmds, nil
}

func (e *Engine) claim(id string) string { return e.prefix + "id:" + id }

func (e *Engine) claims(cs []cluster.Claim) []string {
	keys := make([]string, len(cs))
	for i, c := range cs {
		keys[i] = e.claim(c.ID)
	}
	return keys
}

// Claim implements [cluster.Engine].
func (e *Engine) Claim(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
	if len(cs) == 0 {
		return nil, nil
	}
	for _, c := range cs {
		if err := checkNode(c.Node); err != nil {
			return nil, fmt.Errorf("claim ids: %w", err)
		}
	}
	cmds, err := e.run(ctx, claimScript, e.claims(cs), func(i int) []any {
		c := &cs[i]
		return []any{c.Node, base64.RawURLEncoding.EncodeToString(c.Token[:]), c.Epoch, c.Over, c.Own,
			cluster.ClaimTTL.Milliseconds(), micros(c.Before)}
	})
	if err != nil {
		return nil, fmt.Errorf("claim ids: %w", err)
	}
	claimed := make([]cluster.Claimed, len(cs))
	for i, cmd := range cmds {
		if claimed[i], err = toClaimed(cmd); err != nil {
			return nil, fmt.Errorf("claim ids: %w", err)
		}
	}
	return claimed, nil
}

// micros is a time as the scripts compare it.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, t.UnixMicro())
}

// toClaimed reads the reply of the script: granted, node and epoch.
func toClaimed(cmd *redis.Cmd) (cluster.Claimed, error) {
	reply, err := cmd.Slice()
	if err == nil && len(reply) != 3 {
		err = fmt.Errorf("unexpected reply of %d values", len(reply))
	}
	if err != nil {
		return cluster.Claimed{}, err
	}
	granted, _ := reply[0].(int64)
	node, _ := reply[1].(string)
	epoch, _ := reply[2].(string)
	return cluster.Claimed{Granted: granted == 1, Previous: cluster.Place{Node: node, Epoch: number(epoch)}}, nil
}

// Release implements [cluster.Engine].
func (e *Engine) Release(ctx context.Context, cs ...cluster.Claim) error {
	if len(cs) == 0 {
		return nil
	}
	_, err := e.run(ctx, releaseScript, e.claims(cs), func(i int) []any {
		return []any{cs[i].Node + " " + strconv.FormatUint(cs[i].Epoch, 10) + " "}
	})
	if err != nil {
		return fmt.Errorf("release ids: %w", err)
	}
	return nil
}

// Room implements [cluster.Engine].
func (e *Engine) Room(ctx context.Context, room string, edit cluster.Edit) (map[string]cluster.Member, error) {
	if len(edit.Join)+len(edit.Renew) > 0 {
		if err := checkNode(edit.Node); err != nil {
			return nil, fmt.Errorf("edit a room: %w", err)
		}
	}
	args := []any{edit.Node, edit.Gone, edit.Max, cluster.ClaimTTL.Milliseconds(), micros(edit.Before),
		len(edit.Renew), len(edit.Join)}
	for _, m := range []map[string][]byte{edit.Renew, edit.Join} {
		for _, id := range slices.Sorted(maps.Keys(m)) {
			args = append(args, id, m[id])
		}
	}
	for _, id := range edit.Leave {
		args = append(args, id)
	}
	cmds, err := e.run(ctx, roomScript, []string{e.prefix + "room:" + room}, func(int) []any { return args })
	if errors.Is(err, redis.Nil) {
		return nil, cluster.ErrTooLate
	}
	if err != nil {
		return nil, fmt.Errorf("edit a room: %w", err)
	}
	all, err := cmds[0].StringSlice()
	if err != nil {
		return nil, fmt.Errorf("edit a room: %w", err)
	}
	members := make(map[string]cluster.Member, len(all)/2)
	for i := 0; i+1 < len(all); i += 2 {
		node, data, _ := strings.Cut(all[i+1], " ")
		members[all[i]] = cluster.Member{Node: node, Data: []byte(data)}
	}
	return members, nil
}
