//go:build linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/gopeerjs/peer/peerredis"
	"github.com/gopeerjs/peer/peerredis/redistest"
	"github.com/redis/go-redis/v9"
)

// A store is the Redis servers of a run. A nil store is none, for one node.
type store struct {
	alone    *redistest.Server
	sentinel *redistest.Sentinel
	cluster  *redistest.Cluster
	proxies  []*proxy // of the nodes
	finder   *peerredis.Engine
}

const prefix = "chaos"

// An engineConfig is what a node is told of Redis.
type engineConfig struct {
	Addrs      []string
	MasterName string
	IsCluster  bool
	Proxy      string
}

// engine makes the engine of a node.
func (c *engineConfig) engine() *peerredis.Engine {
	o := redis.UniversalOptions{Addrs: c.Addrs, MasterName: c.MasterName, IsClusterMode: c.IsCluster}
	if c.Proxy != "" {
		o.Dialer = through(c.Proxy)
	}
	return peerredis.New(o, peerredis.Options{Prefix: prefix})
}

func newStore(t *testing.T, kind string, nodes int) *store {
	if !clustered {
		return nil
	}
	s := &store{}
	switch kind {
	case "none":
		return nil
	case "alone":
		s.alone = redistest.Start(t)
	case "sentinel":
		s.sentinel = redistest.StartSentinel(t)
	case "cluster":
		s.cluster = redistest.StartCluster(t, true)
	default:
		t.Fatalf("there is no store %q: none, alone, sentinel, cluster", kind)
	}
	for range nodes {
		s.proxies = append(s.proxies, newProxy(t))
	}
	cfg := s.config(-1)
	s.finder = cfg.engine()
	t.Cleanup(func() { _ = s.finder.Close() })
	return s
}

// config is what a node is told. It comes from the servers each time, since any may be the master now.
func (s *store) config(node int) (c engineConfig) {
	if s == nil {
		return c
	}
	switch {
	case s.alone != nil:
		c.Addrs = []string{s.alone.Addr()}
	case s.sentinel != nil:
		c.Addrs, c.MasterName = s.sentinel.Addrs(), redistest.MasterName
	default:
		for _, r := range s.cluster.Servers {
			c.Addrs = append(c.Addrs, r.Addr())
		}
		c.IsCluster = true
	}
	if node >= 0 {
		c.Proxy = s.proxies[node].l.Addr().String()
	}
	return c
}

// servers are all servers with data.
func (s *store) servers() []*redistest.Server {
	switch {
	case s.alone != nil:
		return []*redistest.Server{s.alone}
	case s.sentinel != nil:
		return s.sentinel.Servers
	}
	return s.cluster.Servers
}

// master returns a master.
func (s *store) master(rand int) *redistest.Server {
	switch {
	case s.alone != nil:
		return s.alone
	case s.sentinel != nil:
		return s.sentinel.Master()
	}
	ms := s.cluster.Masters()
	return ms[rand%len(ms)]
}

// faults are those that the store allows.
func (s *store) faults() map[string]func(w *world, node, rand int) {
	if s == nil {
		return nil
	}
	// A master that is silent for a second is replaced, if there is a replica.
	stopped := "redis-stop"
	if s.alone == nil {
		stopped = "failover"
	}
	fs := map[string]func(w *world, node, rand int){
		"redis-kill": func(w *world, _, rand int) {
			defer w.fault("redis-kill", everywhere)()
			r := s.master(rand)
			r.Kill()
			time.Sleep(time.Duration(rand%1500) * time.Millisecond)
			r.Restart()
		},
		"redis-stop3":  func(w *world, _, rand int) { s.halt(w, stopped, rand, 3*time.Second) },
		"redis-stop6":  func(w *world, _, rand int) { s.halt(w, stopped, rand, 6*time.Second) },
		"client-kill":  func(w *world, _, _ int) { s.each(w, "client-kill", "client", "kill", "type", "normal") },
		"script-flush": func(w *world, _, _ int) { s.each(w, "script-flush", "script", "flush") },
		"cut": func(w *world, node, rand int) {
			defer w.fault("cut", node)()
			p := s.proxies[node]
			p.set(true, 0)
			p.cut()
			time.Sleep(time.Duration(rand%1000) * time.Millisecond)
			p.set(false, 0)
		},
		"delay": func(w *world, node, _ int) {
			defer w.fault("delay", node)()
			p := s.proxies[node]
			p.set(false, 100*time.Millisecond)
			time.Sleep(5 * time.Second)
			p.set(false, 0)
		},
		"blackhole2": func(w *world, node, _ int) { s.blackhole(w, node, 2*time.Second) },
		"blackhole8": func(w *world, node, _ int) { s.blackhole(w, node, 8*time.Second) },
	}
	maps.Copy(fs, s.failovers())
	return fs
}

func (s *store) failovers() map[string]func(w *world, node, rand int) {
	switch {
	case s.sentinel != nil:
		return map[string]func(w *world, node, rand int){
			"failover": func(w *world, _, _ int) {
				defer w.fault("failover", everywhere)()
				s.sentinel.Failover()
			},
			"master-kill": func(w *world, _, rand int) {
				defer w.fault("failover", everywhere)()
				r := s.sentinel.Master()
				s.sentinel.KillMaster()
				time.Sleep(time.Duration(rand%1000) * time.Millisecond)
				r.Restart()
			},
		}
	case s.cluster != nil:
		return map[string]func(w *world, node, rand int){
			"failover": func(w *world, _, rand int) {
				defer w.fault("failover", everywhere)()
				s.cluster.Failover(rand % 3)
			},
			"master-kill": func(w *world, _, rand int) {
				defer w.fault("failover", everywhere)()
				i := rand % 3
				masters := s.cluster.Masters()
				for _, r := range []*redistest.Server{s.cluster.Servers[i], s.cluster.Servers[i+3]} {
					for _, m := range masters {
						if r == m {
							r.Kill()
							s.cluster.AwaitMaster(i)
							r.Restart()
							return
						}
					}
				}
			},
		}
	}
	return nil
}

func (s *store) halt(w *world, kind string, rand int, d time.Duration) {
	defer w.fault(kind, everywhere)()
	r := s.master(rand)
	r.Stop()
	time.Sleep(d)
	r.Cont()
}

func (s *store) blackhole(w *world, node int, d time.Duration) {
	defer w.fault("blackhole", node)()
	s.proxies[node].swallow()
	time.Sleep(d)
	s.proxies[node].heal()
}

// each runs a command on all servers.
func (s *store) each(w *world, kind string, args ...any) {
	defer w.fault(kind, everywhere)()
	for _, r := range s.servers() {
		c := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
		err := c.Do(context.Background(), args...).Err()
		if err != nil && err != io.EOF && !strings.Contains(err.Error(), "READONLY") {
			w.complain("%v on %s: %v", args, r.Addr(), err)
		}
		_ = c.Close()
	}
}

// claims returns the node that the engine names for each id.
func (s *store) claims(ids []string) (map[string]string, error) {
	if s == nil {
		return nil, nil
	}
	names := make(map[string]string)
	for len(ids) > 0 {
		n := min(len(ids), 500)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		places, err := s.finder.Find(ctx, ids[:n]...)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("find: %w", err)
		}
		for id, p := range places {
			names[id] = p.Node
		}
		ids = ids[n:]
	}
	return names, nil
}

// leftovers are keys without a time to live, and claims and rooms that are left when all nodes have shut down.
func (s *store) leftovers() (lines []string) {
	if s == nil {
		return nil
	}
	masters := []*redistest.Server{s.master(0)}
	if s.cluster != nil {
		masters = s.cluster.Masters()
	}
	for _, r := range masters {
		ctx := context.Background()
		for keys := r.Client().Scan(ctx, 0, prefix+":*", 1000).Iterator(); keys.Next(ctx); {
			key := keys.Val()
			if ttl := r.Client().PTTL(ctx, key).Val(); ttl == -1 {
				lines = append(lines, fmt.Sprintf("%s on %s has no time to live", key, r.Addr()))
			}
			for _, kind := range []string{"id", "room"} {
				if strings.HasPrefix(key, prefix+":"+kind+":") {
					lines = append(lines, fmt.Sprintf("%s on %s is left", key, r.Addr()))
				}
			}
		}
	}
	return lines
}
