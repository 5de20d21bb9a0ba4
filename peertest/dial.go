package peertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	//lint:file-ignore SA1019 See handshake.go of package peer.
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// version is the version of PeerJS that the clients send.
const version = "1.5.5"

// A Refusal is how a client was refused.
type Refusal struct {
	// Status is the status of the answer to the upgrade: 101 for a client that was refused on its socket.
	Status int
	// Type is the type of the message that the client read: [peer.TypeError], [peer.TypeIDTaken] or
	// [peer.TypeInvalidKey]. It is "" if the client read no message.
	Type peer.MessageType
	// Text is a text for people. If Status is 101, it is the text of the message, or of the
	// close frame if there was no message. If Status is not 101, it is the first 1024 bytes of
	// the answer, without the space around them.
	Text string
	// Code is the close code of the socket, [CodeLost] if there was no close frame. It is 0 if Status is not 101.
	Code int
}

// Dial connects a client with an id, as new Peer(id) does, and reads OPEN. When Dial returns, the functions of
// OnConnection have returned, unless they took longer than HandshakeTimeout of [peer.Options]. The test fails if the
// client is refused, or if OPEN does not come within the [Timeout].
//
// The request goes through the whole handler. It has the Origin of a page of the application, unless [Header] says
// otherwise. The connection ends with the test.
func (h *Host) Dial(id string, opts ...Option) *Client {
	h.t.Helper()
	c, err := h.TryDial(id, opts...)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// TryDial is [Host.Dial] for goroutines that may not end the test: it returns an error where Dial fails.
func (h *Host) TryDial(id string, opts ...Option) (*Client, error) {
	cfg := h.configOf(id, opts)
	c, refusal, err := h.open(id, cfg)
	switch {
	case err != nil:
		return nil, errorAbout(id, "expected %s, but %v", peer.TypeOpen, err)
	case c == nil:
		return nil, errorAbout(id, "expected %s, but the answer to the upgrade was %d %s: %q",
			peer.TypeOpen, refusal.Status, http.StatusText(refusal.Status), cfg.hide(refusal.Text))
	}
	if _, err := c.expect(peer.TypeOpen); err != nil {
		c.Vanish()
		return nil, err
	}
	return c, nil
}

// DialRefused connects a client with an id and returns how it was refused: by the answer to the upgrade, or on its
// socket, by a message and a close frame. The test fails if the client is not refused, and if the server does not end
// the connection within the [Timeout].
func (h *Host) DialRefused(id string, opts ...Option) Refusal {
	h.t.Helper()
	c, refusal, err := h.open(id, h.configOf(id, opts))
	if err == nil && c != nil {
		refusal, err = c.refused()
		c.Vanish()
	} else if err != nil {
		err = errorAbout(id, "expected to be refused, but %v", err)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return refusal
}

// refused reads how a client is refused on its socket.
func (c *Client) refused() (Refusal, error) {
	r := Refusal{Status: http.StatusSwitchingProtocols}
	a, ok := c.inbox.next(c.cfg.timeout)
	switch {
	case a.is(peer.TypeError), a.is(peer.TypeIDTaken), a.is(peer.TypeInvalidKey):
		r.Type, r.Text = a.message.Type, noticeOf(a.message)
		if a, ok = c.inbox.next(c.cfg.timeout); a.end == nil {
			return r, c.unexpected("the server to close the connection", a, ok)
		}
	case a.end != nil:
		r.Text = a.end.text
	default:
		return r, c.unexpected("to be refused", a, ok)
	}
	r.Code = a.end.code
	return r, nil
}

// configOf returns the options of a client.
func (h *Host) configOf(id string, opts []Option) config {
	cfg := h.cfg.with(opts)
	if cfg.token == "" {
		cfg.token = "token-of-" + id
	}
	return cfg
}

// open makes a handshake. The client is nil if the upgrade was refused.
func (h *Host) open(id string, cfg config) (*Client, Refusal, error) {
	c := &Client{t: h.t, id: id, cfg: cfg, inbox: newInbox()}
	var conn atomic.Pointer[conn]
	ctx, cancel := context.WithTimeout(context.Background(), cfg.timeout)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, h.socketURL(id, cfg), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     newTransport(h, cfg, &conn),
			Jar:           cfg.jar,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // as browsers
		},
	})
	switch {
	case err != nil && h.ended.Err() != nil:
		return nil, Refusal{}, errEnded
	case err != nil && res != nil && res.StatusCode != http.StatusSwitchingProtocols:
		body, _ := io.ReadAll(res.Body) // is in memory already
		return nil, Refusal{Status: res.StatusCode, Text: strings.TrimSpace(string(body))}, nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, Refusal{}, fmt.Errorf("there was no answer to the upgrade for %v", cfg.timeout)
	case err != nil:
		return nil, Refusal{}, errors.New("the upgrade failed: " + cfg.hide(withoutURL(err).Error()))
	}
	ws.SetReadLimit(-1)
	c.ws, c.conn = ws, conn.Load()
	go c.inbox.read(func() ([]byte, error) {
		_, data, err := ws.Read(context.Background())
		return data, err
	}, cfg.ignored)
	if err := h.add(c); err != nil {
		c.Vanish()
		return nil, Refusal{}, err
	}
	return c, Refusal{}, nil
}

// socketURL is the address that PeerJS opens a socket to.
func (h *Host) socketURL(id string, cfg config) string {
	q := "?key=" + url.QueryEscape(cfg.key) + "&id=" + url.QueryEscape(id) +
		"&token=" + url.QueryEscape(cfg.token) + "&version=" + version
	return h.URL + h.base + "peerjs" + q
}

// withoutURL removes the address, which has the token in it, from an error of net/http.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
