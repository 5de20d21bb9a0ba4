package peer

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Errors of [Realm.Join] and [Realm.JoinWith].
var (
	// ErrRoomFull: the room has [Options.MaxRoomMembers] members, or the list of its members
	// with their data would be longer than [Options.MaxOutboxBytes].
	ErrRoomFull = errors.New("peer: room is full")

	// ErrTooManyRooms: the client is in [Options.MaxRoomsPerClient] rooms, or the server
	// has [Options.MaxRooms] rooms.
	ErrTooManyRooms = errors.New("peer: too many rooms")

	// ErrRoomName: the name is empty, longer than 1,024 bytes, not UTF-8, or has control
	// characters.
	ErrRoomName = errors.New("peer: the name of a room needs 1 to 1,024 bytes of UTF-8 without control characters")

	// ErrRoomData: the data of a member is longer than 1,024 bytes, or not JSON.
	ErrRoomData = errors.New("peer: the data of a member is not JSON of at most 1,024 bytes")
)

// maxRoomData bounds the data of one member, in bytes.
const maxRoomData = 1024

// rooms are the rooms of a realm. A room exists while it has members.
//
// Messages about a room are put into the outboxes of its members under the lock. So all members here
// see them in the same order, and a client that joins gets the list of members before any change
// to it.
type rooms struct {
	watched   atomic.Bool // the host is told of joins and leaves
	clustered bool        // fixed: a room can have members on other nodes

	mu    sync.Mutex       // guards the following
	rooms map[string]*room // by name; absent: the room has no members
	seats int              // members of all rooms
}

// A room is guarded by the lock of its rooms.
type room struct {
	members map[*Client]json.RawMessage // with their data; nil: none
	listed  int                         // bytes that the members take in the list of them, about
	farMembers
}

// joinedParcel is what members are told of a newcomer.
func joinedParcel(room, id string, data json.RawMessage) parcel {
	b := appendQuoted([]byte(`{"type":"ROOM-JOINED","payload":{"room":`), room)
	b = appendQuoted(append(b, `,"id":`...), id)
	if data != nil {
		b = append(append(b, `,"data":`...), data...)
	}
	return ownParcel(append(b, "}}"...), keepForSamePeer)
}

// leftParcel is what members are told of a member that has left.
func leftParcel(room, id string, why DisconnectReason) parcel {
	b := appendQuoted([]byte(`{"type":"ROOM-LEFT","payload":{"room":`), room)
	b = appendQuoted(append(b, `,"id":`...), id)
	b = appendQuoted(append(b, `,"reason":`...), why.String())
	return ownParcel(append(b, "}}"...), keepForSamePeer)
}

// Join makes a client a member of a room: the client gets the list of members
// ([TypeRoomMembers]), and the other members are told ([TypeRoomJoined]). A client leaves all
// its rooms when its connection ends. If it connects again with its token ([ReasonReplaced]),
// it stays in them, and the other members are not told. Join returns [ErrRoomFull],
// [ErrTooManyRooms], [ErrRoomName], [ErrNotConnected] if the client has ended, or
// [ErrSlowConsumer] if the list of members does not fit into the outbox of the client. In the
// last case the server closes the client, unless OPEN has not been written yet. With
// [Options.Cluster], Join asks the engine, and returns [ErrEngine] if that does not answer.
func (r *Realm) Join(room string, c *Client) error { return r.JoinWith(room, c, nil) }

// JoinWith is [Realm.Join] for a member with data that the other members read: JSON of at most
// 1,024 bytes ("null" is data too), or nil for none. For other data it returns [ErrRoomData].
// The data of a client that is a member already does not change.
func (r *Realm) JoinWith(room string, c *Client, data json.RawMessage) error {
	if !validID(room) {
		return ErrRoomName
	}
	if err := checkRoomData(data); err != nil {
		return err
	}
	data = slices.Clone(data)
	if r.node != nil {
		return r.joinFar(room, c, data)
	}
	joined := joinedParcel(room, c.id, data)
	var ds deliveries
	defer func() { ds.finish() }()
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if !c.connected() {
		return ErrNotConnected
	}
	rm := r.rooms.rooms[room]
	isMember := rm.has(c)
	if !isMember {
		if err := r.rooms.fitsLocked(rm, c, data, r.opts); err != nil {
			return err
		}
		rm = r.rooms.addLocked(room, c, data)
	}
	t, err := c.enqueue(rm.listLocked(room))
	ds = append(ds, delivery{c, t})
	switch {
	case isMember:
	case err != nil:
		r.rooms.removeLocked(room, c)
	default:
		ds = append(ds, rm.tellLocked(joined, []*Client{c})...)
		c.mu.Lock()
		ds = append(ds, r.rooms.noteLocked(c, roomNews{room: room}))
		c.mu.Unlock()
	}
	return err
}

// Leave takes a client out of a room, tells all members, the client included
// ([TypeRoomLeft]), and reports whether the client was a member.
func (r *Realm) Leave(room string, c *Client) bool {
	return r.leave(room, c, ReasonLeft)
}

func (r *Realm) leave(room string, c *Client, why DisconnectReason) bool {
	left := leftParcel(room, c.id, why)
	r.rooms.mu.Lock()
	rm := r.rooms.rooms[room]
	if !rm.has(c) {
		r.rooms.mu.Unlock()
		return false
	}
	if r.node != nil {
		r.roomWork.add(room, func(j *roomJob) { j.leave(c.id, why) })
	}
	var ds deliveries
	if !rm.isFar(c.id) { // else it is a member on another node now
		ds = rm.tellLocked(left, nil)
	}
	ds = append(ds, r.rooms.removeLocked(room, c, roomNews{room, why}))
	r.rooms.mu.Unlock()
	ds.finish()
	return true
}

// leaveRooms ends all memberships of a client that has ended, so that it joins no other room.
func (r *Realm) leaveRooms(c *Client, why DisconnectReason) {
	for _, room := range c.Rooms() {
		r.leave(room, c, why)
	}
}

// Members returns the members of a room in ascending order of their ids.
func (r *Realm) Members(room string) []*Client {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	return r.rooms.rooms[room].sortedLocked()
}

// RoomLen returns how many members a room has.
func (r *Realm) RoomLen(room string) int {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if rm := r.rooms.rooms[room]; rm != nil {
		return len(rm.members)
	}
	return 0
}

// count returns how many rooms and members there are.
func (rs *rooms) count() (n, members int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.rooms), rs.seats
}

// Rooms returns the names of the rooms that have members, in ascending order.
func (r *Realm) Rooms() []string {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	return slices.Sorted(maps.Keys(r.rooms.rooms))
}

// Rooms returns the names of the rooms that the client is a member of, in ascending order.
func (c *Client) Rooms() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.membership == nil {
		return nil
	}
	return slices.Sorted(slices.Values(c.membership.names))
}

// Broadcast sends a message of the application to all members of a room except the clients in
// except. It returns to how many members it sent the message. As with [Client.Send], a member
// whose outbox overflows is closed. The error wraps [ErrBadMessage] if the payload is not JSON.
// With [Options.Cluster], members on other servers count when the message is on its way to them. For a
// room without members here Broadcast asks the engine; the error then can wrap [ErrEngine].
func (r *Realm) Broadcast(room string, m Message, except ...*Client) (int, error) {
	b, err := m.encode()
	if err != nil {
		return 0, err
	}
	p := ownParcel(b, keepForSamePeer)
	r.rooms.mu.Lock()
	rm := r.rooms.rooms[room]
	n := 0
	if rm != nil {
		for c := range rm.members {
			if !slices.Contains(except, c) {
				n++
			}
		}
	}
	ds := rm.tellLocked(p, except)
	far := rm.farIDs()
	if rm == nil && r.node != nil {
		r.rooms.mu.Unlock()
		far, err = r.readRoom(room)
	} else {
		r.rooms.mu.Unlock()
	}
	ds.finish()
	for _, id := range far {
		_, d := r.route(id, p)
		d.finish()
	}
	return n + len(far), err
}

// checkRoomData returns nil if data may be that of a member.
func checkRoomData(data json.RawMessage) error {
	if len(data) > maxRoomData || data != nil && !isJSON(data) {
		return ErrRoomData
	}
	return nil
}

// replaceLocked puts a client in the place of its predecessor in all rooms of the predecessor.
func (rs *rooms) replaceLocked(predecessor, c *Client) {
	for _, room := range predecessor.Rooms() {
		if rm := rs.rooms[room]; !rm.has(c) {
			rs.addLocked(room, c, rm.members[predecessor])
		}
		rs.removeLocked(room, predecessor)
	}
}

// fitsLocked returns nil if c may join rm, which is nil for a room without members.
func (rs *rooms) fitsLocked(rm *room, c *Client, data json.RawMessage, opts *Options) error {
	switch {
	case opts.MaxRoomsPerClient >= 0 && len(c.Rooms()) >= opts.MaxRoomsPerClient:
		return ErrTooManyRooms
	case rm == nil && opts.MaxRooms >= 0 && len(rs.rooms) >= opts.MaxRooms:
		return ErrTooManyRooms
	case rm == nil:
		return nil
	case opts.MaxRoomMembers >= 0 && len(rm.members)+len(rm.far) >= opts.MaxRoomMembers:
		return ErrRoomFull
	case opts.MaxOutboxBytes >= 0 && rm.listed+rm.farListed()+listedSize(len(c.quoted), data) > opts.MaxOutboxBytes:
		return ErrRoomFull
	}
	return nil
}

// listedSize is how many bytes a member takes in the list of members, about. quoted is the length of its id
// as a JSON string.
func listedSize(quoted int, data json.RawMessage) int {
	n := quoted + len(",")
	if data != nil {
		n += quoted + len(data) + len(":,")
	}
	return n
}

func (rs *rooms) addLocked(name string, c *Client, data json.RawMessage) *room {
	rm := rs.rooms[name]
	if rm == nil {
		rm = &room{members: make(map[*Client]json.RawMessage)}
		if rs.clustered {
			rm.farMembers = farMembers{far: make(map[string]cluster.Member), missing: make(map[string]time.Time), renewed: time.Now()}
		}
		rs.rooms[name] = rm
	}
	rm.members[c] = data
	rm.listed += listedSize(len(c.quoted), data)
	rs.seats++
	c.mu.Lock()
	if c.membership == nil {
		c.membership = new(membership)
	}
	c.membership.names = append(c.membership.names, name)
	c.mu.Unlock()
	return rm
}

// removeLocked ends a membership, with what the host is to be told of that. Both are one step for the
// reader of c, which would not find the news any more if it found no room.
func (rs *rooms) removeLocked(name string, c *Client, news ...roomNews) delivery {
	rm := rs.rooms[name]
	rm.listed -= listedSize(len(c.quoted), rm.members[c])
	rs.seats--
	if delete(rm.members, c); len(rm.members) == 0 {
		delete(rs.rooms, name)
	}
	c.mu.Lock()
	i := slices.Index(c.membership.names, name)
	c.membership.names = slices.Delete(c.membership.names, i, i+1)
	defer c.mu.Unlock()
	return rs.noteLocked(c, news...)
}

// noteLocked lets the reader of c tell the host, if the host wants to know. It needs the lock of c too.
func (rs *rooms) noteLocked(c *Client, news ...roomNews) delivery {
	if len(news) == 0 || !rs.watched.Load() {
		return delivery{}
	}
	c.membership.news = append(c.membership.news, news...)
	return delivery{c, c.wakeLocked()}
}

// has reports whether c is a member. A room without members may be nil.
func (rm *room) has(c *Client) (yes bool) {
	if rm != nil {
		_, yes = rm.members[c]
	}
	return yes
}

// tellLocked puts a parcel into the outboxes of all members but some. A member that has ended is
// about to leave.
func (rm *room) tellLocked(p parcel, except []*Client) (ds deliveries) {
	if rm == nil {
		return nil
	}
	for m := range rm.members {
		if slices.Contains(except, m) {
			continue
		}
		if t, _ := m.enqueue(p); t != 0 {
			ds = append(ds, delivery{m, t})
		}
	}
	return ds
}

func (rm *room) sortedLocked() []*Client {
	if rm == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(rm.members), func(a, b *Client) int { return strings.Compare(a.id, b.id) })
}

// listLocked returns the list of members, with their data as they are, to the byte.
func (rm *room) listLocked(name string) parcel {
	b := append(make([]byte, 0, rm.listed+len(name)+128), `{"type":"ROOM-MEMBERS","payload":{"room":`...)
	b = append(appendQuoted(b, name), `,"members":[`...)
	var data []byte
	for i, m := range rm.allLocked() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, m.quoted...)
		if len(m.data) > 0 {
			data = append(append(append(append(data, ','), m.quoted...), ':'), m.data...)
		}
	}
	b = append(b, ']')
	if data != nil {
		data[0] = '{'
		b = append(append(append(b, `,"data":`...), data...), '}')
	}
	return ownParcel(append(b, "}}"...), keepForSamePeer)
}

type deliveries []delivery

func (ds deliveries) finish() {
	for _, d := range ds {
		d.finish()
	}
}
