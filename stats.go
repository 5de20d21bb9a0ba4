package peer

// Stats is a snapshot of a server's counters. Clients and HeldBytes go up and down; the
// others only grow.
type Stats struct {
	Clients     int // connected now
	PeakClients int // the most that were connected at once
	HeldBytes   int // waiting for absent clients now

	Accepted uint64 // connections that were admitted: each has got its id

	// Refused are the handshakes that were refused, by cause: "missing parameters",
	// "invalid key", "invalid id", "authentication", "id taken", "limit",
	// "origin", "shutdown", "gave up", "bad upgrade".
	Refused map[string]uint64

	Relayed  uint64 // messages put into the outbox of their destination, EXPIRE included
	Held     uint64 // messages that waited for an absent destination
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
}

var refusalNames = [numRefusals]string{
	refusedParams: "missing parameters", refusedKey: "invalid key", refusedID: "invalid id", refusedAuth: "authentication",
	refusedTaken: "id taken", refusedLimit: "limit", refusedOrigin: "origin", refusedClosed: "shutdown",
	refusedGone: "gave up", refusedUpgrade: "bad upgrade",
}

var dropNames = [numDropReasons]string{
	dropAbsent: "absent", dropExpired: "expired", dropFull: "over a bound", dropCleared: "cleared",
	dropUnknownType: "unknown type", dropBadMessage: "bad message", dropUnauthorized: "unauthorized", dropShutdown: "shutdown",
}

// Stats returns the current counters. It costs some hundred atomic loads, so it may be
// called every second. The maps have an entry for every cause, also for one that has not
// occurred.
func (s *Server) Stats() Stats {
	st := Stats{
		Clients: s.realm.Len(), PeakClients: int(s.realm.peak.Load()), HeldBytes: int(s.realm.heldBytes.Load()),
		Accepted: s.accepted.Load(),
		Refused:  make(map[string]uint64), Dropped: make(map[string]uint64), Disconnects: make(map[DisconnectReason]uint64),
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
		st.Expires += t.expired.Load()
		st.BytesIn += t.bytesIn.Load()
		st.BytesOut += t.bytesOut.Load()
		for why := range t.dropped {
			st.Dropped[dropNames[why]] += t.dropped[why].Load()
		}
	}
	return st
}
