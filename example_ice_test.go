//lint:file-ignore SA1019 See upgrade.go.

package peer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
	"nhooyr.io/websocket"
)

// The client reads the servers before OPEN, with credentials that are valid for an hour. Half an hour
// later it reads new ones.
func ExampleOptions_iceServers() {
	secret := []byte("the static-auth-secret of coturn")

	srv := peer.NewServer(peer.Options{
		ICEServers: func(c *peer.Client) []peer.ICEServer {
			username, credential := peer.TURNCredentials(secret, c.ID(), peer.DefaultICERefresh)
			return []peer.ICEServer{{
				URLs:       []string{"turn:turn.example.com:3478?transport=udp", "turn:turn.example.com:3478?transport=tcp"},
				Username:   username,
				Credential: credential,
			}}
		},
	})

	// The rest of this function is a test: it connects as PeerJS does.
	ts := httptest.NewServer(srv)
	defer ts.Close()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, ts.URL+"/peerjs?key=peerjs&id=alice&token=any", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ws.CloseNow()
	_, message, err := ws.Read(ctx)
	var m struct {
		Type    string
		Payload struct{ ICEServers []peer.ICEServer }
	}
	if err := json.Unmarshal(message, &m); err != nil {
		log.Fatal(err)
	}
	server := m.Payload.ICEServers[0]
	_, user, _ := strings.Cut(server.Username, ":")
	fmt.Println(m.Type, err)
	fmt.Println(server.URLs[0])
	fmt.Println("for", user, "with a credential:", server.Credential != "")
	_, message, err = ws.Read(ctx)
	fmt.Println(string(message), err)
	// Output:
	// ICE-SERVERS <nil>
	// turn:turn.example.com:3478?transport=udp
	// for alice with a credential: true
	// {"type":"OPEN"} <nil>
}

// A page that is logged in asks for its servers before it makes its peer. Nothing in the page
// depends on the messages of the server then.
func ExampleTURNCredentials() {
	secret := []byte("the static-auth-secret of coturn")
	var sessions sync.Map // the value of the cookie -> the name of the user; the application writes it at login

	mux := http.NewServeMux()
	mux.HandleFunc("GET /ice", func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("session")
		if err != nil {
			http.Error(w, "Please log in", http.StatusUnauthorized)
			return
		}
		user, found := sessions.Load(cookie.Value)
		if !found {
			http.Error(w, "Please log in", http.StatusUnauthorized)
			return
		}
		username, credential := peer.TURNCredentials(secret, user.(string), time.Hour)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store") // the credentials are the user's, and for an hour only
		json.NewEncoder(w).Encode(map[string]any{"iceServers": []peer.ICEServer{
			{URLs: []string{"turn:turn.example.com:3478"}, Username: username, Credential: credential},
		}})
	})

	// The rest of this function is a test: it asks as a page does.
	sessions.Store("s1", "alice")
	ts := httptest.NewServer(mux)
	defer ts.Close()
	for _, session := range []string{"s1", "s2"} {
		req, err := http.NewRequest(http.MethodGet, ts.URL+"/ice", nil)
		if err != nil {
			log.Fatal(err)
		}
		req.AddCookie(&http.Cookie{Name: "session", Value: session})
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		var config struct{ ICEServers []peer.ICEServer }
		if json.Unmarshal(body, &config) == nil {
			fmt.Println(res.StatusCode, config.ICEServers[0].URLs, err)
		} else {
			fmt.Println(res.StatusCode, strings.TrimSpace(string(body)), err)
		}
	}
	// Output:
	// 200 [turn:turn.example.com:3478] <nil>
	// 401 Please log in <nil>
}
