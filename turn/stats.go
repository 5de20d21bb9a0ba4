package turn

import (
	"sync/atomic"
)

// A refusal is a cause for which the server does not do what a client asks for.
type refusal uint8

const (
	none refusal = iota
	refusedCredentials
	refusedExpired
	refusedTooLong
	refusedRevoked
	refusedGone
	refusedUserLimit
	refusedRelayLimit
	refusedFamily
	refusedTCP
	refusedPort
	refusedNoPort
	refusedPeer
	refusedTables
	refusedFlood
	refusedClosing
	refusedConns
	refusedConnsPerAddr
	refusedHandshake
	numRefusals
)

var refusalNames = [numRefusals]string{
	refusedCredentials: "wrong credentials", refusedExpired: "expired", refusedTooLong: "lasts too long",
	refusedRevoked: "revoked", refusedGone: "gone", refusedUserLimit: "user limit", refusedRelayLimit: "relay limit",
	refusedFamily: "address family", refusedTCP: "relay to TCP", refusedPort: "chosen port", refusedNoPort: "no port",
	refusedPeer: "peer", refusedTables: "too many peers", refusedFlood: "flood", refusedClosing: "shutdown",
	refusedConns: "connection limit", refusedConnsPerAddr: "address limit", refusedHandshake: "handshake",
}

// Error makes a refusal an error for pion, which answers the client.
func (r refusal) Error() string { return "turn: refused: " + refusalNames[r] }

type refusals [numRefusals]atomic.Uint64

func (rs *refusals) count(r refusal) { rs[r].Add(1) }

// Usage is what was relayed. Bytes are payload: without the headers of TURN, UDP and IP.
type Usage struct {
	Relays int // now

	BytesToPeers, BytesFromPeers     uint64 // relayed to peers, and from peers to clients
	PacketsToPeers, PacketsFromPeers uint64

	// DeniedPackets were dropped because the other end is not allowed as a peer (Options.AllowPeer), or because the
	// client has no permission for it.
	DeniedPackets uint64

	// DroppedPackets were dropped because of Options.UserBytesPerSecond.
	DroppedPackets uint64
}

func (u *Usage) add(v Usage) {
	u.Relays += v.Relays
	u.BytesToPeers += v.BytesToPeers
	u.BytesFromPeers += v.BytesFromPeers
	u.PacketsToPeers += v.PacketsToPeers
	u.PacketsFromPeers += v.PacketsFromPeers
	u.DeniedPackets += v.DeniedPackets
	u.DroppedPackets += v.DroppedPackets
}

// Stats is a snapshot of a [Server]: counters since [New], which only grow, and the numbers of the present
// moment.
type Stats struct {
	Usage // of all users

	PeakRelays int // the most at once
	Users      int // that have relays now
	Conns      int // TCP connections now, including those that have not authenticated
	Remembered int // ids of which is remembered now that they were revoked or have gone
	MaxRelays  int // the bound of Options; negative means that there is none
	MaxConns   int // the bound of Options; negative means that there is none

	Allocated uint64 // relays that were made
	Errors    uint64 // of sockets: accepting or reading failed, and went on

	// Refused are the requests, connections and permissions that were refused, by cause: "wrong credentials",
	// "expired", "lasts too long", "revoked", "gone", "user limit", "relay limit", "address family",
	// "relay to TCP", "chosen port", "no port", "peer", "too many peers", "flood", "shutdown",
	// "connection limit", "address limit", "handshake". Packets that are dropped are in Usage.
	Refused map[string]uint64
}
