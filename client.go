//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated under this name only: its authors go on as github.com/coder/websocket, with the same API. Nothing else deprecated is used here.

package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"nhooyr.io/websocket"
)

// Times that a peer on the other side of a socket cannot stretch.
const (
	farewellTimeout = 250 * time.Millisecond // to write the last frames to a client that ends
	lingerTimeout   = time.Second            // for a client to hang up after the last frame
)

// A Client is one connection of a peer: made by the handshake, gone with its
// socket. A peer that reconnects is a new Client with the same id. Its methods
// may be called concurrently, also after it has ended and from inside events;
// none of them blocks.
type Client struct {
	// Fixed at construction.
	id      string
	token   string
	quoted  string // the id as a JSON string
	user    any
	remote  string
	site    netip.Addr // what counts for a limit per address
	limits  *Options
	traffic *traffic
	wire    *wire
	ended   func()      // called once it has ended and no write is under way, unless a newcomer has evicted it
	barred  []tokenHash // of tokens that were overridden and may not take the id back

	// Owned by the handshake.
	inherits []*Client // connections of the same token that this one has ended

	mu                sync.Mutex       // guards the following; first what each message needs
	outbox            []parcel         // accepted and not yet written whole, oldest first
	bytes             int              // of the outbox
	given, givenBytes int              // how much of it was there from the start
	why               DisconnectReason // 0: connected
	admitted          bool             // it can be found, or could
	taken             bool             // the outbox is somebody else's now: it is out of the realm
	writing           bool             // a writer exists, or is about to
	broken            bool             // a write has failed: the reader will find out what has happened
	stuck             bool             // nothing can follow what is written
	parted            bool             // the other side has been told that nothing more will come
	pinged            bool             // it was, once at least: a pong may be on its way
	full              bool             // there was no room for all that came for the heir
	done              bool             // the last event has returned
	inflight          int              // how many parcels of the outbox a write is under way for
	partial           int              // how much of the first frame of the outbox is written
	room              [1]parcel        // for the outbox while it has no more than this
	changed           sync.Cond        // inflight or done has changed
	cause             error            // what the socket or the protocol had to say about the end
	farewell          []byte           // last frames, written when the outbox is out of use
	next              *Client          // who took the id over
	heir              *Client          // the newcomer who has evicted it, and takes it out of the realm too
	ctx               context.Context  // made when somebody asks for it
	cancel            context.CancelCauseFunc
	alive             *time.Timer // nil: no alive timeout, or not admitted

	// Set when the client is admitted, before it is found by anybody.
	previous *Client // the id's last connection, until its last event has returned

	scratch *[]byte // owned by the reader: the buffer of a message that the library read

	excused atomic.Int64   // when the reader was last held up: nanoseconds since wire.start
	busy    atomic.Bool    // the reader is held up by the host or the rate limit
	writers sync.WaitGroup // the goroutine of write, while there is one
}

// newClient returns a client for a socket whose handshake is under way. It does not
// hold on to the strings it is given: they can be parts of a request of a megabyte.
func newClient(w *wire, id, token string, limits *Options) *Client {
	c := &Client{token: strings.Clone(token), quoted: quote(id), limits: limits, wire: w}
	if c.id = c.quoted[1 : len(c.quoted)-1]; c.id != id { // there is something to escape in it
		c.id = strings.Clone(id)
	}
	c.changed.L = &c.mu
	w.client = c
	return c
}

// ID returns the id that the peer is known by.
func (c *Client) ID() string { return c.id }

// Token returns the token that the client sent; a PeerJS client makes a random one
// for itself unless it is given one. It is what proves that a new connection for
// the same id is the same peer, so it should be kept as secret as a password.
func (c *Client) Token() string { return c.token }

// User returns what [Options.Authenticate] returned for this connection.
func (c *Client) User() any { return c.user }

// RemoteAddr returns the address of the client: "host:port" of its connection,
// or the host alone where [Options.TrustedProxies] had to be asked for it.
func (c *Client) RemoteAddr() string { return c.remote }

// ConnectedSince returns when this connection was opened.
func (c *Client) ConnectedSince() time.Time { return c.wire.start }

// LastSeen returns when the client last sent anything.
func (c *Client) LastSeen() time.Time { return c.wire.start.Add(time.Duration(c.wire.seen.Load())) }

// Reason returns why the connection ended, and 0 while it has not.
func (c *Client) Reason() DisconnectReason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// maxBarred bounds how many tokens a connection remembers to keep out.
const maxBarred = 32

// A tokenHash stands for a token that is remembered longer than its connection: a
// token can have kilobytes.
type tokenHash [sha256.Size]byte

func hashOf(token string) tokenHash { return sha256.Sum256([]byte(token)) }

// bar keeps other tokens from overriding this connection.
func (c *Client) bar(tokens ...tokenHash) {
	own := hashOf(c.token)
	for _, t := range tokens {
		if t != own && !slices.Contains(c.barred, t) {
			c.barred = append(c.barred, t)
		}
	}
	c.barred = c.barred[max(0, len(c.barred)-maxBarred):]
}

func (c *Client) bars(token string) bool {
	return len(c.barred) > 0 && slices.Contains(c.barred, hashOf(token))
}

// equal compares secrets in constant time.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// connected reports whether the client has been admitted and not ended.
func (c *Client) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admitted && c.why == 0
}

// Successor returns the connection that took the id over from this one, or nil
// if none did.
func (c *Client) Successor() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// Context returns a context that is cancelled when the connection ends, before
// its OnDisconnect runs. [context.Cause] is then the [DisconnectReason].
func (c *Client) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancelCause(context.Background())
		if c.why != 0 {
			c.cancel(c.why)
		}
	}
	return c.ctx
}

// Send sends the client a message of the application's own. A nil error means
// that the message waits to be written, in order; if the same peer, by its token,
// takes the connection over before that, the next one gets it. It returns
// [ErrNotConnected] if the connection has ended, [ErrSlowConsumer] if the client
// has too much waiting (which ends it), and an error that wraps [ErrBadMessage]
// if the payload is not JSON.
func (c *Client) Send(m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	return c.post(parcel{frame: textFrame(b), fate: fateOwn})
}

// Close ends the connection with [ReasonRemoved]. What has not been written yet
// is not written any more; offers and what belongs to them wait for the id
// instead. It does not wait: OnDisconnect runs afterwards.
func (c *Client) Close() { c.end(ReasonRemoved, nil, nil) }

// post is [Client.enqueue] for those who hold no lock.
func (c *Client) post(p parcel) error {
	start, err := c.enqueue(p)
	if start {
		c.flush()
	}
	return err
}

// enqueue accepts a parcel for writing. It never blocks. If start is true the
// caller must call c.flush as soon as it holds no lock.
func (c *Client) enqueue(p parcel) (start bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.admitted || c.taken || c.why != 0 && c.heir == nil:
		return false, ErrNotConnected
	case c.why != 0 && (c.full || c.fullLocked(len(p.frame)) || c.why == ReasonOverridden && p.fate <= fateOwn):
		c.full = c.full || p.fate > fateOwn // what follows must not go before what was refused
		return false, ErrNotConnected
	case c.why != 0: // its heir, who is at the door, gets this with the rest
		p.settle()
		c.addLocked(p)
		return false, nil
	case c.fullLocked(len(p.frame)):
		return c.endLocked(ReasonSlowConsumer, nil, nil), ErrSlowConsumer
	}
	if len(c.outbox) >= backlog {
		p.settle()
	}
	c.addLocked(p)
	return c.startLocked(), nil
}

// addLocked puts a parcel at the end of the outbox.
func (c *Client) addLocked(p parcel) {
	c.outbox = append(c.outbox, p)
	c.bytes += len(p.frame)
	if len(c.outbox) > len(c.room) { // it has moved out, and must not leave a message behind
		c.room[0] = parcel{}
	}
}

// fullLocked reports whether a frame of n bytes is too much, beside what the client
// was given when it connected.
func (c *Client) fullLocked(n int) bool {
	parcels, bytes := len(c.outbox)-c.given, c.bytes-c.givenBytes
	return c.limits.MaxOutboxMessages >= 0 && parcels >= c.limits.MaxOutboxMessages ||
		c.limits.MaxOutboxBytes >= 0 && bytes+n > c.limits.MaxOutboxBytes && parcels > 0
}

// admit fills the outbox of a client that nobody can find yet, with OPEN, what its
// predecessor had not written and what was held, and starts its clock. Nothing of
// that counts against it, except for what it inherits beyond one outbox: an id that
// is taken over again and again, and never read, must not gather more and more.
func (c *Client) admit(previous *Client, inherited, held []parcel) (start bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.previous = previous
	c.admitted = true
	c.outbox = append(append(append(c.room[:0], parcel{frame: openFrame}), inherited...), held...)
	c.bytes = size(c.outbox)
	c.given, c.givenBytes = len(c.outbox), c.bytes
	if limit := c.limits.MaxOutboxMessages; limit >= 0 {
		c.given -= max(0, len(inherited)-limit)
	}
	if limit := c.limits.MaxOutboxBytes; limit >= 0 {
		c.givenBytes -= max(0, size(inherited)-limit)
	}
	if c.why != 0 { // the host has closed it while it decided
		return false
	}
	if c.limits.AliveTimeout > 0 {
		c.alive = time.AfterFunc(c.limits.AliveTimeout/2, c.checkAlive)
	}
	return c.startLocked()
}

func (c *Client) startLocked() bool {
	if c.writing || c.broken && c.why == 0 {
		return false
	}
	c.writing = true
	c.writers.Add(1)
	return true
}

// end ends the connection for a reason, unless it has ended already. It does not
// wait: the reader wakes up and cleans up. cause may be nil. The last message
// that the client is to get before the close frame may be nil too.
func (c *Client) end(why DisconnectReason, cause error, last *Message) bool {
	c.mu.Lock()
	if c.why != 0 {
		c.mu.Unlock()
		return false
	}
	start := c.endLocked(why, cause, last)
	c.mu.Unlock()
	if start {
		c.flush()
	}
	return true
}

// quit is end for the reader, which has read its last. On a plain socket it writes the
// last frames itself, for a goroutine would cost more.
func (c *Client) quit(why DisconnectReason, cause error) {
	c.mu.Lock()
	start := c.why == 0 && c.endLocked(why, cause, nil)
	c.mu.Unlock()
	switch {
	case start && c.wire.raw != nil:
		c.write()
	case start:
		go c.write()
	}
}

// evict is end by a newcomer who is to have the id. If it returns true, it is up
// to the newcomer to take the client out of the realm, and the client stays in it
// until then: nobody else gets the id meanwhile, nor what is sent to it.
func (c *Client) evict(heir *Client, why DisconnectReason, last *Message) bool {
	c.mu.Lock()
	if c.why != 0 {
		c.mu.Unlock()
		return false
	}
	c.heir = heir
	start := c.endLocked(why, nil, last)
	c.mu.Unlock()
	if start {
		c.flush()
	}
	return true
}

// awaitHeir reports whether the client was evicted, and waits until it is out of
// the realm if so.
func (c *Client) awaitHeir() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.heir != nil && !c.taken {
		c.changed.Wait()
	}
	return c.heir != nil
}

// yieldsTo reports whether a client that has ended leaves its id to by: it had
// ended by itself, or by evicted it.
func (c *Client) yieldsTo(by *Client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heir == nil || c.heir == by
}

// endLocked makes the outbox final and both sides of the socket let go. A write
// that is under way either is complete already or is not going to be: its
// socket's buffer is full. So it is cut off instead of waited for, and what it
// had not written stays in the outbox. Over TLS nothing could follow a write that
// was cut off, not even why the connection ends: there it gets a moment, unless a
// newcomer waits for the id and there is no message for the client.
func (c *Client) endLocked(why DisconnectReason, cause error, last *Message) (start bool) {
	c.why, c.cause = why, cause
	if code, text := why.closeCode(); code != 0 && c.farewell == nil {
		c.farewell = closeFrame(code, text)
	}
	if last != nil {
		b, _ := last.encode() // the server's own payload is JSON
		c.farewell = append(textFrame(b), c.farewell...)
	}
	if c.alive != nil {
		c.alive.Stop()
	}
	if c.cancel != nil {
		c.cancel(why)
	}
	if c.wire.sealed && c.inflight > 0 && (c.heir == nil || last != nil) {
		c.wire.SetWriteDeadline(time.Now().Add(farewellTimeout))
	} else {
		c.wire.SetWriteDeadline(past)
	}
	c.wire.SetReadDeadline(past)
	c.wire.heard() // a probe need not wait for a client that has ended
	return c.startLocked()
}

// settle waits until no write is under way on a client that has ended. That is a
// matter of microseconds, or of farewellTimeout over TLS, see [Client.endLocked].
func (c *Client) settle() {
	c.mu.Lock()
	for c.inflight > 0 {
		c.changed.Wait()
	}
	c.mu.Unlock()
}

// takeUnwritten returns what a client that has ended and settled was still to be
// sent, as far as it is of a fate that is kept, to give it to the one that takes the id
// over, if there is one. dropped counts the other messages. A second call returns nothing.
func (c *Client) takeUnwritten(by *Client, keeps func(fate) bool) (kept []parcel, dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = by
	c.changed.Broadcast()
	for _, p := range c.outbox {
		switch {
		case keeps(p.fate):
			kept = append(kept, p)
		case p.fate != fateDrop:
			dropped++
		}
	}
	clear(c.outbox) // whoever holds on to the client must not hold on to messages
	c.outbox, c.bytes, c.taken = nil, 0, true
	return kept, dropped
}

// finish notes that the last event of this connection has returned.
func (c *Client) finish() {
	c.mu.Lock()
	c.done = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// awaitFinish waits for [Client.finish].
func (c *Client) awaitFinish() {
	c.mu.Lock()
	for !c.done {
		c.changed.Wait()
	}
	c.mu.Unlock()
}

// flush writes the outbox on the caller's goroutine as far as that goes without
// waiting, and leaves the rest to a goroutine. Mostly there is no rest: to start a
// goroutine for every message would cost more than to write it.
func (c *Client) flush() {
	const rounds = 4 // others may go on filling the outbox meanwhile
	for i := 0; i < rounds && c.wire.raw != nil; i++ {
		frame := c.head()
		if frame == nil {
			break
		}
		n, err := c.wire.tryWrite(frame)
		more, blocked := c.wrote(n, err)
		if !more {
			c.writers.Done()
			return
		}
		if blocked {
			break
		}
	}
	go c.write()
}

// head returns the first frame that waits, as far as it is unwritten, and nil if
// the client has ended or nothing waits.
func (c *Client) head() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != 0 || c.broken || len(c.outbox) == 0 {
		return nil
	}
	c.inflight = 1
	return c.outbox[0].frame[c.partial:]
}

// wrote notes the result of a write that did not wait. It reports whether there
// is more for a writer to do, and whether it would have to wait for that.
func (c *Client) wrote(n int, err error) (more, blocked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	blocked = n < len(c.outbox[0].frame)-c.partial
	c.writtenLocked(int64(n))
	if err != nil {
		c.breakLocked()
	}
	c.writing = c.why != 0 || len(c.outbox) > 0 && !c.broken
	return c.writing, blocked
}

// breakLocked stops writing. It does not end the client: what that has sent before
// its socket broke, a close frame perhaps, is still to be read.
func (c *Client) breakLocked() {
	c.broken = true
	if c.why == 0 {
		c.wire.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
}

const (
	maxBatch = 64  // how many parcels go to the kernel in one write
	backlog  = 256 // of so many parcels, the next ones will wait for long
)

var batches = sync.Pool{New: func() any { b := make(net.Buffers, 0, maxBatch); return &b }}

// write writes the outbox until it is empty or the client has ended, then the
// farewell if there is one. There is one writer at a time, this or flush, and
// none while there is nothing to write.
func (c *Client) write() {
	defer c.writers.Done()
	c.mu.Lock()
	for c.why == 0 && !c.broken && len(c.outbox) > 0 {
		c.inflight = min(len(c.outbox), maxBatch)
		if c.wire.raw == nil {
			c.inflight = 1 // a TLS write that has timed out cannot be taken up again
		}
		batch, first := c.outbox[:c.inflight], c.outbox[0].frame[c.partial:]
		if c.limits.WriteTimeout > 0 {
			c.wire.SetWriteDeadline(time.Now().Add(c.limits.WriteTimeout))
		}
		c.mu.Unlock()
		n, err := c.writeBatch(first, batch[1:])
		c.mu.Lock()
		c.writtenLocked(n)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late && n > 0 && c.wire.raw != nil {
			continue // it takes what it can
		}
		switch {
		case late && c.why == 0:
			c.endLocked(ReasonSlowConsumer, fmt.Errorf("writing: %w", err), nil)
		case err != nil && !late:
			c.breakLocked()
		}
	}
	c.writing = c.why != 0 // an ended client never starts another writer
	if c.why == 0 {
		c.wire.SetWriteDeadline(time.Time{}) // else it would keep flush from trying
		c.mu.Unlock()
		return
	}
	last := c.farewell
	c.stuck = c.partial > 0 || c.broken // the stream ends inside a frame: nothing can follow
	stuck, evicted := c.stuck, c.heir != nil
	c.mu.Unlock()
	if c.ended != nil && !evicted {
		c.ended()
	}
	if last == nil || stuck {
		return
	}
	c.wire.SetWriteDeadline(time.Now().Add(farewellTimeout))
	n, err := c.wire.Conn.Write(last)
	c.traffic.bytesOut.Add(uint64(n))
	// A browser fires its events when the stream ends, not when the frame comes, and
	// hangUp may have to wait for events of the host.
	parted := false
	switch {
	case err == nil && c.isOver():
		c.wire.shut()
	case err == nil:
		parted = c.wire.closeWrite()
	}
	c.mu.Lock()
	c.stuck, c.parted = err != nil, parted
	c.mu.Unlock()
}

// isOver reports whether there is nothing to wait for from a client that has ended: it
// has said goodbye, and has no ping to answer. TLS has a goodbye of its own.
func (c *Client) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why == ReasonClientClosed && !c.pinged && !c.wire.sealed
}

func (c *Client) writeBatch(first []byte, more []parcel) (int64, error) {
	if len(more) == 0 {
		n, err := c.wire.Conn.Write(first)
		return int64(n), err
	}
	pooled := batches.Get().(*net.Buffers)
	bufs := append((*pooled)[:0], first)
	for _, p := range more {
		bufs = append(bufs, p.frame)
	}
	rest := bufs // WriteTo consumes the slice that it is called on
	n, err := rest.WriteTo(c.wire.Conn)
	clear(bufs)
	*pooled = bufs[:0]
	batches.Put(pooled)
	return n, err
}

// writtenLocked removes from the outbox what the next n bytes of it cover.
func (c *Client) writtenLocked(n int64) {
	c.traffic.bytesOut.Add(uint64(n))
	n += int64(c.partial)
	whole := 0
	for whole < c.inflight && n >= int64(len(c.outbox[whole].frame)) {
		size := len(c.outbox[whole].frame)
		n -= int64(size)
		c.bytes -= size
		c.given = max(0, c.given-1)
		c.givenBytes = max(0, c.givenBytes-size)
		c.outbox[whole].release()
		whole++
	}
	c.partial = int(n)
	c.inflight = 0
	rest := copy(c.outbox, c.outbox[whole:])
	clear(c.outbox[rest:])
	if c.outbox = c.outbox[:rest]; rest == 0 && cap(c.outbox) > 8 {
		c.outbox = c.room[:0] // an idle client keeps no room for a burst
	}
	c.changed.Broadcast()
}

// checkAlive runs when the client may have been silent for too long.
func (c *Client) checkAlive() {
	c.mu.Lock()
	if c.why != 0 {
		c.mu.Unlock()
		return
	}
	limit, silent, start := c.limits.AliveTimeout, c.silence(), false
	switch {
	case silent >= limit:
		start = c.endLocked(ReasonAliveTimeout, nil, nil)
	case silent >= limit/2:
		start = c.pingLocked()
		c.alive.Reset(limit - silent)
	default:
		c.alive.Reset(limit/2 - silent)
	}
	c.mu.Unlock()
	if start {
		c.flush()
	}
}

// pingLocked puts a ping into the outbox, full or not: nobody is to be closed for
// being asked.
func (c *Client) pingLocked() (start bool) {
	c.pinged = true
	c.addLocked(parcel{frame: pingFrame})
	return c.startLocked()
}

// silence returns for how long nothing has come from the client. While the
// reader is held up, that says nothing about the client.
func (c *Client) silence() time.Duration {
	if c.busy.Load() {
		return 0
	}
	return time.Since(c.wire.start) - time.Duration(max(c.wire.seen.Load(), c.excused.Load()))
}

// holdUp runs f, during which the client is not read and not blamed for it. A nil
// client is not connected yet.
func (c *Client) holdUp(f func()) {
	if c == nil {
		f()
		return
	}
	c.busy.Store(true)
	defer func() {
		c.excused.Store(int64(time.Since(c.wire.start)))
		c.busy.Store(false)
	}()
	f()
}

// probe pings the client and reports whether anything came from it in time.
func (c *Client) probe(timeout time.Duration) bool {
	heard := make(chan struct{})
	c.wire.watcher.Store(&heard)
	defer c.wire.watcher.Store(nil)
	if c.busy.Load() {
		return true
	}
	c.mu.Lock()
	if c.why != 0 {
		c.mu.Unlock()
		return false
	}
	start := c.pingLocked()
	c.mu.Unlock()
	if start {
		c.flush()
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-heard:
		return c.Reason() == 0
	case <-timer.C:
		return c.busy.Load()
	}
}

var scratch = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// maxScratch is the largest buffer that goes back to the pool.
const maxScratch = 64 << 10

// A frameError is a frame that ends its connection.
type frameError struct {
	why  DisconnectReason
	text string
}

func (e *frameError) Error() string { return "peer: " + e.text }

// read returns the next message, valid until the next read, or the error that
// ends the connection; after one that wraps [ErrBadMessage], reading goes on.
// Only one goroutine may read.
func (c *Client) read() ([]byte, error) {
	c.giveBack()
	typ := websocket.MessageText
	var data []byte
	for data == nil {
		err := c.wire.await()
		if err != nil {
			return nil, err
		}
		switch first, payload := c.wire.takeFrame(); first {
		case finBit | opText:
			data = payload
		case finBit | opPing:
			err = c.post(parcel{frame: controlFrame(opPong, payload)})
		case finBit | opPong:
		case finBit | opClose:
			err = c.answerClose(payload)
		default:
			typ, data, err = c.readLong()
		}
		if err != nil {
			return nil, err
		}
	}
	c.traffic.bytesIn.Add(uint64(len(data)))
	switch {
	case c.limits.MaxMessageSize >= 0 && len(data) > c.limits.MaxMessageSize:
		return nil, &frameError{ReasonMessageTooBig, fmt.Sprintf("message of more than %d bytes", c.limits.MaxMessageSize)}
	case utf8.Valid(data):
		return data, nil
	case typ == websocket.MessageText:
		return nil, &frameError{ReasonInvalidText, "text that is not UTF-8"}
	}
	return nil, fmt.Errorf("%w: not UTF-8", ErrBadMessage)
}

// errClosedByClient is the end that the client has asked for.
var errClosedByClient = &frameError{ReasonClientClosed, "closed by the client"}

// answerClose lets the last word be the client's own (RFC 6455, section 5.5.1), and
// returns the error that ends the connection.
//
//go:noinline
func (c *Client) answerClose(payload []byte) error {
	switch {
	case len(payload) == 1 || len(payload) > 1 && !validCloseCode(binary.BigEndian.Uint16(payload)):
		return &frameError{ReasonProtocolError, "close frame with an invalid code"}
	case !utf8.Valid(payload[min(2, len(payload)):]):
		return &frameError{ReasonInvalidText, "close frame with a text that is not UTF-8"}
	}
	c.lastWord(controlFrame(opClose, payload))
	return errClosedByClient
}

// validCloseCode reports whether a client may send code (RFC 6455, section 7.4, and
// the registry of codes that it founded).
func validCloseCode(code uint16) bool {
	return code >= 1000 && code <= 1014 && (code < 1004 || code > 1006) || code >= 3000 && code <= 4999
}

// lastWord is a close frame that is written when everything else is, unless the
// connection ends for a reason of the server's own.
func (c *Client) lastWord(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == 0 {
		c.farewell = frame
	}
}

// readLong has the library read whatever [wire.takeFrame] did not take.
func (c *Client) readLong() (websocket.MessageType, []byte, error) {
	ws, err := c.wire.library()
	if err != nil {
		return 0, nil, err
	}
	if c.wire.raw != nil {
		defer c.wire.dismiss()
	}
	typ, r, err := ws.Reader(context.Background())
	if err != nil {
		return 0, nil, err
	}
	c.scratch = scratch.Get().(*[]byte)
	buf := (*c.scratch)[:cap(*c.scratch)]
	n := 0
	for err == nil && (c.limits.MaxMessageSize < 0 || n <= c.limits.MaxMessageSize) {
		if n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
			*c.scratch = buf
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if err == io.EOF {
		err = nil
	}
	return typ, buf[:n], err
}

// giveBack returns the buffers of the last message. A client that waits has none.
func (c *Client) giveBack() {
	if c.scratch != nil && cap(*c.scratch) <= maxScratch {
		scratch.Put(c.scratch)
	}
	c.scratch = nil
	c.wire.giveBack()
}

// reasonOf says why a connection ended whose read failed with err.
func (c *Client) reasonOf(err error) DisconnectReason {
	var bad *frameError
	var closed websocket.CloseError
	switch {
	case errors.As(err, &bad):
		return bad.why
	case errors.As(err, &closed) && !utf8.ValidString(closed.Reason):
		return ReasonInvalidText
	case errors.As(err, &closed):
		return ReasonClientClosed
	case c.wire.err != nil:
		return ReasonConnectionLost
	}
	return ReasonProtocolError
}

// hangUp closes the socket of a client that has ended, after its last frames are
// out. Unless there is nothing to wait for, it first gives the other side a moment to read
// them: closing a socket that has unread input resets it, and what is still on its
// way is lost.
func (c *Client) hangUp() {
	c.writers.Wait()
	c.wire.dismiss() // before a deadline is set, which it might still move
	c.wire.unread = nil
	c.giveBack()
	if !c.stuck && c.why != ReasonConnectionLost && !c.isOver() && (c.parted || c.wire.closeWrite()) {
		c.wire.linger()
	}
	c.wire.shut()
}

// A wire is what lies between the socket and the WebSocket library. The library
// reads through it, and all that it writes by itself, pongs and close frames, is
// put in line with the client's other frames: one goroutine writes, so a reader
// is never held up by a client that does not read, and how far a write got is
// known to the byte. It needs no buffer while it waits for input, and it sees
// every byte that arrives, which is all that liveness needs to know.
//
// On a plain socket, the library's connection exists only while there is something
// for it to read: its goroutine and its buffers take more memory than everything
// else that an idle client has.
type wire struct {
	net.Conn
	client  *Client         // set before the first read
	ws      *websocket.Conn // the library's connection, if there is one
	leaving atomic.Bool     // it is closed because it has nothing more to read
	raw     syscall.RawConn // nil if Conn is not a plain socket
	sealed  bool            // TLS: after a write that was cut off there is no other
	ready   func(fd uintptr) bool
	try     func(fd uintptr) bool
	out     []byte // what try writes; it leaves what it could not
	outErr  error
	buf     *[readBuffer]byte // pooled; nil while nothing is unread
	unread  []byte
	err     error // of the last read from the socket, if it is the reason for the end
	start   time.Time
	seen    atomic.Int64 // when the last byte came: nanoseconds since start
	watcher atomic.Pointer[chan struct{}]
}

const readBuffer = 8 << 10

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// newWire wraps a connection of which early has been read already.
func newWire(conn net.Conn, early []byte) *wire {
	w := &wire{Conn: conn, unread: early, start: time.Now()}
	switch conn := conn.(type) { // a wrapper of the host's, even if it embeds one of these, is to see the bytes
	case *net.TCPConn:
		w.raw, _ = conn.SyscallConn()
	case *net.UnixConn:
		w.raw, _ = conn.SyscallConn()
	}
	if runtime.GOOS == "windows" { // there, sockets are not read like files
		w.raw = nil
	}
	_, w.sealed = conn.(overTLS)
	w.ready, w.try = w.readReady, w.writeReady
	return w
}

// touch notes a sign of life.
func (w *wire) touch() {
	w.seen.Store(int64(time.Since(w.start)))
	w.heard()
}

// heard wakes a probe that waits for a sign of life.
func (w *wire) heard() {
	if w.watcher.Load() != nil {
		if ch := w.watcher.Swap(nil); ch != nil {
			close(*ch)
		}
	}
}

// errHungUp is the end of the stream. It is not io.EOF, because the library
// takes that, in the middle of a message, for the end of the message.
var errHungUp = errors.New("the other side has closed the connection")

// ahead is the size of the library's read buffer, the smallest there is.
const ahead = 16

// Read is for the library. What it asks for to fill its buffer comes byte by byte,
// so that it never has anything of a frame that [wire.takeFrame] could take. Where
// raw is nil, that is of concern only for what came with the handshake.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.unread) == 0 {
		if w.raw == nil { // TLS has a buffer of its own
			n, err := w.Conn.Read(p)
			if n > 0 {
				w.touch()
				return n, nil
			}
			w.err = hungUp(err)
			return 0, w.err
		}
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	if len(p) == ahead {
		p = p[:1]
	}
	n := copy(p, w.unread)
	w.unread = w.unread[n:]
	w.giveBack()
	return n, nil
}

// giveBack returns the buffer to the pool if all of it has been read.
func (w *wire) giveBack() {
	if len(w.unread) == 0 && w.buf != nil {
		readBuffers.Put(w.buf)
		w.buf, w.unread = nil, nil
	}
}

// takeFrame returns the first byte and the payload, unmasked in place, of the next
// frame, if that is a text message or a control frame and lies in the buffer as a
// whole; nearly all do. Else it returns 0, and the library is to read it, which has
// to be between two messages. It hands every frame to a goroutine of its own and
// back four times; on a machine with idle processors that costs more than all the
// rest.
func (w *wire) takeFrame() (first byte, payload []byte) {
	head, n, _ := w.shortFrame()
	if head == 0 || len(w.unread) < head+n {
		return 0, nil
	}
	first, payload = w.unread[0], w.unread[head:head+n]
	unmask(payload, binary.LittleEndian.Uint32(w.unread[head-4:]))
	w.unread = w.unread[head+n:]
	return first, payload
}

// Of the first two bytes of a frame (RFC 6455, section 5.2).
const (
	finBit    = 0x80
	opText    = 0x1
	opClose   = 0x8
	opPing    = 0x9
	opPong    = 0xa
	maskedBit = 0x80
	size16    = 126
	size64    = 127
)

// shortFrame returns the lengths of the header, with its masking key, and of the
// payload of the next frame, if that is masked, less than 64 KiB long, and a text
// message in one piece or a control frame. For any other frame head is 0. It is known
// when the first bytes are here.
func (w *wire) shortFrame() (head, n int, known bool) {
	b := w.unread
	if len(b) < 2 {
		return 0, 0, false
	}
	n = int(b[1] &^ maskedBit)
	control := b[0] == finBit|opPing || b[0] == finBit|opPong || b[0] == finBit|opClose
	switch {
	case b[1]&maskedBit == 0, !control && b[0] != finBit|opText, control && n >= size16, n == size64:
		return 0, 0, true
	case n < size16:
		return 6, n, true
	case len(b) < 4:
		return 0, 0, false
	}
	return 8, int(binary.BigEndian.Uint16(b[2:])), true
}

// unmask undoes the masking of RFC 6455, section 5.3.
func unmask(b []byte, key uint32) {
	long := uint64(key)<<32 | uint64(key)
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^long)
	}
	for i := range b {
		b[i] ^= byte(key >> (i % 4 * 8))
	}
}

// await waits for input unless there is some, and for the rest of a frame that has
// begun, unless the library has to wait for it. An idle connection keeps the stack
// that it waits on, and here it is not deep yet.
func (w *wire) await() error {
	for w.raw != nil {
		head, n, known := w.shortFrame()
		if known && (head == 0 || len(w.unread) >= head+n || head+n > readBuffer) {
			break
		}
		if err := w.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill waits for input and reads what there is into a buffer from the pool, after
// what is unread.
func (w *wire) fill() error {
	w.err = nil
	before := len(w.unread)
	if w.raw != nil {
		if err := w.raw.Read(w.ready); err != nil {
			w.err = err
		}
	} else {
		w.buf = readBuffers.Get().(*[readBuffer]byte)
		var n int
		n, w.err = w.Conn.Read(w.buf[:])
		w.unread = w.buf[:n]
		w.giveBack()
	}
	if len(w.unread) > before {
		w.touch()
		return nil
	}
	w.err = hungUp(w.err)
	return w.err
}

func hungUp(err error) error {
	if err == nil || err == io.EOF {
		return errHungUp
	}
	return err
}

// readReady is called by the runtime's poller, first at once and then when the
// socket is readable. It takes a buffer only for the length of the call, unless
// there is something to keep in it.
func (w *wire) readReady(fd uintptr) bool {
	if w.buf == nil {
		w.buf = readBuffers.Get().(*[readBuffer]byte)
	}
	kept := copy(w.buf[:], w.unread)
	read := w.client.limits.ReadSocket
	n, err := read(fd, w.buf[kept:])
	for err == syscall.EINTR {
		n, err = read(fd, w.buf[kept:])
	}
	if err != nil {
		n = 0
	}
	w.unread = w.buf[:kept+min(max(n, 0), readBuffer-kept)]
	w.giveBack()
	if wouldBlock(err) {
		return false
	}
	w.err = err
	return true
}

// tryWrite writes as much of p as the socket takes at once. Only one goroutine
// may write, and only to a plain socket.
func (w *wire) tryWrite(p []byte) (int, error) {
	w.out, w.outErr = p, nil
	if err := w.raw.Write(w.try); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.outErr = err
	}
	n := len(p) - len(w.out)
	w.out = nil
	return n, w.outErr
}

// writeReady is called by the runtime's poller. It never asks to wait.
func (w *wire) writeReady(fd uintptr) bool {
	write := w.client.limits.WriteSocket
	n, err := write(fd, w.out)
	for err == syscall.EINTR {
		n, err = write(fd, w.out)
	}
	switch {
	case err == nil:
		w.out = w.out[min(max(n, 0), len(w.out)):]
	case !wouldBlock(err):
		w.outErr = err
	}
	return true
}

// wouldBlock reports whether err says that there is nothing to do now. It asks for
// the very errors: ETIMEDOUT, which ends a connection, calls itself temporary too.
func wouldBlock(err error) bool { return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK }

// readSocket and writeSocket are the defaults of the options of these names.
func readSocket(fd uintptr, p []byte) (int, error)  { return sysCall(syscall.Read, fd, p) }
func writeSocket(fd uintptr, p []byte) (int, error) { return sysCall(syscall.Write, fd, p) }

// sysCall calls f, which takes an int or a handle, depending on the system.
func sysCall[H ~int | ~uintptr](f func(H, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	return f(H(fd), p)
}

// Write takes a control frame from the library; its buffer is larger than any,
// so each comes whole. A close frame is the last word and waits for the end.
func (w *wire) Write(p []byte) (int, error) {
	frame := bytes.Clone(p)
	if len(p) > 0 && p[0]&0x0f == opClose {
		if utf8.Valid(frame[min(4, len(frame)):]) { // else it is an echo of what is refused
			w.client.lastWord(frame)
		}
		return len(p), nil
	}
	if err := w.client.post(parcel{frame: frame}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close is how the library says that it is done, or has waited too long for the
// rest of a control frame that it reads. It only wakes the reader up: the socket closes in
// [Client.hangUp], when the last frames are out.
func (w *wire) Close() error {
	if w.leaving.Load() {
		return nil
	}
	return w.SetReadDeadline(past)
}

// library returns the library's connection, for what comes next. If there is none
// it makes one, with a handshake in which nobody hears the answer.
func (w *wire) library() (*websocket.Conn, error) {
	var err error
	if w.ws == nil {
		w.ws, err = accept(&seat{w, make(http.Header)}, handshake)
	}
	return w.ws, err
}

// accept has the library make its connection.
func accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the origin has been checked
	if err == nil {
		ws.SetReadLimit(-1) // Client.read counts for itself
	}
	return ws, err
}

// handshake is a request that the library accepts.
var handshake = &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
	"Connection":            {"Upgrade"},
	"Upgrade":               {"websocket"},
	"Sec-Websocket-Version": {"13"},
	"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

// A seat is the http.ResponseWriter of a handshake that took place long ago.
type seat struct {
	wire   *wire
	header http.Header
}

func (s *seat) Header() http.Header         { return s.header }
func (s *seat) WriteHeader(int)             {}
func (s *seat) Write(p []byte) (int, error) { return len(p), nil }

func (s *seat) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return s.wire, s.wire.buffers(), nil
}

// buffers returns what the library reads and writes with: just large enough for a
// frame's header and a control frame.
func (w *wire) buffers() *bufio.ReadWriter {
	return bufio.NewReadWriter(bufio.NewReaderSize(w, ahead), bufio.NewWriterSize(w, 256))
}

// dismiss ends the library's connection, and its goroutine, but not the socket's.
func (w *wire) dismiss() {
	if w.ws != nil {
		w.leaving.Store(true)
		w.ws.CloseNow()
		w.leaving.Store(false)
		w.ws = nil
	}
}

// maxEarly bounds what a client may send before it is answered and is still seen
// to go; a browser sends what it had in store as soon as the socket is open.
const maxEarly = 64 << 10

// watch reads on a goroutine and calls gone if the other side closes. stop ends
// it; what was read stays for [wire.Read].
func (w *wire) watch(gone func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var early []byte
		var err error
		for err == nil && len(early) < maxEarly {
			early = append(early, w.unread...)
			w.unread = nil
			w.giveBack()
			err = w.fill()
		}
		w.unread = append(early, w.unread...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			gone()
		}
	}()
	return func() {
		w.SetReadDeadline(past)
		<-done
		w.SetReadDeadline(time.Time{})
		if errors.Is(w.err, os.ErrDeadlineExceeded) {
			w.err = nil // it was ours
		}
	}
}

// A halfCloser is a TCP, Unix or TLS connection.
type halfCloser interface{ CloseWrite() error }

// overTLS is a TLS connection.
type overTLS interface{ NetConn() net.Conn }

// closeWrite says that nothing more will come, and reports whether it could.
func (w *wire) closeWrite() bool {
	half, ok := w.Conn.(halfCloser)
	if !ok {
		return false
	}
	if tls, ok := w.Conn.(overTLS); ok { // that sets five seconds for it, after which nobody asks
		defer time.AfterFunc(farewellTimeout, func() { tls.NetConn().SetWriteDeadline(past) }).Stop()
	}
	return half.CloseWrite() == nil
}

// linger waits a moment for the other side to hang up by itself.
func (w *wire) linger() {
	w.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.Copy(io.Discard, w.Conn)
}

// shut closes the socket.
func (w *wire) shut() {
	if tls, ok := w.Conn.(overTLS); ok {
		tls.NetConn().Close() // closing the TLS layer could wait for five seconds to say so
		return
	}
	w.Conn.Close()
}

// pingFrame is an empty ping.
var pingFrame = []byte{finBit | opPing, 0}

// controlFrame returns a frame with a payload of at most 125 bytes.
func controlFrame(opcode byte, payload []byte) []byte {
	return append([]byte{finBit | opcode, byte(len(payload))}, payload...)
}

// textFrame returns a whole text frame with payload b.
func textFrame(b []byte) []byte { return append(newFrame(len(b)), b...) }

// frames are buffers for relayed messages. Who wrote one to a socket returns it;
// to leave each to the garbage collector makes that run thirty times a second
// under load.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, pooledFrame); return &b }}

const pooledFrame = 4 << 10

// relayFrame returns newFrame in a buffer from the pool, and the buffer for the
// parcel to return, if it fits into one and does not waste it.
func relayFrame(n int) (frame []byte, buf *[]byte) {
	if n+maxFrameHead > pooledFrame || n < pooledFrame/4 {
		return newFrame(n), nil
	}
	buf = frames.Get().(*[]byte)
	return appendHead((*buf)[:0], n), buf
}

// newFrame returns the header of a text frame with a payload of n bytes, and
// room for it. Frames of a server are not masked (RFC 6455, section 5.1).
func newFrame(n int) []byte { return appendHead(make([]byte, 0, maxFrameHead+n), n) }

const maxFrameHead = 10

func appendHead(b []byte, n int) []byte {
	const text = 0x81
	switch {
	case n < 126:
		return append(b, text, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, text, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, text, 127), uint64(n))
	}
}

// closeFrame returns a close frame; reason must be at most 123 bytes.
func closeFrame(code uint16, reason string) []byte {
	return controlFrame(opClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}
