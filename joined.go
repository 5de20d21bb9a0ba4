package peer

import (
	"context"
	"fmt"
	"net/http"
)

// startCluster makes the server ready to be a node of a cluster.
func (s *Server) startCluster() {
	n := newNode(s.opts.Cluster, s.realm)
	s.realm.rooms.clustered = true
	s.realm.node, s.realm.roomWork = n, newRoomWork(s.realm)
	for i := range s.realm.shards {
		s.realm.shards[i].far = &farShard{claims: make(map[string]*ownClaim), routes: make(map[string]*route)}
	}
	n.fail = func(err error) { s.fail(nil, err) }
	n.answer = s.control
	n.refuse = func(c *Client) { c.end(ReasonClaimLost, nil, nil) }
	n.gone = s.nodeGone
}

// Ready returns nil when the server can admit clients. With [Options.Cluster] it joins the cluster if
// it is not a node yet, and returns an error that wraps [ErrEngine] if it cannot. Once it has joined, an
// engine that is away makes no difference: otherwise an outage between the nodes would become one of
// everything. When [Server.Shutdown] or [Server.Close] has begun, Ready returns an error that wraps
// [http.ErrServerClosed]. It returns when ctx ends at the latest.
func (s *Server) Ready(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return fmt.Errorf("peer: %w", http.ErrServerClosed)
	}
	if n := s.realm.node; n != nil {
		if err := n.join(ctx); err != nil {
			return fmt.Errorf("%w: joining: %w", ErrEngine, err)
		}
	}
	return nil
}

// startLeaving starts what [Server.Shutdown] waits for.
func (s *Server) startLeaving() { go s.leaveCluster() }

// leaveCluster ends the node when no client is connected any more.
func (s *Server) leaveCluster() {
	defer close(s.nodeDone) // even if a function of the host ends this goroutine
	s.realm.node.closing.Store(true)
	<-s.work.idle
	s.realm.timers.Wait()
	s.realm.node.end()
}
