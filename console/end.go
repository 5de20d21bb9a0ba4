package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"github.com/gopeerjs/peer"
)

// maxRequest bounds the body of a request to end a client, in bytes. Ids are usually short,
// but Options.ValidID may allow long ones.
const maxRequest = 64 << 10

// maxText is how long the text for the client may be, in bytes: a close frame holds no more.
const maxText = 123

// serveEnd ends a client. The key is that of the row on the page: if another connection has
// taken the id over since then, it is not the one that the operator saw, and stays.
func (c *console) serveEnd(w http.ResponseWriter, r *http.Request) {
	if !allowMethod(w, r, http.MethodPost) {
		return
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		http.Error(w, "The request must have the type application/json.", http.StatusUnsupportedMediaType)
		return
	}
	var ask struct{ ID, Key, Text string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&ask); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "The request is too large.", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "The request is not JSON with id, key and text.", http.StatusBadRequest)
		return
	}
	if n := len(ask.Text); n > maxText {
		text := fmt.Sprintf("The text has %d bytes. At most %d are allowed.", n, maxText)
		http.Error(w, text, http.StatusUnprocessableEntity)
		return
	}
	client, err := c.srv.Realm().Client(ask.ID), error(peer.ErrNotConnected)
	if client != nil {
		if connectionKey(client.ConnectedSince()) != ask.Key {
			http.Error(w, "The client has connected again since then. The new connection was not ended.", http.StatusConflict)
			return
		}
		err = client.CloseWith(CloseByOperator, ask.Text)
	}
	switch {
	case errors.Is(err, peer.ErrNotConnected):
		http.Error(w, "This client is not connected any more.", http.StatusNotFound)
	case err != nil:
		http.Error(w, "The text is not allowed.", http.StatusUnprocessableEntity)
	default:
		c.log.Info("an operator ended a client", "id", ask.ID, "text", ask.Text, "remote", r.RemoteAddr)
		w.WriteHeader(http.StatusNoContent)
	}
}
