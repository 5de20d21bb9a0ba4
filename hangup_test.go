package peer

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Who said goodbye has nothing more to say. So the server closes its side at once,
// without waiting for the client to hang up.
func TestNobodyWaitsForAClientThatSaidGoodbye(t *testing.T) {
	r := newRig(t, Options{})
	const tries = 5 // the machine may be slow, but not each time
	var took time.Duration
	for range tries {
		p := r.rawConnect("a")
		p.write(rawCloseFrame(1000, "bye"))
		p.wantClose(1000)
		start := time.Now()
		c := r.srv.Realm().Client("a")
		require.Nil(t, c)
		waitFor(t, func() bool { return serving() == 0 })
		p.conn.Close()
		if took = time.Since(start); took < lingerTimeout/2 {
			return
		}
	}
	t.Errorf("the server has waited for %v", took)
}

// A page sees its socket closed when the stream ends. That does not wait for what the
// host does about it.
func TestTheStreamEndsBeforeTheEvents(t *testing.T) {
	r := newRig(t, Options{})
	release := make(chan struct{})
	r.srv.OnDisconnect(func(*Client, DisconnectReason) { <-release })
	for name, end := range map[string]func(p *rawPeer){
		"goodbye":        writing(rawCloseFrame(1000, "bye")),
		"protocol error": writing(rawFrame(rawFin|rawCont, "")),
		"removed":        func(p *rawPeer) { r.srv.Realm().RemoveClient(p.id) },
	} {
		p := r.rawConnect(name)
		end(p)
		p.skipToEnd()
		p.conn.Close()
	}
	close(release)
}

// serving returns how many connections have a goroutine.
func serving() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "peer.(*Server).serve(")
}

// A client that has sent its close frame answers a ping still (RFC 6455, section
// 5.5.2), and so must not find the connection reset when it does.
func TestAPongMayCrossTheGoodbye(t *testing.T) {
	r := newRig(t, Options{})
	p := r.rawConnect("a")
	c := r.srv.Realm().Client("a")
	go c.probe(waitLimit)
	first, _ := p.next()
	require.Equal(t, byte(rawFin|rawPing), first)
	p.write(rawCloseFrame(1000, ""))
	first, _ = p.next()
	require.Equal(t, byte(rawFin|rawClose), first)
	_, _, err := p.read()
	require.ErrorIs(t, err, io.EOF)
	p.write(rawFrame(rawFin|rawPong, ""))
	p.write(rawFrame(rawFin|rawPong, "")) // after a reset this could not be written
	_, err = p.conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// A host may hold on to a client that has ended, for a log or a list. That must not
// be a buffer too.
func TestAClientThatHasEndedHoldsNoBuffer(t *testing.T) {
	for name, frames := range map[string][]byte{
		"closed":              rawCloseFrame(1000, ""),
		"closed, and more":    slices.Concat(rawCloseFrame(1000, ""), rawTextFrame(`{}`)),
		"broken in a message": rawTextFrame(`{"type":"HEARTBEAT"}`)[:9],
		"broken in fragments": rawFrame(rawText, strings.Repeat("x", 300<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			p := r.rawConnect("a")
			c := r.srv.Realm().Client("a")
			p.write(frames)
			p.halfClose()
			p.skipToEnd()
			p.conn.Close()
			closeServer(t, r.srv)
			require.Nil(t, c.socket.buf)
			require.Empty(t, c.socket.unread)
			require.Nil(t, c.socket.own)
			require.Nil(t, c.socket.pieces)
			require.Zero(t, r.srv.realm.partials.used.Load())
		})
	}
}

// A message that lies in the client itself moves out when another one comes, also while
// it is being written.
func TestAMessageMayMoveWhileItsWriteWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawConnect("a")
		synctest.Wait()
		c := r.srv.Realm().Client("a")
		require.NoError(t, c.Send(Message{Type: "A"}))
		require.Len(t, c.outbox.parcels, 1)
		require.NotNil(t, c.outbox.room[0].frame)
		require.NoError(t, c.Send(Message{Type: "B"}))
		p.want(`{"type":"A"}`)
		p.want(`{"type":"B"}`)
	})
}

// Neither an idle client holds a message nor one that has ended.
func TestNobodyHoldsAMessageThatHasGone(t *testing.T) {
	holdsNone := func(c *Client) {
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Empty(t, c.outbox.parcels)
		for _, left := range append(c.outbox.parcels[:cap(c.outbox.parcels)], c.outbox.room[0]) {
			require.Nil(t, left.frame)
		}
	}
	for _, messages := range []int{1, 2, 4, 20} { // the outbox keeps its room if there were few
		synctest.Test(t, func(t *testing.T) {
			r := newBubbleRig(t, Options{})
			p := r.rawConnect("a")
			c := r.srv.Realm().Client("a")
			send := func() {
				for range messages {
					require.NoError(t, c.Send(Message{Type: "APP"}))
				}
			}
			holdsNone(c)
			for range 3 {
				send()
				for range messages {
					p.want(`{"type":"APP"}`)
				}
				holdsNone(c)
			}
			send()
			p.conn.Close()
			holdsNone(c)
		})
	}
}

// The server waits for a client that may answer a ping still. OnDisconnect does not wait for that.
func TestTheEventsDoNotWaitForAPong(t *testing.T) {
	const tries = 5 // the machine may be slow, but not each time
	var took time.Duration
	for range tries {
		r := newRig(t, Options{})
		rec := watch(r.srv)
		p := r.rawConnect("a")
		rec.want(t, "+a")
		c := r.srv.Realm().Client("a")
		c.mu.Lock()
		left := c.pingLocked()
		c.mu.Unlock()
		c.do(left)
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawPing), first)
		start := time.Now()
		p.write(rawCloseFrame(1000, ""))
		rec.want(t, "+a", "-a client closed")
		took = time.Since(start)
		p.conn.Close()
		if took < lingerTimeout/2 {
			return
		}
	}
	t.Errorf("OnDisconnect has waited for %v", took)
}
