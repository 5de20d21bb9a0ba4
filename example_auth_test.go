//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
)

// The application signs a token for one id and a short time. The page gets it from the
// application and makes its peer with new Peer(id, {token}).
func ExampleOptions_signedToken() {
	secret := []byte("32 random bytes of your own")

	// sign returns body.signature. All characters of a token may stand in a URL as they are.
	sign := func(id, body string) string {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "peer token %q %q", body, id) // quoted: no two pairs have the same text
		return body + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	// newToken is what the application gives to a page whose user may have the id.
	newToken := func(id string, life time.Duration) string {
		return sign(id, fmt.Sprintf("%d.%s", time.Now().Add(life).Unix(), rand.Text()))
	}

	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			body := token[:max(0, strings.LastIndexByte(token, '.'))]
			if !hmac.Equal([]byte(token), []byte(sign(id, body))) {
				return nil, &peer.Reject{Message: "The token is not valid"}
			}
			until, _, _ := strings.Cut(body, ".")
			seconds, err := strconv.ParseInt(until, 10, 64)
			if err != nil || time.Now().Unix() >= seconds {
				return nil, &peer.Reject{Message: "The token has expired"}
			}
			return id, nil // what c.User() returns from now on
		},
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(id, token string) {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&version=1.5.5&id="+id+"&token="+token, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer ws.CloseNow()
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
	}
	token := newToken("alice", time.Minute)
	connect("alice", token)
	connect("bob", token)
	connect("alice", "guess")
	connect("alice", newToken("alice", -time.Minute))
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"ERROR","payload":{"msg":"The token is not valid"}} <nil>
	// {"type":"ERROR","payload":{"msg":"The token is not valid"}} <nil>
	// {"type":"ERROR","payload":{"msg":"The token has expired"}} <nil>
}

// The page sends its session cookie by itself. The page makes its peer with new Peer(id).
func ExampleOptions_sessionCookie() {
	var sessions sync.Map // the value of the cookie -> the name of the user; the application writes it at login

	srv := peer.NewServer(peer.Options{
		// Without this option, a page of any site can connect with the cookie of its visitor.
		AllowedOrigins: []string{"https://example.com"},
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			cookie, err := r.Cookie("session")
			if err != nil {
				return nil, &peer.Reject{Message: "Please log in"}
			}
			user, found := sessions.Load(cookie.Value)
			if !found || id != user {
				return nil, &peer.Reject{Message: "Please log in as the owner of this id"}
			}
			return user, nil
		},
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(id, session, origin string) {
		header := http.Header{"Origin": {origin}, "Cookie": {"session=" + session}}
		ws, res, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&version=1.5.5&id="+id+"&token=any",
			&websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			fmt.Println("status", res.StatusCode)
			return
		}
		defer ws.CloseNow()
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
	}
	sessions.Store("s1", "alice")
	connect("alice", "s1", "https://example.com")
	connect("bob", "s1", "https://example.com")
	connect("alice", "s2", "https://example.com")
	connect("alice", "s1", "https://evil.example")
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"ERROR","payload":{"msg":"Please log in as the owner of this id"}} <nil>
	// {"type":"ERROR","payload":{"msg":"Please log in as the owner of this id"}} <nil>
	// status 403
}

// A ticket is a random token that is good for one id. Its first use binds it to that id, so
// that peer.reconnect(), which sends the same token again, works until the user logs out.
func ExampleOptions_ticket() {
	type ticket struct {
		user    string
		id      string    // the id that the ticket is bound to; empty: the ticket is unused
		expires time.Time // of an unused ticket
	}
	var mu sync.Mutex                     // guards tickets
	tickets := make(map[[32]byte]*ticket) // hash of the token -> ticket

	// issue is what the application calls for a page whose user it knows.
	issue := func(user string, life time.Duration) (token string) {
		mu.Lock()
		defer mu.Unlock()
		for hash, t := range tickets {
			if t.id == "" && time.Now().After(t.expires) {
				delete(tickets, hash)
			}
		}
		token = rand.Text()
		tickets[sha256.Sum256([]byte(token))] = &ticket{user: user, expires: time.Now().Add(life)}
		return token
	}

	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			mu.Lock()
			defer mu.Unlock()
			t := tickets[sha256.Sum256([]byte(token))]
			if t == nil || t.id == "" && time.Now().After(t.expires) || t.id != "" && t.id != id {
				return nil, &peer.Reject{Message: "Please get a new ticket"}
			}
			t.id = id
			return t.user, nil
		},
	})
	// A user can log out between Authenticate and the moment at which the realm has the client.
	srv.OnConnection(func(c *peer.Client) {
		mu.Lock()
		_, valid := tickets[sha256.Sum256([]byte(c.Token()))]
		mu.Unlock()
		if !valid {
			c.Close()
		}
	})
	// logout is what the application calls when a session of the user ends.
	logout := func(user string) {
		mu.Lock()
		for hash, t := range tickets {
			if t.user == user {
				delete(tickets, hash)
			}
		}
		mu.Unlock()
		for c := range srv.Realm().Clients() {
			if c.User() == user {
				c.Close()
			}
		}
	}

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(id, token string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&version=1.5.5&id="+id+"&token="+token, nil)
		if err != nil {
			log.Fatal(err)
		}
		_, message, err := ws.Read(ctx)
		fmt.Println(id, "reads", string(message), err)
		return ws
	}
	wantClosed := func(ws *websocket.Conn) {
		_, _, err := ws.Read(ctx)
		var closed websocket.CloseError
		fmt.Println("closed:", errors.As(err, &closed), closed.Reason)
	}
	token := issue("Alice", time.Minute)
	first := connect("alice", token)
	second := connect("alice", token) // peer.reconnect(), before the server knows that the first socket is lost
	wantClosed(first)
	wantClosed(connect("mallory", token))
	wantClosed(connect("alice", issue("Alice", -time.Minute)))
	logout("Alice")
	wantClosed(second)
	wantClosed(connect("alice", token))
	// Output:
	// alice reads {"type":"OPEN"} <nil>
	// alice reads {"type":"OPEN"} <nil>
	// closed: true replaced by its own token
	// mallory reads {"type":"ERROR","payload":{"msg":"Please get a new ticket"}} <nil>
	// closed: true refused
	// alice reads {"type":"ERROR","payload":{"msg":"Please get a new ticket"}} <nil>
	// closed: true refused
	// closed: true removed
	// alice reads {"type":"ERROR","payload":{"msg":"Please get a new ticket"}} <nil>
	// closed: true refused
}

// Users call their friends only, and a user may move to another device.
func ExampleOptions_users() {
	users := map[string]string{"t1": "alice", "t2": "alice", "t3": "bob", "t4": "carol"} // token -> user
	friends := map[string]bool{"alice bob": true, "bob alice": true}

	srv := peer.NewServer(peer.Options{
		Authenticate: func(r *http.Request, id, token string) (user any, err error) {
			if name, found := users[token]; found && name == id {
				return name, nil
			}
			return nil, &peer.Reject{Message: "This id belongs to another user"}
		},
		AllowOverride: func(old, new *peer.Client) bool { return old.User() == new.User() },
		Authorize: func(from *peer.Client, m peer.Message) error {
			if !friends[from.ID()+" "+m.Dst] {
				return fmt.Errorf("%v may not call %q", from.User(), m.Dst)
			}
			return nil
		},
	})
	failed := make(chan error, 1)
	srv.OnError(func(c *peer.Client, err error) { failed <- err })

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	read := func(ws *websocket.Conn) {
		_, message, err := ws.Read(ctx)
		fmt.Println(string(message), err)
	}
	connect := func(id, token string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&version=1.5.5&id="+id+"&token="+token, nil)
		if err != nil {
			log.Fatal(err)
		}
		read(ws)
		return ws
	}
	phone, bob, carol := connect("alice", "t1"), connect("bob", "t3"), connect("carol", "t4")
	laptop := connect("alice", "t2")
	read(phone)
	callBob := func(ws *websocket.Conn) {
		if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"OFFER","dst":"bob"}`)); err != nil {
			log.Fatal(err)
		}
	}
	callBob(carol)
	read(carol)
	fmt.Println(<-failed)
	callBob(laptop)
	read(bob)
	// Output:
	// {"type":"OPEN"} <nil>
	// {"type":"OPEN"} <nil>
	// {"type":"OPEN"} <nil>
	// {"type":"OPEN"} <nil>
	// {"type":"OVERRIDE_CONNECTION","payload":{"msg":"Your id was taken over by another connection"}} <nil>
	// {"type":"EXPIRE","src":"bob","dst":"carol"} <nil>
	// calling Authorize: carol may not call "bob"
	// {"type":"OFFER","src":"alice","dst":"bob"} <nil>
}
