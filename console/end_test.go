//lint:file-ignore SA1019 See upgrade.go of the root package.

package console

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// endRequest returns the body of a request to end the present connection of an id.
func (r *rig) endRequest(id, text string) string {
	r.t.Helper()
	c := r.srv.Realm().Client(id)
	require.NotNil(r.t, c)
	b, err := json.Marshal(map[string]string{"id": id, "key": connectionKey(c.ConnectedSince()), "text": text})
	require.NoError(r.t, err)
	return string(b)
}

// end asks the console to end a client, and returns the status and the text of the answer.
func (r *rig) end(body string) (int, string) {
	r.t.Helper()
	res, text := r.do("POST", "end", body, "Content-Type", "application/json")
	return res.StatusCode, text
}

func TestAClientIsEndedWithAText(t *testing.T) {
	longest := strings.Repeat("ü", maxText/2) + "!"
	for _, text := range []string{"We restart. Please connect again.", `<b>"quoted"</b> & more`, longest} {
		r := newRig(t, Options{Authorize: everybody})
		ws := r.connect("alice", "t")
		status, body := r.end(r.endRequest("alice", text))
		require.Equal(t, 204, status, body)

		var m struct {
			Type    string
			Payload struct{ Msg string }
		}
		require.NoError(t, json.Unmarshal([]byte(readText(t, ws)), &m))
		require.Equal(t, "ERROR", m.Type)
		require.Equal(t, text, m.Payload.Msg)
		wantClose(t, ws, text)
		require.Contains(t, r.log.String(), "an operator ended a client")
	}
}

func TestAClientIsEndedWithoutAText(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	ws := r.connect("alice", "t")
	status, body := r.end(r.endRequest("alice", ""))
	require.Equal(t, 204, status, body)
	wantClose(t, ws, "")
}

func TestTheOperatorLearnsThatTheTextIsTooLong(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	r.connect("alice", "t")
	status, text := r.end(r.endRequest("alice", strings.Repeat("ü", 62)))
	require.Equal(t, 422, status)
	require.Equal(t, "The text has 124 bytes. At most 123 are allowed.\n", text)
}

func wantClose(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, _, err := ws.Read(ctx)
	var frame websocket.CloseError
	require.True(t, errors.As(err, &frame), "%v", err)
	require.Equal(t, websocket.CloseError{Code: CloseByOperator, Reason: text}, frame)
}

func TestAClientThatIsGoneCannotBeEnded(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	r.connect("alice", "t")
	body := r.endRequest("alice", "")
	require.True(t, r.srv.Realm().RemoveClient("alice"))
	status, text := r.end(body)
	require.Equal(t, 404, status)
	require.Equal(t, "This client is not connected any more.\n", text)
	status, _ = r.end(`{"id":"nobody","key":"1"}`)
	require.Equal(t, 404, status)
}

// What the operator saw has gone, and the client has come back meanwhile.
func TestAnotherConnectionOfTheIDIsNotEnded(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	r.connect("alice", "t")
	body := r.endRequest("alice", "")
	r.connect("alice", "t") // with its token: it takes the id over
	status, text := r.end(body)
	require.Equal(t, 409, status)
	require.Equal(t, "The client has connected again since then. The new connection was not ended.\n", text)
	require.NotNil(t, r.srv.Realm().Client("alice"))
}

func TestAClientIsNotEndedTwice(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	r.connect("alice", "t") // reads nothing, so its close frame waits
	body := r.endRequest("alice", strings.Repeat("x", maxText))
	status, text := r.end(body)
	require.Equal(t, 204, status, text)
	status, text = r.end(body)
	require.Equal(t, 404, status, text)
	require.Equal(t, 1, strings.Count(r.log.String(), "an operator ended a client"))
}
