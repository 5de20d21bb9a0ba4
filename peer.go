// Package peer is a PeerJS signalling server that a Go web application mounts
// beside its own routes.
//
//	srv := peer.NewServer(peer.Options{})
//	srv.OnConnection(func(c *peer.Client) { log.Printf("%s is online", c.ID()) })
//	srv.OnDisconnect(func(c *peer.Client, why peer.DisconnectReason) { log.Printf("%s left: %v", c.ID(), why) })
//
//	mux := http.NewServeMux()
//	mux.Handle("/peerjs/", srv)
//	log.Fatal(http.ListenAndServe("127.0.0.1:8080", mux))
//
// A page then makes its peer with new Peer({host, port, path: "/peerjs"}). The server carries
// the messages by which two browsers find each other. Data channels and calls run between the
// browsers.
//
// # Wire protocol
//
// Clients speak the protocol of npm "peer" 1.0. GET {key}/id returns a new id, and
// GET {key}/peers lists the connected ids. GET peerjs with an upgrade opens the signalling
// socket, whose text frames are JSON objects with type, src, dst and payload. The server
// matches the end of the path, so it works below any prefix, with or without
// [http.StripPrefix].
//
// # Life of a connection
//
// After the upgrade the server checks id, token and key, asks [Options.Authenticate], and
// decides which [Client] may have the id. A refused client reads the reason. When the server
// has admitted a client, it calls the functions of OnConnection. Then the client reads OPEN and
// the messages that were held for its id.
//
// The server holds OFFER, ANSWER and CANDIDATE for an id that is not connected. After
// [Options.ExpireTimeout] it drops them, and the sender gets one EXPIRE. If a client ends
// before such a message was written to it, its successor (the client that takes the id over)
// gets the message. If there is no successor, the message is held for the rest of its time.
//
// To end a connection, the server sends a last message, if there is one, and a close frame. It
// waits at most one second for the client's close frame. Then it closes the socket.
//
// # Concurrency
//
// All methods of [Server], [Realm] and [Client] may be called concurrently and from inside
// events. An idle client costs one goroutine and one timer of this package. A server without
// clients and without held messages has neither.
package peer

import (
	"context"
	"net/netip"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Server is a PeerJS server as an [http.Handler]. [NewServer] makes one; the zero value
// cannot be used. [Server.Shutdown] or [Server.Close] ends it. The methods Shutdown and Close
// of the [http.Server] around it do not end it, because an http.Server does not know upgraded
// connections.
type Server struct {
	opts   Options
	relays map[MessageType]retention // type -> how long it is kept; absent: not relayed
	silent bool                      // there is no Logger
	realm  *Realm
	events events
	probes singleflight.Group
	sweeps sweeps
	lines  lines // of newcomers that ask other nodes

	ctx       context.Context // ends when the server closes, and with it every handshake
	cancel    context.CancelFunc
	work      work
	noAddress sync.Once // the warning that clients have no address

	answering     atomic.Int64  // asks of other nodes
	userComplaint onceAMinute   // ErrUserElsewhere is reported
	nodeEnd       sync.Once     // starts the end of the node
	nodeDone      chan struct{} // closed when the node has left the cluster

	since       time.Time
	accepted    atomic.Uint64
	refusals    [numRefusals]atomic.Uint64
	disconnects [numReasons]atomic.Uint64
}

// NewServer returns a server with a copy of opts. It starts nothing: there is no goroutine and
// no timer while no client is connected and no message is held.
func NewServer(opts Options) *Server {
	s := &Server{opts: opts.withDefaults(), silent: opts.Logger == nil, since: time.Now()}
	s.relays = make(map[MessageType]retention)
	for _, t := range s.opts.RelayTypes {
		s.relays[t] = keepForSuccessor
	}
	for _, t := range s.opts.HoldTypes {
		s.relays[t] = keepUntilExpiry
	}
	for _, t := range serverTypes {
		delete(s.relays, t) // these cannot be forged
	}
	delete(s.relays, "")
	delete(s.relays, TypeHeartbeat)
	for _, t := range []MessageType{TypeOffer, TypeAnswer, TypeCandidate} {
		s.relays[t] = keepUntilExpiry
	}
	s.relays[TypeLeave], s.relays[TypeExpire] = keepForSuccessor, keepForSuccessor
	s.realm = newRealm(&s.opts)
	if s.opts.Cluster != nil {
		s.nodeDone = make(chan struct{})
		s.startCluster()
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.idle = make(chan struct{})
	s.sweeps = sweeps{next: make(map[netip.Addr]*sweep), begun: make(map[netip.Addr]time.Time)}
	return s
}

// serverTypes are the types that only the server sends.
var serverTypes = []MessageType{
	TypeOpen, TypeError, TypeIDTaken, TypeInvalidKey, TypeOverride, TypeICEServers,
	TypeRoomMembers, TypeRoomRefused, TypeRoomJoined, TypeRoomLeft,
}

// Realm returns the registry of the connected clients.
func (s *Server) Realm() *Realm { return s.realm }

// Shutdown closes the server. New sockets are refused with 503. Every client gets close
// code 1001; a PeerJS client then emits "disconnected" and can reconnect. Held messages
// are dropped. Shutdown returns nil when every OnDisconnect has returned and no goroutine
// or timer of the server is left. If ctx ends before, it returns the error of ctx, and the
// server goes on closing. From inside an event it returns [ErrInEvent] at once. It may be
// called more than once; each call waits for the end.
//
// [http.Server.Shutdown] neither closes sockets nor waits for them. Register this method
// with [http.Server.RegisterOnShutdown], so that both begin at the same time, and call it
// again after [http.Server.Shutdown] to wait for the end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cancel()
	s.work.close()
	for _, c := range s.realm.close() {
		c.end(ReasonShutdown, nil, nil)
	}
	if s.realm.node != nil {
		s.nodeEnd.Do(s.startLeaving)
	}
	if inEvent() {
		return ErrInEvent
	}
	select {
	case <-s.work.idle:
		s.realm.timers.Wait()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.realm.node == nil {
		return nil
	}
	select {
	case <-s.nodeDone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close is [Server.Shutdown] without a limit of time. Clients that do not answer delay it by
// little more than a second. Functions of the host that do not return delay it for ever.
func (s *Server) Close() error { return s.Shutdown(context.Background()) }

// Done returns a channel that is closed when [Server.Shutdown] or [Server.Close] begins. A
// handler of the host that runs for long, for example with server-sent events, can wait for
// this channel and then return.
func (s *Server) Done() <-chan struct{} { return s.ctx.Done() }

// inEvent reports whether the caller was called by a function of the host that this package has
// called. Only the stack shows that. To walk it is cheap enough for a call that ends a server.
func inEvent() bool {
	pcs := make([]uintptr, 64)
	n := runtime.Callers(2, pcs)
	for ; n == len(pcs); n = runtime.Callers(2, pcs) {
		pcs = make([]uintptr, 2*len(pcs))
	}
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		if f.Function == guardName {
			return true
		}
		if !more {
			return false
		}
	}
}

// guardName is how the stack calls [guard].
var guardName = runtime.FuncForPC(reflect.ValueOf(guard).Pointer()).Name()
