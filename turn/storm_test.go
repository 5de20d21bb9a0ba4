package turn

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// check recomputes what users and conns count, and compares.
func (s *Server) check(t *testing.T) {
	t.Helper()
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	relays, remembered := 0, 0
	for name, u := range s.users.all {
		require.Equal(t, name, u.name)
		require.False(t, len(u.relays) == 0 && u.client == nil && u.memory == nil, "%s is kept for nothing", name)
		if u.memory != nil {
			remembered++
		}
		for r := range u.relays {
			relays++
			require.Equal(t, u, r.user)
		}
	}
	require.Equal(t, relays, s.users.relays)
	require.Equal(t, remembered, s.users.rememberedLocked())
	open := 0
	for i := range s.ports.slots {
		if r := s.ports.slots[i].Load(); r != nil {
			open++
			require.EqualValues(t, i, r.port-s.ports.first)
		}
	}
	require.Equal(t, relays, open)
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	sum := 0
	for _, n := range s.conns.perAddr {
		sum += n
	}
	require.Equal(t, len(s.conns.all), sum)
	require.LessOrEqual(t, len(s.conns.remotes), len(s.conns.all))
}

// Users come, talk, go, and are revoked, all at once.
func TestStorm(t *testing.T) {
	const users, rounds = 8, 20
	r := newRig(t, Options{MaxPerUser: 3, UserBytesPerSecond: 1 << 20, AllowPeer: allow2})
	far := peerAt(t, "127.0.0.2")
	go func() {
		buf := make([]byte, 2000)
		for {
			n, addr, err := far.ReadFrom(buf)
			if err != nil {
				return
			}
			far.WriteTo(buf[:n], addr)
		}
	}()
	peer := peerOf(far.LocalAddr().String())
	round := func(rng *rand.Rand, id string) {
		network := []string{"udp", "tcp"}[rng.IntN(2)]
		c := r.raw(network, "127.0.0.1", id)
		defer c.conn.Close()
		steps := []func(){
			func() { c.tryWrite(stun.MethodCreatePermission, stun.ClassRequest, peer) },
			func() { c.tryWrite(stun.MethodChannelBind, stun.ClassRequest, peer, channel(0x4000)) },
			func() { c.tryWrite(stun.MethodSend, stun.ClassIndication, peer, data("hello")) },
			func() { c.conn.WriteTo(append([]byte{0x40, 0, 0, 4}, "chan"...), c.server) },
			func() { c.tryWrite(stun.MethodRefresh, stun.ClassRequest, seconds(uint32(600*rng.IntN(2)))) },
			func() { c.conn.WriteTo([]byte{1, 2, 3}, c.server) },
			func() { r.Usage(id); r.Stats() },
			func() { r.users.forget(id); r.Revoke(id); r.users.forget(id) },
		}
		c.hello()
		c.tryWrite(stun.MethodAllocate, stun.ClassRequest, overUDP)
		for range 10 {
			steps[rng.IntN(len(steps))]()
		}
	}
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for range rounds {
				round(rng, fmt.Sprint("user", i%(users/2)))
			}
		})
	}
	all.Wait()
	for i := range users {
		r.Revoke(fmt.Sprint("user", i))
	}
	require.Zero(t, r.Stats().Relays)
	require.Eventually(t, func() bool { return r.Stats().Conns == 0 }, wait, tick)
	r.check(t)
	require.NotZero(t, r.Stats().Allocated)
}

func TestCloseComesWhileClientsMakeRelays(t *testing.T) {
	const users, rounds = 8, 20
	r := newRig(t, Options{})
	var talkers sync.WaitGroup
	for i := range users {
		c := r.raw([]string{"udp", "tcp"}[i%2], "127.0.0.1", fmt.Sprint("last", i))
		c.hello()
		talkers.Go(func() {
			for range rounds {
				if c.tryWrite(stun.MethodAllocate, stun.ClassRequest, overUDP) != nil {
					return
				}
			}
		})
	}
	require.NoError(t, r.Close())
	talkers.Wait()
	r.check(t)
	_, err := net.Dial("tcp", r.tcp)
	require.Error(t, err)
}
