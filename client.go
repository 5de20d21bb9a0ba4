package peer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"slices"
	"sync"
	"time"
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
	meanwhile        func()           // to be called if the client ends while the reader is paused
	pausedUntil      time.Duration    // when the reader was last paused, since socket.start
	reason           DisconnectReason // 0: has not ended
	cause            error            // what the socket or the protocol had to say about the end
	farewell         []byte           // last frames, written when the outbox is out of use
	changed          *sync.Cond       // nil: nobody has waited for anything yet
	successor        *Client          // the connection that took the id over
	pendingSuccessor *Client          // the newcomer that has evicted this client, and takes it out of the realm too
	ctx              context.Context  // made when somebody asks for it
	cancel           context.CancelCauseFunc
	alive            *time.Timer // nil: no alive timeout, or not admitted

	writers sync.WaitGroup // the goroutines of write and meanwhile, while there are any
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

// params are what a client says in the address of the socket.
type params struct {
	id, token, key string
	quoted         string // the id as a JSON string
}

// newClient returns a client for a socket whose handshake is under way.
func newClient(s *socket, p params, remote string, limitAddr netip.Addr, opts *Options, t *traffic) *Client {
	c := &Client{
		id: p.id, token: p.token, quoted: p.quoted, remote: remote, limitAddr: limitAddr,
		opts: opts, traffic: t, socket: s,
	}
	return c
}

// ID returns the id of the peer.
func (c *Client) ID() string { return c.id }

// Token returns the token that the client sent. A PeerJS client makes a random one if the
// page gives it none. A new connection with the same id and the same token is taken for
// the same peer, so keep tokens as secret as passwords.
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

// Reason returns why the connection ended, and 0 while it has not.
func (c *Client) Reason() DisconnectReason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Successor returns the connection that took the id over from this one, or nil.
func (c *Client) Successor() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.successor
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

// Send sends the client a message of the application. A nil error means that the message
// waits to be written, in order. If the peer connects again with its token before that, the
// new connection gets the message. Send returns [ErrNotConnected] if the connection has
// ended, [ErrSlowConsumer] if the outbox is full (which ends the connection, unless OPEN
// has not been written yet), and an error that wraps [ErrBadMessage] if the payload is not
// JSON.
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
func (c *Client) admit(predecessor *Client, inherited, held []parcel, waits bool) todo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.predecessor = predecessor
	c.outbox.fill(parcel{frame: openFrame}, inherited, held, c.opts.MaxOutboxMessages, c.opts.MaxOutboxBytes)
	if c.stage == ended { // the host has closed it while it decided
		return 0
	}
	c.stage = online
	if c.opts.AliveTimeout > 0 {
		c.alive = time.AfterFunc(c.opts.AliveTimeout/2, c.checkAlive)
	}
	if waits || predecessor != nil {
		return 0
	}
	c.writer = idle
	return c.startLocked()
}

var openFrame = textFrame([]byte(`{"type":"OPEN"}`))

// open lets the writer begin, with OPEN. held is what had no room in the outbox until now. Only the
// first call has an effect.
func (c *Client) open(held []parcel) todo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outbox.give(held) // if the client has just ended, they go back with the rest
	if c.writer != waiting || c.stage != online {
		return 0
	}
	c.writer = idle
	c.refusedOne = false
	return c.startLocked()
}

// isOpen reports whether OPEN may have been written.
func (c *Client) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writer != waiting
}
