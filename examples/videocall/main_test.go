package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

var quiet = slog.New(slog.DiscardHandler)

func serve(t *testing.T, cfg config) (url string, srv *peer.Server) {
	site, srv := newSite(cfg, quiet)
	ts := httptest.NewServer(site)
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		ts.Close()
	})
	return ts.URL, srv
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// A guest is a page's socket.
type guest struct {
	t  *testing.T
	ws *websocket.Conn
}

func dial(t *testing.T, client *http.Client, url, id string) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url+"/peerjs/peerjs?key=peerjs&id="+id+"&token="+id, &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	g := &guest{t, ws}
	g.want(`{"type":"OPEN"}`)
	return g
}

func (g *guest) want(message string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), waitLimit)
	defer cancel()
	_, data, err := g.ws.Read(ctx)
	require.NoError(g.t, err, "want %s", message)
	require.JSONEq(g.t, message, string(data))
}

func (g *guest) join(room string) {
	g.t.Helper()
	require.NoError(g.t, g.ws.Write(g.t.Context(), websocket.MessageText, []byte(`{"type":"ROOM-JOIN","payload":{"room":"`+room+`"}}`)))
}

func TestTheFrontPageMakesARoom(t *testing.T) {
	url, _ := serve(t, config{})
	seen := map[string]bool{}
	for range 20 {
		res, body := get(t, url+"/")
		require.Equal(t, http.StatusOK, res.StatusCode)
		room := strings.TrimPrefix(res.Request.URL.Path, "/room/")
		require.Regexp(t, `^[a-z2-7]{3}-[a-z2-7]{4}-[a-z2-7]{3}$`, room)
		require.Regexp(t, roomName, room)
		require.Contains(t, body, "<h1>"+room+"</h1>")
		require.False(t, seen[room])
		seen[room] = true
	}
	for _, path := range []string{"/room/", "/room/No", "/room/a%20b", "/room/" + strings.Repeat("a", 65), "/peerjs.min.js"} {
		res, _ := get(t, url+path)
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
	}
}

func TestThePageRefersOnlyToWhatIsServed(t *testing.T) {
	url, _ := serve(t, config{script: []byte("// the client")})
	_, page := get(t, url+"/room/x")
	sources := regexp.MustCompile(`(?:src|href)="([^"#]*)`).FindAllStringSubmatch(page, -1)
	require.Greater(t, len(sources), 4)
	for _, s := range sources {
		require.True(t, strings.HasPrefix(s[1], "/"), s[1])
		res, _ := get(t, url+s[1])
		require.Equal(t, http.StatusOK, res.StatusCode, s[1])
	}
	_, script := get(t, url+"/peerjs.min.js")
	require.Equal(t, "// the client", script)
}

// The hash is that of the file in e2e/node_modules, where there is one.
func TestTheClientOfTheCDNIsPinned(t *testing.T) {
	url, _ := serve(t, config{})
	_, page := get(t, url+"/room/x")
	page = html.UnescapeString(page) // a + in an attribute is written &#43;
	require.Contains(t, page, `<script defer src="`+cdn+`" integrity="`+cdnIntegrity+`" crossorigin="anonymous">`)
	b, err := os.ReadFile(filepath.FromSlash("../../e2e/node_modules/peerjs/dist/peerjs.min.js"))
	if err != nil {
		t.Skip("there is no other copy to compare with")
	}
	sum := sha512.Sum384(b)
	require.Equal(t, cdnIntegrity, "sha384-"+base64.StdEncoding.EncodeToString(sum[:]))
}

func TestICEServersReachThePage(t *testing.T) {
	configs := regexp.MustCompile(`<script id="config" type="application/json">(.*)</script>`)
	for _, ice := range []string{
		``,
		`[]`,
		`[{"urls":"turn:example.com","username":"</script>","credential":"c"}]`,
		`[{"urls":["stun:a","stun:b"]}]`,
	} {
		cfg, err := newConfig("", ice)
		require.NoError(t, err)
		url, _ := serve(t, cfg)
		_, page := get(t, url+"/room/x")
		found := configs.FindStringSubmatch(page)
		require.NotNil(t, found, page)
		require.JSONEq(t, `{"room":"x","ice":`+cmp.Or(ice, "null")+`}`, found[1])
	}
	for _, ice := range []string{`x`, `{}`, `[{}]`, `[1]`} {
		_, err := newConfig("", ice)
		require.ErrorContains(t, err, "-ice", ice)
	}
}

func TestWhoIsInTheRoomIsTold(t *testing.T) {
	url, srv := serve(t, config{})
	ada, grace := dial(t, nil, url, "ada"), dial(t, nil, url, "grace")
	ada.join("No room")
	ada.want(`{"type":"ROOM-REFUSED","payload":{"room":"No room","msg":"This is not the name of a room"}}`)
	ada.join("x")
	ada.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["ada"]}}`)
	grace.join("x")
	grace.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["ada","grace"]}}`)
	ada.want(`{"type":"ROOM-JOINED","payload":{"room":"x","id":"grace"}}`)
	grace.ws.CloseNow()
	ada.want(`{"type":"ROOM-LEFT","payload":{"room":"x","id":"grace","reason":"connection lost"}}`)

	for i := range maxMembers - 1 {
		dial(t, nil, url, string(rune('a'+i))).join("x")
		ada.want(`{"type":"ROOM-JOINED","payload":{"room":"x","id":"` + string(rune('a'+i)) + `"}}`)
	}
	late := dial(t, nil, url, "late")
	late.join("x")
	_, refusal, err := late.ws.Read(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(refusal), "ROOM-REFUSED")
	require.Len(t, srv.Realm().Members("x"), maxMembers)
}

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	for _, secure := range []bool{false, true} {
		log := make(lines, 100)
		ctx, quit := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx, "127.0.0.1:0", "", "", secure, slog.New(slog.NewTextHandler(log, nil))) }()
		url := regexp.MustCompile(`https?://127\.0\.0\.1:[1-9][0-9]*`).FindString(<-log)
		require.Equal(t, secure, strings.HasPrefix(url, "https:"), url)
		res, err := insecure.Get(url + "/room/x")
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
		ada := dial(t, insecure, url, "ada")
		quit()
		_, _, err = ada.ws.Read(t.Context())
		require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), err)
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(waitLimit):
			t.Fatal("the program did not end")
		}
	}
	require.Error(t, run(t.Context(), "127.0.0.1:-1", "", "", false, quiet))
	require.Error(t, run(t.Context(), "127.0.0.1:0", "no such file", "", false, quiet))
	require.Error(t, run(t.Context(), "127.0.0.1:0", "", "{", false, quiet))
}
