//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A sock is one socket of a client, with what was sent and got on it. It is read until its end, even when
// the client has given it up: what the server has written to it counts as delivered.
type sock struct {
	c      *client
	n      int // its connection
	w      *wire
	opened chan struct{} // closed when OPEN was read
	ended  chan struct{} // closed at the end, also if it was never open
	gate   chan struct{} // has a place while somebody reads, or nobody may

	// The lock of the client guards the following.
	*Conn
	sends   []Send
	recvs   []Recv
	expires []Expire
	seqs    map[string]int
	heard   time.Duration
}

// body is the payload of the clients' messages.
type body struct {
	C    int    `json:"c"` // connection of the sender
	Q    int    `json:"q"` // number
	K    string `json:"k"` // type
	Fill string `json:"f,omitempty"`
}

type frame struct {
	Type    string          `json:"type"`
	Src     string          `json:"src"`
	Dst     string          `json:"dst"`
	Payload json.RawMessage `json:"payload"`
}

// dial opens a socket and waits for OPEN. It returns nil if the client did not get the id.
func (c *client) dial(node int, token string, within time.Duration) *sock {
	now := c.w.now()
	s := &sock{c: c, opened: make(chan struct{}), ended: make(chan struct{}), gate: make(chan struct{}, 1), seqs: make(map[string]int), heard: now,
		Conn: &Conn{ID: c.id, Node: node, Thief: token != c.token, Dialed: now, Opened: never, Ended: never, EOF: never, Quiet: never, Reset: never}}
	s.n = c.w.register(s)
	w, status, err := dialWire(c.w.addr(node), c.id, token, within)
	if err != nil {
		c.mu.Lock()
		s.Ended, s.EOF = c.w.now(), c.w.now()
		if status != 0 {
			s.Word = fmt.Sprint("HTTP ", status)
		}
		if status == http.StatusOK {
			s.Word = "HTTP 200"
		}
		c.mu.Unlock()
		close(s.ended)
		return nil
	}
	s.w = w
	c.w.running.Go(s.readAll)
	timer := time.NewTimer(max(0, within-(c.w.now()-now)))
	defer timer.Stop()
	select {
	case <-s.opened:
		return s
	case <-s.ended:
	case <-timer.C:
		s.leave()
	case <-c.w.ctx.Done():
		s.leave()
	}
	return nil
}

// readAll reads to the end.
func (s *sock) readAll() {
	defer close(s.ended)
	defer s.w.Close()
	for {
		s.gate <- struct{}{}
		<-s.gate
		op, payload, err := s.w.read()
		if err != nil {
			s.over()
			return
		}
		s.c.mu.Lock()
		s.heard = s.c.w.now()
		quiet := s.Quiet != never
		s.c.mu.Unlock()
		switch op {
		case opPing:
			if !quiet {
				_ = s.w.write(opPong, payload)
			}
		case opClose:
			s.closed(closeCode(payload))
			if !quiet {
				_ = s.w.write(opClose, payload)
			}
		case opText:
			s.got(payload)
		}
	}
}

// over notes the end of the stream.
func (s *sock) over() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.w.now()
	s.EOF, s.Ended = min(s.EOF, now), min(s.Ended, now)
	if c.cur == s {
		c.cur = nil
	}
}

// closed notes the close frame of the server. The client has no use for the socket any more.
func (s *sock) closed(code int) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Code, s.Ended = code, min(s.Ended, c.w.now())
	if c.cur == s {
		c.cur = nil
	}
}

// got handles a message. It is noted in any case; a client that has given the socket up does nothing else.
func (s *sock) got(b []byte) {
	now := s.c.w.now()
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		s.c.w.complain("%s read what is not JSON: %q", s.c.id, b)
		return
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.Type {
	case "OPEN":
		s.openLocked(now)
	case "OFFER", "ANSWER", "CANDIDATE", "LEAVE":
		var p body
		if err := json.Unmarshal(f.Payload, &p); err != nil || f.Dst != c.id || p.K != f.Type || c.w.idOf(p.C) != f.Src {
			c.w.complain("%s (connection %d) read a message that nobody sent: %.200s", c.id, s.n, b)
			return
		}
		s.recvs = append(s.recvs, Recv{s.n, p.C, p.Q, f.Type, now})
		if f.Type == "OFFER" && c.cur == s && s.Quiet == never {
			c.sendLocked(f.Src, "ANSWER")
			c.sendLocked(f.Src, "CANDIDATE")
		}
	case "EXPIRE":
		s.expires = append(s.expires, Expire{s.n, f.Src, now})
	case "ID-TAKEN", "ERROR":
		s.Word = f.Type
	default:
		if c.cur == s && s.Quiet == never {
			c.roomLocked(f)
		}
	}
}

func (s *sock) openLocked(now time.Duration) {
	if s.Opened != never {
		s.c.w.complain("%s (connection %d) read OPEN twice", s.c.id, s.n)
	}
	s.Opened = now
	close(s.opened)
}

// leave ends the socket as a page that is closed: close frame, or only the end of the stream. What the server has
// written before it notices is read.
func (s *sock) leave() {
	s.c.mu.Lock()
	if s.Gave || s.EOF != never {
		s.c.mu.Unlock()
		return
	}
	s.Gave, s.Ended = true, min(s.Ended, s.c.w.now())
	if s.c.cur == s {
		s.c.cur = nil
	}
	polite := s.n%2 == 0
	s.c.mu.Unlock()
	if polite {
		_ = s.w.write(opClose, []byte{0x03, 0xe9})
	} else {
		_ = s.w.CloseWrite()
	}
	_ = s.w.SetReadDeadline(time.Now().Add(drain))
}

// drain is how long a socket is read that the client has left. A node that stands still takes long.
const drain = 15 * time.Second

// abort resets the connection.
func (s *sock) abort() {
	s.c.mu.Lock()
	now := s.c.w.now()
	if s.EOF == never && !s.Gave {
		s.Gave, s.Reset, s.Ended, s.EOF = true, now, min(s.Ended, now), now
	}
	if s.c.cur == s {
		s.c.cur = nil
	}
	s.c.mu.Unlock()
	s.w.reset()
}

// mute lets the socket look as if its network were gone. It is read on.
func (s *sock) mute() {
	s.c.mu.Lock()
	s.Quiet = min(s.Quiet, s.c.w.now())
	s.c.mu.Unlock()
}

// stick is mute for a client whose buffers are full: what the server cannot write waits on the server. The
// function that it returns lets the judge read again.
func (s *sock) stick() (read func()) {
	s.mute()
	s.gate <- struct{}{}
	return func() { <-s.gate }
}

// fill has offers of several sizes.
var fill = func() (s [4]string) {
	for i, n := range []int{100, 1000, 4000, 9000} {
		s[i] = strings.Repeat("x", n)
	}
	return s
}()

// sendLocked sends a message to an id, if the client is connected.
func (c *client) sendLocked(dst, kind string) {
	s := c.cur
	if s == nil || s.Quiet != never {
		return
	}
	s.seqs[dst]++
	q := s.seqs[dst]
	b := body{C: s.n, Q: q, K: kind}
	if kind == "OFFER" {
		b.Fill = fill[q%len(fill)]
	}
	payload, _ := json.Marshal(b)
	text, _ := json.Marshal(frame{Type: kind, Dst: dst, Payload: payload})
	s.sends = append(s.sends, Send{s.n, dst, q, kind, c.w.now()})
	_ = s.w.write(opText, text) // if it fails, the socket has ended
}

// A registry numbers the sockets of a run.
type registry struct {
	mu    sync.Mutex
	socks []*sock
}

func (r *registry) register(s *sock) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.socks = append(r.socks, s)
	return len(r.socks) - 1
}

func (r *registry) idOf(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n < 0 || n >= len(r.socks) {
		return ""
	}
	return r.socks[n].ID
}
