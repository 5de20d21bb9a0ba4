package peer

import "time"

// Stats is a snapshot of a server. It has counters, which only grow, and the numbers of the
// present moment.
type Stats struct {
	Clients     int // connected now
	PeakClients int // the most that were connected at once
	HeldBytes   int // held for absent clients now

	HeldMessages int       // held for absent clients now
	PartialBytes int       // memory for messages of which only a part has arrived now, as [Options.MaxPartialBytes] counts it
	Rooms        int       // rooms that have members now
	Members      int       // members of all rooms now; a client counts once for each of its rooms
	Since        time.Time // when NewServer was called

	// The bounds of the fields of [Options] with these names; negative means that there is no
	// bound.
	ConcurrentLimit, MaxRooms, MaxHeldBytes, MaxPartialBytes int

	Accepted uint64 // connections that were admitted: each has got its id

	// Refused are the handshakes that were refused, by cause: "missing parameters",
	// "invalid key", "invalid id", "authentication", "id taken", "limit",
	// "origin", "shutdown", "gave up", "bad upgrade", "cluster".
	Refused map[string]uint64

	Relayed  uint64 // messages put into the outbox of their destination, EXPIRE included
	Held     uint64 // messages that were held for an absent destination
	Returned uint64 // messages that a connection had not received when it ended, and that were held or went to its successor
	Expires  uint64 // EXPIRE messages made

	// Dropped are the messages that were dropped, by cause: "absent",
	// "expired", "over a bound", "cleared", "unknown type", "bad message",
	// "unauthorized", "shutdown".
	Dropped map[string]uint64

	BytesIn  uint64 // payload bytes of the frames received
	BytesOut uint64 // bytes written

	// Disconnects are the connections that ended, by reason.
	Disconnects map[DisconnectReason]uint64

	Cluster *ClusterStats // nil without [Options.Cluster]
}

var refusalNames = [numRefusals]string{
	refusedParams: "missing parameters", refusedKey: "invalid key", refusedID: "invalid id", refusedAuth: "authentication",
	refusedTaken: "id taken", refusedLimit: "limit", refusedOrigin: "origin", refusedClosed: "shutdown",
	refusedGone: "gave up", refusedUpgrade: "bad upgrade", refusedEngine: "cluster",
}

var dropNames = [numDropReasons]string{
	dropAbsent: "absent", dropExpired: "expired", dropFull: "over a bound", dropCleared: "cleared",
	dropUnknownType: "unknown type", dropBadMessage: "bad message", dropUnauthorized: "unauthorized", dropShutdown: "shutdown",
}

// Stats returns the current counters. It costs some hundred atomic loads and one lock, so it
// may be called every second. The maps have an entry for every cause, also for one that has not
// occurred.
func (s *Server) Stats() Stats {
	st := Stats{
		Clients: s.realm.Len(), PeakClients: int(s.realm.peak.Load()), HeldBytes: int(s.realm.heldBytes.Load()),
		HeldMessages: int(s.realm.heldParcels.Load()), PartialBytes: int(s.realm.partials.used.Load()), Since: s.since,
		ConcurrentLimit: s.opts.ConcurrentLimit, MaxRooms: s.opts.MaxRooms,
		MaxHeldBytes: s.opts.MaxHeldBytes, MaxPartialBytes: s.opts.MaxPartialBytes,
		Accepted: s.accepted.Load(),
		Refused:  make(map[string]uint64), Dropped: make(map[string]uint64), Disconnects: make(map[DisconnectReason]uint64),
	}
	st.Rooms, st.Members = s.realm.rooms.count()
	if s.realm.node != nil {
		st.Cluster = s.realm.node.snapshot()
	}
	for i := range s.refusals {
		st.Refused[refusalNames[i]] = s.refusals[i].Load()
	}
	for why := ReasonClientClosed; why < reasonRefused; why++ {
		st.Disconnects[why] = s.disconnects[why].Load()
	}
	for i := range s.realm.shards {
		t := &s.realm.shards[i].traffic
		st.Relayed += t.relayed.Load()
		st.Held += t.held.Load()
		st.Returned += t.returned.Load()
		st.Expires += t.expires.Load()
		st.BytesIn += t.bytesIn.Load()
		st.BytesOut += t.bytesOut.Load()
		for why := range t.dropped {
			st.Dropped[dropNames[why]] += t.dropped[why].Load()
		}
	}
	return st
}
