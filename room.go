package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// The messages about rooms. A client of an [Options.AllowJoin] sends the first
// two; the payload of all is an object with "room". An unmodified PeerJS client
// sends them with peer.socket.send and sees them with peer.socket.on("message").
const (
	// TypeRoomJoin asks to be a member. The answer is TypeRoomMembers or
	// TypeRoomRefused. Who is a member already, as after a reconnect, is
	// answered in the same way, and nobody else is told.
	TypeRoomJoin MessageType = "ROOM-JOIN"
	// TypeRoomLeave asks to be a member no longer. The sender gets
	// TypeRoomLeft like the others.
	TypeRoomLeave MessageType = "ROOM-LEAVE"
	// TypeRoomMembers lists the "members", the receiver included, as ids in
	// ascending order.
	TypeRoomMembers MessageType = "ROOM-MEMBERS"
	// TypeRoomRefused says in "msg" why a client may not join.
	TypeRoomRefused MessageType = "ROOM-REFUSED"
	// TypeRoomJoined tells the members that "id" is one of them now.
	TypeRoomJoined MessageType = "ROOM-JOINED"
	// TypeRoomLeft tells the members that "id" is no longer one of them, and in
	// "reason" why: "left", or the [DisconnectReason] of its connection.
	TypeRoomLeft MessageType = "ROOM-LEFT"
)

// Errors of [Realm.Join].
var (
	// ErrRoomFull is for a room with [Options.MaxRoomMembers] members.
	ErrRoomFull = errors.New("peer: room is full")

	// ErrTooManyRooms is for a client in [Options.MaxRoomsPerClient] rooms, and
	// for a server with [Options.MaxRooms] rooms.
	ErrTooManyRooms = errors.New("peer: too many rooms")

	// ErrRoomName is for a name that is empty, longer than 1,024 bytes, not
	// UTF-8, or has control characters.
	ErrRoomName = errors.New("peer: not a room name")
)

// rooms are the rooms of a realm. A room exists while it has members.
//
// Everything that members are told about a room is put into their outboxes under
// the lock: all of them see the same order, and who joins gets the list before
// any change to it.
type rooms struct {
	mu      sync.Mutex                      // guards the following
	members map[string]map[*Client]struct{} // room -> its members; absent: the room is empty
	of      map[*Client]map[string]struct{} // client -> its rooms; absent: none
}

// roomPayload is the payload of all messages about rooms.
type roomPayload struct {
	Room    string   `json:"room"`
	Members []string `json:"members,omitempty"`
	ID      string   `json:"id,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Msg     string   `json:"msg,omitempty"`
}

func roomFrame(t MessageType, p roomPayload) []byte {
	payload, _ := json.Marshal(p) // strings always marshal
	b, _ := Message{Type: t, Payload: payload}.encode()
	return textFrame(b)
}

// Join makes a client a member of a room, tells it who the members are, and
// tells them about it. A client leaves all its rooms when it ends; one that comes
// back by its own token ([ReasonReplaced]) stays in them without anybody being
// told. Join returns [ErrRoomFull], [ErrTooManyRooms], [ErrRoomName], or
// [ErrNotConnected] if the client has ended.
func (r *Realm) Join(room string, c *Client) error {
	if !validID(room) {
		return ErrRoomName
	}
	var started []*Client
	defer func() { flushAll(started) }()
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if !c.connected() {
		return ErrNotConnected
	}
	members := r.rooms.members[room]
	if _, is := members[c]; !is {
		if err := r.rooms.fitsLocked(room, c, r.limits); err != nil {
			return err
		}
		started = r.rooms.tellLocked(room, roomFrame(TypeRoomJoined, roomPayload{Room: room, ID: c.id}))
		r.rooms.addLocked(room, c)
	}
	list := roomFrame(TypeRoomMembers, roomPayload{Room: room, Members: r.rooms.idsLocked(room)})
	if start, _ := c.enqueue(parcel{frame: list, fate: fateOwn}); start {
		started = append(started, c)
	}
	return nil
}

// Leave ends a client's membership of a room, tells it and the members, and
// reports whether it was one.
func (r *Realm) Leave(room string, c *Client) bool {
	r.rooms.mu.Lock()
	if _, is := r.rooms.members[room][c]; !is {
		r.rooms.mu.Unlock()
		return false
	}
	started := r.rooms.tellLocked(room, roomFrame(TypeRoomLeft, roomPayload{Room: room, ID: c.id, Reason: ReasonLeft.String()}))
	r.rooms.removeLocked(room, c)
	r.rooms.mu.Unlock()
	flushAll(started)
	return true
}

// Members returns the members of a room by id, in ascending order. It is never
// nil.
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

// Broadcast sends a message of the application's own to all members of a room
// and returns how many that were. As with [Client.Send], members who have too
// much waiting are closed. The error wraps [ErrBadMessage] if the payload is not
// JSON.
func (r *Realm) Broadcast(room string, m Message) (int, error) {
	b, err := m.encode()
	if err != nil {
		return 0, err
	}
	r.rooms.mu.Lock()
	n := len(r.rooms.members[room])
	started := r.rooms.tellLocked(room, textFrame(b))
	r.rooms.mu.Unlock()
	flushAll(started)
	return n, nil
}

// leaveRooms ends all memberships of a client that has ended.
func (r *Realm) leaveRooms(c *Client, why DisconnectReason) {
	r.rooms.mu.Lock()
	var started []*Client
	for _, room := range slices.Sorted(maps.Keys(r.rooms.of[c])) {
		r.rooms.removeLocked(room, c)
		started = append(started, r.rooms.tellLocked(room, roomFrame(TypeRoomLeft, roomPayload{Room: room, ID: c.id, Reason: why.String()}))...)
	}
	r.rooms.mu.Unlock()
	flushAll(started)
}

// inheritRooms puts a client in the place of the one whose id it took over by the
// same token.
func (r *Realm) inheritRooms(c, old *Client) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for room := range r.rooms.of[old] {
		r.rooms.removeLocked(room, old)
		r.rooms.addLocked(room, c)
	}
}

func (rs *rooms) fitsLocked(room string, c *Client, limits *Options) error {
	_, exists := rs.members[room]
	switch {
	case limits.MaxRoomMembers >= 0 && len(rs.members[room]) >= limits.MaxRoomMembers:
		return ErrRoomFull
	case limits.MaxRoomsPerClient >= 0 && len(rs.of[c]) >= limits.MaxRoomsPerClient:
		return ErrTooManyRooms
	case limits.MaxRooms >= 0 && !exists && len(rs.members) >= limits.MaxRooms:
		return ErrTooManyRooms
	}
	return nil
}

func (rs *rooms) addLocked(room string, c *Client) {
	if rs.members[room] == nil {
		rs.members[room] = make(map[*Client]struct{})
	}
	if rs.of[c] == nil {
		rs.of[c] = make(map[string]struct{})
	}
	rs.members[room][c] = struct{}{}
	rs.of[c][room] = struct{}{}
}

func (rs *rooms) removeLocked(room string, c *Client) {
	if delete(rs.members[room], c); len(rs.members[room]) == 0 {
		delete(rs.members, room)
	}
	if delete(rs.of[c], room); len(rs.of[c]) == 0 {
		delete(rs.of, c)
	}
}

// tellLocked puts a frame into the outboxes of all members and returns those
// that are to be flushed. A member that has ended is about to leave.
func (rs *rooms) tellLocked(room string, frame []byte) (started []*Client) {
	for m := range rs.members[room] {
		if start, _ := m.enqueue(parcel{frame: frame, fate: fateOwn}); start {
			started = append(started, m)
		}
	}
	return started
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

func flushAll(cs []*Client) {
	for _, c := range cs {
		c.flush()
	}
}

// handleRoom does what a client's message about a room asks for.
//
//go:noinline
func (s *Server) handleRoom(c *Client, e *envelope) {
	room, ok := stringField(e.payload, "room")
	switch {
	case s.opts.AllowJoin == nil:
		c.traffic.dropped[dropUnknownType].Add(1)
		if s.hears() {
			s.fail(c, fmt.Errorf("%w: %s needs Options.AllowJoin", ErrJoinNotAllowed, e.typ))
		}
		s.refuseRoom(c, e.typ, room, "Clients may not join rooms by themselves here")
	case !ok:
		c.traffic.dropped[dropBadMessage].Add(1)
		if s.hears() {
			s.fail(c, fmt.Errorf("%w: %s needs a payload with the name of a \"room\"", ErrBadMessage, e.typ))
		}
		s.refuseRoom(c, e.typ, "", `A payload with the name of a "room" is needed`)
	case e.typ == TypeRoomLeave:
		s.realm.Leave(room, c)
	default:
		s.join(c, room)
	}
}

// join makes a client a member of a room, or tells it why not.
func (s *Server) join(c *Client, room string) {
	var err error
	if !s.call(c, func() { err = s.opts.AllowJoin(c, room) }) {
		return
	}
	if err == nil {
		err = s.realm.Join(room, c)
	}
	if err == nil || errors.Is(err, ErrNotConnected) {
		return
	}
	msg := "You may not join this room"
	if rej := (*Reject)(nil); errors.As(err, &rej) {
		msg = rej.Message
	} else if errors.Is(err, ErrRoomFull) || errors.Is(err, ErrTooManyRooms) || errors.Is(err, ErrRoomName) {
		msg = strings.TrimPrefix(err.Error(), "peer: ")
	} else {
		s.fail(c, fmt.Errorf("allowing to join: %w", err))
	}
	s.refuseRoom(c, TypeRoomJoin, room, msg)
}

// refuseRoom answers a client that asked to join a room and may not. The answer repeats
// the name of the room, unless that is too long for one.
func (s *Server) refuseRoom(c *Client, t MessageType, room, msg string) {
	if t != TypeRoomJoin {
		return
	}
	if len(room) > maxIDBytes {
		room = ""
	}
	var buf [256]byte
	b := appendQuoted(append(buf[:0], `{"type":"ROOM-REFUSED","payload":{"room":`...), room)
	b = append(appendQuoted(append(b, `,"msg":`...), msg), "}}"...)
	c.post(parcel{frame: textFrame(b), fate: fateOwn}) // a client that has ended need not know
}
