package console

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
)

// A ring keeps the newest of the values that were added, limit at most.
type ring[T any] struct {
	limit int // fixed at construction; 0 means that nothing is added

	mu    sync.Mutex // guards the following
	all   []T        // when it is full, next is the oldest
	next  int        // where the next value goes when it is full
	added int        // values so far
}

func (r *ring[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added++
	if len(r.all) < r.limit {
		r.all = append(r.all, v)
		return
	}
	r.all[r.next] = v
	r.next = (r.next + 1) % r.limit
}

// news returns the values, the newest first, and how many were added so far. If no more than
// seen were added, it returns nil for the values.
func (r *ring[T]) news(seen int) ([]T, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.added == seen {
		return nil, seen
	}
	vs := slices.Concat(r.all[r.next:], r.all[:r.next])
	slices.Reverse(vs)
	return vs, r.added
}

// A departure is a connection that ended.
type departure struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Reason  string `json:"reason"`
	Since   int64  `json:"since"` // when it was opened, in Unix milliseconds
	At      int64  `json:"at"`    // when it ended, in Unix milliseconds
}

// A refusal is a request for a socket that was refused.
type refusal struct {
	ID      string `json:"id"`
	Address string `json:"address"` // of the connection that brought the request, which may be a proxy
	Cause   string `json:"cause"`
	At      int64  `json:"at"` // in Unix milliseconds
}

func (c *console) noteLeft(cl *peer.Client, why peer.DisconnectReason) {
	c.left.add(departure{
		ID: clip(cl.ID()), Address: clip(cl.RemoteAddr()), Reason: why.String(),
		Since: cl.ConnectedSince().UnixMilli(), At: time.Now().UnixMilli(),
	})
}

func (c *console) noteRefused(r *http.Request, id, cause string) {
	c.refused.add(refusal{ID: clip(id), Address: clip(r.RemoteAddr), Cause: cause, At: time.Now().UnixMilli()})
}

// maxKept bounds a text that a client chose and that the console keeps, in bytes. The id of a
// refused request may be as long as a request line.
const maxKept = 256

// clip returns a copy of a text, so that the request it comes from can be freed. A text that
// is too long is cut, and ends with "…".
func clip(s string) string {
	if len(s) <= maxKept {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:maxKept], "") + "…"
}
