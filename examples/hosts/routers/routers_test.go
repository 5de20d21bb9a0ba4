package routers

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go of the root module
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// newServer returns a server, and a channel that is told of each client that leaves.
func newServer(t *testing.T) (*peer.Server, chan string) {
	srv, left := peer.NewServer(peer.Options{}), make(chan string, 10)
	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { left <- c.ID() + ": " + why.String() })
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv, left
}

// dial opens a socket as a browser does, which would take compressed answers.
func dial(t *testing.T, url, id, token string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url+"/peerjs/peerjs?key=peerjs&id="+id+"&token="+token, &websocket.DialOptions{
		HTTPHeader: http.Header{"Accept-Encoding": {"gzip, deflate, br"}, "Origin": {url}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	want(t, ws, `{"type":"OPEN"}`)
	return ws
}

func want(t *testing.T, ws *websocket.Conn, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, data, err := ws.Read(ctx)
	require.NoError(t, err)
	require.JSONEq(t, message, string(data))
}

// wantIntroduced wants an id, an offer between two peers, and that both are seen to go.
func wantIntroduced(t *testing.T, url string, left chan string) {
	t.Helper()
	res, err := http.Get(url + "/peerjs/peerjs/id")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Len(t, body, 36)
	alice := dial(t, url, "alice", "1")
	bob := dial(t, url, string(body), strings.Repeat("%2B", peer.DefaultMaxTokenBytes))
	require.NoError(t, alice.Write(t.Context(), websocket.MessageText, []byte(`{"type":"OFFER","dst":"`+string(body)+`","payload":7}`)))
	want(t, bob, `{"type":"OFFER","src":"alice","dst":"`+string(body)+`","payload":7}`)
	require.NoError(t, alice.Close(websocket.StatusNormalClosure, ""))
	require.Equal(t, "alice: client closed", next(t, left))
	bob.CloseNow()
	require.Equal(t, string(body)+": connection lost", next(t, left))
}

func next(t *testing.T, left chan string) string {
	t.Helper()
	select {
	case who := <-left:
		return who
	case <-time.After(waitLimit):
		t.Fatal("nobody left")
		return ""
	}
}

func TestTheServerWorksInEachRouter(t *testing.T) {
	for name, mount := range map[string]func(*peer.Server) http.Handler{
		"chi": inChi, "gin": inGin, "echo": inEcho, "gorilla/mux": inGorilla,
		"net/http": func(srv *peer.Server) http.Handler { return outsideOfATimeout(srv, http.NotFoundHandler()) },
	} {
		t.Run(name, func(t *testing.T) {
			srv, left := newServer(t)
			ts := httptest.NewServer(mount(srv))
			defer ts.Close()
			wantIntroduced(t, ts.URL, left)
		})
	}
}

func TestTheServerWorksInFiber(t *testing.T) {
	srv, left := newServer(t)
	app := inFiber(srv)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- app.Listener(l, fiber.ListenConfig{DisableStartupMessage: true}) }()
	url := "http://" + l.Addr().String()
	wantIntroduced(t, url, left)

	// The end is that of any host: fiber neither closes nor awaits sockets.
	dial(t, url, "carol", "1")
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, app.ShutdownWithContext(ctx))
	require.NoError(t, <-ended)
	require.Equal(t, []string{"carol"}, srv.Realm().ClientIDs())
	require.NoError(t, srv.Shutdown(ctx))
	require.Equal(t, "carol: server shutdown", next(t, left))
}

func TestTheGoOfTheDocumentIsCompiled(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/mounting.md")
	require.NoError(t, err)
	source, err := os.ReadFile("routers.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " //")
			require.Contains(t, string(source), strings.TrimSpace(line))
		}
	}
}
