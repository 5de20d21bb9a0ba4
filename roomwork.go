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

	// given are rooms whose members went to other nodes, and when. If a newcomer there has gone meanwhile,
	// nobody else takes the member out.
	given map[string]time.Time
}

// clockError is by how much the clock of a node and that of the engine may differ, mostly.
const clockError = 500 * time.Millisecond

// lateEdits are edits that have failed and can be made yet. What undoes them has to come after them. To
// repeat them needs no wait.
type lateEdits struct {
	until         time.Time // then none is made any more
	joins, leaves map[string]bool
}

// note notes an edit that began at a time and has failed.
func (l *lateEdits) note(j *roomJob, began time.Time) {
	if time.Now().After(l.until) {
		l.joins, l.leaves = make(map[string]bool), make(map[string]bool)
	}
	l.until = began.Add(editWithin + clockError)
	for id := range j.joins {
		l.joins[id] = true
	}
	for id := range j.leaves {
		l.leaves[id] = l.leaves[id] || j.joins[id] == nil
	}
}

// await waits until none is made any more, if the job undoes one of them.
func (l *lateEdits) await(ctx context.Context, j *roomJob) {
	undoes := false
	for id := range j.joins {
		undoes = undoes || l.leaves[id]
	}
	for id := range j.leaves {
		undoes = undoes || l.joins[id] && j.joins[id] == nil
	}
	if wait := time.Until(l.until); undoes && wait > 0 {
		sleep(ctx, wait)
	}
}

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
	return &roomWork{realm: r, slots: make(chan struct{}, roomsAtATime), jobs: make(map[string]*roomJob), given: make(map[string]time.Time)}
}

// gone lets the members through a node that is dead leave a room.
func (w *roomWork) gone(room, node string) {
	w.add(room, func(j *roomJob) {
		if !slices.Contains(j.gone, node) {
			j.gone = append(j.gone, node)
		}
	})
}

// givenAway notes that a member is to be one through another node.
func (w *roomWork) givenAway(room string, c *Client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.given[room] = time.Now()
	if job := w.jobs[room]; job != nil && job.joins[c.id] != nil && job.joins[c.id].c == c {
		job.joins[c.id].finish(ErrNotConnected)
		delete(job.joins, c.id)
	}
}

// lookAgain lets the lists be read from which members went to other nodes a while ago.
func (w *roomWork) lookAgain(now time.Time) {
	var names []string
	w.mu.Lock()
	for name, at := range w.given {
		if now.Sub(at) >= missingFor {
			delete(w.given, name)
			names = append(names, name)
		}
	}
	w.mu.Unlock()
	for _, name := range names {
		w.add(name, func(j *roomJob) { j.read = true })
	}
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
	var late lateEdits
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
		late.await(n.ctx, job)
		members, began, err := w.edit(room, job)
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
		if !errors.Is(err, cluster.ErrTooLate) {
			late.note(job, began)
		}
		sleep(n.ctx, retry)
		retry = min(2*retry, maxRetry)
		w.mu.Lock()
		w.jobs[room].before(job)
		w.mu.Unlock()
	}
}

// dropEnded forgets clients that have ended: they may be members through another node by now.
func (j *roomJob) dropEnded() {
	for id, in := range j.joins {
		if !in.c.connected() {
			delete(j.joins, id)
			in.finish(ErrNotConnected)
		}
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

// edit tells the engine. If that fails, began is when the edit that failed began.
func (w *roomWork) edit(room string, job *roomJob) (members map[string]cluster.Member, began time.Time, err error) {
	n := w.realm.node
	select {
	case w.slots <- struct{}{}:
	case <-n.ctx.Done():
		return nil, began, n.ctx.Err()
	}
	defer func() { <-w.slots }()
	job.dropEnded()
	for _, e := range job.edits(n.name, w.realm.opts.MaxRoomMembers) {
		began = time.Now()
		e.Before = n.engine.Now().Add(editWithin)
		ctx, cancel := context.WithTimeout(n.ctx, editWithin)
		members, err = n.engine.Room(ctx, room, e)
		cancel()
		if err != nil {
			return nil, began, err
		}
	}
	return members, began, nil
}

// edits returns what the engine is to be told, one edit after the other. Mostly it is one.
func (j *roomJob) edits(node string, most int) (es []cluster.Edit) {
	for _, gone := range j.gone {
		es = append(es, cluster.Edit{Node: node, Gone: gone, Max: most})
	}
	last := cluster.Edit{Node: node, Leave: slices.Collect(maps.Keys(j.leaves)),
		Renew: make(map[string][]byte), Join: make(map[string][]byte), Max: most}
	for id, in := range j.joins {
		if in.member {
			last.Renew[id] = in.data
		} else {
			last.Join[id] = in.data
		}
	}
	return append(es, last)
}
