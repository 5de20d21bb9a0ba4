package peer

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stormVariable is the environment variable that says how long the storm lasts, as
// "3m". The default is three seconds.
const stormVariable = "PEER_STORM"

// A storm is a server on which everything happens at once. Senders and receivers behave
// well: they judge that nothing between them is lost without EXPIRE, doubled or
// reordered. Wild clients and the functions of the host do all that they should not.
type storm struct {
	t     *testing.T
	srv   *Server
	plain *httptest.Server
	tls   *httptest.Server
	end   time.Time

	streams atomic.Int64
	mu      sync.Mutex // guards the following
	conns   []net.Conn
	seen    map[string]bool // "destination stream number" of each message that came
	faults  map[string]int
}

const (
	stormSenders   = 3
	stormReceivers = 4
	stormWild      = 8
	stormExpire    = 300 * time.Millisecond
)

func TestNothingIsLostInAStorm(t *testing.T) {
	slow(t)
	duration := time.Second
	if text := os.Getenv(stormVariable); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	for start := time.Now(); time.Since(start) < duration && !t.Failed(); { // each round has options of its own
		runStorm(t, min(duration-time.Since(start)+time.Second, 10*time.Second))
	}
}

func runStorm(t *testing.T, duration time.Duration) {
	s := &storm{t: t, end: time.Now().Add(duration), seen: make(map[string]bool), faults: make(map[string]int)}
	s.srv = NewServer(Options{
		ExpireTimeout: stormExpire, AliveTimeout: 4 * time.Second, HandshakeTimeout: 3 * time.Second, WriteTimeout: 4 * time.Second,
		ProbeAfter: 300 * time.Millisecond, ProbeTimeout: 2 * time.Second, // a machine that is busy must not make a client silent
		ConcurrentLimit: stormSenders + stormReceivers + stormWild, MaxPartialBytes: 4 << 20,
		MaxOutboxMessages: one(1024, 1024, 20), MaxHeldPerPair: one(100, 10), MessageRate: one(0, 0, 500.0), RelayTypes: []MessageType{"APP"},
		AllowOverride: func(old, new *Client) bool {
			mayhem(old.ID())
			return !strings.HasPrefix(old.ID(), "sender") && (!wild(old.ID()) || mathrand.IntN(3) == 0)
		},
		Authenticate: func(_ *http.Request, id, _ string) (any, error) {
			mayhem(id)
			return nil, nil
		},
		Authorize: func(from *Client, m Message) error {
			mayhem(from.ID())
			return nil
		},
		AllowJoin: func(c *Client, _ string, _ json.RawMessage) error {
			mayhem(c.ID())
			return nil
		},
	})
	events := followEvents(s.srv)
	s.srv.OnConnection(func(c *Client) { mayhem(c.ID()) })
	s.srv.OnMessage(func(c *Client, _ Message) { mayhem(c.ID()) })
	s.srv.OnDisconnect(func(c *Client, _ DisconnectReason) { mayhem(c.ID()) })
	s.srv.OnError(func(c *Client, _ error) { mayhem(string(idOf(c))) })
	s.plain, s.tls = httptest.NewServer(s.srv), httptest.NewTLSServer(s.srv)
	s.run()
	closeServer(t, s.srv)
	for _, c := range s.conns {
		c.Close()
	}
	s.plain.Close()
	s.tls.Close()
	assert.Empty(t, s.faults)
	events.check(t)
	wantNoGoroutines(t)
	assert.Zero(t, s.srv.realm.partials.used.Load(), "bytes of unfinished messages")
	assert.Zero(t, s.srv.realm.heldBytes.Load())
	st := s.srv.Stats()
	t.Logf("accepted %d, refused %v, relayed %d, returned %d, expires %d, disconnects %v",
		st.Accepted, st.Refused, st.Relayed, st.Returned, st.Expires, st.Disconnects)
}

// one returns one of its arguments.
func one[T any](of ...T) T { return of[mathrand.IntN(len(of))] }

func wild(id string) bool { return strings.HasPrefix(id, "wild") }

// mayhem is what a function of the host does. For a client that behaves well it is slow
// at worst.
func mayhem(id string) {
	switch n := mathrand.IntN(1000); {
	case n < 6:
		time.Sleep(time.Duration(mathrand.IntN(10)) * time.Millisecond)
	case !wild(id):
	case n < 8:
		panic("mayhem")
	case n < 10:
		runtime.Goexit()
	case n < 11:
		time.Sleep(500 * time.Millisecond)
	}
}

func (s *storm) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) < 10 {
		s.faults[fmt.Sprintf(format, args...)]++
	}
}

func (s *storm) over() bool { return time.Now().After(s.end) }

// run lets everybody loose, and then has what came compared with what was sent.
func (s *storm) run() {
	senders, receivers := make([]*stormSender, stormSenders), make([]*stormReceiver, stormReceivers)
	var sending, others sync.WaitGroup
	for i := range senders {
		senders[i] = &stormSender{storm: s, id: fmt.Sprint("sender", i), token: rand.Text(), stream: int(s.streams.Add(1))}
		senders[i].open() // before anybody else asks for the id
		sending.Go(senders[i].run)
	}
	sent := make(chan struct{})
	for i := range receivers {
		receivers[i] = &stormReceiver{storm: s, id: fmt.Sprint("receiver", i)}
		others.Go(func() { receivers[i].run(sent) })
	}
	for range stormWild {
		others.Go(s.wild)
	}
	others.Go(s.host)
	sending.Wait()
	close(sent)
	others.Wait()
	for _, from := range senders {
		from.end()
		for i, to := range receivers {
			s.judge(from, i, to)
		}
	}
}

// judge compares what a sender has sent to a receiver with what came. Messages that are missing
// one after the other are one loss. A loss needs an EXPIRE, or a reset of a connection of the
// receiver, which may discard what the server has written.
func (s *storm) judge(from *stormSender, i int, to *stormReceiver) {
	last, losses, resets := -1, 0, 0
	note := func(n int) {
		if n > last+1 {
			losses++
		}
		last = n
	}
	for _, p := range to.conns {
		if p.reset {
			resets++
		}
		for _, n := range p.got[from.stream] {
			if n <= last {
				s.fault("%s: %d of %s came after %d", to.id, n, from.id, last)
			}
			note(n)
		}
	}
	note(from.sent[i])
	expires := 0
	for _, p := range from.conns {
		expires += p.expired[to.id]
	}
	if losses > expires+resets {
		s.fault("%s to %s: %d losses, %d EXPIRE, %d resets, %d sent", from.id, to.id, losses, expires, resets, from.sent[i])
	}
}

// wild is a client that does what it should not.
func (s *storm) wild() {
	for !s.over() {
		id := fmt.Sprint(one("wild", "wild", "wild", "sender"), mathrand.IntN(stormSenders))
		p := s.dial(id, one("token1", "token2", rand.Text()))
		if p == nil {
			continue
		}
		p.mute = mathrand.IntN(2) == 0
		stuck := mathrand.IntN(3) == 0 // it reads nothing
		if !stuck {
			go p.read(s)
		}
		big := strings.Repeat("x", 200_000)
		large := rawTextFrame(`{"type":"HEARTBEAT","payload":"` + big + `"}`)
		for range mathrand.IntN(4) {
			switch mathrand.IntN(10) {
			case 0:
				p.tryWrite(large[:mathrand.IntN(len(large))]) // what follows is no frame
			case 1:
				p.tryWrite(large)
			case 2:
				p.tryWrite(rawFrame(rawText, `{"type":"HEARTBEAT","payload":"`+big))
				p.tryWrite(rawFrame(rawFin|rawCont, big[:mathrand.IntN(len(big))]+`"}`))
			case 3:
				p.tryWrite(rawFrame(rawText, big))
			case 4:
				s.flood(p)
			case 5:
				p.tryWrite(rawTextFrame(fmt.Sprintf(`{"type":%q,"payload":{"room":%q}}`, one("ROOM-JOIN", "ROOM-LEAVE"), one("red", "blue"))))
			case 6:
				p.tryWrite([]byte(one("\xff\xff", "\x81\x05hello", string(rawTextFrame("no JSON")), string(rawTextFrame("\xff")))))
			case 7:
				p.tryWrite(one(rawCloseFrame(1000, ""), rawTextFrame(`{"type":"LEAVE"}`)))
				p.tryWrite(large[:mathrand.IntN(len(large))])
			case 8:
				time.Sleep(time.Duration(mathrand.IntN(400)) * time.Millisecond)
			case 9:
				p.tryWrite(rawFrame(rawFin|rawPing, "?"))
			}
		}
		if mathrand.IntN(3) == 0 {
			time.Sleep(time.Duration(mathrand.IntN(1000)) * time.Millisecond)
		}
		if stuck || mathrand.IntN(2) == 0 {
			p.rawPeer.reset()
		}
	}
}

// flood sends a stream of messages to somebody.
func (s *storm) flood(p *stormPeer) {
	stream := int(s.streams.Add(1))
	dst := fmt.Sprint(one("wild", "receiver"), mathrand.IntN(stormSenders))
	var b []byte
	for n := range mathrand.IntN(600) {
		b = append(b, rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":%s}`, dst, stormText(stream, n)))...)
	}
	p.tryWrite(b)
}

// host calls what a host may call at any time, and looks at the bounds.
func (s *storm) host() {
	r := s.srv.Realm()
	for !s.over() {
		time.Sleep(time.Millisecond)
		id := fmt.Sprint(one("wild", "receiver"), mathrand.IntN(stormSenders))
		switch mathrand.IntN(6) {
		case 0:
			r.Send(id, Message{Type: "APP"})
		case 1:
			r.Broadcast(one("red", "blue"), Message{Type: "APP"})
		case 2:
			if wild(id) {
				r.RemoveClient(id)
			}
		case 3:
			r.ClearMessageQueue(id)
		case 4:
			if c := r.Client(id); c != nil {
				r.Join(one("red", "blue"), c)
			}
		case 5:
			s.srv.Stats()
			r.ClientIDs()
		}
		if n := r.Len(); n > s.srv.opts.ConcurrentLimit {
			s.fault("%d clients", n)
		}
		if n := r.partials.used.Load(); n > 8<<20 { // one that is refused counts for a moment
			s.fault("%d bytes of unfinished messages", n)
		}
		if c := r.Client(id); c != nil {
			c.mu.Lock()
			n := len(c.outbox.parcels) - c.outbox.given.parcels
			c.mu.Unlock()
			if n > s.srv.opts.MaxOutboxMessages+10 { // pings are not refused
				s.fault("%d messages in an outbox", n)
			}
		}
	}
}
