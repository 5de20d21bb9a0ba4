package peerredis

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gopeerjs/peer/cluster"
	"github.com/gopeerjs/peer/cluster/clustertest"
	"github.com/gopeerjs/peer/peerredis/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// breaker is an engine whose connections can be cut.
type breaker struct {
	*Engine
	forget func()

	mu    sync.Mutex // guards the following
	off   bool
	conns []net.Conn
}

var _ clustertest.Breaker = (*breaker)(nil)

func newBreaker(t *testing.T, o redis.UniversalOptions, forget func()) *breaker {
	b := &breaker{forget: forget}
	o.Dialer = b.dial
	b.Engine = engine(t, o)
	return b
}

func (b *breaker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.off {
		c.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("cut off")}
	}
	b.conns = append(b.conns, c)
	return c, nil
}

func (b *breaker) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.off = true
	for _, c := range b.conns {
		c.Close()
	}
	b.conns = nil
}

func (b *breaker) Mend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.off = false
}

func (b *breaker) Forget() { b.forget() }

// contract runs the contract of an engine on servers, which age their keys by advance.
func contract(t *testing.T, o redis.UniversalOptions, forget func(), advance func(time.Duration)) {
	clustertest.Test(t, func(t *testing.T) (_, _ cluster.Engine) {
		return newBreaker(t, o, forget), newBreaker(t, o, forget)
	}, advance)
}

// really lets a part of the time pass, and returns the rest: a node has to notice that it is silent. After
// the TTL of an inbox it does not matter.
func really(d time.Duration) time.Duration {
	if d < cluster.InboxTTL {
		time.Sleep(cluster.MissingAfter)
		d -= cluster.MissingAfter
	}
	return d
}

// age takes time from the TTL of all keys of the masters.
func age(t *testing.T, masters func() []*redistest.Server) func(time.Duration) {
	return func(d time.Duration) {
		d = really(d)
		for _, s := range masters() {
			for _, key := range s.Do("keys", "*").([]any) {
				ttl := s.Do("pttl", key).(int64)
				require.NotEqual(t, int64(-1), ttl, "every key has a TTL")
				s.Do("pexpire", key, ttl-d.Milliseconds())
			}
		}
	}
}

func flush(masters func() []*redistest.Server) func() {
	return func() {
		for _, s := range masters() {
			s.Do("flushall")
		}
	}
}

// restricted makes a user with the rights that the comment of the package lists, and returns the name.
func restricted(s *redistest.Server, more ...any) string {
	s.Do(append([]any{"acl", "setuser", "node", "on", ">secret", "resetchannels", "~peer:*", "-@all",
		"+xadd", "+xread", "+pexpire", "+set", "+get", "+del", "+time", "+info", "+multi", "+exec", "+scan",
		"+eval", "+evalsha", "+hset", "+hget", "+hdel", "+hlen", "+hexists", "+hgetall"}, more...)...)
	return "node"
}

func TestTheContractOnAStandAloneServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	masters := func() []*redistest.Server { return []*redistest.Server{s} }
	o := at(s)
	o.Username, o.Password = restricted(s), "secret"
	contract(t, o, flush(masters), age(t, masters))
}

func TestTheContractWithSentinel(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	masters := func() []*redistest.Server { return []*redistest.Server{s.Master()} }
	contract(t, redis.UniversalOptions{Addrs: s.Addrs(), MasterName: redistest.MasterName}, flush(masters), age(t, masters))
}

func TestTheContractOnACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, false)
	o := redis.UniversalOptions{Addrs: c.Addrs(), Password: "secret"}
	for _, s := range c.Servers {
		o.Username = restricted(s, "+cluster|slots", "+command", "+asking")
	}
	contract(t, o, flush(c.Masters), age(t, c.Masters))
}

// On machines without redis-server this is the one test of the contract.
func TestTheContractOnMiniredis(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	go func() { // it does not age keys
		for {
			select {
			case <-end:
				return
			case <-time.After(100 * time.Millisecond):
				m.FastForward(100 * time.Millisecond)
			}
		}
	}()
	contract(t, redis.UniversalOptions{Addrs: []string{m.Addr()}}, m.FlushAll, func(d time.Duration) { m.FastForward(really(d)) })
}
