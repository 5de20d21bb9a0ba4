package peer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// iceText is the message with a server whose credential is n.
func iceText(n int) string {
	return fmt.Sprintf(`{"type":"ICE-SERVERS","payload":{"iceServers":[{"urls":["turn:turn.example:3478"],"username":"u","credential":"%d"}]}}`, n)
}

// countedServers returns an ICEServers whose credentials are numbered from 1.
func countedServers() func(*Client) []ICEServer {
	var n atomic.Int64
	return func(*Client) []ICEServer {
		return []ICEServer{{URLs: []string{"turn:turn.example:3478"}, Username: "u", Credential: fmt.Sprint(n.Add(1))}}
	}
}

// A page that has read OPEN has read the servers, as both come in one write.
func TestTheServersComeRightBeforeOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		servers := countedServers()
		srv := NewServer(Options{ICEServers: func(c *Client) []ICEServer {
			asked = append(asked, c.ID()+" "+c.Request().URL.Query().Get("version"))
			return servers(c)
		}})
		rec := watch(srv)
		r := serveBubbleRig(t, srv, nil)
		sender := r.dial("sender", "t")
		sender.want(iceText(1))
		sender.wantOpen()
		sender.offer("a", "1")
		synctest.Wait()
		conn, err := r.dialer(t.Context(), "tcp", "")
		require.NoError(t, err)
		defer conn.Close()
		p := &rawPeer{t: t, conn: conn}
		p.write([]byte(handshakeFor(socketTarget("a", "t") + "&version=1.5.5")))
		buf := make([]byte, 1<<16)
		_, err = conn.Read(buf) // the answer
		require.NoError(t, err)
		n, err := conn.Read(buf) // a pipe hands out what one write has brought
		require.NoError(t, err)
		require.Equal(t, string(textFrame([]byte(iceText(2))))+string(openFrame), string(buf[:n]))
		n, err = conn.Read(buf)
		require.NoError(t, err)
		require.Contains(t, string(buf[:n]), `"OFFER"`)
		require.Equal(t, []string{"sender 1.5.5", "a 1.5.5"}, asked)
		rec.want(t, "+sender", "+a")
	})
}

func TestTheServersAreSentAgainAtHalfOfTheirTime(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]Options{
		"with an alive timer":    {ICERefresh: 40 * time.Minute},
		"without":                {ICERefresh: 40 * time.Minute, AliveTimeout: -1},
		"by default every hour":  {},
		"less than a heartbeat":  {ICERefresh: 6 * time.Second},
		"a negative time: never": {ICERefresh: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts.ICEServers = countedServers()
				r := newBubbleRig(t, opts)
				p := r.rawOpen()
				p.upgrade("a")
				p.want(iceText(1))
				p.want(`{"type":"OPEN"}`)
				half := opts.withDefaults().ICERefresh / 2
				start, n := time.Now(), 1
				for time.Since(start) < 50*time.Minute {
					first, payload, err := p.readWithin(time.Second)
					switch {
					case err != nil: // nothing came
						p.tryWrite(rawTextFrame(`{"type":"HEARTBEAT"}`))
					case first == rawFin|rawText:
						n++
						require.Equal(t, iceText(n), string(payload))
						require.InDelta(t, time.Duration(n-1)*half, time.Since(start), float64(time.Millisecond))
					}
				}
				want := 1
				if half > 0 {
					want += int(50 * time.Minute / half)
				}
				require.InDelta(t, want, n, 1)
			})
		})
	}
}

func TestAClientNeedNoServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ICEServers: func(*Client) []ICEServer { return nil }})
		p := r.connect("a") // OPEN comes first
		time.Sleep(time.Second)
		require.Empty(t, p.frames)
	})
}

// A function that takes longer than the handshake may does not hold OPEN back.
func TestServersThatComeLateFollowOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{HandshakeTimeout: 2 * time.Second, ICEServers: func(c *Client) []ICEServer {
			time.Sleep(3 * time.Second)
			return countedServers()(c)
		}})
		start := time.Now()
		p := r.dial("a", "t")
		p.wantOpen()
		require.Equal(t, 2*time.Second, time.Since(start))
		p.want(iceText(1))
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestAPanicOfICEServersEndsThatClient(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late: ", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64 // for "a"
				r := newBubbleRig(t, Options{ICERefresh: 2 * time.Second, ICEServers: func(c *Client) []ICEServer {
					if c.ID() == "a" && (asked.Add(1) > 1 || !late) {
						panic("no servers")
					}
					return nil
				}})
				rec := watch(r.srv)
				r.connect("b")
				a := r.dial("a", "t")
				time.Sleep(1500 * time.Millisecond)
				a.wantOpen()
				require.Equal(t, 1011, a.wantEnd())
				rec.want(t, "+b", "+a", "! peer: panic in a function of the host: no servers", "-a internal error")
				require.NotNil(t, r.srv.Realm().Client("b"))
			})
		})
	}
}

func TestAServerIsMarshalledAsBrowsersWantIt(t *testing.T) {
	for want, s := range map[string]ICEServer{
		`{"urls":["stun:a:3478"]}`:                                      {URLs: []string{"stun:a:3478"}},
		`{"urls":["turn:a","turns:a"],"username":"u","credential":"c"}`: {URLs: []string{"turn:a", "turns:a"}, Username: "u", Credential: "c"},
	} {
		b, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
}

func TestCredentialsForATURNServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the time is that of a bubble
		secret := []byte("not so secret")
		username, credential := TURNCredentials(secret, "alice", time.Hour)
		require.Equal(t, "946688400:alice", username)
		require.Equal(t, "xgwQhi9wtiUBaX9LIXcnokx+DEI=", credential) // by openssl dgst -sha1 -hmac
		username, _ = TURNCredentials(secret, "a b", time.Hour)
		require.Equal(t, "946688400:~yGh6CKpdbtIEQyj6aml6uOltw0KR6MIDSujDjm_MbWU", username) // by openssl dgst -sha256
		_, other := TURNCredentials([]byte("another"), "alice", time.Hour)
		require.NotEqual(t, credential, other)

		longest := strings.Repeat("aZ09_-xy", 8)
		username, _ = TURNCredentials(secret, longest, time.Hour)
		require.Equal(t, "946688400:"+longest, username)
		for _, user := range []string{longest + "x", "", "a:b", "ä", strings.Repeat("x", 10000), "\xff"} {
			username, _ := TURNCredentials(secret, user, time.Hour)
			require.Regexp(t, `^946688400:~[A-Za-z0-9_-]{43}$`, username, "%.20q", user)
		}
	})
}

// The servers that a client reads are those of its own server.
func TestServersCannotBeForged(t *testing.T) {
	r := newRig(t, Options{RelayTypes: []MessageType{TypeICEServers}, HoldTypes: []MessageType{TypeICEServers}})
	a, b := r.connect("a"), r.connect("b")
	a.send(`{"type":"ICE-SERVERS","dst":"b","payload":{"iceServers":[]}}`)
	a.offer("b", "1")
	b.wantOffer("a", "1")
}

// A successor is not sent what was for its predecessor, but servers of its own.
func TestASuccessorIsAskedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ICEServers: countedServers(), AllowOverride: OverrideAlways})
		stuck := r.rawOpen()
		stuck.upgrade("a")
		synctest.Wait()
		p := r.dial("a", "another")
		p.want(iceText(2))
		p.wantOpen()
		require.Empty(t, p.frames)
		res, _ := r.get(http.MethodGet, "/peerjs/id")
		require.Equal(t, http.StatusOK, res.StatusCode)
	})
}
