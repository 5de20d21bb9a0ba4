package redistest

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"
)

// MasterName is what the Sentinels of [StartSentinel] call their master.
const MasterName = "peer"

// Sentinel is a master with one replica that three Sentinels watch.
type Sentinel struct {
	t         testing.TB
	Servers   []*Server // the master at the start, and its replica
	Sentinels []*Server
}

// StartSentinel starts a Sentinel. It replaces a master that does not answer for a second.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, Servers: []*Server{Start(t)}}
	host, port := "127.0.0.1", strconv.Itoa(s.Servers[0].port)
	s.Servers = append(s.Servers, Start(t))
	s.Servers[1].Do("replicaof", host, port) // no option, or it would be a replica again after a restart as the master
	until(t, "the replica is there", func() bool { return s.Servers[1].info("replication", "master_link_status") == "up" })
	for range 3 {
		n := start(t, "redis-sentinel")
		n.Do("sentinel", "monitor", MasterName, host, port, 2)
		n.Do("sentinel", "set", MasterName, "down-after-milliseconds", 1000, "failover-timeout", 3000)
		s.Sentinels = append(s.Sentinels, n)
	}
	for _, n := range s.Sentinels {
		until(t, "the Sentinels know each other", func() bool {
			m, _ := n.Client().Do(context.Background(), "sentinel", "master", MasterName).Slice()
			has := map[string]string{}
			for i := 0; i+1 < len(m); i += 2 {
				has[fmt.Sprint(m[i])] = fmt.Sprint(m[i+1])
			}
			return has["num-slaves"] == "1" && has["num-other-sentinels"] == "2"
		})
	}
	return s
}

// Addrs returns the addresses of the Sentinels.
func (s *Sentinel) Addrs() []string { return addrs(s.Sentinels) }

// Master returns the server that is the master for the Sentinels.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	at, ok := s.Sentinels[0].Do("sentinel", "get-master-addr-by-name", MasterName).([]any)
	if ok && len(at) == 2 {
		for _, n := range s.Servers {
			if strconv.Itoa(n.port) == at[1] {
				return n
			}
		}
	}
	s.t.Fatalf("unknown master %v", at)
	return nil
}

// Failover makes the other server the master and waits until the Sentinels and it know that.
func (s *Sentinel) Failover() {
	s.t.Helper()
	before := s.Master()
	until(s.t, "a failover can begin", func() bool {
		return s.Sentinels[0].Client().Do(context.Background(), "sentinel", "failover", MasterName).Err() == nil
	})
	s.await(before)
}

// KillMaster kills the master and waits until the other server is the master.
func (s *Sentinel) KillMaster() {
	s.t.Helper()
	before := s.Master()
	before.Kill()
	s.await(before)
}

func (s *Sentinel) await(before *Server) {
	s.t.Helper()
	until(s.t, "there is a new master", func() bool {
		m := s.Master()
		return m != before && m.info("replication", "role") == "master"
	})
}

// PIDs returns the numbers of the processes of the servers, without the Sentinels.
func (s *Sentinel) PIDs() []int { return pids(s.Servers) }

// Cluster is a Redis Cluster of three masters, each with a replica or none.
type Cluster struct {
	t       testing.TB
	Servers []*Server // the masters at the start, and their replicas in the same order
}

// StartCluster starts a Redis Cluster. It replaces a master that does not answer for a second.
func StartCluster(t testing.TB, replicas bool) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	n := 3
	if replicas {
		n = 6
	}
	bus := make([]int, n)
	for i := range n {
		bus[i] = freePort(t)
		c.Servers = append(c.Servers, Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
			"--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0", "--cluster-port", strconv.Itoa(bus[i])))
	}
	const slots = 16384
	for i, s := range c.Servers {
		s.Do("cluster", "set-config-epoch", i+1)
		s.Do("cluster", "meet", "127.0.0.1", c.Servers[0].port, bus[0])
		if i < 3 {
			s.Do("cluster", "addslotsrange", i*slots/3, (i+1)*slots/3-1)
		}
	}
	for _, s := range c.Servers {
		until(t, "the servers know each other", func() bool {
			nodes, err := s.Client().ClusterShards(context.Background()).Result()
			return err == nil && s.clusterInfo("cluster_known_nodes") == strconv.Itoa(n) && len(nodes) > 0
		})
	}
	for i, s := range c.Servers[3:] {
		id := c.Servers[i].Do("cluster", "myid")
		until(t, "a replica has its master", func() bool {
			return s.Client().ClusterReplicate(context.Background(), id.(string)).Err() == nil
		})
	}
	for i, s := range c.Servers {
		until(t, "the cluster is well", func() bool {
			return s.clusterInfo("cluster_state") == "ok" && s.clusterInfo("cluster_slots_ok") == strconv.Itoa(slots) &&
				(i < 3 || s.info("replication", "master_link_status") == "up")
		})
	}
	return c
}

// Addrs returns the addresses of the servers that were masters at the start.
func (c *Cluster) Addrs() []string { return addrs(c.Servers[:3]) }

// Masters returns the servers that say they are masters.
func (c *Cluster) Masters() []*Server {
	var ms []*Server
	for _, s := range c.Servers {
		if s.info("replication", "role") == "master" {
			ms = append(ms, s)
		}
	}
	return ms
}

// Failover makes the replica of a master the master in its place, which becomes the replica. i is from 0
// to 2.
func (c *Cluster) Failover(i int) {
	c.t.Helper()
	from, to := c.Servers[i], c.Servers[i+3]
	if to.info("replication", "role") == "master" {
		from, to = to, from
	}
	until(c.t, "the other server is the master", func() bool {
		if to.info("replication", "role") == "master" && from.info("replication", "role") == "slave" {
			return true
		}
		to.Client().ClusterFailover(context.Background())
		time.Sleep(100 * time.Millisecond)
		return false
	})
}

// AwaitMaster waits until the replica of a killed master is the master. i is from 0 to 2.
func (c *Cluster) AwaitMaster(i int) {
	c.t.Helper()
	until(c.t, "a server has replaced the master", func() bool {
		for _, s := range []*Server{c.Servers[i], c.Servers[i+3]} {
			if s.info("replication", "role") == "master" && s.clusterInfo("cluster_state") == "ok" {
				return true
			}
		}
		return false
	})
}

// Master returns the server that has the slot of a key.
func (c *Cluster) Master(key string) *Server {
	c.t.Helper()
	for _, s := range c.Masters() {
		if err := s.Client().Exists(context.Background(), key).Err(); err == nil {
			return s
		}
	}
	c.t.Fatalf("no master has the slot")
	return nil
}

// PIDs returns the numbers of the processes.
func (c *Cluster) PIDs() []int { return pids(c.Servers) }

func (s *Server) clusterInfo(field string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := s.Client().ClusterInfo(ctx).Result()
	if err != nil {
		return ""
	}
	return lineOf(info, field)
}

func addrs(ss []*Server) []string {
	var as []string
	for _, s := range ss {
		as = append(as, s.Addr())
	}
	return as
}

func pids(ss []*Server) []int {
	var ps []int
	for _, s := range ss {
		ps = append(ps, s.PID())
	}
	return ps
}
