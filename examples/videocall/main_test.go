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
	"github.com/gopeerjs/peer/peertest"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// A rig is the site in memory.
type rig struct {
	*peertest.Host
	t   *testing.T
	srv *peer.Server
}

func serve(t *testing.T, cfg config) *rig {
	site, srv := newSite(cfg, quiet)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return &rig{t: t, srv: srv, Host: peertest.New(t, site, "/peerjs")}
}

func (r *rig) get(path string) (*http.Response, string) {
	r.t.Helper()
	res, err := r.HTTPClient().Get(r.URL + path)
	require.NoError(r.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	return res, string(body)
}

// join asks for a room, as a page does.
func join(c *peertest.Client, room string) {
	c.Send(peer.TypeRoomJoin, "", map[string]string{"room": room})
}

// want wants this message of the server next.
func want(t *testing.T, c *peertest.Client, kind peer.MessageType, payload string) {
	t.Helper()
	m := c.Expect(kind)
	require.Empty(t, m.Src+m.Dst)
	require.JSONEq(t, payload, string(m.Payload))
}

func TestTheFrontPageMakesARoom(t *testing.T) {
	r := serve(t, config{})
	seen := map[string]bool{}
	for range 20 {
		res, body := r.get("/")
		require.Equal(t, http.StatusOK, res.StatusCode)
		room := strings.TrimPrefix(res.Request.URL.Path, "/room/")
		require.Regexp(t, `^[a-z2-7]{3}-[a-z2-7]{4}-[a-z2-7]{3}$`, room)
		require.Regexp(t, roomName, room)
		require.Contains(t, body, "<h1>"+room+"</h1>")
		require.False(t, seen[room])
		seen[room] = true
	}
	for _, path := range []string{"/room/", "/room/No", "/room/a%20b", "/room/" + strings.Repeat("a", 65), "/peerjs.min.js"} {
		res, _ := r.get(path)
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
	}
}

func TestThePageRefersOnlyToWhatIsServed(t *testing.T) {
	r := serve(t, config{script: []byte("// the client")})
	_, page := r.get("/room/x")
	sources := regexp.MustCompile(`(?:src|href)="([^"#]*)`).FindAllStringSubmatch(page, -1)
	require.Greater(t, len(sources), 4)
	for _, s := range sources {
		require.True(t, strings.HasPrefix(s[1], "/"), s[1])
		res, _ := r.get(s[1])
		require.Equal(t, http.StatusOK, res.StatusCode, s[1])
	}
	_, script := r.get("/peerjs.min.js")
	require.Equal(t, "// the client", script)
}

// The hash is that of the file in e2e/node_modules, where there is one.
func TestTheClientOfTheCDNIsPinned(t *testing.T) {
	r := serve(t, config{})
	_, page := r.get("/room/x")
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
		r := serve(t, cfg)
		_, page := r.get("/room/x")
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
	r := serve(t, config{})
	ada, grace := r.Dial("ada"), r.Dial("grace")
	join(ada, "No room")
	want(t, ada, peer.TypeRoomRefused, `{"room":"No room","msg":"This is not the name of a room"}`)
	join(ada, "x")
	want(t, ada, peer.TypeRoomMembers, `{"room":"x","members":["ada"]}`)
	join(grace, "x")
	want(t, grace, peer.TypeRoomMembers, `{"room":"x","members":["ada","grace"]}`)
	want(t, ada, peer.TypeRoomJoined, `{"room":"x","id":"grace"}`)
	grace.Vanish()
	want(t, ada, peer.TypeRoomLeft, `{"room":"x","id":"grace","reason":"connection lost"}`)

	for i := range maxMembers - 1 {
		id := string(rune('a' + i))
		join(r.Dial(id), "x")
		want(t, ada, peer.TypeRoomJoined, `{"room":"x","id":"`+id+`"}`)
	}
	late := r.Dial("late")
	join(late, "x")
	late.Expect(peer.TypeRoomRefused)
	require.Len(t, r.srv.Realm().Members("x"), maxMembers)
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
		limited, cancel := context.WithTimeout(t.Context(), waitLimit)
		defer cancel()
		ada, _, err := websocket.Dial(limited, url+"/peerjs/peerjs?key=peerjs&id=ada&token=1", &websocket.DialOptions{HTTPClient: insecure})
		require.NoError(t, err)
		defer ada.CloseNow()
		_, data, err := ada.Read(limited)
		require.NoError(t, err)
		require.JSONEq(t, `{"type":"OPEN"}`, string(data))
		quit()
		_, _, err = ada.Read(limited)
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
