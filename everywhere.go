package peer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// readRoom returns the ids of all members of a room, in ascending order.
func (r *Realm) readRoom(room string) ([]string, error) {
	ctx, cancel := context.WithTimeout(r.node.ctx, engineTimeout)
	defer cancel()
	return r.RoomMembers(ctx, room)
}

// RoomMembers returns the ids of the members of a room on all nodes of the cluster, in ascending order.
// Without [Options.Cluster] they are those of [Realm.Members]. The error wraps [ErrEngine].
func (r *Realm) RoomMembers(ctx context.Context, room string) ([]string, error) {
	ids := []string{}
	if r.node == nil {
		for _, c := range r.Members(room) {
			ids = append(ids, c.id)
		}
		return ids, nil
	}
	if err := r.node.join(ctx); err != nil {
		return nil, fmt.Errorf("%w: joining: %w", ErrEngine, err)
	}
	members, err := r.node.engine.Room(ctx, room, cluster.Edit{Node: r.node.name, Max: -1})
	if err != nil {
		return nil, fmt.Errorf("%w: reading a room: %w", ErrEngine, err)
	}
	return slices.Sorted(maps.Keys(members)), nil
}

// AllClientIDs returns the ids that are connected to all nodes of the cluster, in ascending order; the
// slice is not nil. Without [Options.Cluster] they are those of [Realm.ClientIDs]. The result can be one
// second old, and need not be a snapshot. The error wraps [ErrEngine].
func (r *Realm) AllClientIDs(ctx context.Context) ([]string, error) {
	if r.node == nil {
		return r.ClientIDs(), nil
	}
	return r.node.census.get(ctx, r.node)
}

// A census is a list of all ids that was read a moment ago, and is shared.
type census struct {
	mu    sync.Mutex // guards the following
	ids   []string
	at    time.Time
	err   error
	under chan struct{} // closed when the reading is over; nil: nobody reads
}

const censusAge = time.Second

func (c *census) get(ctx context.Context, n *node) ([]string, error) {
	c.mu.Lock()
	if c.err == nil && time.Since(c.at) < censusAge {
		defer c.mu.Unlock()
		return slices.Clone(c.ids), nil
	}
	under := c.under
	if under == nil {
		if !n.work.begin() {
			c.mu.Unlock()
			return nil, fmt.Errorf("%w: %w", ErrEngine, errClosed)
		}
		under = make(chan struct{})
		c.under = under
		go c.read(n, under)
	}
	c.mu.Unlock()
	select {
	case <-under:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: listing ids: %w", ErrEngine, ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ids), c.err
}

func (c *census) read(n *node, under chan struct{}) {
	defer n.work.done()
	ctx, cancel := context.WithTimeout(n.ctx, engineTimeout)
	defer cancel()
	err := n.join(ctx)
	var ids []string
	if err == nil {
		ids, err = n.engine.IDs(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w: listing ids: %w", ErrEngine, err)
	}
	slices.Sort(ids)
	ids = append([]string{}, slices.Compact(ids)...)
	c.mu.Lock()
	c.ids, c.err, c.at, c.under = ids, err, time.Now(), nil
	c.mu.Unlock()
	close(under)
}

// place looks an id up that is not connected here.
func (n *node) place(id string) (cluster.Place, error) {
	ctx, cancel := context.WithTimeout(n.ctx, engineTimeout)
	defer cancel()
	if err := n.join(ctx); err != nil {
		return cluster.Place{}, fmt.Errorf("%w: joining: %w", ErrEngine, err)
	}
	places, err := n.engine.Find(ctx, id)
	place, known := places[id]
	switch {
	case known:
		return place, nil
	case err == nil:
		err = context.DeadlineExceeded
	}
	return cluster.Place{}, fmt.Errorf("%w: finding an id: %w", ErrEngine, err)
}

// kick lets another node end the client with an id, and reports whether there is one.
func (r *Realm) kick(id string, code int, text string) (bool, error) {
	n := r.node
	place, err := n.place(id)
	if err != nil || !isNodeName(place.Node) || place.Node == n.name {
		return false, err
	}
	n.link(place.Node).control(control{What: "kick", ID: []byte(id), Code: code, Text: text})
	return true, nil
}

// RemoveClientWith is [Client.CloseWith] for the client with an id, which can be connected to another
// node of the cluster. It reports whether there is such a client, and does not wait for its end. The
// error wraps [ErrBadClose], or [ErrEngine] if it is not known where the client is.
func (r *Realm) RemoveClientWith(id string, code int, text string) (bool, error) {
	if err := checkClosing(code, text); err != nil {
		return false, err
	}
	if c := r.Client(id); c != nil {
		return c.CloseWith(code, text) == nil, nil
	}
	if r.node == nil {
		return false, nil
	}
	return r.kick(id, code, text)
}

// ClusterStats are the counters of a node of a cluster ([Options.Cluster]).
type ClusterStats struct {
	Nodes       int    // other nodes that something was sent to, or came from, in the last twenty minutes
	QueuedBytes int    // of messages that are to be sent to other nodes, or that they have not confirmed
	Batches     uint64 // batches that were sent
	Repeated    uint64 // batches that were sent again after an error, or came twice
	Gaps        uint64 // batches of other nodes that never came
	Refused     uint64 // messages of other nodes for an id that was not here any more, or for which there was no room
	Returned    uint64 // messages that came back from a node whose client had not received them
	Finds       uint64 // look-ups of ids
	Claims      uint64 // claims and renewals
	Lost        uint64 // how often the engine may have lost data, or others may have thought this node dead
	Errors      uint64 // errors of the engine, and batches that could not be read
}

func (n *node) snapshot() *ClusterStats {
	st := &ClusterStats{
		Batches: n.stats.batches.Load(), Repeated: n.stats.repeated.Load(), Gaps: n.stats.gaps.Load(),
		Refused: n.stats.refused.Load(), Returned: n.stats.returned.Load(), Finds: n.stats.finds.Load(),
		Claims: n.stats.claims.Load(), Lost: n.stats.lost.Load(), Errors: n.stats.errors.Load(),
	}
	for _, l := range n.allLinks() {
		if l.name != n.name {
			st.Nodes++
			st.QueuedBytes += l.queued()
		}
	}
	return st
}
