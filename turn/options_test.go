package turn

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/stretchr/testify/require"
)

type oddListener struct{ net.Listener }

func (oddListener) Addr() net.Addr { return &net.UnixAddr{Name: "/run/turn", Net: "unix"} }

type oddConn struct{ net.PacketConn }

func (oddConn) LocalAddr() net.Addr { return &net.UnixAddr{Name: "/run/turn", Net: "unixgram"} }

func TestEachMistakeInTheOptionsIsNamed(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"PublicIP is required":              func(o *Options) { o.PublicIP = netip.Addr{} },
		"PublicIP 0.0.0.0 is not":           func(o *Options) { o.PublicIP = netip.IPv4Unspecified() },
		"PublicIP 224.0.0.1 is not":         func(o *Options) { o.PublicIP = netip.MustParseAddr("224.0.0.1") },
		"PublicIP fe80::1%eth0 is not":      func(o *Options) { o.PublicIP = netip.MustParseAddr("fe80::1%eth0") },
		"BindIP ::1 is not of the family":   func(o *Options) { o.BindIP = netip.IPv6Loopback() },
		"BindIP: no port from 49152":        func(o *Options) { o.BindIP = netip.MustParseAddr("192.0.2.1") },
		"UDP and TCP are empty":             func(o *Options) { o.UDP = nil },
		"UDP[1] is nil":                     func(o *Options) { o.UDP = append(o.UDP, nil) },
		"UDP[0] has the address /run/turn":  func(o *Options) { o.UDP = []net.PacketConn{oddConn{}} },
		"TCP[0] is nil":                     func(o *Options) { o.TCP = []net.Listener{nil} },
		"TCP[0] has the address /run/turn":  func(o *Options) { o.TCP = []net.Listener{oddListener{}} },
		"MinPort 60000 is above MaxPort 50": func(o *Options) { o.MinPort, o.MaxPort = 60000, 50000 },
		"MinPort 49152 is above MaxPort 10": func(o *Options) { o.MaxPort = 10 },
		"Secret has 15 bytes: it needs 16":  func(o *Options) { o.Secret = make([]byte, 15) },
		"TTL -1s is less than a second":     func(o *Options) { o.TTL = -time.Second },
		`URLs: "turn.example.com" is not`:   func(o *Options) { o.URLs = []string{"turn.example.com"} },
		`URLs: "turn:" is not`:              func(o *Options) { o.URLs = []string{"turn:"} },
	} {
		opts := Options{PublicIP: loopback, UDP: []net.PacketConn{newDeafConn()}}
		change(&opts)
		s, err := New(opts)
		require.ErrorContains(t, err, "turn: Options."+want)
		require.Nil(t, s)
	}
	_, err := New(Options{MinPort: 2, MaxPort: 1})
	for _, want := range []string{"PublicIP", "MinPort", "UDP and TCP"} {
		require.ErrorContains(t, err, want, "all of them are named")
	}
}

func TestDefaults(t *testing.T) {
	o, err := Options{PublicIP: mapped(loopback), UDP: []net.PacketConn{newDeafConn(), newDeafConn()}}.prepare()
	require.NoError(t, err)
	require.Equal(t, loopback, o.PublicIP)
	require.Equal(t, netip.IPv4Unspecified(), o.BindIP)
	require.Equal(t, []string{"turn:127.0.0.1:3478?transport=udp"}, o.URLs, "two sockets at one port have one URL")
	require.Len(t, o.Secret, secretBytes)
	require.EqualValues(t, DefaultMinPort, o.MinPort)
	require.EqualValues(t, DefaultMaxPort, o.MaxPort)
	require.Equal(t,
		[]int{DefaultMaxPerUser, DefaultMaxRelays, DefaultMaxConns, DefaultMaxConnsPerAddr, DefaultUserBytesPerSecond},
		[]int{o.MaxPerUser, o.MaxRelays, o.MaxConns, o.MaxConnsPerAddr, o.UserBytesPerSecond})
	p, err := Options{PublicIP: netip.MustParseAddr("2a00::1"), TCP: []net.Listener{newPipeListener()}}.prepare()
	require.NoError(t, err)
	require.Equal(t, netip.IPv6Unspecified(), p.BindIP)
	require.Equal(t, []string{"turn:[2a00::1]:3478?transport=tcp"}, p.URLs)
	require.NotEqual(t, o.Secret, p.Secret)
	require.False(t, full(1<<30, -1), "negative: no limit")
}

// The host may change what it has given.
func TestOptionsAreCopied(t *testing.T) {
	secret, urls := []byte("a secret of sixteen bytes"), []string{"turn:turn.example.com:3478"}
	s, err := New(Options{
		PublicIP: loopback, BindIP: loopback, UDP: []net.PacketConn{newDeafConn()}, Secret: secret, URLs: urls,
	})
	require.NoError(t, err)
	defer s.Close()
	const wantURLs = "turn:turn.example.com:3478"
	secret[0], urls[0] = 'b', "changed"
	username, same := s.credentials("alice", nil)
	require.Equal(t, sign([]byte("a secret of sixteen bytes"), username), same)
	servers := s.ICEServers(&peer.Client{})
	require.Equal(t, []string{wantURLs}, servers[0].URLs)
	servers[0].URLs[0] = "changed"
	require.Equal(t, []string{wantURLs}, s.ICEServers(&peer.Client{})[0].URLs)
}
