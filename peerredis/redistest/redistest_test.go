package redistest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAServerRestartsEmptyOnItsPort(t *testing.T) {
	s := Start(t)
	s.Do("set", "a", "b")
	pid := s.PID()
	s.Restart()
	require.Nil(t, s.Do("get", "a"))
	require.NotEqual(t, pid, s.PID())
}

func TestAStoppedServerAnswersAfterwards(t *testing.T) {
	s := Start(t)
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer c.Close()
	require.Error(t, c.Ping(ctx).Err())
	s.Cont()
	require.Equal(t, "PONG", s.Do("ping"))
}

func TestSentinelFailsOver(t *testing.T) {
	s := StartSentinel(t)
	first := s.Master()
	s.Failover()
	require.NotSame(t, first, s.Master())
}

func TestAClusterFailsOver(t *testing.T) {
	c := StartCluster(t, true)
	require.Len(t, c.Masters(), 3)
	require.Len(t, c.PIDs(), 6)
	c.Failover(1)
	require.Len(t, c.Masters(), 3)
	require.Equal(t, c.Servers[4].info("replication", "role"), "master")
}
