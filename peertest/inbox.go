package peertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	//lint:file-ignore SA1019 See handshake.go of package peer.
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

// CodeLost is the close code that [Client.ExpectClosed] returns if the connection ended without a close frame. A
// browser reports this code too (RFC 6455, section 7.1.5).
const CodeLost = 1006

// An arrival is what a client can be given next: a message, a frame that is no message, or the end.
type arrival struct {
	message peer.Message
	bad     bool    // a frame came that is no message
	end     *ending // nil: the connection has not ended
}

// is reports whether the arrival is a message of type t.
func (a arrival) is(t peer.MessageType) bool { return a.end == nil && !a.bad && a.message.Type == t }

// An ending is how a connection ended.
type ending struct {
	code int
	text string
	mine bool // the test has ended it
}

// An inbox keeps what a client has read, without a bound. The goroutine that reads must never wait for the test: the
// server's pings are answered only while it reads.
type inbox struct {
	mu      sync.Mutex // guards the following
	list    []arrival
	mine    bool          // the test ends the connection, or has ended it
	end     *ending       // nil: the connection has not ended; does not change after that
	changed chan struct{} // closed, and replaced, when something above changes
	ended   chan struct{} // closed when end is set
}

func newInbox() *inbox {
	return &inbox{changed: make(chan struct{}), ended: make(chan struct{})}
}

func (b *inbox) add(a arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, a)
	b.tellLocked()
}

// finish notes the end of the connection. err is that of the last read.
func (b *inbox) finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = &ending{code: CodeLost, mine: b.mine}
	if closed := (websocket.CloseError{}); errors.As(err, &closed) {
		b.end.code, b.end.text = int(closed.Code), closed.Reason
	}
	close(b.ended)
	b.tellLocked()
}

// disown notes that the test ends the connection. It has no effect if the connection has ended already.
func (b *inbox) disown() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mine = true
}

func (b *inbox) tellLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// take returns the next arrival, or reports that there is none yet. The end stays the next arrival for ever.
func (b *inbox) take() (a arrival, ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.list) > 0:
		a, b.list = b.list[0], b.list[1:]
		return a, true, nil
	case b.end != nil:
		return arrival{end: b.end}, true, nil
	}
	return arrival{}, false, b.changed
}

// next waits for the next arrival. It reports false if there was none for that long.
func (b *inbox) next(limit time.Duration) (arrival, bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		a, ok, changed := b.take()
		if ok {
			return a, true
		}
		select {
		case <-changed:
		case <-timer.C:
			a, ok, _ = b.take() // both may have happened
			return a, ok
		}
	}
}

// awaitEnd waits for the end of the connection. It returns nil if there was none for that long.
func (b *inbox) awaitEnd(limit time.Duration) *ending {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-b.ended:
		return b.end
	case <-timer.C:
	}
	select { // both may have happened
	case <-b.ended:
		return b.end
	default:
		return nil
	}
}

// read reads a socket to its end.
func (b *inbox) read(next func() ([]byte, error), ignored []peer.MessageType) {
	for {
		data, err := next()
		if err != nil {
			b.finish(err)
			return
		}
		m, err := decode(data)
		switch {
		case err != nil:
			b.add(arrival{bad: true})
		case !slices.Contains(ignored, m.Type):
			b.add(arrival{message: m})
		}
	}
}

func decode(data []byte) (m peer.Message, err error) {
	var wire struct {
		Type     peer.MessageType
		Src, Dst string
		Payload  json.RawMessage
	}
	err = json.Unmarshal(data, &wire)
	if err == nil && wire.Type == "" {
		err = errors.New("no type")
	}
	return peer.Message(wire), err
}

// noticeOf returns the text for people in the payload of a message, or "".
func noticeOf(m peer.Message) string {
	var notice struct{ Msg string }
	if json.Unmarshal(m.Payload, &notice) != nil {
		return ""
	}
	return notice.Msg
}

// describe says what came instead of what was expected. It is a clause with its verb. hide is applied to the texts of
// the host.
func (a arrival) describe(hide func(string) string) string {
	kind := plain(string(a.message.Type))
	switch {
	case a.end != nil:
		return a.end.describe(hide)
	case a.bad:
		return "read a frame that is not a message"
	case a.message.Src != "":
		return fmt.Sprintf("read %s from %q", kind, a.message.Src)
	}
	if text := noticeOf(a.message); text != "" {
		return fmt.Sprintf("read %s %q", kind, hide(text))
	}
	return "read " + kind
}

func (e *ending) describe(hide func(string) string) string {
	switch {
	case e.mine:
		return "the test itself has ended the connection"
	case e.code == CodeLost:
		return "the connection ended without a close frame"
	}
	return fmt.Sprintf("the server closed the connection with %d %q", e.code, hide(e.text))
}
