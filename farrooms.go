package peer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// farMembers are the members of a room that are connected to other nodes, as far as the members here
// have been told. They are guarded by the lock of the rooms.
type farMembers struct {
	far     map[string]cluster.Member // by id; absent: it is no member, or a member here
	missing map[string]time.Time      // id in far -> since when it is not in the list of the engine
	renewed time.Time                 // when the members here were last told to the engine
}

// A listing is a member in a list.
type listing struct {
	id, quoted string
	data       json.RawMessage
}

// allLocked returns all members of a room in ascending order of their ids.
func (rm *room) allLocked() []listing {
	all := make([]listing, 0, len(rm.members)+len(rm.far))
	for c, data := range rm.members {
		all = append(all, listing{c.id, c.quoted, data})
	}
	if len(rm.far) > 0 {
		here := rm.idsLocked()
		for id, m := range rm.far {
			if here[id] == nil {
				all = append(all, listing{id, quote(id), m.Data})
			}
		}
	}
	slices.SortFunc(all, func(a, b listing) int { return strings.Compare(a.id, b.id) })
	return all
}

// idsLocked returns the members here by id.
func (rm *room) idsLocked() map[string]*Client {
	here := make(map[string]*Client, len(rm.members))
	for c := range rm.members {
		here[c.id] = c
	}
	return here
}

// farIDs returns the ids of the members on other nodes. A room without members may be nil.
func (rm *room) farIDs() []string {
	if rm == nil || len(rm.far) == 0 {
		return nil
	}
	return slices.Collect(maps.Keys(rm.far))
}

// farListed is how many bytes the members on other nodes take in the list of members, about.
func (rm *room) farListed() (n int) {
	for id, m := range rm.far {
		n += listedSize(len(id)+len(`""`), m.Data)
	}
	return n
}

// joinFar is [Realm.JoinWith] for a node of a cluster. It waits for the engine.
func (r *Realm) joinFar(room string, c *Client, data json.RawMessage) error {
	r.rooms.mu.Lock()
	rm := r.rooms.rooms[room]
	if !c.connected() {
		r.rooms.mu.Unlock()
		return ErrNotConnected
	}
	if rm.has(c) {
		t, err := c.enqueue(rm.listLocked(room))
		r.rooms.mu.Unlock()
		c.do(t)
		return err
	}
	if err := r.rooms.fitsLocked(rm, c, data, r.opts); err != nil && !(errors.Is(err, ErrRoomFull) && rm.isFar(c.id)) {
		r.rooms.mu.Unlock()
		return err
	}
	in := &joinOp{c: c, data: data, done: make(chan struct{})}
	done := in.done
	r.roomWork.add(room, func(j *roomJob) { j.join(c.id, in) })
	r.rooms.mu.Unlock()
	timer := time.NewTimer(engineTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return in.err
	case <-timer.C:
	case <-r.node.ctx.Done():
	}
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if r.rooms.rooms[room].has(c) { // meanwhile
		return nil
	}
	in.givenUp = true
	r.roomWork.add(room, func(j *roomJob) { j.leave(c.id, ReasonLeft) })
	return ErrEngine
}

func (rm *room) isFar(id string) bool {
	_, yes := rm.far[id]
	return yes
}

// rejoin makes a client that has taken its id over from another node a member of a room that its
// predecessor was in. It does not wait.
func (r *Realm) rejoin(room string, c *Client, data json.RawMessage) {
	r.roomWork.add(room, func(j *roomJob) { j.join(c.id, &joinOp{c: c, data: data, quiet: true}) })
}

// applyList notes the list of the engine after a job: it admits those that have joined, tells the
// members what has changed, and the other nodes that something has.
func (r *Realm) applyList(room string, job *roomJob, members map[string]cluster.Member) {
	n := r.node
	var ds deliveries
	changed := make(map[string]DisconnectReason) // what the other nodes are told
	told := make(map[string]bool)
	r.rooms.mu.Lock()
	if rm := r.rooms.rooms[room]; rm != nil {
		for _, m := range rm.far { // its last member may have moved here, and back
			told[m.Node] = true
		}
		ds = append(ds, rm.noteFarLocked(n.name, room, members, job)...)
	}
	for id, in := range job.joins {
		m, listed := members[id]
		err := r.admitMemberLocked(room, in, members, listed && m.Node == n.name, &ds)
		if err == nil && (!in.member || in.tell) {
			changed[id] = 0
		}
		in.finish(err)
	}
	r.repairLocked(room, r.rooms.rooms[room], members, job)
	r.rooms.mu.Unlock()
	ds.finish()
	maps.Copy(changed, job.leaves)
	for _, m := range members {
		told[m.Node] = true
	}
	for _, node := range job.gone {
		told[node] = true // it may be back
		changed[""] = 0
	}
	for node := range told {
		for id, why := range changed {
			if node != n.name && isNodeName(node) {
				n.link(node).control(control{What: "room", Room: []byte(room), ID: []byte(id), Reason: int(why)})
			}
		}
	}
}

// admitMemberLocked makes a client a member that the engine has listed.
func (r *Realm) admitMemberLocked(room string, in *joinOp, members map[string]cluster.Member, listed bool, ds *deliveries) error {
	rm := r.rooms.rooms[room]
	switch {
	case in.member || rm.has(in.c):
		return nil
	case !listed:
		return ErrRoomFull
	case in.givenUp: // it is to leave already
		return ErrEngine
	case !in.c.connected():
		r.roomWork.add(room, func(j *roomJob) { j.leave(in.c.id, ReasonConnectionLost) })
		return ErrNotConnected
	}
	isNew := rm == nil
	wasFar := !isNew && rm.isFar(in.c.id)
	rm = r.rooms.addLocked(room, in.c, in.data)
	if isNew {
		for id, m := range members {
			if m.Node != r.node.name {
				rm.far[id] = m
			}
		}
	}
	delete(rm.far, in.c.id)
	delete(rm.missing, in.c.id)
	t, err := in.c.enqueue(rm.listLocked(room))
	*ds = append(*ds, delivery{in.c, t})
	if err != nil {
		r.rooms.removeLocked(room, in.c)
		r.roomWork.add(room, func(j *roomJob) { j.leave(in.c.id, ReasonSlowConsumer) })
		return err
	}
	if !wasFar { // else they have not been told that it left, though it is here now
		*ds = append(*ds, rm.tellLocked(joinedParcel(room, in.c.id, in.data), []*Client{in.c})...)
	}
	if !in.quiet {
		in.c.mu.Lock()
		*ds = append(*ds, r.rooms.noteLocked(in.c, roomNews{room: room}))
		in.c.mu.Unlock()
	}
	return nil
}

// noteFarLocked notes the members on other nodes, and tells the members here what has changed.
func (rm *room) noteFarLocked(self, room string, members map[string]cluster.Member, job *roomJob) (ds deliveries) {
	here := rm.idsLocked()
	for id, m := range members {
		if m.Node == self {
			continue
		}
		if !rm.isFar(id) && here[id] == nil {
			ds = append(ds, rm.tellLocked(joinedParcel(room, id, orNil(m.Data)), nil)...)
		}
		rm.far[id] = m
		delete(rm.missing, id)
	}
	for id, m := range rm.far {
		if now, ok := members[id]; ok && (now.Node != self || here[id] != nil || job.joins[id] != nil) {
			continue
		}
		why, explained := job.left[id]
		if !explained && slices.Contains(job.gone, m.Node) {
			why, explained = ReasonConnectionLost, true
		}
		switch {
		case explained:
			ds = append(ds, rm.forgetFarLocked(room, id, why)...)
		case rm.missing[id].IsZero():
			rm.missing[id] = time.Now()
		}
	}
	return ds
}

// forgetFarLocked tells the members here that a member elsewhere has left.
func (rm *room) forgetFarLocked(room, id string, why DisconnectReason) deliveries {
	delete(rm.far, id)
	delete(rm.missing, id)
	if rm.idsLocked()[id] != nil {
		return nil // it is a member here now
	}
	return rm.tellLocked(leftParcel(room, id, why), nil)
}

// orNil returns data as a member without any has it.
func orNil(data []byte) json.RawMessage {
	if len(data) == 0 {
		return nil
	}
	return data
}

// repairLocked lets the engine's list be as the members here are. A room without members here may be nil.
func (r *Realm) repairLocked(room string, rm *room, members map[string]cluster.Member, job *roomJob) {
	var here map[string]*Client
	if rm != nil {
		here = rm.idsLocked()
	}
	for id, m := range members {
		if m.Node == r.node.name && here[id] == nil && !r.roomWork.joins(room, id) {
			r.roomWork.add(room, func(j *roomJob) { j.leave(id, ReasonLeft) })
		}
	}
	for id, c := range here {
		if _, listed := members[id]; !listed && job.joins[id] == nil {
			r.renewMember(room, c, rm.members[c], true)
		}
	}
}

// joins reports whether an id is to join.
func (w *roomWork) joins(room, id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	job := w.jobs[room]
	return job != nil && job.joins[id] != nil
}

func (r *Realm) renewMember(room string, c *Client, data json.RawMessage, tell bool) {
	r.roomWork.add(room, func(j *roomJob) { j.join(c.id, &joinOp{c: c, data: data, member: true, tell: tell}) })
}

// renewRooms tells the engine of all members here. Data may be lost.
func (r *Realm) renewRooms() { r.renewRoomsBefore(time.Now(), true) }

func (r *Realm) renewRoomsBefore(at time.Time, tell bool) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for name, rm := range r.rooms.rooms {
		if rm.renewed.Before(at) {
			rm.renewed = time.Now()
			for c, data := range rm.members {
				r.renewMember(name, c, data, tell)
			}
		}
	}
}

// tidyRooms runs once a second. It tells of members that are missing for long, lets the members here be
// renewed, and finds out with which nodes this one shares a room.
func (r *Realm) tidyRooms(now time.Time) {
	r.renewRoomsBefore(now.Add(-renewWithin), false)
	if lost := r.node.claims.lost(); writesAgain(lost, now) {
		r.renewRoomsBefore(lost.Add(againAfter), true)
	}
	r.roomWork.lookAgain(now)
	var ds deliveries
	shared := make(map[string]bool)
	byNode := make(map[string][]string) // node -> rooms with members of it
	r.rooms.mu.Lock()
	for name, rm := range r.rooms.rooms {
		for id, since := range rm.missing {
			if now.Sub(since) >= missingFor {
				ds = append(ds, rm.forgetFarLocked(name, id, ReasonConnectionLost)...)
			}
		}
		for _, m := range rm.far {
			shared[m.Node] = true
			if names := byNode[m.Node]; len(names) == 0 || names[len(names)-1] != name {
				byNode[m.Node] = append(names, name)
			}
		}
	}
	r.rooms.mu.Unlock()
	ds.finish()
	for node, names := range byNode { // a room can have come after the death of a node
		if isNodeName(node) && r.node.link(node).isDead() {
			for _, name := range names {
				r.roomWork.gone(name, node)
			}
		}
	}
	r.node.share(shared)
}

// roomsGone lets the members through a node that is dead leave.
func (r *Realm) roomsGone(node string) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for name, rm := range r.rooms.rooms {
		for _, m := range rm.far {
			if m.Node == node {
				r.roomWork.gone(name, node)
				break
			}
		}
	}
}

// roomChanged notes that another node has changed a room.
func (r *Realm) roomChanged(c *control) {
	room, id := string(c.Room), string(c.ID)
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	if r.rooms.rooms[room] == nil {
		return
	}
	r.roomWork.add(room, func(j *roomJob) {
		if delete(j.left, id); c.Reason > 0 && c.Reason < numReasons {
			j.left[id] = DisconnectReason(c.Reason)
		}
		j.read = true
	})
}

// roomsOf returns the rooms that the successor of c on another node is to be in, for the answer to an
// ask. The members are not told that c leaves.
func (r *Realm) roomsOf(c *Client, node string) map[string][]byte {
	if !r.opts.keepsRooms(c.Reason()) {
		return nil
	}
	rooms := make(map[string][]byte)
	names := c.Rooms()
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for _, name := range names {
		rm := r.rooms.rooms[name]
		if !rm.has(c) {
			continue
		}
		rooms[base64.StdEncoding.EncodeToString([]byte(name))] = rm.members[c]
		r.roomWork.givenAway(name, c)
		rm.far[c.id] = cluster.Member{Node: node, Data: rm.members[c]}
		r.rooms.removeLocked(name, c)
	}
	return rooms
}
