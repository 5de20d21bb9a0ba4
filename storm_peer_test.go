package peer

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// A stormPeer is one connection that is read all the time.
type stormPeer struct {
	rawPeer
	mute    bool          // it answers neither pings nor close frames
	opened  chan struct{} // closed at OPEN
	synced  chan struct{} // something came from itself
	ended   chan struct{} // closed at the end; the following is set then
	reset   bool
	code    int            // of the close frame of the server
	got     map[int][]int  // the numbers of the messages by stream
	expired map[string]int // EXPIRE by the absent id
}

// dial makes a handshake, over TLS or not. It returns nil if the server has refused it.
func (s *storm) dial(id, token string) *stormPeer {
	addr, secure := s.plain.Listener.Addr().String(), mathrand.IntN(3) == 0
	if secure {
		addr = s.tls.Listener.Addr().String()
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		s.fault("dialling: %v", err)
		return nil
	}
	if wild(id) {
		conn.(*net.TCPConn).SetReadBuffer(4 << 10) // it is full sooner
	}
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // it is this process
	}
	p := &stormPeer{
		rawPeer: rawPeer{id: id, token: token, conn: conn, br: bufio.NewReader(conn)},
		opened:  make(chan struct{}), synced: make(chan struct{}, 1), ended: make(chan struct{}),
		got: make(map[int][]int), expired: make(map[string]int),
	}
	p.tryWrite([]byte(handshakeFor(socketTarget(id, token))))
	if res, err := http.ReadResponse(p.br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return nil
	}
	return p
}

// read reads until the connection ends.
func (p *stormPeer) read(s *storm) {
	defer close(p.ended)
	defer p.conn.Close()
	for {
		first, payload, err := p.readWithin(waitLimit)
		switch {
		case err != nil:
			p.reset = errors.Is(err, syscall.ECONNRESET)
			return
		case first == rawFin|rawText:
			p.note(s, string(payload))
		case first == rawFin|rawClose && len(payload) >= 2:
			p.code = int(binary.BigEndian.Uint16(payload))
			p.tryWrite(rawCloseFrame(1000, ""))
		case p.mute:
		case first == rawFin|rawPing:
			p.tryWrite(rawFrame(rawFin|rawPong, string(payload)))
		}
	}
}

// stormText is the payload of a message. Its length and its letters depend on its number.
func stormText(stream, n int) string {
	size := n * 7919 % 300
	switch {
	case n%997 == 500:
		size = 150_000
	case n%50 == 25:
		size = 5000
	}
	return fmt.Sprintf(`"%d %d %s."`, stream, n, strings.Repeat(string(rune('a'+n%26)), size))
}

func (p *stormPeer) note(s *storm, text string) {
	var src, dst string
	var stream, n int
	switch {
	case text == `{"type":"OPEN"}`:
		close(p.opened) // a second one panics
		return
	case strings.HasPrefix(text, `{"type":"EXPIRE"`):
		fmt.Sscanf(text, `{"type":"EXPIRE","src":%q,"dst":%q}`, &src, &dst)
		p.expired[src]++
		return
	case !strings.HasPrefix(text, `{"type":"OFFER"`):
		return
	}
	head, payload, _ := strings.Cut(text, `"payload":`)
	if _, err := fmt.Sscanf(head, `{"type":"OFFER","src":%q,"dst":%q,`, &src, &dst); err != nil || dst != p.id {
		s.fault("%s: cannot read %.200s", p.id, text)
	}
	if src == p.id && payload == "0}" {
		p.synced <- struct{}{}
		return
	}
	fmt.Sscanf(payload, `"%d %d`, &stream, &n)
	if payload != stormText(stream, n)+"}" {
		s.fault("%s: harmed: %.200s", p.id, text)
	}
	if before := p.got[stream]; len(before) > 0 && before[len(before)-1] >= n {
		s.fault("%s: %d of stream %d came after %d", p.id, n, stream, before[len(before)-1])
	}
	p.got[stream] = append(p.got[stream], n)
	key := fmt.Sprint(p.id, " ", stream, " ", n)
	s.mu.Lock()
	doubled := s.seen[key]
	s.seen[key] = true
	s.mu.Unlock()
	if doubled {
		s.fault("%s: %d of stream %d came twice", p.id, n, stream)
	}
}

// open dials until it gets the id, and waits for OPEN.
func (s *storm) open(id, token string) *stormPeer {
	for start := time.Now(); time.Since(start) < waitLimit; time.Sleep(time.Millisecond) {
		p := s.dial(id, token)
		if p == nil {
			continue
		}
		go p.read(s)
		select {
		case <-p.opened:
			return p
		case <-p.ended: // refused, or it was closed at once
			select {
			case <-p.opened:
				return p
			default:
			}
		case <-time.After(waitLimit):
			s.fault("%s: neither OPEN nor an end", id)
			return p
		}
	}
	panic("no way in: " + id)
}

// A stormSender sends to all receivers and sometimes takes its id over itself.
type stormSender struct {
	*storm
	id     string
	token  string
	stream int
	sent   [stormReceivers]int
	conns  []*stormPeer
}

func (s *stormSender) open() *stormPeer {
	p := s.storm.open(s.id, s.token)
	s.conns = append(s.conns, p)
	return p
}

func (s *stormSender) run() {
	p := s.conns[0]
	for !s.over() {
		for range mathrand.IntN(20) {
			to := mathrand.IntN(stormReceivers)
			p.tryWrite(rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":"receiver%d","payload":%s}`, to, stormText(s.stream, s.sent[to]))))
			s.sent[to]++
		}
		if mathrand.IntN(40) == 0 { // what the server has not read is lost at a takeover
			p.tryWrite(rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":0}`, s.id)))
			select {
			case <-p.synced:
			case <-p.ended:
				s.fault("%s: closed with %d", s.id, p.code)
			case <-time.After(waitLimit):
				s.fault("%s: a message to itself has not come", s.id)
			}
			p = s.open()
		}
		time.Sleep(time.Duration(mathrand.IntN(2000)) * time.Microsecond)
	}
	p.tryWrite(rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":0}`, s.id)))
	select {
	case <-p.synced:
	case <-time.After(waitLimit):
		s.fault("%s: a last message to itself has not come", s.id)
	}
}

// end closes the last connection. All others must have ended with its arrival.
func (s *stormSender) end() {
	s.conns[len(s.conns)-1].tryWrite(rawCloseFrame(1000, ""))
	for _, p := range s.conns {
		s.wantEnd(p)
	}
}

func (s *storm) wantEnd(p *stormPeer) {
	select {
	case <-p.ended:
	case <-time.After(waitLimit):
		s.fault("%s: a connection has not ended", p.id)
		p.conn.Close()
	}
}

// A stormReceiver comes and goes, and reads every connection to its end.
type stormReceiver struct {
	*storm
	id    string
	conns []*stormPeer
}

func (s *stormReceiver) run(sent <-chan struct{}) {
	token := rand.Text()
	for open := true; open; {
		p := s.open(s.id, token)
		s.conns = append(s.conns, p)
		time.Sleep(time.Duration(mathrand.IntN(30)) * time.Millisecond)
		select {
		case <-sent:
			open = false
			continue
		default:
		}
		switch mathrand.IntN(6) {
		case 0, 1: // the same token takes over
		case 2:
			token = rand.Text()
		case 3:
			p.tryWrite(rawTextFrame(`{"type":"LEAVE"}`))
			s.wantEnd(p)
		case 4:
			p.tryWrite(rawCloseFrame(1000, ""))
			s.wantEnd(p)
		case 5:
			s.srv.Realm().RemoveClient(s.id)
			s.wantEnd(p)
		}
		if mathrand.IntN(4) == 0 {
			time.Sleep(time.Duration(mathrand.IntN(400)) * time.Millisecond)
		}
	}
	time.Sleep(3 * stormExpire) // what still comes, or expires
	s.conns[len(s.conns)-1].tryWrite(rawCloseFrame(1000, ""))
	for _, p := range s.conns {
		s.wantEnd(p)
	}
}
