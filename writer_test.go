package peer

import (
	"io"
	"net"
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
				p := r.rawConnect("a")
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
		p := bubbleRig(t, srv, nil, func(l net.Listener) net.Listener { return hookedListener{l, conns} }).rawConnect("a")
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
	const n = 32 << 20 // more than a socket takes
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
