//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated under this name only: its authors go on as github.com/coder/websocket, with the same API. Nothing else deprecated is used here.

package peer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"

	"nhooyr.io/websocket"
)

func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// upgrade makes a WebSocket of a request, or answers the request and returns why not.
//
// The connection is hijacked before anything is written, and the 101 is written to
// the connection itself. Middleware that compresses or buffers would hold back, or
// change, a 101 that goes through its WriteHeader.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*socket, error) {
	h := &hijacker{ResponseWriter: w, header: make(http.Header, 4)}
	if h.err = canHijack(w); h.err == nil {
		// The origin has been checked.
		if _, err := websocket.Accept(h, r, acceptOptions); !h.done {
			return nil, err // the library has answered
		}
	}
	if h.err != nil {
		http.Error(w, "The server cannot upgrade connections here", http.StatusNotImplemented)
		return nil, fmt.Errorf("upgrading: %w", h.err)
	}
	early, _ := h.rw.Reader.Peek(h.rw.Reader.Buffered())
	early = bytes.Clone(early)
	if s.opts.WriteTimeout > 0 {
		h.conn.SetWriteDeadline(time.Now().Add(s.opts.WriteTimeout))
	}
	if _, err := h.conn.Write(h.answer); err != nil {
		h.conn.Close()
		return nil, fmt.Errorf("writing the answer to the handshake: %w", err)
	}
	h.conn.SetWriteDeadline(time.Time{})
	return newSocket(h.conn, early, &s.realm.partials), nil
}

var acceptOptions = &websocket.AcceptOptions{InsecureSkipVerify: true}

var errNoHijacker = errors.New("a ResponseWriter around this handler has neither Hijack nor Unwrap")

// canHijack returns nil if [http.ResponseController] will find a Hijacker.
func canHijack(w http.ResponseWriter) error {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return errNoHijacker
		}
	}
}

// switchingProtocols returns the answer 101 with the fields of the host and those of the
// library. Fields of the host that speak of a body or of the connection have no place in it.
func switchingProtocols(host, library http.Header) []byte {
	for name, values := range host {
		if !strings.HasPrefix(name, "Content-") && name != "Transfer-Encoding" && library[name] == nil {
			library[name] = values
		}
	}
	b := bytes.NewBuffer(make([]byte, 0, 512))
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	library.Write(b) // a bytes.Buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// A hijacker is the [http.ResponseWriter] that the library does a handshake with. A
// refusal goes through the writer of the host. At 101 the hijacker takes the connection
// for itself and tells the library that it failed: the library would make a connection
// of its own, with a goroutine and buffers, and its 101 would go through middleware.
type hijacker struct {
	http.ResponseWriter             // the host's
	header              http.Header // what the library has set
	done                bool        // the library has accepted: nothing that it writes from here on counts
	answer              []byte      // the 101
	conn                net.Conn
	rw                  *bufio.ReadWriter
	err                 error // of hijacking
}

var errTaken = errors.New("the connection is taken")

func (h *hijacker) Header() http.Header { return h.header }

func (h *hijacker) WriteHeader(code int) {
	switch {
	case h.done: // the library's 500, since it has no connection
	case code == http.StatusSwitchingProtocols:
		h.done, h.answer = true, switchingProtocols(h.ResponseWriter.Header(), h.header)
		h.conn, h.rw, h.err = http.NewResponseController(h.ResponseWriter).Hijack()
	default:
		maps.Copy(h.ResponseWriter.Header(), h.header)
		h.ResponseWriter.WriteHeader(code)
	}
}

func (h *hijacker) Write(p []byte) (int, error) {
	if h.done {
		return len(p), nil
	}
	return h.ResponseWriter.Write(p)
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errTaken }
