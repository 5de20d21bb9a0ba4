package turn

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

// A deafConn is a UDP socket that nobody sends to. A real one would stop the time of a bubble.
type deafConn struct {
	net.PacketConn
	once   sync.Once
	closed chan struct{}
}

func newDeafConn() *deafConn { return &deafConn{closed: make(chan struct{})} }

func (c *deafConn) ReadFrom([]byte) (int, net.Addr, error) {
	<-c.closed
	return 0, nil, net.ErrClosed
}

func (c *deafConn) LocalAddr() net.Addr { return &net.UDPAddr{IP: loopback.AsSlice(), Port: 3478} }

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// A host is a signalling server and a TURN server in a bubble.
type host struct {
	*peertest.Host
	t   *testing.T
	ts  *Server
	srv *peer.Server

	mu     sync.Mutex // guards the following
	issued map[string][]peer.ICEServer
	mute   bool // clients get no credentials
}

func newHost(t *testing.T, opts Options) *host {
	t.Helper()
	opts.PublicIP, opts.BindIP, opts.UDP = loopback, loopback, []net.PacketConn{newDeafConn()}
	ts, err := New(opts)
	require.NoError(t, err)
	h := &host{t: t, ts: ts, issued: make(map[string][]peer.ICEServer)}
	h.srv = peer.NewServer(peer.Options{
		ICEServers: func(c *peer.Client) []peer.ICEServer {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.mute {
				return nil
			}
			servers := ts.ICEServers(c)
			h.issued[c.ID()] = append(h.issued[c.ID()], servers...)
			return servers
		},
		AllowOverride: func(holder, newcomer *peer.Client) bool { return newcomer.Token() != "polite" },
	})
	ts.Bind(h.srv)
	t.Cleanup(func() {
		h.srv.Close()
		ts.Close()
	})
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", h.srv)
	h.Host = peertest.New(t, mux, "/peerjs", peertest.Ignore(peer.TypeICEServers))
	return h
}

// last returns the username of the latest credentials of an id.
func (h *host) last(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	require.NotEmpty(h.t, h.issued[id])
	return h.issued[id][len(h.issued[id])-1].Username
}

// may returns "ok", or why a username may not make a relay.
func (h *host) may(username string) string { return h.ts.may(username) }

func (s *Server) may(username string) string {
	expiry, name, _ := parseUsername(username)
	if why := s.users.check(name, expiry, time.Now()); why != none {
		return refusalNames[why]
	}
	return "ok"
}

// relay makes a relay, as pion does for an authenticated user.
func (h *host) relay(username string) *relay {
	h.t.Helper()
	r, why := h.ts.allocate(pion.AllocateListenerConfig{Network: "udp4", UserID: username})
	require.Equal(h.t, none, why)
	h.t.Cleanup(h.ts.running.Done) // there is no allocation, whose end pion would tell
	return r
}

func (r *relay) isOpen() bool { return r.s.ports.get(r.addr) == r }

func TestAHealthyCallOutlivesTheSocket(t *testing.T) {
	for name, end := range map[string]func(h *host, c *peertest.Client){
		"it closed":     func(_ *host, c *peertest.Client) { c.Close() },
		"it was lost":   func(_ *host, c *peertest.Client) { c.Vanish() },
		"it left":       func(_ *host, c *peertest.Client) { c.Leave() },
		"server closed": func(h *host, _ *peertest.Client) { h.srv.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, Options{})
				c := h.Dial("alice")
				username := h.last("alice")
				r := h.relay(username)
				end(h, c)
				synctest.Wait()
				require.True(t, r.isOpen())
				require.Equal(t, "ok", h.may(username))
				time.Sleep(goneAfter - time.Nanosecond)
				require.Equal(t, "ok", h.may(username))
				time.Sleep(time.Nanosecond)
				require.Equal(t, "gone", h.may(username))
				require.True(t, r.isOpen())
				require.Equal(t, 1, h.ts.Stats().Remembered)
				time.Sleep(DefaultTTL)
				require.Zero(t, h.ts.Stats().Remembered)
				require.Equal(t, "expired", h.may(username))
				require.True(t, r.isOpen())
				require.Len(t, h.ts.users.all, 1)
				r.Close()
				require.Empty(t, h.ts.users.all)
			})
		})
	}
}

func TestThePageThatIsBackKeepsItsCredentials(t *testing.T) {
	for _, token := range []string{"mine", "another"} {
		t.Run(token, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, Options{})
				c := h.Dial("alice", peertest.Token("mine"))
				username := h.last("alice")
				c.Vanish()
				time.Sleep(2 * goneAfter)
				require.Equal(t, "gone", h.may(username))
				h.Dial("alice", peertest.Token(token))
				require.Equal(t, "ok", h.may(h.last("alice")))
				if token == "mine" {
					require.Equal(t, "ok", h.may(username))
					require.Zero(t, h.ts.Stats().Remembered)
				} else {
					require.Equal(t, "gone", h.may(username))
				}
			})
		})
	}
}

func TestAPageThatReconnectsKeepsItsRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice", peertest.Token("mine"))
		first := h.last("alice")
		r := h.relay(first)
		c := h.Dial("alice", peertest.Token("mine")) // ReasonReplaced for the first
		time.Sleep(2 * goneAfter)
		require.True(t, r.isOpen())
		require.Equal(t, "ok", h.may(first))
		require.Equal(t, "ok", h.may(h.last("alice")))
		c.Close()
		time.Sleep(2 * goneAfter)
		require.Equal(t, "gone", h.may(first))
		require.Equal(t, "gone", h.may(h.last("alice")))
		r.Close()
	})
}

func TestRelaysOfARemovedClientEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice")
		h.Dial("bob")
		alice, bob := h.last("alice"), h.last("bob")
		relays := []*relay{h.relay(alice), h.relay(alice), h.relay(bob)}
		require.True(t, h.srv.Realm().RemoveClient("alice"))
		synctest.Wait()
		require.False(t, relays[0].isOpen())
		require.False(t, relays[1].isOpen())
		require.True(t, relays[2].isOpen())
		require.Equal(t, "revoked", h.may(alice))
		require.Equal(t, "ok", h.may(bob))

		// If it may connect again, it gets other credentials. The old ones stay revoked.
		h.Dial("alice")
		require.NotEqual(t, alice, h.last("alice"))
		require.Equal(t, "ok", h.may(h.last("alice")))
		require.Equal(t, "revoked", h.may(alice))
		time.Sleep(DefaultTTL + 2*time.Second)
		require.Zero(t, h.ts.Stats().Remembered)
	})
}

func TestRelaysOfAnOverriddenClientEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		var before []string
		for i := range 5 { // within one second
			h.Dial("alice", peertest.Token(strconv.Itoa(i)))
			username := h.last("alice")
			require.NotContains(t, before, username)
			require.Equal(t, "ok", h.may(username))
			for _, old := range before {
				require.Equal(t, "revoked", h.may(old), "at %d", i)
			}
			before = append(before, username)
			require.Len(t, h.ts.users.all["alice"].relays, 0)
			h.relay(username)
		}
	})
}

func TestRevokeEndsTheRelaysOfAnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		long := strings.Repeat("a", 100) // its name is a hash
		for _, id := range []string{"alice", "äöü", long} {
			h.Dial(id)
			old := h.last(id)
			r := h.relay(old)
			require.Equal(t, 1, h.ts.Revoke(id))
			require.False(t, r.isOpen())
			require.Equal(t, "revoked", h.may(old))
			require.Zero(t, h.ts.Revoke(id))
			time.Sleep(peer.DefaultICERefresh / 2)
			synctest.Wait()
			require.Equal(t, "ok", h.may(h.last(id)), "the client is still connected")
			require.Equal(t, "revoked", h.may(old))
		}
		// Of an id that is not connected here, other servers may have issued credentials.
		username, _ := peer.TURNCredentials(h.ts.opts.Secret, "elsewhere", DefaultTTL)
		require.Equal(t, "ok", h.may(username))
		h.ts.Revoke("elsewhere")
		require.Equal(t, "revoked", h.may(username))
	})
}

func TestOnlyAllocateChecksTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{TTL: time.Minute})
		username, credential := h.ts.credentials("alice", nil)
		ask := func(method stun.Method) bool {
			user, key, ok := h.ts.authenticate(&pion.RequestAttributes{
				Username: username, Realm: realm, Method: method, SrcAddr: &net.UDPAddr{},
			})
			if ok {
				require.Equal(t, username, user)
				require.Equal(t, pion.GenerateAuthKey(username, realm, credential), key)
			}
			return ok
		}
		old := []stun.Method{stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind}
		require.True(t, ask(stun.MethodAllocate))
		time.Sleep(time.Minute + time.Second)
		require.False(t, ask(stun.MethodAllocate))
		for _, m := range old {
			require.True(t, ask(m), m)
		}
		require.EqualValues(t, 1, h.ts.Stats().Refused["expired"])
		other := &pion.RequestAttributes{Username: username, Realm: "other", SrcAddr: &net.UDPAddr{}}
		_, _, ok := h.ts.authenticate(other)
		require.False(t, ok)
	})
}

func TestCredentialsThatLastTooLongAreRefused(t *testing.T) {
	h := &Server{opts: Options{TTL: time.Hour}}
	h.users = newUsers(&h.opts)
	name := func(ttl time.Duration) string {
		username, _ := peer.TURNCredentials(nil, "alice", ttl)
		return username
	}
	require.Equal(t, "ok", h.may(name(time.Hour)))
	require.Equal(t, "ok", h.may(name(time.Hour+time.Minute)), "the clocks of servers differ")
	require.Equal(t, "lasts too long", h.may(name(2*time.Hour)))
}

func TestUsernames(t *testing.T) {
	username, credential := peer.TURNCredentials([]byte("secret"), "alice", time.Hour)
	require.Equal(t, credential, sign([]byte("secret"), username))
	expiry, name, ok := parseUsername(username)
	require.True(t, ok)
	require.Equal(t, "alice", name)
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), expiry, 2)
	require.Equal(t, name, nameOf("alice"))
	for _, bad := range []string{
		"", "alice", ":alice", "1:", "-1:alice", "0:alice", "x:alice", "1.5:alice", "99999999999999999999:alice",
		"1:" + strings.Repeat("a", maxUsername),
	} {
		_, _, ok := parseUsername(bad)
		require.False(t, ok, bad)
	}
}

// A user that is revoked again and again, or many that are, take no more places than the bound.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	opts := Options{TTL: time.Hour, UserBytesPerSecond: -1}
	us := newUsers(&opts)
	require.Equal(t, maxRemembered, us.bound)
	us.bound = 200
	now := time.Now()
	for i := range us.bound + 10 {
		us.revoke(fmt.Sprint("user ", i), nil, now)
		us.revoke("again", nil, now)
	}
	require.Equal(t, us.bound, us.rememberedLocked())
	require.Len(t, us.all, us.bound)
	require.Equal(t, none, us.check("user 0", now.Unix()+60, now), "the earliest is forgotten")
	require.Equal(t, refusedRevoked, us.check("user 100", now.Unix()+60, now))
	require.Equal(t, refusedRevoked, us.check("again", now.Unix()+60, now))
	later := now.Add(time.Hour + time.Second)
	us.revoke("last", nil, later)
	require.Len(t, us.all, 1)
}

func TestNothingIsKeptOfClientsWithoutBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, err := New(Options{PublicIP: loopback, BindIP: loopback, UDP: []net.PacketConn{newDeafConn()}})
		require.NoError(t, err)
		defer ts.Close()
		srv := peer.NewServer(peer.Options{ICEServers: ts.ICEServers})
		defer srv.Close()
		h := peertest.New(t, srv, "/", peertest.Ignore(peer.TypeICEServers))
		h.Dial("alice").Close()
		synctest.Wait()
		require.Empty(t, ts.users.all)
	})
}

func TestNothingIsKeptOfClientsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{TTL: time.Minute})
		for i := range 10 {
			c := h.Dial("alice", peertest.Token(strconv.Itoa(i%3)))
			if i%2 == 0 {
				c.Close()
			}
			bob := h.Dial(fmt.Sprint("bob", i))
			require.True(t, h.srv.Realm().RemoveClient(bob.ID()))
		}
		h.srv.Close()
		time.Sleep(time.Minute + 20*time.Second)
		require.Zero(t, h.ts.Stats().Remembered)
		require.Empty(t, h.ts.users.all)
	})
}

// A request that was authenticated just before is no way around Revoke.
func TestARelayIsNotMadeAfterRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice")
		username := h.last("alice")
		require.Equal(t, "ok", h.may(username))
		h.ts.Revoke("alice")
		r, why := h.ts.allocate(pion.AllocateListenerConfig{Network: "udp4", UserID: username})
		require.Nil(t, r)
		require.Equal(t, refusedRevoked, why)
		h.ts.check(t)
		require.Zero(t, h.ts.Stats().Relays)
	})
}

func TestAClientThatMovedToAnotherServerKeepsItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice")
		username := h.last("alice")
		h.ts.disconnected(h.srv.Realm().Client("alice"), peer.ReasonReplaced) // there is no successor here
		time.Sleep(2 * goneAfter)
		require.Equal(t, "ok", h.may(username))
		require.Empty(t, h.ts.users.all)
	})
}

func TestASuccessorThatGotNoCredentialsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.Dial("alice", peertest.Token("mine"))
		username := h.last("alice")
		h.mu.Lock()
		h.mute = true
		h.mu.Unlock()
		h.Dial("alice", peertest.Token("mine")).Close()
		time.Sleep(2 * goneAfter)
		require.Equal(t, "gone", h.may(username))
		time.Sleep(DefaultTTL)
		require.Zero(t, h.ts.Stats().Remembered)
		require.Empty(t, h.ts.users.all)
	})
}

func TestNothingIsKeptOfAClientThatEndsWhileItGetsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.mu.Lock()
		h.mute = true
		h.mu.Unlock()
		h.Dial("alice")
		c := h.srv.Realm().Client("alice")
		c.Close()
		synctest.Wait()
		require.NotEmpty(t, h.ts.ICEServers(c))
		time.Sleep(DefaultTTL + time.Second)
		require.Zero(t, h.ts.Stats().Remembered)
		require.Empty(t, h.ts.users.all)
	})
}
