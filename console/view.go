package console

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gopeerjs/peer"
)

// Bounds of what a page gets in each snapshot.
const (
	windowRows = 100 // clients, at most and by default
	listRows   = 50  // rooms, and ids that something is held for
	roomNames  = 3   // rooms of one client that are named
	maxFind    = 256 // bytes of a text to find
)

// A query says which rows a page wants.
type query struct {
	find       string // in lower case: a part of an id, an address or the name of a room
	sort       string // name of a column in columns
	descending bool
	from       int // index of the first client in the window
	rows       int // clients in the window, 1 to windowRows
}

// columns are the columns that the clients can be sorted by.
var columns = map[string]func(a, b *row) int{
	"id":      func(a, b *row) int { return cmp.Compare(a.id, b.id) },
	"address": func(a, b *row) int { return cmp.Compare(a.address, b.address) },
	"since":   func(a, b *row) int { return a.since.Compare(b.since) },
	"silent":  func(a, b *row) int { return b.lastSeen.Compare(a.lastSeen) },
	"rooms":   func(a, b *row) int { return cmp.Compare(len(a.rooms), len(b.rooms)) },
	"in":      func(a, b *row) int { return cmp.Compare(a.stats.MessagesIn, b.stats.MessagesIn) },
	"out":     func(a, b *row) int { return cmp.Compare(a.stats.MessagesOut, b.stats.MessagesOut) },
	"waiting": func(a, b *row) int { return cmp.Compare(a.stats.WaitingBytes, b.stats.WaitingBytes) },
}

// parseQuery reads what a page wants. What makes no sense has the default: all clients by id.
func parseQuery(v url.Values) query {
	find := v.Get("find")
	if len(find) > maxFind {
		find = strings.ToValidUTF8(find[:maxFind], "") // the cut may be inside of a character
	}
	q := query{find: strings.ToLower(find), sort: v.Get("sort"), descending: v.Get("desc") == "1"}
	if columns[q.sort] == nil {
		q.sort = "id"
	}
	q.from, _ = strconv.Atoi(v.Get("from"))
	q.from = max(0, q.from)
	q.rows, _ = strconv.Atoi(v.Get("rows"))
	if q.rows < 1 || q.rows > windowRows {
		q.rows = windowRows
	}
	return q
}

// order returns the indexes of the rows in ascending order of a column. Rows that are alike
// are in the order of their ids. The caller must not change the slice.
func (s *snapshot) order(column string) []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if order, done := s.orders[column]; done {
		return order
	}
	order, compare := make([]int32, len(s.rows)), columns[column]
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(i, j int32) int {
		a, b := &s.rows[i], &s.rows[j]
		return cmp.Or(compare(a, b), cmp.Compare(a.id, b.id))
	})
	s.orders[column] = order
	return order
}

// A view is what a page gets of a snapshot.
type view struct {
	Tick  int64 `json:"tick"`
	Point point `json:"point"`
	At    int64 `json:"at"` // in Unix milliseconds, like all times
	Since int64 `json:"since"`

	Totals      map[string]int64  `json:"totals"`
	RefusedBy   map[string]uint64 `json:"refusedBy"`   // causes that have occurred
	DroppedBy   map[string]uint64 `json:"droppedBy"`   // causes that have occurred
	LeftBecause map[string]uint64 `json:"leftBecause"` // reasons that have occurred

	Found   int         `json:"found"` // clients that match
	From    int         `json:"from"`  // index of the first of Clients among them
	Clients []clientRow `json:"clients"`

	RoomsFound int       `json:"roomsFound"`
	Rooms      []room    `json:"rooms"`
	HeldFound  int       `json:"heldFound"`
	Held       []heldRow `json:"held"`

	Left    []departure `json:"left,omitempty"`    // missing if there is no news
	Refused []refusal   `json:"refused,omitempty"` // missing if there is no news
}

// A clientRow is a client on the page. Its token is not sent.
type clientRow struct {
	ID      string   `json:"id"`
	Key     string   `json:"key"` // names this connection of the id when it is ended
	Address string   `json:"address"`
	Since   int64    `json:"since"`
	Silent  int64    `json:"silent"` // in milliseconds
	Rooms   []string `json:"rooms"`
	InRooms int      `json:"inRooms"`

	In           uint64 `json:"in"`
	Out          uint64 `json:"out"`
	Waiting      int    `json:"waiting"`
	WaitingBytes int    `json:"waitingBytes"`
}

type heldRow struct {
	ID       string `json:"id"`
	Senders  int    `json:"senders"`
	Messages int    `json:"messages"`
	Bytes    int    `json:"bytes"`
	Since    int64  `json:"since"`
}

// view returns what a query asks for.
func (s *snapshot) view(q query) view {
	v := view{
		Tick: s.tick, Point: s.point, At: s.at.UnixMilli(), Since: s.stats.Since.UnixMilli(), Totals: totals(&s.stats),
		RefusedBy: occurred(s.stats.Refused), DroppedBy: occurred(s.stats.Dropped), LeftBecause: make(map[string]uint64),
		Clients: []clientRow{}, Rooms: []room{}, Held: []heldRow{},
	}
	for why, n := range s.stats.Disconnects {
		if n > 0 {
			v.LeftBecause[why.String()] = n
		}
	}
	matches := s.matches(q)
	v.Found = len(matches)
	v.From = min(q.from, max(0, (v.Found-1)/q.rows*q.rows))
	for _, i := range matches[v.From:min(v.Found, v.From+q.rows)] {
		v.Clients = append(v.Clients, s.rows[i].onPage(s.at))
	}
	for _, r := range s.rooms {
		if !contains(r.Name, q.find) {
			continue
		}
		if v.RoomsFound++; len(v.Rooms) < listRows {
			v.Rooms = append(v.Rooms, r)
		}
	}
	for _, h := range s.held {
		if !contains(h.ID, q.find) {
			continue
		}
		if v.HeldFound++; len(v.Held) < listRows {
			v.Held = append(v.Held, heldRow{h.ID, h.Senders, h.Messages, h.Bytes, h.Since.UnixMilli()})
		}
	}
	return v
}

// matches returns the indexes of the rows that a query finds, in its order.
func (s *snapshot) matches(q query) []int32 {
	order := s.order(q.sort)
	if q.find != "" || q.descending {
		order = slices.Clone(order)
	}
	if q.find != "" {
		order = slices.DeleteFunc(order, func(i int32) bool { return !s.rows[i].matches(q.find) })
	}
	if q.descending {
		slices.Reverse(order)
	}
	return order
}

func (r *row) matches(find string) bool {
	return contains(r.id, find) || contains(r.address, find) ||
		slices.ContainsFunc(r.rooms, func(name string) bool { return contains(name, find) })
}

// contains reports whether a text contains another one that is in lower case.
func contains(s, find string) bool { return find == "" || strings.Contains(strings.ToLower(s), find) }

func (r *row) onPage(at time.Time) clientRow {
	c := clientRow{
		ID: r.id, Key: connectionKey(r.since), Address: r.address,
		Since: r.since.UnixMilli(), Silent: max(0, at.Sub(r.lastSeen).Milliseconds()), Rooms: []string{}, InRooms: len(r.rooms),
		In: r.stats.MessagesIn, Out: r.stats.MessagesOut, Waiting: r.stats.Waiting, WaitingBytes: r.stats.WaitingBytes,
	}
	for _, name := range r.rooms[:min(len(r.rooms), roomNames)] {
		c.Rooms = append(c.Rooms, clip(name))
	}
	return c
}

// connectionKey names one of the connections that an id has had, by the time when it was
// opened. It is a string: a number of JavaScript cannot hold it.
func connectionKey(since time.Time) string { return strconv.FormatInt(since.UnixNano(), 10) }

func totals(st *peer.Stats) map[string]int64 {
	return map[string]int64{
		"clients": int64(st.Clients), "peakClients": int64(st.PeakClients), "maxClients": int64(st.ConcurrentLimit),
		"rooms": int64(st.Rooms), "members": int64(st.Members), "maxRooms": int64(st.MaxRooms),
		"heldMessages": int64(st.HeldMessages), "heldBytes": int64(st.HeldBytes), "maxHeldBytes": int64(st.MaxHeldBytes),
		"partialBytes": int64(st.PartialBytes), "maxPartialBytes": int64(st.MaxPartialBytes),
		"accepted": int64(st.Accepted), "relayed": int64(st.Relayed), "held": int64(st.Held), "returned": int64(st.Returned),
		"expires": int64(st.Expires), "bytesIn": int64(st.BytesIn), "bytesOut": int64(st.BytesOut),
	}
}

// occurred returns the causes that have occurred.
func occurred(all map[string]uint64) map[string]uint64 {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}
