package peer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Which goroutine runs what:
//
//   - the reader (Server.serve): read, pauseReading, quit, and flush of the clients that it
//     has sent something to;
//   - the writer (write), only while the socket does not take the outbox at once, and at the
//     end (part): it writes the last frames, waits for the client's close frame, and closes
//     the socket;
//   - the alive timer: checkAlive;
//   - the handshake, before there is a reader: watch, admit, open, and evict of another client;
//   - any goroutine: the exported methods, enqueue, end.

// A Client is one connection of a peer. It lives from the handshake to the end of its
// socket; when the peer reconnects, there is a new Client with the same id. The methods
// may be called concurrently, also from inside events and after the connection has ended.
// None of them blocks.
type Client struct {
	// Set by the handshake, and fixed when the client is admitted.
	id            string
	token         string
	quoted        string // the id as a JSON string
	user          any
	remote        string
	limitAddr     netip.Addr // the address, or its /64, that ConcurrentLimitPerAddr counts
	opts          *Options
	traffic       *traffic
	socket        *socket
	blocked       []tokenHash // of tokens that were overridden and may not take the id back
	inheritedFrom []*Client   // connections of the same token that this one has ended
	predecessor   *Client     // the id's last connection, until its last event has returned

	mu               sync.Mutex // guards the following; first what each message needs
	outbox           outbox
	stage            stage
	writer           writerState
	interrupting     bool // the goroutine that has ended the client has not woken the others yet
	pinged           bool // at least once: a pong may be on its way
	refusedOne       bool // there was no room for something, so what comes next must not overtake it
	reader           readerState
	wake             wakeState
	icePending       bool          // the ICE servers are to be sent again
	iceDue           time.Duration // when that is to be, since socket.start; 0: never
	membership       *membership   // nil: it has never been in a room
	request          *http.Request // of the handshake; nil when OnConnection has returned
	took             *Client       // the connection that the id was taken from; nil when OnConnection has returned
	received         received      // as of the last message
	sent             struct{ messages, bytes uint64 }
	meanwhile        func()           // to be called if the client ends while the reader is paused
	pausedUntil      time.Duration    // from when silence counts again after a pause, since socket.start
	reason           DisconnectReason // 0: has not ended
	cause            error            // what the socket or the protocol had to say about the end
	farewell         []byte           // last frames, written when the outbox is out of use
	changed          *sync.Cond       // nil: nobody has waited for anything yet
	successor        *Client          // the connection that took the id over
	pendingSuccessor *Client          // the newcomer that has evicted this client, and takes it out of the realm too
	ctx              context.Context  // made when somebody asks for it
	cancel           context.CancelCauseFunc
	alive            *time.Timer // nil: no alive timeout, or not admitted

	closing atomic.Pointer[lastWord] // set under mu; nil: nobody has called CloseWith
	writers sync.WaitGroup           // the goroutines of write and meanwhile, while there are any
}

// A stage is how far the life of a client has come. It only grows.
type stage uint8

const (
	joining  stage = iota // nobody can find it yet
	online                // in the realm
	ended                 // it has a reason, and the outbox is final; the realm may have it still
	removed               // out of the realm, which has taken the outbox; the id is free
	finished              // its last event has returned
)

// received is what the reader of a client has taken in.
type received struct {
	messages, bytes uint64
	throttled       time.Duration
}

// A membership is what a client has to do with rooms. It is guarded by the client's lock, and rooms
// changes only under the lock of the realm's rooms too.
type membership struct {
	names []string
	news  []roomNews // what the host has not been told of yet
}

// A roomNews is that a client has joined a room, or has left it for a reason.
type roomNews struct {
	room string
	why  DisconnectReason // 0: it has joined
}

// params are what a client says in the address of the socket.
type params struct {
	id, token, key string
	quoted         string // the id as a JSON string
}

// isElsewhere reports whether c stands for a newcomer on another node of the cluster. Such a client has
// no id as JSON, because nothing is sent to it; a field of its own would make all clients larger.
func (c *Client) isElsewhere() bool { return c.quoted == "" }

// newClient returns a client for a socket whose handshake is under way.
func newClient(r *http.Request, s *socket, p params, remote string, limitAddr netip.Addr, opts *Options, t *traffic) *Client {
	return &Client{
		id: p.id, token: p.token, quoted: p.quoted, remote: remote, limitAddr: limitAddr,
		opts: opts, traffic: t, socket: s, request: r,
	}
}

// ID returns the id of the peer.
func (c *Client) ID() string { return c.id }

// Token returns the token that the client sent. A PeerJS client makes a random one if the page
// gives it none. For the server, a newcomer with the same id and the same token is the same
// peer, and it gets the id. So keep tokens as secret as passwords.
func (c *Client) Token() string { return c.token }

// User returns what [Options.Authenticate] returned for this connection.
func (c *Client) User() any { return c.user }

// RemoteAddr returns the address of the client: "host:port" of its connection, or only the
// host if the address comes from a trusted proxy ([Options.TrustedProxies]).
func (c *Client) RemoteAddr() string { return c.remote }

// ConnectedSince returns when this connection was opened.
func (c *Client) ConnectedSince() time.Time { return c.socket.start }

// LastSeen returns when the client last sent anything.
func (c *Client) LastSeen() time.Time { return c.socket.start.Add(c.socket.lastSeen()) }

// Reason returns why the connection ended, or 0 if it has not ended.
func (c *Client) Reason() DisconnectReason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Successor returns the client that took the id over from this client, or nil.
func (c *Client) Successor() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.successor
}

// Predecessor returns the client that this client took the id over from. A function of
// OnConnection can use it to carry over what the host keeps for the predecessor. The
// [Client.Successor] of the predecessor is this client. Predecessor returns nil if the id was
// free. It also returns nil when the functions of OnConnection have returned.
func (c *Client) Predecessor() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.took
}

// Request returns the request of the handshake, with the headers, the cookies and the query,
// until the functions of OnConnection have returned. Afterwards it returns nil: an idle client
// does not keep its request. Do not keep the request for longer, and do not read its body.
func (c *Client) Request() *http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.request
}

// forgetRequest notes that OnConnection has returned.
func (c *Client) forgetRequest() {
	c.mu.Lock()
	c.request, c.took = nil, nil
	c.mu.Unlock()
}

// ClientStats is a snapshot of the counters of one connection.
type ClientStats struct {
	MessagesIn   uint64        // messages that the client sent, heartbeats included
	MessagesOut  uint64        // messages that were written to its socket, OPEN included; the last message to a client that the server closes is not counted
	BytesIn      uint64        // payload bytes of MessagesIn
	BytesOut     uint64        // bytes that were written to its socket
	Waiting      int           // messages, pings and pongs that wait to be written
	WaitingBytes int           // bytes of Waiting
	Throttled    time.Duration // how long its messages have waited because of [Options.MessageRate]
}

// Stats returns the counters of the connection. A message that is being handled may not be
// counted yet. After the end of the connection, the counters keep their last values.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClientStats{
		MessagesIn: c.received.messages, BytesIn: c.received.bytes, Throttled: c.received.throttled,
		MessagesOut: c.sent.messages, BytesOut: c.sent.bytes,
		Waiting: len(c.outbox.parcels), WaitingBytes: c.outbox.bytes,
	}
}

// Context returns a context that is cancelled when the connection ends, before
// its OnDisconnect runs. [context.Cause] is then the [DisconnectReason].
func (c *Client) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancelCause(context.Background())
		if c.reason != 0 {
			c.cancel(c.reason)
		}
	}
	return c.ctx
}

// Send sends the client a message of the application. A nil error means that the message is in
// the outbox of the client. Messages are written in the order in which they were sent. If the
// peer reconnects with its token before the message is written, the successor gets the message.
// Send returns [ErrNotConnected] if the connection has ended. It returns [ErrSlowConsumer] if
// the outbox is full; the server then closes the client, unless OPEN has not been written yet.
// It returns an error that wraps [ErrBadMessage] if the payload is not JSON.
func (c *Client) Send(m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	return c.post(ownParcel(b, keepForSamePeer))
}

// Close ends the connection with [ReasonRemoved]. Messages that have not been written yet
// are not written; offers, answers and candidates among them are held for the id. Close
// does not wait: OnDisconnect runs afterwards.
func (c *Client) Close() { c.end(ReasonRemoved, nil, nil) }

// CloseWith ends the connection with [ReasonRemoved] and tells the client why. The messages in
// the outbox of the client are written first, for [Options.WriteTimeout] at most. Meanwhile the
// id stays taken, and the server ignores the messages of the client. It treats messages to the
// client as if the client were absent. The close frame has the given code, from 4100 to 4999,
// and the given text of at most 123 bytes.
//
// A page cannot see the close frame through a PeerJS client. So if text is not empty, the
// server sends the text in an ERROR before the close frame. PeerJS then emits the error
// "server-error" and the event "disconnected". The open calls and data channels of the page go
// on, and the page may reconnect. To keep the client out, refuse it in [Options.Authenticate].
//
// CloseWith does not wait. It returns an error that wraps [ErrBadClose] if code or text is
// not allowed, and [ErrNotConnected] if the connection has ended or is being closed already.
func (c *Client) CloseWith(code int, text string) error {
	if err := checkClosing(code, text); err != nil {
		return err
	}
	c.mu.Lock()
	if c.stage > online || c.isClosing() {
		c.mu.Unlock()
		return ErrNotConnected
	}
	t := c.closeLocked(&lastWord{code: uint16(code), text: text})
	c.mu.Unlock()
	c.do(t)
	return nil
}

// checkClosing returns nil if a client may be closed with this code and text.
func checkClosing(code int, text string) error {
	if code < minCloseCode || code > maxCloseCode || len(text) > maxCloseText || !utf8.ValidString(text) {
		return fmt.Errorf("%w: code %d, text of %d bytes", ErrBadClose, code, len(text))
	}
	return nil
}

// What CloseWith allows. The codes below are for the server itself, and the text must fit a
// control frame (RFC 6455, section 5.5).
const (
	minCloseCode = 4100
	maxCloseCode = 4999
	maxCloseText = 123
)

// maxBlocked bounds how many tokens a connection remembers to keep out.
const maxBlocked = 32

// A tokenHash stands for a token that is remembered longer than its connection: a
// token can have kilobytes.
type tokenHash [sha256.Size]byte

func hashOf(token string) tokenHash { return sha256.Sum256([]byte(token)) }

// block keeps other tokens from overriding this connection.
func (c *Client) block(tokens ...tokenHash) {
	own := hashOf(c.token)
	for _, t := range tokens {
		if t != own && !slices.Contains(c.blocked, t) {
			c.blocked = append(c.blocked, t)
		}
	}
	c.blocked = c.blocked[max(0, len(c.blocked)-maxBlocked):]
}

func (c *Client) blocks(token string) bool {
	return len(c.blocked) > 0 && slices.Contains(c.blocked, hashOf(token))
}

// equal compares secrets in constant time.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// connected reports whether the client has been admitted and not ended.
func (c *Client) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stage == online
}

// admit fills the outbox of a client that nobody can find yet and starts its clock. If waits is
// true, or the events of the predecessor still run, nothing is written before open is called.
func (c *Client) admit(predecessor, took *Client, inherited, held []parcel, waits bool) todo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.predecessor, c.took = predecessor, took
	c.outbox.fill(parcel{frame: openFrame}, inherited, held, c.opts.MaxOutboxMessages, c.opts.MaxOutboxBytes)
	if c.stage == ended { // the host has closed it while it decided
		return 0
	}
	c.stage = online
	if c.opts.AliveTimeout > 0 {
		c.setAliveLocked(c.opts.AliveTimeout / 2)
	}
	if waits || predecessor != nil {
		return 0
	}
	c.writer = idle
	return c.startLocked()
}

// precede puts a parcel in front of OPEN, or behind everything if OPEN may have been written.
func (c *Client) precede(p parcel) {
	c.mu.Lock()
	if c.stage == online && c.writer == unopened {
		c.outbox.precede(p.frame)
		c.sent.messages++ // the two count as one in the outbox
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.post(p) // a client that has ended need not know
}

// isClosing reports whether nothing more is accepted from the client or for it.
func (c *Client) isClosing() bool { return c.closing.Load() != nil }

var openFrame = textFrame([]byte(`{"type":"OPEN"}`))

// open lets the writer begin, with OPEN. held is what had no room in the outbox until now. Only the
// first call has an effect.
func (c *Client) open(held []parcel) todo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outbox.give(held) // if the client has just ended, they go back with the rest
	if c.writer != unopened || c.stage != online {
		return 0
	}
	c.writer = idle
	c.refusedOne = c.isClosing() // then what is held stays held
	return c.startLocked()
}

// isOpen reports whether OPEN may have been written.
func (c *Client) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writer != unopened
}
