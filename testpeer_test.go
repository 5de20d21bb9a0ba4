//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// A testPeer is the client side of a signalling socket. A goroutine reads it all
// the time, as a browser does.
type testPeer struct {
	t      testing.TB
	id     string
	ws     *websocket.Conn
	frames chan string   // closed at the end of the socket
	ended  chan struct{} // closed then too
	err    error         // why, set before that
}

// dial opens a socket with an id and token and does not wait for OPEN.
func (r *rig) dial(id, token string) *testPeer {
	r.t.Helper()
	return r.dialURL(r.socketURL("/", id, token), nil)
}

func (r *rig) dialURL(u string, header http.Header) *testPeer {
	r.t.Helper()
	p, res, err := r.tryDial(u, header)
	if err != nil {
		status := ""
		if res != nil {
			status = res.Status
		}
		r.t.Fatalf("dial %s: %v %s", u, err, status)
	}
	p.id = mustQuery(r.t, u).Get("id")
	return p
}

// tryDial opens a socket, or returns the answer that refused the upgrade.
func (r *rig) tryDial(u string, header http.Header) (*testPeer, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	n := r.turn()
	ws, res, err := websocket.Dial(ctx, n.here(r, u), &websocket.DialOptions{HTTPClient: n.http(), HTTPHeader: header})
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(-1)
	p := &testPeer{t: r.t, ws: ws, frames: make(chan string, 4096), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer close(p.frames)
		for {
			_, data, err := ws.Read(context.Background())
			if err != nil {
				p.err = err
				return
			}
			p.frames <- string(data)
		}
	}()
	r.t.Cleanup(p.drop)
	return p, res, nil
}

// connect dials and waits for OPEN.
func (r *rig) connect(id string) *testPeer {
	r.t.Helper()
	p := r.dial(id, "token-of-"+id)
	p.wantOpen()
	return p
}

// next returns the next frame, or "" at the end of the socket.
func (p *testPeer) next() string {
	p.t.Helper()
	select {
	case f := <-p.frames:
		return f
	case <-time.After(waitLimit):
		p.t.Fatalf("%s: no frame came", p.id)
		return ""
	}
}

// want fails the test unless the next frame is this one, byte for byte.
func (p *testPeer) want(frame string) {
	p.t.Helper()
	require.Equal(p.t, frame, p.next(), "frame for %s", p.id)
}

func (p *testPeer) wantOpen() {
	p.t.Helper()
	p.want(`{"type":"OPEN"}`)
}

// wantRefused wants a message for people of this type, then the end.
func (p *testPeer) wantRefused(t MessageType, msg string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":%q,"payload":{"msg":%q}}`, t, msg))
	p.wantEnd()
}

// wantEnd wants the socket to end with nothing before, and returns the close
// code, or -1 if there was none.
func (p *testPeer) wantEnd() int {
	p.t.Helper()
	require.Equal(p.t, "", p.next(), "frame for %s before its end", p.id)
	<-p.ended
	return int(websocket.CloseStatus(p.err))
}

// wantExpire wants the EXPIRE for what was sent to the absent id dst.
func (p *testPeer) wantExpire(dst string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"EXPIRE","src":%q,"dst":%q}`, dst, p.id))
}

// send sends a text frame.
func (p *testPeer) send(frame string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	require.NoError(p.t, p.ws.Write(ctx, websocket.MessageText, []byte(frame)))
}

// offer sends an OFFER with a payload to dst.
func (p *testPeer) offer(dst, payload string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":%s}`, dst, payload))
}

// wantOffer wants the OFFER that src sent with offer.
func (p *testPeer) wantOffer(src, payload string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"OFFER","src":%q,"dst":%q,"payload":%s}`, src, p.id, payload))
}

// close ends the socket as a page that is left does.
func (p *testPeer) close() {
	p.ws.Close(websocket.StatusNormalClosure, "")
	<-p.ended
}

// drop ends the TCP connection without a word.
func (p *testPeer) drop() {
	p.ws.CloseNow()
	<-p.ended
}

// wantFrameOfType wants the next frame to be a message of this type.
func (p *testPeer) wantFrameOfType(t MessageType) {
	p.t.Helper()
	require.Contains(p.t, p.next(), fmt.Sprintf(`{"type":%q`, t))
}

// collect wants OPEN first, and then reads the connection to its end or to a BYE
// on a goroutine. It returns the numbers of the offers that came.
func (p *testPeer) collect() <-chan []int {
	p.t.Helper()
	assert.Equal(p.t, `{"type":"OPEN"}`, p.next())
	result := make(chan []int, 1)
	go func() {
		var got []int
		defer func() { result <- got }()
		for f := range p.frames {
			head, payload, _ := strings.Cut(f, `,"payload":"`) // package json takes long under the race detector
			switch {
			case strings.HasPrefix(head, `{"type":"BYE"`):
				return
			case strings.HasPrefix(head, `{"type":"`+string(TypeOverride)+`"`):
			case strings.HasPrefix(head, `{"type":"`+string(TypeOffer)+`",`):
				var n int
				_, err := fmt.Sscan(payload, &n)
				assert.NoError(p.t, err, f)
				if want := numberedText(n) + `"}`; payload != want {
					p.t.Errorf("want a payload %.20q of %d bytes, got %.20q of %d", want, len(want), payload, len(payload))
				}
				got = append(got, n)
			default:
				p.t.Errorf("a frame that is not expected: %s", f)
			}
		}
	}()
	return result
}

// numberedOffer is an offer whose payload tells its number and whether it came
// unharmed. Sizes vary, as buffers are kept by size.
func numberedOffer(dst string, n int) string {
	return `{"type":"OFFER","dst":"` + dst + `","payload":"` + numberedText(n) + `"}`
}

func numberedText(n int) string {
	return fmt.Sprint(n, " ", strings.Repeat(string(rune('a'+n%26)), n%4*1000))
}

// wantOfferFrom wants an OFFER without payload.
func (p *testPeer) wantOfferFrom(src string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"OFFER","src":%q,"dst":%q}`, src, p.id))
}

// wantOverridden wants what the loser of an id reads: the message, then the
// close.
func (p *testPeer) wantOverridden() {
	p.t.Helper()
	var m struct {
		Type    string
		Payload struct{ Msg string }
	}
	f := p.next()
	require.NoError(p.t, json.Unmarshal([]byte(f), &m), f)
	require.Equal(p.t, "OVERRIDE_CONNECTION", m.Type)
	require.NotEmpty(p.t, m.Payload.Msg)
	require.Equal(p.t, fmt.Sprintf(`{"type":"OVERRIDE_CONNECTION","payload":{"msg":%q}}`, m.Payload.Msg), f)
	require.Equal(p.t, CloseOverridden, p.wantEnd())
}

func (r *rig) dialAs(user, id, token string) *testPeer {
	r.t.Helper()
	return r.dialURL(r.socketURL("/", id, token), http.Header{"X-User": {user}})
}

// dialMany dials for an id with as many tokens, at the same time as far as the
// server can tell.
func (r *rig) dialMany(id string) (ps []*testPeer) {
	r.t.Helper()
	for i := range newcomers {
		ps = append(ps, r.dial(id, fmt.Sprint("newcomer", i)))
	}
	return ps
}

// wantOneOpen wants OPEN for exactly one and ID-TAKEN for the others.
func wantOneOpen(t testing.TB, ps []*testPeer) (winner *testPeer) {
	t.Helper()
	for _, p := range ps {
		switch f := p.next(); f {
		case `{"type":"OPEN"}`:
			require.True(t, winner == nil, "two have the id")
			winner = p
		default:
			require.Equal(t, `{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`, f)
			require.Equal(t, 1008, p.wantEnd())
		}
	}
	require.True(t, winner != nil, "nobody has the id")
	return winner
}

func (p *testPeer) join(room string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"type":"ROOM-JOIN","payload":{"room":%q}}`, room))
}

func (p *testPeer) wantMembers(room string, ids ...string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"ROOM-MEMBERS","payload":{"room":%q,"members":["%s"]}}`, room, strings.Join(ids, `","`)))
}

func (p *testPeer) wantJoined(room, id string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"ROOM-JOINED","payload":{"room":%q,"id":%q}}`, room, id))
}

func (p *testPeer) wantLeft(room, id, reason string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"ROOM-LEFT","payload":{"room":%q,"id":%q,"reason":%q}}`, room, id, reason))
}

func (p *testPeer) wantNotLetIn(room, msg string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":"ROOM-REFUSED","payload":{"room":%q,"msg":%q}}`, room, msg))
}

func anyRoom(*Client, string, json.RawMessage) error { return nil }

// bystanders are two peers who must not notice what others do to the server.
type bystanders struct{ a, b *testPeer }

func (r *rig) bystanders() bystanders {
	r.t.Helper()
	return bystanders{r.connect("alice"), r.connect("bob")}
}

// talk wants both to have heard nothing so far, and to hear each other.
func (s bystanders) talk() {
	s.a.t.Helper()
	s.a.offer("bob", `"to bob"`)
	s.b.wantOffer("alice", `"to bob"`)
	s.b.offer("alice", `"to alice"`)
	s.a.wantOffer("bob", `"to alice"`)
}
