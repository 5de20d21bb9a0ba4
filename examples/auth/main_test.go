package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

var quiet = slog.New(slog.DiscardHandler)

func newSite(t testing.TB) *site {
	k, err := newKey("")
	require.NoError(t, err)
	return &site{key: k}
}

// A rig is the application in memory.
type rig struct {
	t testing.TB
	*site
	*peertest.Host
	srv *peer.Server
}

func newRig(t testing.TB) *rig {
	s := newSite(t)
	h, srv := s.handler(quiet)
	return serve(t, s, h, srv)
}

func serve(t testing.TB, s *site, h http.Handler, srv *peer.Server) *rig {
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return &rig{t: t, site: s, srv: srv, Host: peertest.New(t, h, "/peerjs")}
}

// newToken is a token as a page gets it.
func (r *rig) newToken(user, room string) string {
	r.t.Helper()
	_, token := askToken(r.t, r.site, user, room)
	return token
}

// askToken logs in and asks for a token.
func askToken(t testing.TB, s *site, user, room string) (id, token string) {
	t.Helper()
	res := login(s, user, passwords[user], room)
	require.Equal(t, http.StatusNoContent, res.Code, res.Body)
	res = post(s.token, "", res.Result().Cookies()...)
	require.Equal(t, http.StatusOK, res.Code, res.Body)
	var got struct{ ID, Token string }
	require.NoError(t, json.Unmarshal(res.Body.Bytes(), &got))
	return got.ID, got.Token
}

func login(s *site, user, password, room string) *httptest.ResponseRecorder {
	return post(s.login, url.Values{"user": {user}, "password": {password}, "room": {room}}.Encode())
}

func post(h http.HandlerFunc, body string, cookies ...*http.Cookie) *httptest.ResponseRecorder {
	req := httptest.NewRequest("POST", "/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, c := range cookies {
		req.AddCookie(c)
	}
	res := httptest.NewRecorder()
	h(res, req)
	return res
}

// online connects a user in a room with a new token.
func (r *rig) online(user, room string) *peertest.Client {
	r.t.Helper()
	return r.Dial(user+"-"+room, peertest.Token(r.newToken(user, room)))
}

// wantRefused wants a client with this id and token to be refused on its socket.
func (r *rig) wantRefused(id, token string, kind peer.MessageType, text string) {
	r.t.Helper()
	want := peertest.Refusal{Status: http.StatusSwitchingProtocols, Type: kind, Text: text, Code: int(websocket.StatusPolicyViolation)}
	require.Equal(r.t, want, r.DialRefused(id, peertest.Token(token)))
}

// wantMessage wants this message next, with a payload that is JSON.
func wantMessage(t testing.TB, c *peertest.Client, kind peer.MessageType, src, payload string) {
	t.Helper()
	m := c.Expect(kind)
	require.Equal(t, src, m.Src)
	require.Equal(t, c.ID(), m.Dst)
	require.JSONEq(t, payload, string(m.Payload))
}

// wantOverridden wants the id to go to another device.
func wantOverridden(t testing.TB, c *peertest.Client) {
	t.Helper()
	require.JSONEq(t, `{"msg":"Your id was taken over by another connection"}`, string(c.Expect(peer.TypeOverride).Payload))
	code, _ := c.ExpectClosed()
	require.Equal(t, peer.CloseOverridden, code)
}

// wantRead wants the server to have read everything that alice-blue has sent, and to have
// nothing for her but the message that she now sends to herself.
func wantRead(t testing.TB, alice *peertest.Client) {
	t.Helper()
	alice.Send("CHAT", "alice-blue", "me")
	wantMessage(t, alice, "CHAT", "alice-blue", `"me"`)
}

func TestWhoIsTurnedAwayReadsWhy(t *testing.T) {
	r := newRig(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	alice := ticket{User: "alice", Room: "blue", Nonce: "1", Expires: soon}
	good := r.key.sign(useToken, alice)
	body, mac, _ := strings.Cut(good, ".")
	expired := alice
	expired.Expires = past

	for name, tc := range map[string]struct{ token, want string }{
		"made by the client":       {"k3j5h2k3j5h", "Your token is not valid"},
		"signed with another key":  {newSite(t).key.sign(useToken, alice), "Your token is not valid"},
		"not signed":               {body + ".", "Your token is not valid"},
		"signed in part":           {good[:len(good)-1], "Your token is not valid"},
		"signed and more":          {good + "A", "Your token is not valid"},
		"signed for somebody else": {base64.RawURLEncoding.EncodeToString([]byte(`{"User":"alice"}`)) + "." + mac, "Your token is not valid"},
		"signed but no ticket":     {"bm8." + r.key.mac(useToken, "bm8"), "Your token is not valid"},
		"signed but no base64":     {"!." + r.key.mac(useToken, "!"), "Your token is not valid"},
		"a session":                {r.key.sign(useSession, alice), "Your token is not valid"},
		"expired":                  {r.key.sign(useToken, expired), "Your token has expired"},
		"another user's":           {r.newToken("bob", "blue"), `Your token is for the id "bob-blue"`},
		"for another room":         {r.newToken("alice", "green"), `Your token is for the id "alice-green"`},
	} {
		t.Run(name, func(t *testing.T) {
			r.wantRefused("alice-blue", tc.token, peer.TypeError, tc.want)
			require.Zero(t, r.srv.Realm().Len())
		})
	}

	r.Dial("alice-blue", peertest.Token(good))
}

// Every bit of a token counts, so there is no second way to write the same one.
func TestATamperedTokenIsRefused(t *testing.T) {
	s := newSite(t)
	_, token := askToken(t, s, "alice", "blue")
	for i := range token {
		for _, flip := range []byte{1, 2, 4, 8, 16, 32} {
			tampered := []byte(token)
			tampered[i] ^= flip
			_, err := s.authenticate(nil, "alice-blue", string(tampered))
			require.Error(t, err, "%s", tampered)
		}
	}
}

func TestTokensAndSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		session := login(s, "alice", "wonderland", "blue").Result().Cookies()
		for range 3 {
			_, token := askToken(t, s, "alice", "blue")
			time.Sleep(tokenLife - 1)
			user, err := s.authenticate(nil, "alice-blue", token)
			require.NoError(t, err)
			require.Equal(t, "alice", user.(ticket).User)
			time.Sleep(time.Nanosecond)
			_, err = s.authenticate(nil, "alice-blue", token)
			require.ErrorContains(t, err, "Your token has expired")
		}
		time.Sleep(sessionLife - 3*tokenLife - 1)
		require.Equal(t, http.StatusOK, post(s.token, "", session...).Code)
		time.Sleep(time.Nanosecond)
		res := post(s.token, "", session...)
		require.Equal(t, http.StatusUnauthorized, res.Code)
		require.Equal(t, "Your session has expired\n", res.Body.String())
	})
}

func TestTokensFitIntoAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where time stands still, and tells no two tokens apart
		s := newSite(t)
		seen := map[string]bool{}
		for user := range passwords {
			for _, room := range []string{"blue", strings.Repeat("z", 32)} {
				for range 2 {
					id, token := askToken(t, s, user, room)
					require.Equal(t, user+"-"+room, id)
					require.True(t, peer.StrictID(id), "the client of PeerJS refuses the id %s", id)
					require.Equal(t, token, url.QueryEscape(token), "the client of PeerJS does not escape it")
					require.Less(t, len(token), 1024)
					require.False(t, seen[token], "two pages have the same token")
					seen[token] = true
				}
			}
		}
	})
}

func TestASecondDeviceOfAUserTakesTheIDOver(t *testing.T) {
	r := newRig(t)
	phoneToken := r.newToken("alice", "blue")
	phone := r.Dial("alice-blue", peertest.Token(phoneToken))
	laptop := r.online("alice", "blue")
	wantOverridden(t, phone)

	// The phone may reconnect as often as it likes.
	for range 3 {
		r.wantRefused("alice-blue", phoneToken, peer.TypeIDTaken, "ID is taken")
	}
	// Bob cannot, with no token that he can get.
	for _, room := range []string{"blue", "green"} {
		r.wantRefused("alice-blue", r.newToken("bob", room), peer.TypeError, `Your token is for the id "bob-`+room+`"`)
	}
	wantRead(t, laptop)

	// With a new token it is a new device.
	r.online("alice", "blue")
	wantOverridden(t, laptop)
}

func TestAUserOnlineInTwoRoomsIsTwoPeers(t *testing.T) {
	r := newRig(t)
	r.online("alice", "blue")
	r.online("alice", "green")
	require.Equal(t, []string{"alice-blue", "alice-green"}, r.srv.Realm().ClientIDs())
}

// Even where authenticate lets several users have an id, it does not pass between them.
func TestNobodyOverridesAnotherUser(t *testing.T) {
	srv := peer.NewServer(peer.Options{
		AllowOverride: sameUser,
		Authenticate: func(_ *http.Request, _, token string) (any, error) {
			user, _, _ := strings.Cut(token, ".")
			return ticket{User: user}, nil
		},
	})
	r := serve(t, nil, http.StripPrefix("/peerjs", srv), srv)
	r.Dial("reception", peertest.Token("alice.1"))
	r.wantRefused("reception", "bob.1", peer.TypeIDTaken, "ID is taken")
	r.Dial("reception", peertest.Token("alice.2"))
}

func TestMessagesStayInTheirRoom(t *testing.T) {
	r := newRig(t)
	alice, bob, carol := r.online("alice", "blue"), r.online("bob", "blue"), r.online("carol", "green")

	alice.Send(peer.TypeOffer, "bob-blue", 1)
	wantMessage(t, bob, peer.TypeOffer, "alice-blue", `1`)
	bob.Send("CHAT", "alice-blue", "hello")
	wantMessage(t, alice, "CHAT", "bob-blue", `"hello"`)

	// An offer to somebody who is absent waits some seconds for its EXPIRE. One that may
	// not go there gets it at once, and so before that: online, absent or no id at all.
	alice.Send(peer.TypeOffer, "alice2-blue", nil)
	for _, dst := range []string{"carol-green", "bob-green", "blue", "-green", "bob-blue-x", "nobody"} {
		alice.Send(peer.TypeOffer, dst, 2)
		require.Equal(t, peer.Message{Type: peer.TypeExpire, Src: dst, Dst: "alice-blue"}, alice.Expect(peer.TypeExpire))
	}
	for _, kind := range []peer.MessageType{peer.TypeAnswer, peer.TypeCandidate, peer.TypeLeave, peer.TypeExpire, "CHAT"} {
		alice.Send(kind, "carol-green", 3)
		alice.Send(kind, "bob-green", 3)
	}
	wantRead(t, alice)

	// The first that anybody in green gets is from green, also who came later.
	late := r.online("bob", "green")
	carol.Send("CHAT", "bob-green", 4)
	wantMessage(t, late, "CHAT", "carol-green", `4`)
	late.Send("CHAT", "carol-green", 5)
	wantMessage(t, carol, "CHAT", "bob-green", `5`)
}

func TestAnOfferWaitsForAPeerOfTheRoom(t *testing.T) {
	r := newRig(t)
	alice := r.online("alice", "blue")
	alice.Send(peer.TypeOffer, "bob-blue", 1)
	wantRead(t, alice)
	wantMessage(t, r.online("bob", "blue"), peer.TypeOffer, "alice-blue", `1`)
}

func TestOnlyUsersComeIn(t *testing.T) {
	s := newSite(t)
	for name, tc := range map[string]struct {
		user, password, room string
		want                 int
	}{
		"as they should":    {"alice", "wonderland", "blue", http.StatusNoContent},
		"wrong password":    {"alice", "builder", "blue", http.StatusUnauthorized},
		"longer password":   {"alice", "wonderlands", "blue", http.StatusUnauthorized},
		"shorter password":  {"alice", "wonder", "blue", http.StatusUnauthorized},
		"no password":       {"alice", "", "blue", http.StatusUnauthorized},
		"unknown user":      {"mallory", "wonderland", "blue", http.StatusUnauthorized},
		"unknown, no words": {"mallory", "", "blue", http.StatusUnauthorized},
		"nobody":            {"", "", "blue", http.StatusUnauthorized},
		"no room":           {"alice", "wonderland", "", http.StatusBadRequest},
		"a room with dash":  {"alice", "wonderland", "blue-green", http.StatusBadRequest},
		"a room of two":     {"alice", "wonderland", "blue\n", http.StatusBadRequest},
		"a long room":       {"alice", "wonderland", strings.Repeat("z", 33), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			res := login(s, tc.user, tc.password, tc.room)
			require.Equal(t, tc.want, res.Code)
			require.Equal(t, tc.want == http.StatusNoContent, len(res.Result().Cookies()) == 1)
		})
	}
}

func TestASessionIsOutOfReachForScriptsAndOtherSites(t *testing.T) {
	s := newSite(t)
	cookie := login(s, "alice", "wonderland", "blue").Result().Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.Equal(t, http.StatusOK, post(s.token, "", cookie).Code)

	require.Equal(t, http.StatusUnauthorized, post(s.token, "").Code)
	_, token := askToken(t, s, "alice", "blue")
	for _, value := range []string{"alice", "", token, newSite(t).key.sign(useSession, ticket{User: "alice", Expires: time.Now().Add(time.Hour)})} {
		res := post(s.token, "", &http.Cookie{Name: "session", Value: value})
		require.Equal(t, http.StatusUnauthorized, res.Code, value)
		require.Equal(t, "Your session is not valid\n", res.Body.String())
	}

	h, srv := s.handler(quiet)
	defer srv.Close()
	for origin, want := range map[string]int{
		"http://example.com":  http.StatusOK, // the host of httptest's requests
		"http://evil.example": http.StatusForbidden,
	} {
		req := httptest.NewRequest("POST", "/token", nil)
		req.Header.Set("Origin", origin)
		req.AddCookie(cookie)
		res := httptest.NewRecorder()
		h.ServeHTTP(res, req)
		require.Equal(t, want, res.Code, origin)
	}
}

func TestAKeyOfItsOwnOutlivesTheProgram(t *testing.T) {
	sign := func(given string) string {
		k, err := newKey(given)
		require.NoError(t, err)
		return k.sign(useToken, ticket{User: "alice"})
	}
	given := strings.Repeat("0123456789abcdef", 2)
	require.Equal(t, sign(given), sign(given))
	require.NotEqual(t, sign(""), sign(""))
	_, err := newKey(given[1:])
	require.ErrorContains(t, err, "AUTH_KEY must have at least 32 bytes")
}

func TestAPageJoinsTheRoomOfItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		alice, bob := r.online("alice", "blue"), r.online("bob", "blue")
		join := func(c *peertest.Client, room string, kind peer.MessageType, answer string) {
			t.Helper()
			c.Send(peer.TypeRoomJoin, "", map[string]string{"room": room})
			require.JSONEq(t, answer, string(c.Expect(kind).Payload))
		}
		join(alice, "blue", peer.TypeRoomMembers, `{"room":"blue","members":["alice-blue"]}`)
		join(bob, "blue", peer.TypeRoomMembers, `{"room":"blue","members":["alice-blue","bob-blue"]}`)
		require.JSONEq(t, `{"room":"blue","id":"bob-blue"}`, string(alice.Expect(peer.TypeRoomJoined).Payload))
		join(bob, "red", peer.TypeRoomRefused, `{"room":"red","msg":"Your room is \"blue\""}`)
	})
}

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	key := strings.Repeat("k", 32)
	ctx, quit := context.WithCancel(t.Context())
	log, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, "127.0.0.1:0", key, slog.New(slog.NewTextHandler(out, nil)))
		out.Close()
	}()
	line := make([]byte, 1000)
	n, err := log.Read(line)
	require.NoError(t, err)
	found := regexp.MustCompile(`msg=listening url=(http://127\.0\.0\.1:[1-9][0-9]*)/\n`).FindSubmatch(line[:n])
	require.NotNil(t, found, "%s", line[:n])
	go io.Copy(io.Discard, log)

	address := string(found[1])
	for path, want := range map[string]string{
		"/": "<title>auth</title>", "/peerjs/": "PeerJS", "/look.css": ":root",
		"/peerjs/web/peerjs.min.js": "window.Peer=", "/peerjs/web/rooms.mjs": "export function join",
	} {
		res, err := http.Get(address + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		require.NoError(t, err)
		require.Contains(t, string(body), want)
	}
	_, token := askToken(t, &site{key: []byte(key)}, "alice", "blue")
	limited, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	alice, _, err := websocket.Dial(limited, address+"/peerjs/peerjs?key=peerjs&id=alice-blue&token="+token, nil)
	require.NoError(t, err)
	defer alice.CloseNow()
	_, data, err := alice.Read(limited)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"OPEN"}`, string(data))
	quit()
	_, _, err = alice.Read(limited)
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), err)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}

	require.Error(t, run(t.Context(), "127.0.0.1:0", "short", quiet))
	require.Error(t, run(t.Context(), "127.0.0.1:-1", key, quiet))
}
