package peer

import (
	"context"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// searchDelays are the times between two looks for an id; the last one is for all that follow.
var searchDelays = [...]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond}

const (
	maxClaims  = cluster.MaxClaims
	maxRepeats = 5000 // looks in a second that are not the first ones for their id
)

// A finder asks the engine where ids are, while messages wait for them. It has two lanes, each with a
// goroutine while something is to be found: ids whose last look failed do not delay the others.
type finder struct {
	node *node

	mu     sync.Mutex         // guards the following
	wanted map[string]*search // id -> its search; absent: there is none
	lanes  [2]lane
}

// A search looks for one id.
type search struct {
	tries int
	over  cluster.Place // which has refused messages
	again bool          // something came while a look was under way
}

type lane struct {
	running bool
	kick    bell
	first   []string
	repeats [len(searchDelays)][]repeat // each in order of time
	pace    time.Time                   // no repeat before that
}

type repeat struct {
	id string
	at time.Time
}

func (f *finder) init(n *node) {
	f.node, f.wanted = n, make(map[string]*search)
	f.lanes[0].kick, f.lanes[1].kick = newBell(), newBell()
}

// want lets the finder look for an id. over is a place where it is not any more, or the zero one.
func (f *finder) want(id string, over cluster.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.wanted[id]
	if s != nil {
		s.again = true
	} else {
		s = new(search)
		f.wanted[id] = s
		f.lanes[0].first = append(f.lanes[0].first, id)
		f.wakeLocked(0)
	}
	if over.Node != "" {
		s.over = over
	}
}

func (f *finder) wakeLocked(i int) {
	l := &f.lanes[i]
	if !l.running && f.node.work.begin() {
		l.running = true
		go f.run(i)
	}
	l.kick.ring()
}

func (f *finder) run(i int) {
	defer f.node.work.done()
	for {
		ids, wait := f.next(i)
		switch {
		case len(ids) > 0:
			f.look(ids)
		case wait < 0:
			return
		default:
			timer := time.NewTimer(wait)
			select {
			case <-f.lanes[i].kick:
			case <-timer.C:
			case <-f.node.stop:
				return
			}
			timer.Stop()
		}
	}
}

// next returns the ids that a look is due for, or how long to wait for one; negative: there is none,
// and the goroutine ends.
func (f *finder) next(i int) (ids []string, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, now := &f.lanes[i], time.Now()
	n := min(len(l.first), maxClaims)
	ids, l.first = append(ids, l.first[:n]...), l.first[n:]
	wait = -1
	repeats := 0
	for k := range l.repeats {
		q := &l.repeats[k]
		for len(*q) > 0 && len(ids) < maxClaims && !(*q)[0].at.After(now) && !l.pace.After(now) {
			ids = append(ids, (*q)[0].id)
			*q = (*q)[1:]
			repeats++
		}
		if len(*q) > 0 {
			if d := max((*q)[0].at.Sub(now), l.pace.Sub(now), time.Millisecond); wait < 0 || d < wait {
				wait = d
			}
		}
	}
	if repeats > 0 {
		l.pace = now.Add(time.Duration(repeats) * time.Second / maxRepeats)
	}
	for _, id := range ids {
		f.wanted[id].again = false
	}
	if len(ids) == 0 && wait < 0 {
		l.running = false
	}
	return ids, wait
}

// look asks the engine for ids.
func (f *finder) look(ids []string) {
	ctx, cancel := context.WithTimeout(f.node.ctx, engineTimeout)
	places, err := f.node.engine.Find(ctx, ids...)
	cancel()
	f.node.stats.finds.Add(uint64(len(ids)))
	if err != nil {
		f.node.engineFailed(err)
	}
	for _, id := range ids {
		place, known := places[id]
		f.mu.Lock()
		over := f.wanted[id].over
		f.mu.Unlock()
		again := f.node.realm.found(id, place, over, known)
		f.finish(id, again, known)
	}
}

// finish ends the search for an id, or lets it be looked for again.
func (f *finder) finish(id string, again, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.wanted[id]
	if !again && !s.again {
		delete(f.wanted, id)
		return
	}
	i := 0
	if !known {
		i = 1
	}
	k := min(s.tries, len(searchDelays)-1)
	s.tries++
	f.lanes[i].repeats[k] = append(f.lanes[i].repeats[k], repeat{id, time.Now().Add(searchDelays[k])})
	f.wakeLocked(i)
}
