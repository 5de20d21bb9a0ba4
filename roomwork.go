package peer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// The engine has the members of a room. Nodes tell each other that a room has changed; a node with
// members in it then reads the list, and tells its clients the difference.

// Times of rooms.
const (
	missingFor   = 5 * time.Second // how long a member may be missing from a list without an explanation
	roomsAtATime = 16
	editWithin   = time.Second // an edit is made by then, or never
)

// roomWork keeps the lists of the engine, one edit of a room after the other.
type roomWork struct {
	realm *Realm
	slots chan struct{}

	mu   sync.Mutex          // guards the following
	jobs map[string]*roomJob // name -> what is to be done; absent: nothing
}

// clockError is by how much the clock of a node and that of the engine may differ, mostly.
const clockError = 100 * time.Millisecond

// A roomJob is what is to be done next for a room.
type roomJob struct {
	joins  map[string]*joinOp // id -> who joins
	leaves map[string]DisconnectReason
	left   map[string]DisconnectReason // members elsewhere that have left
	gone   []string                    // nodes that are dead
	read   bool
}

// A joinOp is a client that joins a room, or one that is a member and has to be in the list.
type joinOp struct {
	c       *Client
	data    []byte
	member  bool          // it is a member here, so there is no bound
	tell    bool          // it is a member that may have been missing in the list
	quiet   bool          // nobody is told: it was a member on another node
	givenUp bool          // nobody waits any more, so it is to be taken back; guarded by the lock of the rooms
	done    chan struct{} // closed when it is known what became of it; nil: nobody waits
	err     error         // before done is closed
}

// finish says what became of it, once.
func (in *joinOp) finish(err error) {
	if in.done != nil {
		in.err = err
		close(in.done)
		in.done = nil
	}
}

func newRoomWork(r *Realm) *roomWork {
	return &roomWork{realm: r, slots: make(chan struct{}, roomsAtATime), jobs: make(map[string]*roomJob)}
}

// add changes what is to be done for a room, and lets it be done.
func (w *roomWork) add(room string, change func(*roomJob)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	job := w.jobs[room]
	if job == nil {
		if !w.realm.node.work.begin() {
			return
		}
		job = newRoomJob()
		w.jobs[room] = job
		go w.run(room)
	}
	change(job)
}

func newRoomJob() *roomJob {
	return &roomJob{joins: make(map[string]*joinOp), leaves: make(map[string]DisconnectReason), left: make(map[string]DisconnectReason)}
}

func (j *roomJob) isEmpty() bool { return len(j.joins)+len(j.leaves)+len(j.gone) == 0 && !j.read }

// join adds a client. One that is to leave leaves first.
func (j *roomJob) join(id string, in *joinOp) {
	if other := j.joins[id]; other != nil && other.done != nil {
		if in.done == nil {
			return
		}
		other.finish(ErrNotConnected)
	}
	j.joins[id] = in
}

// leave takes a client out, also if it was to join.
func (j *roomJob) leave(id string, why DisconnectReason) {
	if in := j.joins[id]; in != nil {
		delete(j.joins, id)
		in.finish(ErrNotConnected)
	}
	j.leaves[id] = why
}

// run does what is to be done for a room until there is nothing more.
func (w *roomWork) run(room string) {
	n := w.realm.node
	defer n.work.done()
	retry := minRetry
	for {
		w.mu.Lock()
		job := w.jobs[room]
		if job.isEmpty() {
			delete(w.jobs, room)
			w.mu.Unlock()
			return
		}
		w.jobs[room] = newRoomJob()
		w.mu.Unlock()
		members, err := w.edit(room, job)
		if err == nil {
			retry = minRetry
			w.realm.applyList(room, job, members)
			continue
		}
		if n.ctx.Err() != nil {
			job.fail(ErrEngine)
			w.mu.Lock()
			w.jobs[room].fail(ErrEngine)
			delete(w.jobs, room)
			w.mu.Unlock()
			return
		}
		n.engineFailed(err)
		sleep(n.ctx, retry)
		retry = min(2*retry, maxRetry)
		w.mu.Lock()
		w.jobs[room].before(job)
		w.mu.Unlock()
	}
}

// fail tells all that wait.
func (j *roomJob) fail(err error) {
	for _, in := range j.joins {
		in.finish(err)
	}
}

// before puts a job that failed before what has come meanwhile.
func (j *roomJob) before(failed *roomJob) {
	newer := func(id string) bool {
		_, leaves := j.leaves[id]
		return leaves || j.joins[id] != nil
	}
	joins := make(map[string]*joinOp) // after a leave of the same job
	for id, in := range failed.joins {
		other := j.joins[id]
		if !newer(id) || other != nil && other.c == in.c && other.done == nil { // else somebody waits in vain
			joins[id] = in
		} else {
			in.finish(ErrNotConnected)
		}
	}
	for id, why := range failed.leaves {
		if !newer(id) {
			j.leaves[id] = why
		}
	}
	maps.Copy(j.joins, joins)
	j.gone = append(failed.gone, j.gone...)
	j.read = j.read || failed.read
	maps.Copy(j.left, failed.left)
}

// edit tells the engine.
func (w *roomWork) edit(room string, job *roomJob) (members map[string]cluster.Member, err error) {
	n := w.realm.node
	select {
	case w.slots <- struct{}{}:
	case <-n.ctx.Done():
		return nil, n.ctx.Err()
	}
	defer func() { <-w.slots }()
	for _, e := range job.edits(n.name, w.realm.opts.MaxRoomMembers) {
		began := time.Now()
		e.Before = n.engine.Now().Add(editWithin)
		ctx, cancel := context.WithTimeout(n.ctx, editWithin)
		members, err = n.engine.Room(ctx, room, e)
		cancel()
		if err != nil {
			if !errors.Is(err, cluster.ErrTooLate) { // it can be made yet, and must not be made after the next one
				sleep(n.ctx, time.Until(began.Add(editWithin+clockError)))
			}
			return nil, err
		}
	}
	return members, nil
}

// edits returns what the engine is to be told, one edit after the other. Mostly it is one.
func (j *roomJob) edits(node string, most int) (es []cluster.Edit) {
	for _, gone := range j.gone {
		es = append(es, cluster.Edit{Node: node, Gone: gone, Max: most})
	}
	members, newcomers := make(map[string][]byte), make(map[string][]byte)
	for id, in := range j.joins {
		if in.member {
			members[id] = in.data
		} else {
			newcomers[id] = in.data
		}
	}
	last := cluster.Edit{Node: node, Leave: slices.Collect(maps.Keys(j.leaves)), Join: newcomers, Max: most}
	if len(members) > 0 { // they are members already, so no bound holds for them
		last.Join, last.Max = members, -1
		if len(newcomers) > 0 {
			return append(es, last, cluster.Edit{Node: node, Join: newcomers, Max: most})
		}
	}
	return append(es, last)
}
