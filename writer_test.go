package peer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A hookedConn tells what the server is about to do with its connection.
type hookedConn struct {
	net.Conn
	beforeDeadline func(t time.Time) // before a write deadline is set
	beforeWrite    func()
}

func (c *hookedConn) SetWriteDeadline(t time.Time) error {
	if c.beforeDeadline != nil {
		c.beforeDeadline(t)
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *hookedConn) Write(p []byte) (int, error) {
	if c.beforeWrite != nil {
		c.beforeWrite()
	}
	return c.Conn.Write(p)
}

// hookedListener puts a hookedConn around each connection.
type hookedListener struct {
	net.Listener
	conns chan *hookedConn
}

func (l hookedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &hookedConn{Conn: conn}
	l.conns <- c
	return c, nil
}

// The writer sets a deadline, looks whether the client has ended, and writes. An end notes that
// the client has ended, and sets a deadline in the past. Whatever comes first, the writer does not
// wait for a client that does not read.
func TestAnEndStopsTheWriterInEitherOrder(t *testing.T) {
	for name, hook := range map[string]func(c *hookedConn, end func()){
		"the end comes before the writer's deadline": func(c *hookedConn, end func()) {
			c.beforeDeadline = func(deadline time.Time) {
				if deadline.After(time.Now()) { // it is the writer's
					c.beforeDeadline = nil
					end()
				}
			}
		},
		"the end comes after the writer has looked": func(c *hookedConn, end func()) {
			c.beforeWrite = func() {
				c.beforeWrite = nil
				end()
			}
		},
		"the end comes while the writer waits": func(c *hookedConn, end func()) {
			c.beforeWrite = func() {
				c.beforeWrite = nil
				go func() {
					time.Sleep(time.Second)
					end()
				}()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := make(chan *hookedConn, 1)
				srv := NewServer(Options{})
				rec := watch(srv)
				r := bubbleRig(t, srv, nil, func(l net.Listener) net.Listener { return hookedListener{l, conns} })
				p := r.rawOpen().open("a")
				rec.want(t, "+a")
				synctest.Wait()
				c := srv.Realm().Client("a")
				hook(<-conns, c.Close)
				start := time.Now()
				require.NoError(t, c.Send(Message{Type: "X"})) // nobody reads it
				<-c.Context().Done()
				synctest.Wait()
				p.wantClose(CloseRemoved) // and not the message, whose write has been cut off
				require.LessOrEqual(t, time.Since(start), time.Second)
				rec.want(t, "+a", "-a removed")
			})
		})
	}
}

// Between two looks at the outbox, the writer lifts its deadline. What comes then is written too.
func TestWhatComesWhileTheWriterGoesIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *hookedConn, 1)
		srv := NewServer(Options{})
		p := bubbleRig(t, srv, nil, func(l net.Listener) net.Listener { return hookedListener{l, conns} }).rawOpen().open("a")
		synctest.Wait()
		c, conn := srv.Realm().Client("a"), <-conns
		conn.beforeDeadline = func(deadline time.Time) {
			if deadline.IsZero() { // the outbox was empty
				conn.beforeDeadline = nil
				require.NoError(t, c.Send(Message{Type: "SECOND"}))
			}
		}
		require.NoError(t, c.Send(Message{Type: "FIRST"}))
		p.want(`{"type":"FIRST"}`)
		p.want(`{"type":"SECOND"}`)
		synctest.Wait()
		require.NoError(t, c.Send(Message{Type: "THIRD"}))
		p.want(`{"type":"THIRD"}`)
		p.conn.Close()
	})
}

// The goroutine that sends a message to a plain socket writes what the socket takes at once, and
// does not try again: it has messages for others.
func TestAWriteThatWouldWaitIsTriedOnce(t *testing.T) {
	t.Parallel()
	const n = 16 << 20 // more than a socket takes
	_, c := quietClient(t, "plain", Options{MaxOutboxBytes: -1})
	tries := 0
	try := c.socket.try
	c.socket.try = func(fd uintptr) bool {
		tries++
		return try(fd)
	}
	c.writer = idle
	require.NoError(t, c.Send(Message{Type: "X", Payload: quoted(textOf(n))}))
	require.Equal(t, 1, tries)
	require.NoError(t, c.socket.conn.Close())
	c.writers.Wait()
}

// The buffer that several messages are written from is used again.
func TestTheBufferOfAWriteIsUsedAgain(t *testing.T) {
	const writes = 400
	near, far := tcpPair(t)
	srv := NewServer(Options{AliveTimeout: -1})
	c := benchClient(srv, near, "a", "t")
	silence(srv, c)
	read := closedAfter(func() { io.Copy(io.Discard, far) })
	made, newBuffer := 0, joinBuffers.New
	joinBuffers.New = func() any {
		made++
		return newBuffer()
	}
	defer func() { joinBuffers.New = newBuffer }()
	for name, write := range map[string]func(){"at once": c.flush, "by a goroutine": c.write} {
		made = 0
		for range writes {
			for range 2 {
				c.outbox.push(parcel{frame: openFrame})
			}
			c.writer = busy
			c.writers.Add(1)
			write()
			c.writers.Wait()
			require.Equal(t, idle, c.writer)
		}
		require.Less(t, made, writes/2, name) // a pool forgets a part of what it gets, by design
	}
	near.Close()
	<-read
	far.Close()
}

// A frailConn is a connection whose writes can be made to fail while its other side notices
// nothing. It remembers what was written to it.
type frailConn struct {
	net.Conn
	mu     sync.Mutex // guards the following
	broken bool
	writes [][]byte // the failed ones included
}

var errFrail = errors.New("the connection is broken")

func (f *frailConn) Write(p []byte) (int, error) {
	f.mu.Lock()
	f.writes = append(f.writes, append([]byte(nil), p...))
	broken := f.broken
	f.mu.Unlock()
	if broken {
		return 0, errFrail
	}
	return f.Conn.Write(p)
}

func (f *frailConn) breakDown() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken, f.writes = true, nil
}

func (f *frailConn) written() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([][]byte(nil), f.writes...)
}

// frailListener makes the connections of a listener frail.
type frailListener struct{ net.Listener }

func (l frailListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &frailConn{Conn: conn}, err
}

// frailRig is a rig in a bubble with a sender, and a client whose connection is frail.
func frailRig(t *testing.T, opts Options) (r *rig, rec *record, sender *testPeer, p *rawPeer, conn *frailConn) {
	t.Helper()
	r = bubbleRig(t, NewServer(opts), nil, func(l net.Listener) net.Listener { return frailListener{l} })
	rec = watch(r.srv)
	sender, p = r.connect("sender"), r.rawOpen().open("a")
	rec.wait(t, 2)
	synctest.Wait()
	return r, rec, sender, p, r.srv.Realm().Client("a").socket.conn.(*frailConn)
}

// wantNumbered wants the offers of sender with these numbers, from 0.
func (p *rawPeer) wantNumbered(n int) {
	p.t.Helper()
	for i := range n {
		p.want(fmt.Sprintf(`{"type":"OFFER","src":"sender","dst":"a","payload":%d}`, i))
	}
}

// A write that fails ends nothing by itself: what the client sent before its connection broke is
// still to be read. Nothing is written behind it, not even a close frame, and nothing is lost.
func TestNothingFollowsAWriteThatFailed(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(r *rig, p *rawPeer)
		want string
		late time.Duration // when it ends, after that
	}{
		"nothing comes": {func(r *rig, p *rawPeer) {}, "connection lost", lingerTimeout},
		"a close frame": {func(r *rig, p *rawPeer) { p.write(rawCloseFrame(1000, "")) }, "client closed", 0},
		"LEAVE":         {func(r *rig, p *rawPeer) { p.text(`{"type":"LEAVE"}`) }, "left", 0},
		"the end":       {func(r *rig, p *rawPeer) { p.conn.Close() }, "connection lost", 0},
		"removed":       {func(r *rig, p *rawPeer) { r.srv.Realm().RemoveClient("a") }, "removed", 0},
		"closed":        {func(r *rig, p *rawPeer) { r.srv.Realm().Client("a").Close() }, "removed", 0},
		"too many wait": {func(r *rig, p *rawPeer) { r.srv.Realm().Client("a").Send(Message{Type: "X"}) }, "slow consumer", 0},
		"a breach":      {func(r *rig, p *rawPeer) { p.write(rawFrame(rawFin|rawCont, "")) }, "protocol error", 0},
		"somebody asks": {func(r *rig, p *rawPeer) { r.srv.Realm().Client("a").probe(time.Hour) }, "connection lost", lingerTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, rec, sender, p, conn := frailRig(t, Options{MaxOutboxMessages: 3})
				conn.breakDown()
				for i := range 3 {
					sender.offer("a", fmt.Sprint(i))
					synctest.Wait()
				}
				require.Len(t, conn.written(), 1)
				require.NotNil(t, r.srv.Realm().Client("a"))
				start := time.Now()
				c.end(r, p)
				require.Equal(t, "-a "+c.want, rec.last(t, 3))
				require.Equal(t, c.late, time.Since(start))
				require.Len(t, conn.written(), 1)
				p.wantGone()
				next := r.rawOpen().open("a")
				next.wantNumbered(3)
				next.conn.Close()
			})
		})
	}
}

// The same is so for a plain socket, which is written to in another way.
func TestNothingFollowsAFailedWriteToAPlainSocket(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(r *rig, p *rawPeer)
		want string
	}{
		"nothing comes": {func(r *rig, p *rawPeer) {}, "connection lost"}, // takes a second
		"a close frame": {func(r *rig, p *rawPeer) { p.write(rawCloseFrame(1000, "")) }, "client closed"},
		"removed":       {func(r *rig, p *rawPeer) { r.srv.Realm().RemoveClient("a") }, "removed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := watch(r.srv)
			sender, p := r.connect("sender"), r.rawOpen().open("a")
			rec.wait(t, 2)
			conn := r.srv.Realm().Client("a")
			require.NoError(t, conn.socket.conn.(*net.TCPConn).CloseWrite()) // a write fails from now on
			p.wantGone()
			for i := range 3 {
				sender.offer("a", fmt.Sprint(i))
			}
			sender.offer("sender", `0`)
			sender.wantOffer("sender", `0`)
			require.NotNil(t, r.srv.Realm().Client("a"), "the reader has a moment")
			c.end(r, p)
			require.Equal(t, "-a "+c.want, rec.last(t, 3))
			next := r.rawOpen().open("a")
			next.wantNumbered(3)
		})
	}
}

// Over TLS, and through a wrapper of the host's, nobody knows how much of a write that failed has
// been written. So no more than one message is at stake.
func TestOneMessageIsWrittenAtATimeIfItsFateIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		_, _, sender, p, conn := frailRig(t, Options{})
		before := len(conn.written())
		for i := range n {
			sender.offer("a", fmt.Sprint(i))
		}
		synctest.Wait()
		p.wantNumbered(n)
		writes := conn.written()[before:]
		require.Len(t, writes, n)
		for i, w := range writes {
			require.Equal(t, string(textFrame(fmt.Appendf(nil, `{"type":"OFFER","src":"sender","dst":"a","payload":%d}`, i))), string(w))
		}
		p.conn.Close()
	})
}

// A plain socket gets many messages in one write.
func TestMessagesForAPlainSocketAreJoined(t *testing.T) {
	const n = 100
	s := NewServer(Options{AliveTimeout: -1})
	near, far := tcpPair(t)
	defer far.Close()
	c := benchClient(s, near, "a", "t")
	silence(s, c)
	for i := range n {
		require.NoError(t, c.Send(Message{Type: "X", Payload: fmt.Append(nil, i)}))
	}
	data, buf := c.batch()
	require.Len(t, data, size(c.outbox.parcels))
	require.NotNil(t, buf)
	require.Equal(t, n, c.outbox.inflight)
	near.Close()
}
