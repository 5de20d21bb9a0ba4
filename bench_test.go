package peer

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// benchOffer is an OFFER of 2.5 KiB for the peer named dst, as a browser sends it.
func benchOffer(dst string) []byte {
	line := `a=candidate:842163049 1 udp 1677729535 192.0.2.1 49203 typ srflx raddr 0.0.0.0 rport 0 generation 0\r\n`
	return fmt.Appendf(nil, `{"type":"OFFER","payload":{"sdp":{"type":"offer","sdp":"v=0\r\n%s"},"connectionId":"dc_1"},"dst":%q}`, strings.Repeat(line, 24), dst)
}

// stubClient is a client whose socket takes everything and that is not connected.
func stubClient(t testing.TB, s *Server, id, token string) *Client {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	t.Cleanup(func() { near.Close() })
	return benchClient(s, near, id, token)
}

func benchClient(s *Server, conn net.Conn, id, token string) *Client {
	c := newClient(nil, newSocket(conn, nil, &s.realm.partials), params{id: id, token: token, quoted: quote(id)}, "", netip.Addr{}, &s.opts, s.realm.traffic(id))
	c.stopReading() // there is neither a handshake nor a reader
	return c
}

// silence admits a client with a writer that never comes: what is sent to it stays in its
// outbox.
func silence(s *Server, c *Client) {
	s.realm.admit(c, nil, true)
	c.writer = busy
	c.outbox = outbox{}
}

func BenchmarkHoldAndFlush(b *testing.B) {
	s := NewServer(Options{AliveTimeout: -1})
	frame := textFrame(benchOffer("dst"))
	b.ReportAllocs()
	for b.Loop() {
		for range 10 {
			s.realm.route("dst", parcel{frame: frame, src: "src", deadline: time.Now().Add(time.Minute), keep: keepUntilExpiry})
		}
		sh := s.realm.shard("dst")
		sh.mu.Lock()
		ps := sh.takeLocked(s.realm, "dst")
		sh.mu.Unlock()
		if len(ps) != 10 {
			b.Fatal(len(ps))
		}
	}
}

// BenchmarkRefuse is an offer from one of many senders to an absent id for which as
// much waits as may.
func BenchmarkRefuse(b *testing.B) {
	const senders = 2 * DefaultMaxHeldPerDestination
	s := NewServer(Options{})
	ps := make([]parcel, senders)
	for i := range ps {
		ps[i] = parcel{frame: textFrame(benchOffer("dst")), src: newUUID(), deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry}
	}
	b.ReportAllocs()
	b.Cleanup(func() { s.Close() })
	for i := range ps {
		s.realm.route("dst", ps[i])
	}
	i := senders / 2
	for b.Loop() {
		if out, _ := s.realm.route("dst", ps[i]); out != notKept {
			b.Fatal("accepted")
		}
		if i++; i == senders {
			i = senders / 2
		}
	}
}

func BenchmarkEnqueue(b *testing.B) {
	s := NewServer(Options{MaxOutboxMessages: -1, MaxOutboxBytes: -1, AliveTimeout: -1})
	c := stubClient(b, s, "dst", "t")
	silence(s, c)
	p := parcel{frame: textFrame(benchOffer("dst"))}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		c.enqueue(p)
		if n++; n%1024 == 0 {
			c.outbox.parcels, c.outbox.bytes = c.outbox.parcels[:0], 0
		}
	}
}

// BenchmarkRealm must not get slower per operation as processors are added: run
// it with -cpu 1,2,4,8,16.
func BenchmarkRealm(b *testing.B) {
	const ids = 4096
	b.Run("admit-remove", func(b *testing.B) {
		s := NewServer(Options{AliveTimeout: -1, ConcurrentLimit: -1})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			conn, _ := net.Pipe()
			c := benchClient(s, conn, newUUID(), "t")
			for pb.Next() {
				s.realm.admit(c, nil, true) // no writer: only the books are measured
				s.realm.remove(c)
				s.realm.finish(c)
				c.stage = joining // its socket is what cannot be used twice
			}
		})
	})
	// Each goroutine sends to peers of its own, as pairs do, and then all to all: the
	// books are the same, but two who write to one client at a time wait for its cache
	// lines.
	b.Run("route", func(b *testing.B) { benchRoute(b, ids, 16) })
	b.Run("route-to-all", func(b *testing.B) { benchRoute(b, ids, 1) })
}

// benchRoute has each goroutine route to one of so many parts of the ids.
func benchRoute(b *testing.B, ids, parts int) {
	s := NewServer(Options{AliveTimeout: -1, ConcurrentLimit: -1, MaxOutboxMessages: -1, MaxOutboxBytes: -1})
	clients := make([]*Client, ids)
	for i := range clients {
		conn, _ := net.Pipe()
		clients[i] = benchClient(s, conn, newUUID(), "t")
		silence(s, clients[i])
	}
	p := parcel{frame: textFrame(benchOffer("dst")), src: "src", keep: keepUntilExpiry}
	var goroutines atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		g := int(goroutines.Add(1))
		own := clients[g%parts*ids/parts:][:ids/parts]
		for i := g * ids * 3 / 7; pb.Next(); i++ { // far from the others, and not in step with them
			c := own[i%len(own)]
			s.realm.route(c.id, p)
			c.mu.Lock()
			c.outbox.parcels, c.outbox.bytes = c.outbox.parcels[:0], 0
			c.mu.Unlock()
		}
	})
}

// BenchmarkRelay measures a message from socket to socket: its allocations are
// those of the server alone, for the client's side makes none.
func BenchmarkRelay(b *testing.B) {
	addr := benchServer(b)
	dial := func(id string) net.Conn {
		conn := benchConnect(b, addr, id)
		b.Cleanup(func() { conn.Close() })
		return conn
	}
	src, dst := dial("src"), dial("dst")
	offer := benchOffer("dst")
	frame := append([]byte{0x81, 0x80 | 126, byte(len(offer) >> 8), byte(len(offer)), 0, 0, 0, 0}, offer...)
	want := len(newFrame(len(offer))) + len(offer) + len(`,"src":"src"`)
	got := make([]byte, want)
	b.SetBytes(int64(len(offer)))
	b.ReportAllocs()
	for b.Loop() {
		src.Write(frame)
		if _, err := io.ReadFull(dst, got); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChurn is a client that connects, reads OPEN, and closes. Of what it
// allocates, half is net/http's, and a little the client's.
func BenchmarkChurn(b *testing.B) {
	addr := benchServer(b)
	goodbye := rawCloseFrame(1000, "")
	echo := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		conn := benchConnect(b, addr, "id")
		conn.Write(goodbye)
		if _, err := io.ReadFull(conn, echo); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

// benchServer serves for the length of a benchmark and returns its address.
func benchServer(b *testing.B) string {
	srv := NewServer(Options{})
	ts := httptest.NewServer(srv)
	b.Cleanup(ts.Close)
	b.Cleanup(func() { srv.Close() })
	return ts.Listener.Addr().String()
}

// benchConnect makes a connection and reads it up to OPEN.
func benchConnect(b *testing.B, addr, id string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	io.WriteString(conn, handshakeFor(socketTarget(id, "t")))
	var buf [512]byte
	for n := 0; !bytes.HasSuffix(buf[:n], openFrame); {
		m, err := conn.Read(buf[n:])
		if err != nil {
			b.Fatal(err)
		}
		n += m
	}
	return conn
}
