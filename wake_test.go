package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are about the deadline that wakes a reader which has an event to tell the host: it must not
// change another deadline of the socket, and no byte of the stream is lost with it.

// A client has sent its close frame, and a write to it has failed then. The reader has a moment to find that frame, and
// a join that the host allows meanwhile does not take the moment away.
func TestAWakeUpDoesNotUndoTheMomentOfABrokenWriter(t *testing.T) {
	for name, watched := range map[string]bool{"without OnJoin": false, "with OnJoin": true} {
		t.Run(name, func(t *testing.T) {
			in, out := make(chan struct{}), make(chan struct{})
			r := newRig(t, Options{AllowJoin: func(*Client, string, json.RawMessage) error {
				close(in)
				<-out
				return nil
			}})
			if watched {
				r.srv.OnJoin(func(string, *Client) {})
			}
			a := r.rawOpen().open("a")
			c := r.srv.Realm().Client("a")
			a.text(`{"type":"ROOM-JOIN","payload":{"room":"x"}}`)
			<-in
			a.write(rawCloseFrame(1000, ""))
			a.conn.Close()
			waitFor(t, func() bool {
				c.Send(Message{Type: "X"})
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.writer == broken
			})
			close(out)
			<-c.Context().Done()
			require.Equal(t, ReasonClientClosed, c.Reason())
		})
	}
}

// The reader is paused for a client that is over its rate, and has an event to tell when that client is closed. The
// server waits for the close frame of the client nevertheless.
func TestAWakeUpDoesNotShortenTheWaitForTheCloseFrame(t *testing.T) {
	for name, watched := range map[string]bool{"without OnJoin": false, "with OnJoin": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{MessageRate: 0.5, AllowJoin: anyRoom})
				if watched {
					r.srv.OnJoin(func(string, *Client) {})
				}
				a := r.rawOpen().open("a")
				a.text(`{"type":"HEARTBEAT"}`)
				a.text(`{"type":"ROOM-JOIN","payload":{"room":"x"}}`)
				a.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"]}}`)
				synctest.Wait()
				r.srv.Realm().Client("a").Close()
				first, _ := a.next()
				require.Equal(t, byte(rawFin|rawClose), first)
				time.Sleep(lingerTimeout / 2)
				a.wantEndAfterAnswer()
			})
		})
	}
}

// connectedLog runs a function before it takes the line about a new client.
type connectedLog struct {
	slog.Handler
	before func()
}

func (h connectedLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "peer: connected" {
		h.before()
	}
	return nil
}

// deadlineConn tells a function of each read deadline that has been set.
type deadlineConn struct {
	net.Conn
	set func(time.Time)
}

func (c deadlineConn) SetReadDeadline(d time.Time) error {
	err := c.Conn.SetReadDeadline(d)
	c.set(d)
	return err
}

type deadlineListener struct {
	net.Listener
	set func(time.Time)
}

func (l deadlineListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return deadlineConn{c, l.set}, err
}

// The host makes a client join, and closes it, before the reader of that client begins. The reader finds the event when
// the writer waits for the close frame already: the lock of the rooms keeps it back until then.
func TestAWakeUpBeforeTheFirstReadDoesNotShortenTheWaitForTheCloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var srv *Server
		waits := make(chan struct{}, 1)
		var closed atomic.Bool
		srv = NewServer(Options{Logger: slog.New(connectedLog{slog.NewTextHandler(io.Discard, nil), func() {
			time.Sleep(time.Second)
			closed.Store(true)
			srv.realm.rooms.mu.Lock()
			go func() {
				<-waits
				srv.realm.rooms.mu.Unlock()
			}()
		}})})
		srv.OnJoin(func(string, *Client) {})
		r := bubbleRig(t, srv, nil, func(l net.Listener) net.Listener {
			return deadlineListener{l, func(d time.Time) {
				if closed.Load() && d.After(time.Now()) {
					waits <- struct{}{}
				}
			}}
		})
		a := r.rawOpen().open("a")
		c := srv.Realm().Client("a")
		require.NoError(t, srv.Realm().Join("x", c))
		a.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"]}}`)
		synctest.Wait()
		require.NoError(t, c.CloseWith(4444, ""))
		first, _ := a.next()
		require.Equal(t, byte(rawFin|rawClose), first)
		time.Sleep(time.Second + lingerTimeout/2)
		a.wantEndAfterAnswer()
	})
}

// A client is closed during an event of it, and is over its rate when the event ends. Its socket is the writer's then,
// which waits for the close frame: the reader does not touch the buffer. Only the race detector sees if it does.
func TestAClientThatIsOverItsRateAndHasEndedLeavesItsBufferAlone(t *testing.T) {
	in, out := make(chan *Client, 1), make(chan struct{})
	r := newRig(t, Options{MessageRate: 0.5})
	r.srv.OnMessage(func(c *Client, m Message) {
		if m.Type == "LAST" {
			in <- c
			<-out
		}
	})
	rec := watch(r.srv)
	a := r.rawOpen().open("a")
	a.text(`{"type":"HEARTBEAT"}`)
	a.write(append(rawTextFrame(`{"type":"LAST"}`), rawTextFrame(strings.Repeat("x", 300))[:100]...))
	c := <-in
	c.Close()
	a.next()
	stop := make(chan struct{})
	trickled := make(chan struct{})
	go func() {
		defer close(trickled)
		for tick := time.Tick(time.Millisecond); ; {
			select {
			case <-tick:
				a.tryWrite([]byte("xxxx"))
			case <-stop:
				return
			}
		}
	}()
	waitFor(t, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.farewell != nil })
	close(out)
	rec.want(t, "+a", "-a removed")
	close(stop)
	<-trickled
}

// messageSizes are those at which frames and buffers end.
var messageSizes = []int{0, 1, 50, 125, 1000, 8190, 8192, 65500, 65536, 65600, 200000}

// inFragments returns a message in fragments of any size, with pings in between.
func inFragments(text string) (stream []byte) {
	op := byte(rawText)
	for len(text) > 0 && rand.IntN(4) > 0 {
		n := rand.IntN(len(text) + 1)
		stream = append(stream, rawFrame(op, text[:n])...)
		text, op = text[n:], rawCont
		if one(true, false) {
			stream = append(stream, rawFrame(rawFin|rawPing, "p")...)
		}
	}
	return append(stream, rawFrame(rawFin|op, text)...)
}

// The host makes a client join and leave all the time, while the client sends messages of all sizes in pieces.
func TestNothingIsLostWhileTheReaderIsWokenAllTheTime(t *testing.T) {
	for kind, newRig := range map[string]func(*testing.T, Options) *rig{
		"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig,
	} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, Options{MaxOutboxBytes: -1, MaxOutboxMessages: -1})
			var events atomic.Int64
			r.srv.OnJoin(func(string, *Client) { events.Add(1) })
			r.srv.OnLeave(func(string, *Client, DisconnectReason) { events.Add(1) })
			var got, want []string
			r.srv.OnMessage(func(_ *Client, m Message) { got = append(got, string(m.Payload)) })
			a := r.rawOpen().open("a")
			a.deaf()
			c := r.srv.Realm().Client("a")
			go func() {
				for c.Reason() == 0 {
					r.srv.Realm().Join("x", c)
					runtime.Gosched()
					r.srv.Realm().Leave("x", c)
					for told := events.Load(); c.Reason() == 0 && events.Load() == told; {
						runtime.Gosched()
					}
				}
			}()
			for i, stop := 0, time.Now().Add(150*time.Millisecond); time.Now().Before(stop); i++ {
				payload := fmt.Sprintf(`"%d%s"`, i, strings.Repeat("x", one(messageSizes...)))
				want = append(want, payload)
				for stream := inFragments(`{"type":"X","payload":` + payload + `}`); len(stream) > 0; {
					n := 1 + rand.IntN(len(stream))
					a.write(stream[:n])
					stream = stream[n:]
					runtime.Gosched()
				}
			}
			a.write(rawCloseFrame(1000, ""))
			<-c.Context().Done()
			a.conn.Close() // else the server waits over TLS for the client to hang up
			closeServer(t, r.srv)
			require.Equal(t, len(want), len(got))
			for i := range want {
				require.True(t, want[i] == got[i], "message %d of %d differs", i, len(want))
			}
			require.NotZero(t, events.Load())
			require.Equal(t, ReasonClientClosed, c.Reason())
			require.Zero(t, r.partials())
		})
	}
}

// ownTimeout is the error of a connection whose timeouts are its own, and not those of package os.
type ownTimeout struct{}

func (ownTimeout) Error() string { return "own: i/o deadline reached" }

func (ownTimeout) Timeout() bool { return true }

func (ownTimeout) Temporary() bool { return true }

type ownTimeoutConn struct{ net.Conn }

func (c ownTimeoutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		err = ownTimeout{}
	}
	return n, err
}

type ownTimeoutListener struct{ net.Listener }

func (l ownTimeoutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return ownTimeoutConn{c}, err
}

func TestAWrapperMayHaveATimeoutOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bubbleRig(t, NewServer(Options{}), nil, func(l net.Listener) net.Listener { return ownTimeoutListener{l} })
		rec := watchRooms(r.srv)
		r.rawOpen().open("a").deaf()
		synctest.Wait()
		require.NoError(t, r.srv.Realm().Join("x", r.srv.Realm().Client("a")))
		synctest.Wait()
		require.Equal(t, []string{"+a", ">x a"}, rec.all())
	})
}
