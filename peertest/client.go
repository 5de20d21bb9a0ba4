package peertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
	//lint:file-ignore SA1019 See handshake.go of package peer.
	"nhooyr.io/websocket"
)

// A Client is the client side of a signalling socket. [Host.Dial] makes one; the zero value cannot be used.
//
// A goroutine reads the socket all the time, as a browser does, and answers the pings of the server. So the client
// stays connected without heartbeats. The methods take what this goroutine has read, in its order.
//
// The methods may be called concurrently. When they fail, they call FailNow, which only the goroutine of the test may
// do (see [testing.T.FailNow]). So on other goroutines call only [Client.ID], [Client.Vanish] and [Client.Freeze],
// which cannot fail.
type Client struct {
	t     testing.TB
	id    string
	cfg   config
	ws    *websocket.Conn
	conn  *conn
	inbox *inbox

	writing sync.Mutex // held while a whole frame is written
}

// ID returns the id that the client has connected with.
func (c *Client) ID() string { return c.id }

// Send sends a message of a type to a destination. With dst "" the message has no destination. The payload is
// marshalled by [json.Marshal]; a [json.RawMessage] is sent byte for byte, even if it is not JSON; with nil the
// message has no payload. The test fails if the connection has ended, or if the payload cannot be marshalled.
//
// Send does not wait for the server to read the message.
func (c *Client) Send(t peer.MessageType, dst string, payload any) {
	c.t.Helper()
	frame, err := encode(t, dst, payload)
	if err != nil {
		c.fail("cannot send %s: %v", plain(string(t)), err)
	}
	if err := c.write(frame); err != nil {
		why := err.Error()
		if end := c.inbox.awaitEnd(c.cfg.timeout); end != nil { // the connection has ended, or a write would not fail
			why = end.describe(c.cfg.hide)
		}
		c.fail("cannot send %s: %s", plain(string(t)), why)
	}
}

// write writes a text frame.
func (c *Client) write(frame []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.timeout)
	defer cancel()
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.ws.Write(ctx, websocket.MessageText, frame)
}

// encode returns a message as PeerJS writes it.
func encode(t peer.MessageType, dst string, payload any) (frame []byte, err error) {
	var fields []string
	add := func(name string, value any) {
		raw, isRaw := value.(json.RawMessage)
		if !isRaw && err == nil {
			raw, err = json.Marshal(value)
		}
		fields = append(fields, fmt.Sprintf("%q:%s", name, raw))
	}
	add("type", t)
	if dst != "" {
		add("dst", dst)
	}
	if payload != nil {
		add("payload", payload)
	}
	return []byte("{" + strings.Join(fields, ",") + "}"), err
}

// Expect waits for the next message and returns it. The test fails if the message has another type, if the connection
// ends, or if nothing comes for the [Timeout]. Expect skips no message. If the host sends messages at times that the
// test does not know, give their types to [Ignore].
func (c *Client) Expect(t peer.MessageType) peer.Message {
	c.t.Helper()
	m, err := c.expect(t)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *Client) expect(t peer.MessageType) (peer.Message, error) {
	a, ok := c.inbox.next(c.cfg.timeout)
	if ok && a.is(t) {
		return a.message, nil
	}
	return peer.Message{}, c.unexpected(plain(string(t)), a, ok)
}

// ExpectNothing waits for d. The test fails if a message comes, or if the connection ends. It fails at once if there is
// a message that has come before. With zero or a negative d, ExpectNothing does not wait.
//
// Outside of a bubble, d is real time. Inside a bubble, a message that comes exactly at the end of d may be noticed or
// not.
func (c *Client) ExpectNothing(d time.Duration) {
	c.t.Helper()
	if a, ok := c.inbox.next(max(d, 0)); ok {
		c.fail("expected nothing for %v, but %s", max(d, 0), a.describe(c.cfg.hide))
	}
}

// ExpectClosed waits for the server to end the connection. It returns the code and the text of the server's close
// frame, or [CodeLost] and "" if there was none. The test fails if a message comes first, if nothing happens for the
// [Timeout], or if the test itself has ended the connection.
func (c *Client) ExpectClosed() (code int, text string) {
	c.t.Helper()
	a, ok := c.inbox.next(c.cfg.timeout)
	if !ok || a.end == nil || a.end.mine {
		c.t.Fatal(c.unexpected("the server to close the connection", a, ok))
	}
	return a.end.code, a.end.text
}

// Close sends a close frame and waits for the end of the connection, as peer.disconnect() and peer.destroy() of PeerJS
// do, and as a browser does for a page that is closed. The reason that OnDisconnect gets is
// [peer.ReasonClientClosed]. OnDisconnect may be called after Close has returned. The test fails if the server does not
// answer for the [Timeout]. If the connection has ended already, Close does nothing.
func (c *Client) Close() {
	c.t.Helper()
	c.inbox.disown()
	c.writing.Lock()
	c.conn.Write(closeFrame) // an error means that the connection has ended
	c.writing.Unlock()
	if c.inbox.awaitEnd(c.cfg.timeout) == nil {
		c.fail("has sent a close frame, but the server did not end the connection for %v", c.cfg.timeout)
	}
}

// closeFrame is what WebSocket.close() without arguments sends: a close frame without a code, masked with 0. The Close
// of the library is not used, because it gives up after 5 s, whatever the Timeout is.
var closeFrame = []byte{0x88, 0x80, 0, 0, 0, 0}

// Leave sends LEAVE without a destination and waits for the end of the connection. The reason that OnDisconnect gets is
// [peer.ReasonLeft]. OnDisconnect may be called after Leave has returned. PeerJS 1.5.5 does not send this message: its
// peer.disconnect() does what [Client.Close] does. The test fails if the connection has ended before, or if the server
// does not end the connection for the [Timeout].
func (c *Client) Leave() {
	c.t.Helper()
	c.Send(peer.TypeLeave, "", nil)
	if c.inbox.awaitEnd(c.cfg.timeout) == nil {
		c.fail("has sent LEAVE, but the server did not end the connection for %v", c.cfg.timeout)
	}
}

// Vanish ends the connection without a close frame, as a browser that is killed does. The reason that OnDisconnect
// gets is [peer.ReasonConnectionLost]. OnDisconnect may be called after Vanish has returned. If the connection has
// ended already, Vanish does nothing. Vanish never fails.
func (c *Client) Vanish() {
	c.inbox.disown()
	c.ws.CloseNow()
	<-c.inbox.ended
}

// Freeze makes the client stop while its connection stays open, as on a computer that goes to sleep: the client answers
// no ping, it reads no message, and what it sends does not arrive. The server closes the connection after AliveTimeout
// of [peer.Options], or if the client does not answer when another client asks for its id. Then [Client.ExpectClosed]
// returns [CodeLost]. Freeze never fails.
func (c *Client) Freeze() { c.conn.frozen.Store(true) }

// unexpected says what came instead of what was expected.
func (c *Client) unexpected(want string, a arrival, ok bool) error {
	got := "nothing came for " + c.cfg.timeout.String()
	if ok {
		got = a.describe(c.cfg.hide)
	}
	return c.errorf("expected %s, but %s", want, got)
}

func (c *Client) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Fatal(c.errorf(format, args...))
}

// errorf returns an error of one line about this client.
func (c *Client) errorf(format string, args ...any) error { return errorAbout(c.id, format, args...) }

func errorAbout(id, format string, args ...any) error {
	return fmt.Errorf("peertest: %s %s", plain(id), fmt.Sprintf(format, args...))
}

// plain quotes a name, unless it is so plain that it needs no quotes.
func plain(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` || name == "" {
		return quoted
	}
	return name
}
