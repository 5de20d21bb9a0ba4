// Package cluster is what a peer.Server needs to share its ids with servers on other machines:
// the interface [Engine]. [Memory] makes engines for tests, in one process. The module
// github.com/gopeerjs/peer/peerredis has the engine for Redis and Valkey.
//
// A node is one running server. Each node has an inbox, which is an ordered log of batches that
// other nodes send to it. The claim of an id says which node its client is connected to. The
// server writes all that it needs again when an engine has lost its data, so an engine may keep
// everything in memory.
//
// Package clustertest has the contract of an engine as a test.
package cluster

import (
	"context"
	"errors"
	"time"
)

// Limits of an [Engine].
const (
	// MaxBatch is the largest batch that [Engine.Send] takes, in bytes.
	MaxBatch = 2 << 20

	// MaxClaims is the largest number of claims, ids or nodes that a server names in one call.
	MaxClaims = 500

	// MaxData is the largest [Member.Data], in bytes.
	MaxData = 1 << 10

	// ClaimTTL is how long a claim, or a room, lives at least without being made again.
	ClaimTTL = 5 * time.Minute

	// InboxTTL is how long an inbox lives at least without beats of its node.
	InboxTTL = 30 * time.Second

	// MissingAfter is how long after its last beat a node is missing.
	MissingAfter = 2500 * time.Millisecond
)

// Errors of [Engine.Send]. After one of them nothing has happened.
var (
	// ErrNoNode: there is no such inbox.
	ErrNoNode = errors.New("cluster: no such node")

	// ErrTooBig: the batch is larger than MaxBatch.
	ErrTooBig = errors.New("cluster: batch is larger than 2 MiB")
)

// ErrTooLate is an error of [Engine.Room]: the edit came at [Edit.Before] or later, and nothing has
// happened.
var ErrTooLate = errors.New("cluster: edit came too late")

// An Engine joins the nodes of a cluster. One Engine serves one server. Its methods may be called
// concurrently, and return when ctx ends at the latest. After an error other than [ErrNoNode],
// [ErrTooBig] and [ErrTooLate] anything may have happened, to each id on its own, and may even happen
// later.
//
// Names of nodes consist of ASCII letters, digits, "_" and "-". Ids and names of rooms are any 1 to
// 1,024 bytes.
type Engine interface {
	// Join makes the inbox of a new node, registers the node, and beats each second. When it returns
	// nil, the inbox is there, and h is called until Leave returns.
	Join(ctx context.Context, node string, h Handler) error

	// Leave removes the inbox and the registration of the node that has joined. When it returns, h is
	// not called any more, whatever the error is. Without a node it does nothing.
	Leave(ctx context.Context) error

	// Send appends a batch of at most [MaxBatch] bytes to the inbox of a node, which may be the own
	// one. It does not keep the batch. Calls that follow each other arrive in order. The server
	// repeats a call that failed, so a batch can be in an inbox twice.
	Send(ctx context.Context, node string, batch []byte) error

	// Missing reports for each node whether it has left, or has not beaten for [MissingAfter]. It
	// leaves out a node about which it cannot find that out.
	Missing(ctx context.Context, nodes ...string) (map[string]bool, error)

	// Claim makes c.Node the holder of c.ID, in one atomic step for each claim. It answers in the order
	// of the claims.
	//
	// A claim is granted if c.Epoch is greater than the epoch of the claim that is there, and the id
	// has no claim, or one of the same Node, or one with the same Token, or the one with the epoch
	// c.Over. The claim that is there already (same Node, Epoch and Token) is granted again.
	//
	// With c.Own, an epoch that was granted to this node before, the claim is a renewal, and c.Epoch
	// may equal c.Own. A renewal is granted unless another node has the id with an epoch above c.Own.
	//
	// A new claim is refused at c.Before and later, by [Engine.Now], if that is not the zero time: nobody
	// waits for the answer then, and the client that has the id would be ended for nobody.
	//
	// A claim that is not made again for [ClaimTTL] may go, but not before.
	Claim(ctx context.Context, cs ...Claim) ([]Claimed, error)

	// Release removes the claims with these ids, nodes and epochs, as far as they are there.
	Release(ctx context.Context, cs ...Claim) error

	// Find returns the place of each id; the zero Place means that the id has no claim. It leaves out
	// an id about which it cannot find that out.
	Find(ctx context.Context, ids ...string) (map[string]Place, error)

	// IDs returns the ids that are claimed by nodes that are not missing. The result need not be a
	// snapshot.
	IDs(ctx context.Context) ([]string, error)

	// Room changes the members of a room in one atomic step and returns all members. At e.Before and
	// later, by [Engine.Now], it returns [ErrTooLate], unless that is the zero time: what was on its way
	// for long must not undo what was done since. A room without a Join or Renew for [ClaimTTL] may go, but
	// not before.
	Room(ctx context.Context, room string, e Edit) (map[string]Member, error)

	// Now returns a time that is the same on all nodes within one second. It may differ by half a second from
	// what Claim and Room compare with Before: with a clock that is further behind, all edits come too late.
	Now() time.Time
}

// A Handler is what an [Engine] calls for the node that has joined. Calls never overlap.
type Handler struct {
	// Receive gets the batches of the inbox one after the other, in order, and may keep them. It is not
	// called while the last beat that worked was sent more than two seconds ago.
	Receive func(batch []byte)

	// Lost says that claims, members of rooms or batches may be lost, or that other nodes may take this
	// node for dead. It is called before the next Receive.
	Lost func()
}

// A Place is where the client of an id is connected. The zero Place is nowhere.
type Place struct {
	Node  string
	Epoch uint64 // grows with each claim of the id
}

// A Claim asks for an id.
type Claim struct {
	ID, Node string
	Token    [16]byte // of the client: the first half of SHA-256 over the id, a zero byte and the token
	Epoch    uint64   // greater than each epoch of the id that the node knows
	Over     uint64   // the epoch of a claim that this one may replace; 0: none
	Own      uint64   // the epoch that this claim renews; 0: it is new

	// Before is when a new claim is of no use any more; zero: never. A renewal has none.
	Before time.Time
}

// Claimed is the answer to a [Claim].
type Claimed struct {
	Granted bool

	// Previous is the place before a claim that was granted, or the claim that is in the way. The
	// place before a claim of the same node that was not renewed yet is the place before that claim. If
	// a claim is refused and Previous.Epoch is not below the epoch of the claim, that epoch was too low;
	// this says nothing else. It is the zero Place if the claim came too late (see [Claim.Before]).
	Previous Place
}

// An Edit changes the members of a room, in this order: all members through the node Gone leave;
// those in Leave leave, as far as they are members through Node; those in Renew, whom Node takes for its
// members, are members through Node unless they are members through another node; those in Join
// become members through Node while the room has fewer than Max members. A member through another node
// that is in Join moves to Node. The zero Edit changes nothing.
type Edit struct {
	Node, Gone string
	Leave      []string
	Renew      map[string][]byte // id -> data
	Join       map[string][]byte // id -> data
	Max        int               // of the members; negative: no bound
	Before     time.Time         // when the edit must not be made any more; zero: never
}

// A Member is a member of a room.
type Member struct {
	Node string // that it is a member through
	Data []byte // JSON of at most MaxData bytes; nil or empty: none
}
