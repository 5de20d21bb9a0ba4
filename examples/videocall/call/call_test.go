package call

import (
	"encoding/json"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/peertest"
)

// A rig is a call in memory.
type rig struct {
	*peertest.Host
	t    *testing.T
	call *Call
}

func serve(t *testing.T, opts Options) *rig {
	c := New(opts)
	t.Cleanup(func() { require.NoError(t, c.Server().Close()) })
	return &rig{t: t, call: c, Host: peertest.New(t, c, "/peerjs")}
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
func join(c *peertest.Client, room, name string) {
	c.Send(peer.TypeRoomJoin, "", map[string]any{"room": room, "data": map[string]string{"name": name}})
}

// want wants this message of the server next.
func want(t *testing.T, c *peertest.Client, kind peer.MessageType, payload string) {
	t.Helper()
	m := c.Expect(kind)
	require.Empty(t, m.Src+m.Dst)
	require.JSONEq(t, payload, string(m.Payload))
}

func TestTheFrontPageMakesARoom(t *testing.T) {
	r := serve(t, Options{})
	seen := map[string]bool{}
	for range 20 {
		res, body := r.get("/")
		require.Equal(t, http.StatusOK, res.StatusCode)
		room := strings.TrimPrefix(res.Request.URL.Path, "/room/")
		require.Regexp(t, `^[a-z2-7]{3}-[a-z2-7]{4}-[a-z2-7]{3}$`, room)
		require.Contains(t, body, "<h1>"+room+"</h1>")
		require.False(t, seen[room])
		seen[room] = true
	}
}

// config returns what the scripts of the page for a room read.
func (r *rig) config(room string) string {
	r.t.Helper()
	res, page := r.get("/room/" + url.PathEscape(room))
	require.Equal(r.t, http.StatusOK, res.StatusCode, room)
	require.Contains(r.t, html.UnescapeString(page), "<h1>"+room+"</h1>")
	found := regexp.MustCompile(`<script id="config" type="application/json">(.*)</script>`).FindStringSubmatch(page)
	require.NotNil(r.t, found, page)
	return found[1]
}

func TestTheNameOfARoomMayBeAnyText(t *testing.T) {
	r := serve(t, Options{})
	for _, room := range []string{"x", "Team Grün/Ältere", "</script><b>", "?#%", "日本語", strings.Repeat("a", 1024)} {
		name, err := json.Marshal(room)
		require.NoError(t, err)
		require.JSONEq(t, `{"room":`+string(name)+`,"ownServers":false}`, r.config(room))
		c := r.Dial("ada-" + url.PathEscape(room[:1]) + string(rune('0'+len(room)%10)))
		join(c, room, "Ada")
		c.Expect(peer.TypeRoomMembers)
	}
}

func TestAWrongAddressHasAPage(t *testing.T) {
	r := serve(t, Options{})
	for address, why := range map[string]string{
		"/nothing":                           "leads to no call",
		"/room":                              "is missing",
		"/room/":                             "is missing",
		"/room/" + strings.Repeat("a", 1025): "too long",
		"/room/a%0ab":                        "cannot be shown",
		"/room/%ff":                          "cannot be shown",
	} {
		res, body := r.get(address)
		require.Equal(t, http.StatusNotFound, res.StatusCode, address)
		require.Contains(t, body, "There is no call here")
		require.Contains(t, body, why, address)
	}
}

func TestThePagesReferOnlyToWhatIsServed(t *testing.T) {
	r := serve(t, Options{})
	var texts []string
	for _, address := range []string{"/room/x", "/nothing", "/web/help.html"} {
		_, body := r.get(address)
		texts = append(texts, body)
	}
	names, err := fs.Glob(files, "web/*.js")
	require.NoError(t, err)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		b, err := files.ReadFile(name)
		require.NoError(t, err)
		lines := strings.Count(string(b), "\n")
		assert.LessOrEqual(t, lines, 150, "%s is longer than a reader likes", name)
		for _, m := range regexp.MustCompile(`from "([^"]+)"`).FindAllStringSubmatch(string(b), -1) {
			from := m[1]
			if strings.HasPrefix(from, "./") {
				from = path.Join("/web", from)
			}
			texts = append(texts, `src="`+from+`"`)
		}
	}
	found := regexp.MustCompile(`(?:src|href)="([^"#]+)`).FindAllStringSubmatch(strings.Join(texts, "\n"), -1)
	require.Greater(t, len(found), 30)
	for _, m := range found {
		require.True(t, strings.HasPrefix(m[1], "/"), "%s is on another host", m[1])
		res, _ := r.get(m[1])
		require.Equal(t, http.StatusOK, res.StatusCode, m[1])
	}
}

func TestWhoIsInTheRoomIsTold(t *testing.T) {
	r := serve(t, Options{MaxMembers: 4})
	ada, grace := r.Dial("ada"), r.Dial("grace")
	join(ada, "x", "Ada")
	want(t, ada, peer.TypeRoomMembers, `{"room":"x","members":["ada"],"data":{"ada":{"name":"Ada"}}}`)
	join(grace, "x", "Grace")
	want(t, ada, peer.TypeRoomJoined, `{"room":"x","id":"grace","data":{"name":"Grace"}}`)
	grace.Vanish()
	want(t, ada, peer.TypeRoomLeft, `{"room":"x","id":"grace","reason":"connection lost"}`)
	for _, id := range []string{"b", "c", "d"} {
		join(r.Dial(id), "x", id)
		want(t, ada, peer.TypeRoomJoined, `{"room":"x","id":"`+id+`","data":{"name":"`+id+`"}}`)
	}
	late := r.Dial("late")
	join(late, "x", "Late")
	want(t, late, peer.TypeRoomRefused, `{"room":"x","msg":"room is full"}`)
}

func TestACallHasRoomForTwelve(t *testing.T) {
	r := serve(t, Options{})
	for i := range DefaultMaxMembers {
		c := r.Dial(string(rune('a' + i)))
		join(c, "x", "")
		c.Expect(peer.TypeRoomMembers)
	}
	late := r.Dial("late")
	join(late, "x", "")
	late.Expect(peer.TypeRoomRefused)
}

func TestPagesGetTheServersOfTheOptions(t *testing.T) {
	r := serve(t, Options{ICEServers: func(c *peer.Client) []peer.ICEServer {
		return []peer.ICEServer{{URLs: []string{"turn:example.com"}, Username: c.ID()}}
	}})
	require.JSONEq(t, `{"room":"x","ownServers":true}`, r.config("x"))
	client := &http.Client{Transport: r.HTTPClient().Transport}
	ada, _, err := websocket.Dial(t.Context(), r.URL+"/peerjs/peerjs?key=peerjs&id=ada&token=1",
		&websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	defer ada.CloseNow()
	_, first, err := ada.Read(t.Context())
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"ICE-SERVERS","payload":{"iceServers":[{"urls":["turn:example.com"],"username":"ada"}]}}`,
		string(first))
}

func TestPagesAreToldThatTheServerEnds(t *testing.T) {
	r := serve(t, Options{})
	ada := r.Dial("ada")
	join(ada, "x", "Ada")
	ada.Expect(peer.TypeRoomMembers)
	require.NoError(t, r.call.Shutdown(t.Context()))
	want(t, ada, peer.TypeError, `{"msg":"`+endText+`"}`)
	code, text := ada.ExpectClosed()
	require.Equal(t, endCode, code)
	require.Equal(t, endText, text)
}
