package peer

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
)

// The types of the messages about rooms. With [Options.AllowJoin], clients send
// [TypeRoomJoin] and [TypeRoomLeave]; the server sends the others. The payload of each is
// an object with the name of the "room". An unmodified PeerJS client sends them with
// peer.socket.send and reads them with peer.socket.on("message").
const (
	// TypeRoomJoin is a client's request to join a room. The answer is [TypeRoomMembers]
	// or [TypeRoomRefused]. A client that is a member already, as after a reconnect, gets
	// [TypeRoomMembers] too, and the other members are not told.
	TypeRoomJoin MessageType = "ROOM-JOIN"
	// TypeRoomLeave is a client's request to leave a room. All members, the client
	// included, get [TypeRoomLeft].
	TypeRoomLeave MessageType = "ROOM-LEAVE"
	// TypeRoomMembers lists the "members", the receiver included, as ids in
	// ascending order.
	TypeRoomMembers MessageType = "ROOM-MEMBERS"
	// TypeRoomRefused says in "msg" why a client may not join.
	TypeRoomRefused MessageType = "ROOM-REFUSED"
	// TypeRoomJoined tells the other members that "id" has joined.
	TypeRoomJoined MessageType = "ROOM-JOINED"
	// TypeRoomLeft tells the members that "id" has left, and in "reason" why: "left", or
	// the [DisconnectReason] of its connection.
	TypeRoomLeft MessageType = "ROOM-LEFT"
)

// Errors of [Realm.Join].
var (
	// ErrRoomFull: the room has [Options.MaxRoomMembers] members.
	ErrRoomFull = errors.New("peer: room is full")

	// ErrTooManyRooms: the client is in [Options.MaxRoomsPerClient] rooms, or the server
	// has [Options.MaxRooms] rooms.
	ErrTooManyRooms = errors.New("peer: too many rooms")

	// ErrRoomName: the name is empty, longer than 1,024 bytes, not UTF-8, or has control
	// characters.
	ErrRoomName = errors.New("peer: not a room name")
)

// rooms are the rooms of a realm. A room exists while it has members.
//
// Messages about a room are put into the outboxes of its members under the lock. So all members
// see them in the same order, and a client that joins gets the list of members before any change
// to it.
type rooms struct {
	mu      sync.Mutex                      // guards the following
	members map[string]map[*Client]struct{} // by room; absent: the room is empty
	roomsOf map[*Client]map[string]struct{} // absent: none
}

// roomPayload is the payload of all messages about rooms.
type roomPayload struct {
	Room    string   `json:"room"`
	Members []string `json:"members,omitempty"`
	ID      string   `json:"id,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Msg     string   `json:"msg,omitempty"`
}

func roomParcel(t MessageType, p roomPayload) parcel {
	payload, _ := json.Marshal(p) // strings always marshal
	b, _ := Message{Type: t, Payload: payload}.encode()
	return ownParcel(b, keepForSamePeer)
}

// Join makes a client a member of a room: the client gets the list of members
// ([TypeRoomMembers]), and the other members are told ([TypeRoomJoined]). A client leaves
// all its rooms when its connection ends. If it connects again with its token
// ([ReasonReplaced]), it stays in them, and the other members are not told. Join returns [ErrRoomFull], [ErrTooManyRooms], [ErrRoomName],
// [ErrNotConnected] if the client has ended, or [ErrSlowConsumer] if the client has no
// room for the list of members (which ends it, unless it still waits for OPEN).
func (r *Realm) Join(room string, c *Client) error {
	if !validID(room) {
		return ErrRoomName
	}
	var ds deliveries
	defer func() { ds.finish() }()
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if !c.connected() {
		return ErrNotConnected
	}
	_, isMember := r.rooms.members[room][c]
	if !isMember {
		if err := r.rooms.fitsLocked(room, c, r.opts); err != nil {
			return err
		}
	}
	ids := r.rooms.idsLocked(room)
	if !isMember {
		at, _ := slices.BinarySearch(ids, c.id)
		ids = slices.Insert(ids, at, c.id)
	}
	t, err := c.enqueue(roomParcel(TypeRoomMembers, roomPayload{Room: room, Members: ids}))
	ds = append(ds, delivery{c, t})
	if err != nil || isMember {
		return err
	}
	ds = append(ds, r.rooms.tellLocked(room, roomParcel(TypeRoomJoined, roomPayload{Room: room, ID: c.id}))...)
	r.rooms.addLocked(room, c)
	return nil
}

// Leave takes a client out of a room, tells all members, the client included
// ([TypeRoomLeft]), and reports whether the client was a member.
func (r *Realm) Leave(room string, c *Client) bool {
	r.rooms.mu.Lock()
	if _, ok := r.rooms.members[room][c]; !ok {
		r.rooms.mu.Unlock()
		return false
	}
	ds := r.rooms.tellLocked(room, roomParcel(TypeRoomLeft, roomPayload{Room: room, ID: c.id, Reason: ReasonLeft.String()}))
	r.rooms.removeLocked(room, c)
	r.rooms.mu.Unlock()
	ds.finish()
	return true
}

// Members returns the members of a room in ascending order of their ids.
func (r *Realm) Members(room string) []*Client {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	return r.rooms.sortedLocked(room)
}

// Rooms returns the names of the rooms that have members, in ascending order.
func (r *Realm) Rooms() []string {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	return slices.Sorted(maps.Keys(r.rooms.members))
}

// Broadcast sends a message of the application to all members of a room, and returns how
// many members the room has. As with [Client.Send], a member whose outbox overflows is
// closed. The error wraps [ErrBadMessage] if the payload is not JSON.
func (r *Realm) Broadcast(room string, m Message) (int, error) {
	b, err := m.encode()
	if err != nil {
		return 0, err
	}
	r.rooms.mu.Lock()
	n := len(r.rooms.members[room])
	ds := r.rooms.tellLocked(room, ownParcel(b, keepForSamePeer))
	r.rooms.mu.Unlock()
	ds.finish()
	return n, nil
}

// leaveRooms ends all memberships of a client that has ended.
func (r *Realm) leaveRooms(c *Client, why DisconnectReason) {
	r.rooms.mu.Lock()
	var ds deliveries
	names := r.rooms.roomsOf[c]
	if len(names) == 0 {
		r.rooms.mu.Unlock()
		return
	}
	for _, room := range slices.Sorted(maps.Keys(names)) {
		r.rooms.removeLocked(room, c)
		ds = append(ds, r.rooms.tellLocked(room, roomParcel(TypeRoomLeft, roomPayload{Room: room, ID: c.id, Reason: why.String()}))...)
	}
	r.rooms.mu.Unlock()
	ds.finish()
}

// replaceLocked puts a client in the place of its predecessor in all rooms of the predecessor.
func (rs *rooms) replaceLocked(predecessor, c *Client) {
	for room := range rs.roomsOf[predecessor] {
		rs.removeLocked(room, predecessor)
		rs.addLocked(room, c)
	}
}

func (rs *rooms) fitsLocked(room string, c *Client, opts *Options) error {
	_, exists := rs.members[room]
	switch {
	case opts.MaxRoomMembers >= 0 && len(rs.members[room]) >= opts.MaxRoomMembers:
		return ErrRoomFull
	case opts.MaxRoomsPerClient >= 0 && len(rs.roomsOf[c]) >= opts.MaxRoomsPerClient:
		return ErrTooManyRooms
	case opts.MaxRooms >= 0 && !exists && len(rs.members) >= opts.MaxRooms:
		return ErrTooManyRooms
	}
	return nil
}

func (rs *rooms) addLocked(room string, c *Client) {
	if rs.members[room] == nil {
		rs.members[room] = make(map[*Client]struct{})
	}
	if rs.roomsOf[c] == nil {
		rs.roomsOf[c] = make(map[string]struct{})
	}
	rs.members[room][c] = struct{}{}
	rs.roomsOf[c][room] = struct{}{}
}

func (rs *rooms) removeLocked(room string, c *Client) {
	if delete(rs.members[room], c); len(rs.members[room]) == 0 {
		delete(rs.members, room)
	}
	if delete(rs.roomsOf[c], room); len(rs.roomsOf[c]) == 0 {
		delete(rs.roomsOf, c)
	}
}

// tellLocked puts a parcel into the outboxes of all members. A member that has ended is about
// to leave.
func (rs *rooms) tellLocked(room string, p parcel) (ds deliveries) {
	for m := range rs.members[room] {
		if t, _ := m.enqueue(p); t != 0 {
			ds = append(ds, delivery{m, t})
		}
	}
	return ds
}

func (rs *rooms) sortedLocked(room string) []*Client {
	return slices.SortedFunc(maps.Keys(rs.members[room]), func(a, b *Client) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
}

func (rs *rooms) idsLocked(room string) []string {
	var ids []string
	for _, c := range rs.sortedLocked(room) {
		ids = append(ids, c.id)
	}
	return ids
}

type deliveries []delivery

func (ds deliveries) finish() {
	for _, d := range ds {
		d.finish()
	}
}
