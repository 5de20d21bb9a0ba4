package peer

import (
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
