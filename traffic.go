package peer

import "sync/atomic"

// traffic counts messages and bytes. Every shard has its own, so that connections on
// different processors do not wait for each other's counting.
type traffic struct {
	relayed, held, expires, returned atomic.Uint64 // first, on the lock's cache line: the goroutine that counts these has held the lock
	bytesIn, bytesOut                atomic.Uint64
	dropped                          [numDropReasons]atomic.Uint64
	_                                [96]byte // makes a shard 256 bytes, and keeps its neighbour off its cache lines
}

// A dropReason says why a message came to nothing.
type dropReason uint8

const (
	dropAbsent       dropReason = iota // of a type that is not held, and the destination is absent
	dropExpired                        // the destination did not come in time
	dropFull                           // over a bound on what may be held
	dropCleared                        // the host cleared the queue
	dropUnknownType                    // a type that is not relayed
	dropBadMessage                     // not a message
	dropUnauthorized                   // Options.Authorize returned an error
	dropShutdown                       // the server has closed
	numDropReasons   = iota
)
