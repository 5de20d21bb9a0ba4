// Package peerredis joins the nodes of a cluster through Redis or Valkey: stand-alone, with Sentinel,
// or as a Redis Cluster. An [Engine] is the value of Options.Cluster of one peer.Server.
//
//	engine := peerredis.New(redis.UniversalOptions{Addrs: []string{"redis:6379"}}, peerredis.Options{})
//	defer engine.Close() // after the server's Shutdown
//
// It needs Redis 6.2 or Valkey with the policy noeviction and without persistence. Every key has a
// time to live, and nodes write all of them again when Redis has lost its data.
//
// # Keys
//
//	peer:{node}:in      the inbox: a stream. The field b of an entry is a batch; a beat has none. 30 s
//	peer:{node}:alive   the node has beaten within 2.5 s
//	peer:id:<id>        the claim of an id. 5 min
//	peer:room:<room>    the members of a room: a hash. 5 min
//
// # Security
//
// Who can write to these keys is a node, which can take ids and read what is sent. So give the servers
// a user of their own:
//
//	ACL SETUSER node on >secret resetchannels ~peer:* -@all +xadd +xread +pexpire +set +get +del +time +info
//	    +multi +exec +scan +eval +evalsha +hset +hget +hdel +hlen +hexists +hgetall
//
// A Redis Cluster also needs +cluster|slots, +command and +asking.
//
// # Log
//
// Errors are returned. What go-redis logs of its connections goes to the logger of redis.SetLogger.
package peerredis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	callTimeout = 2 * time.Second // of a call whose context does not end before
	dialTimeout = time.Second     // leaves time for a second address within callTimeout
	maxPool     = 1 << 16         // go-redis panics when the size of a pool overflows
)

// Options of an [Engine].
type Options struct {
	// Prefix begins the name of each key, followed by a colon. Servers of one application have the same
	// prefix. The default is "peer".
	Prefix string
}

// An Engine is a [cluster.Engine] on Redis. Its methods may be called concurrently.
type Engine struct {
	prefix string

	// A crowd of calls must not take the connection from the reader or from the beat.
	reader, beats, calls redis.UniversalClient

	turn  chan struct{} // held by Join, Leave and Close; guards node
	node  *node         // that has joined; nil: none
	clock atomic.Pointer[clock]
}

var _ cluster.Engine = (*Engine)(nil)

// clock is what the clock of Redis said at a moment of this machine.
type clock struct{ redis, here time.Time }

// New returns an engine that connects when it is used. One address is a stand-alone server; several
// addresses, or IsClusterMode, are a Redis Cluster; with a MasterName the addresses are of Sentinels.
//
// The engine sets timeouts and retries itself and reads from masters only. It uses one connection for
// the inbox, one for beats, and PoolSize for calls, each per master.
func New(opts redis.UniversalOptions, o Options) *Engine {
	if o.Prefix == "" {
		o.Prefix = "peer"
	}
	single := opts
	single.PoolSize, single.PipelinePoolSize, single.MaxIdleConns, single.MaxActiveConns = 1, -1, 0, 0
	return &Engine{
		prefix: o.Prefix + ":",
		reader: newClient(single),
		beats:  newClient(single),
		calls:  newClient(opts),
		turn:   make(chan struct{}, 1),
	}
}

func newClient(o redis.UniversalOptions) redis.UniversalClient {
	o.Addrs = slices.Clone(o.Addrs) // go-redis appends to it
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled = true
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = dialTimeout, callTimeout, callTimeout, callTimeout
	// A replica or a cache would answer with claims that are over.
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false
	o.ClientSideCache, o.ClientSideCacheConfig = nil, nil
	// What an ACL of the needed commands does not allow, and what connects before it is needed.
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.DisableIdentity = true
	o.MinIdleConns = 0
	if o.Protocol == 0 {
		o.Protocol = 2
	}
	for _, n := range []*int{&o.PoolSize, &o.MaxIdleConns, &o.MaxActiveConns, &o.MaxConcurrentDials} {
		*n = min(max(*n, 0), maxPool)
	}
	o.PipelinePoolSize = min(o.PipelinePoolSize, maxPool)
	switch {
	case o.MasterName != "":
		return redis.NewFailoverClient(o.Failover())
	case len(o.Addrs) > 1 || o.IsClusterMode:
		c := o.Cluster()
		c.DisableRoutingPolicies = true // each command goes where its key is
		return redis.NewClusterClient(c)
	}
	return redis.NewClient(o.Simple())
}

// Close closes the connections. It is called after [Engine.Leave]; a node that has not left is
// forgotten, and the others miss it 2.5 seconds later.
func (e *Engine) Close() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	n := e.node
	e.node = nil
	if n != nil {
		n.end()
	}
	err := errors.Join(e.reader.Close(), e.beats.Close(), e.calls.Close())
	if n != nil {
		n.running.Wait()
	}
	if err != nil {
		return fmt.Errorf("close the connections to Redis: %w", err)
	}
	return nil
}

// Now returns the time of Redis: of the master that has the inbox, in a Redis Cluster. Before Join it
// is that of this machine.
func (e *Engine) Now() time.Time {
	if c := e.clock.Load(); c != nil {
		return c.redis.Add(time.Since(c.here))
	}
	return time.Now().Round(0)
}

func (e *Engine) inbox(node string) string { return e.prefix + "{" + node + "}:in" }
func (e *Engine) alive(node string) string { return e.prefix + "{" + node + "}:alive" }

// masters calls f for each master, at the same time.
func masters(ctx context.Context, c redis.UniversalClient, f func(context.Context, *redis.Client) error) error {
	switch c := c.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, f)
	case *redis.Client:
		return f(ctx, c)
	}
	return fmt.Errorf("unknown client %T", c)
}

// master returns the client of the master that has a key.
func master(ctx context.Context, c redis.UniversalClient, key string) (*redis.Client, error) {
	switch c := c.(type) {
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, key)
	case *redis.Client:
		return c, nil
	}
	return nil, fmt.Errorf("unknown client %T", c)
}

// exec sends a pipeline. Each command has its reply or an error.
func exec(ctx context.Context, p redis.Pipeliner) []redis.Cmder {
	cmds, err := p.Exec(ctx)
	if err != nil && !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil }) {
		// go-redis leaves the commands without an error when Redis has refused the password.
		for _, c := range cmds {
			c.SetErr(err)
		}
	}
	return cmds
}

// checkNode makes sure that a name can stand before a space in a value, and in braces in a key.
func checkNode(name string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("invalid name of a node: %q", name)
	}
	return nil
}
