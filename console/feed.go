package console

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gopeerjs/peer"
)

// interval is the time between two snapshots, and the width of a point in the charts.
const interval = time.Second

// chartPoints is how many points the charts have: five minutes.
const chartPoints = 300

// A feed takes the snapshots that all open pages share. It has no goroutine: the first stream
// that asks for the snapshot of a second takes it, and the others get the same one.
//
// Its mutex is held while the server is asked. The locks of the server are below it, and no
// event of the server takes it.
type feed struct {
	srv   *peer.Server // fixed at construction
	began time.Time    // fixed at construction: the beginning of tick 0

	mu     sync.Mutex // guards the following
	last   *snapshot  // the newest; nil while no page is open
	count  counters   // of the newest point
	points []point    // of the charts, the newest last
	newest int64      // tick of the newest point
}

// A snapshot is what a server had at one time. It does not change, but remembers orders of its
// rows that were asked for.
type snapshot struct {
	tick  int64
	at    time.Time
	stats peer.Stats
	point point
	rows  []row
	rooms []room      // the largest first
	held  []peer.Held // the longest wait first

	mu     sync.Mutex         // guards the following
	orders map[string][]int32 // name of a column -> indexes of rows in ascending order
}

// A row is a client.
type row struct {
	id, address     string
	since, lastSeen time.Time
	rooms           []string
	stats           peer.ClientStats
}

// A room is a room that has members.
type room struct {
	Name    string `json:"name"`
	Members int    `json:"members"`
}

// counters are the counters whose growth the charts show.
type counters struct {
	at                                  time.Time
	relayed, expires, bytesIn, bytesOut uint64
}

// A point is what the charts show for one tick: how many clients were connected, and then what
// happened per second: messages relayed, EXPIREs, bytes received, bytes written. A nil point
// means that no page was open. A point without a point right before it has only the clients.
type point []float64

// tickAt returns the number of the tick at a time.
func (f *feed) tickAt(t time.Time) int64 { return int64(t.Sub(f.began) / interval) }

// untilNext returns the time to the beginning of the tick after a time.
func (f *feed) untilNext(t time.Time) time.Duration {
	return f.began.Add(time.Duration(f.tickAt(t)+1) * interval).Sub(t)
}

// now returns the snapshot of the current tick.
func (f *feed) now() *snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := time.Now()
	if tick := f.tickAt(t); f.last == nil || f.last.tick < tick {
		f.last = takeSnapshot(f.srv, t, tick)
		f.noteLocked(f.last)
	}
	return f.last
}

// history returns the points of the charts up to the newest, and the tick of the newest.
func (f *feed) history() ([]point, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.points), f.newest
}

// rest drops the newest snapshot, which can be large. The points of the charts stay.
func (f *feed) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = nil
}

// noteLocked makes the point of a snapshot. If a page was opened again in the second in which
// the last one was closed, the point is there already.
func (f *feed) noteLocked(s *snapshot) {
	now := counters{s.at, s.stats.Relayed, s.stats.Expires, s.stats.BytesIn, s.stats.BytesOut}
	missed := s.tick - f.newest
	if len(f.points) > 0 && missed == 0 {
		s.point = f.points[len(f.points)-1]
		return
	}
	s.point = point{float64(s.stats.Clients)}
	if len(f.points) > 0 && missed == 1 && now.at.Sub(f.count.at) >= minSpan {
		s.point = append(s.point, now.since(f.count)...)
	}
	if len(f.points) > 0 {
		f.points = append(f.points, make([]point, min(missed-1, chartPoints))...)
	}
	f.points = append(f.points, s.point)
	f.points = slices.Clone(f.points[max(0, len(f.points)-chartPoints):])
	f.count, f.newest = now, s.tick
}

// minSpan is the least time between two snapshots that a rate is made of.
const minSpan = 500 * time.Millisecond

// since returns how much each counter has grown per second, to a tenth.
func (c counters) since(before counters) []float64 {
	seconds := c.at.Sub(before.at).Seconds()
	rate := func(now, then uint64) float64 { return math.Round(10*float64(now-then)/seconds) / 10 }
	return []float64{
		rate(c.relayed, before.relayed), rate(c.expires, before.expires),
		rate(c.bytesIn, before.bytesIn), rate(c.bytesOut, before.bytesOut),
	}
}

func takeSnapshot(srv *peer.Server, at time.Time, tick int64) *snapshot {
	realm := srv.Realm()
	s := &snapshot{tick: tick, at: at, stats: srv.Stats(), orders: make(map[string][]int32)}
	s.rows = make([]row, 0, s.stats.Clients)
	for c := range realm.Clients() {
		s.rows = append(s.rows, row{
			id: c.ID(), address: c.RemoteAddr(), since: c.ConnectedSince(), lastSeen: c.LastSeen(),
			rooms: c.Rooms(), stats: c.Stats(),
		})
	}
	for _, name := range realm.Rooms() {
		if n := realm.RoomLen(name); n > 0 {
			s.rooms = append(s.rooms, room{name, n})
		}
	}
	slices.SortStableFunc(s.rooms, func(a, b room) int { return b.Members - a.Members })
	s.held = slices.SortedFunc(realm.Held(), func(a, b peer.Held) int { return a.Since.Compare(b.Since) })
	return s
}
