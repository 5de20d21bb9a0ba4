package console

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

func mayJoin(*peer.Client, string, json.RawMessage) error { return nil }

// crowd is a snapshot of n clients: c000, c001, and so on, each of which has sent as many
// messages as the number in its id says.
func crowd(n int) *snapshot {
	s := &snapshot{at: time.Unix(1_000_000, 0), orders: make(map[string][]int32)}
	for i := range n {
		s.rows = append(s.rows, row{
			id: fmt.Sprintf("c%03d", i), address: fmt.Sprintf("192.0.2.%d:%d", i%50, 1000+i),
			since: s.at.Add(-time.Duration(i) * time.Minute), lastSeen: s.at.Add(-time.Duration(n-i) * time.Second),
			stats: peer.ClientStats{MessagesIn: uint64(i), MessagesOut: uint64(i % 7), WaitingBytes: i % 3},
		})
	}
	return s
}

func see(t *testing.T, s *snapshot, query string) view {
	t.Helper()
	v, err := url.ParseQuery(query)
	require.NoError(t, err)
	return s.view(parseQuery(v))
}

func TestThePageGetsAWindowOfTheClients(t *testing.T) {
	s := crowd(250)
	for _, tc := range []struct {
		query       string
		from, found int
		first, last string
		rows        int
	}{
		{"", 0, 250, "c000", "c099", 100},
		{"from=100", 100, 250, "c100", "c199", 100},
		{"from=200", 200, 250, "c200", "c249", 50},
		{"from=250", 200, 250, "c200", "c249", 50}, // the clients of this page have gone
		{"from=99999999", 200, 250, "c200", "c249", 50},
		{"from=-5", 0, 250, "c000", "c099", 100},
		{"from=x", 0, 250, "c000", "c099", 100},
		{"from=9999999999999999999999", 200, 250, "c200", "c249", 50},
		{"rows=20", 0, 250, "c000", "c019", 20},
		{"rows=20&from=240", 240, 250, "c240", "c249", 10},
		{"rows=0", 0, 250, "c000", "c099", 100},
		{"rows=-1", 0, 250, "c000", "c099", 100},
		{"rows=5000", 0, 250, "c000", "c099", 100},
		{"desc=1", 0, 250, "c249", "c150", 100},
		{"find=C24", 0, 10, "c240", "c249", 10},
		{"find=192.0.2.7:", 0, 5, "c007", "c207", 5},
		{"find=c24&desc=1&rows=3&from=3", 3, 10, "c246", "c244", 3},
		{"find=" + strings.Repeat("x", 10_000), 0, 0, "", "", 0},
	} {
		v := see(t, s, tc.query)
		require.Equal(t, tc.found, v.Found, tc.query)
		require.Equal(t, tc.from, v.From, tc.query)
		require.Len(t, v.Clients, tc.rows, tc.query)
		if tc.rows > 0 {
			require.Equal(t, tc.first, v.Clients[0].ID, tc.query)
			require.Equal(t, tc.last, v.Clients[tc.rows-1].ID, tc.query)
		}
	}
}

func TestTheClientsAreSortedByEachColumn(t *testing.T) {
	s := crowd(60)
	s.rows[30].rooms = []string{"a", "b"}
	for sort, want := range map[string][2]string{ // the first and the last
		"id":       {"c000", "c059"},
		"address":  {"c000", "c059"}, // as text: 192.0.2.0:1000 to 192.0.2.9:1059
		"since":    {"c059", "c000"},
		"silent":   {"c059", "c000"},
		"rooms":    {"c000", "c030"},
		"in":       {"c000", "c059"},
		"out":      {"c000", "c055"}, // 6 each, the greatest id last
		"waiting":  {"c000", "c059"},
		"password": {"c000", "c059"}, // no column: by id
	} {
		v := see(t, s, "sort="+sort)
		require.Equal(t, want[0], v.Clients[0].ID, sort)
		require.Equal(t, want[1], v.Clients[59].ID, sort)
		v = see(t, s, "desc=1&sort="+sort)
		require.Equal(t, want[1], v.Clients[0].ID, sort)
		require.Equal(t, want[0], v.Clients[59].ID, sort)
	}
	require.Len(t, columns, 8)
}

func TestFindNarrowsClientsRoomsAndHeldMessages(t *testing.T) {
	s := crowd(3)
	s.rows[1].rooms = []string{"Chess", "lobby"}
	s.rooms = []room{{"lobby", 9}, {"Chess", 1}}
	s.held = []peer.Held{{ID: "chess-fan", Messages: 2}, {ID: "bob"}}
	v := see(t, s, "find=chess")
	require.Equal(t, []string{"c001"}, v.ids())
	require.Equal(t, []room{{"Chess", 1}}, v.Rooms)
	require.Equal(t, 1, v.RoomsFound)
	require.Equal(t, 1, v.HeldFound)
	require.Equal(t, "chess-fan", v.Held[0].ID)
}

func TestTheListsOfThePageAreBounded(t *testing.T) {
	s := crowd(1)
	for i := range 2 * listRows {
		s.rooms = append(s.rooms, room{fmt.Sprint("room", i), 1})
		s.held = append(s.held, peer.Held{ID: fmt.Sprint("id", i)})
		s.rows[0].rooms = append(s.rows[0].rooms, strings.Repeat("r", 1024))
	}
	v := see(t, s, "")
	require.Len(t, v.Rooms, listRows)
	require.Equal(t, 2*listRows, v.RoomsFound)
	require.Len(t, v.Held, listRows)
	require.Equal(t, 2*listRows, v.HeldFound)
	require.Len(t, v.Clients[0].Rooms, roomNames)
	require.Equal(t, 2*listRows, v.Clients[0].InRooms)
	require.Less(t, len(v.Clients[0].Rooms[0]), 300)
}

func TestTheLargestRoomAndTheLongestWaitComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, peer.Options{ExpireTimeout: time.Minute}, Options{Authorize: everybody}, nil)
		realm := r.srv.Realm()
		for id, rooms := range map[string][]string{"a": {"large"}, "b": {"large", "small"}, "c": {"large", "middle"}, "d": {"middle"}} {
			ws := r.connect(id, "t")
			for _, room := range rooms {
				require.NoError(t, realm.Join(room, realm.Client(id)))
			}
			if id == "a" {
				for _, dst := range []string{"y", "x", "z"} {
					write(t, ws, `{"type":"OFFER","dst":"`+dst+`","payload":{}}`)
					time.Sleep(time.Second)
				}
			}
		}
		v := see(t, r.console.feed.now(), "")
		require.Equal(t, []room{{"large", 3}, {"middle", 2}, {"small", 1}}, v.Rooms)
		var held []string
		for _, h := range v.Held {
			held = append(held, h.ID)
		}
		require.Equal(t, []string{"y", "x", "z"}, held)
	})
}

func TestARowSaysHowLongTheClientIsSilent(t *testing.T) {
	v := see(t, crowd(9), "rows=1&from=2")
	require.Equal(t, "c002", v.Clients[0].ID)
	require.EqualValues(t, 7000, v.Clients[0].Silent)
	require.EqualValues(t, 2*60_000, v.At-v.Clients[0].Since)
}

func TestATextToFindIsCut(t *testing.T) {
	q := parseQuery(url.Values{"find": {strings.Repeat("X", 10*maxFind)}})
	require.Equal(t, strings.Repeat("x", maxFind), q.find)
	q = parseQuery(url.Values{"find": {strings.Repeat("€", maxFind)}}) // of three bytes, which is no divisor
	require.Equal(t, strings.Repeat("€", maxFind/len("€")), q.find)
}

// A page may be opened right before a second is over. What happened in a moment is no rate.
func TestARateIsMadeOfHalfASecondAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		feed := &r.console.feed
		feed.now()
		feed.rest()
		time.Sleep(6*interval - time.Millisecond)
		require.Len(t, feed.now().point, 1)
		ws := r.connect("alice", "t")
		write(t, ws, `{"type":"HEARTBEAT"}`)
		time.Sleep(time.Millisecond)
		require.Equal(t, point{1}, feed.now().point) // not 20,000 bytes a second
		time.Sleep(interval)
		require.Len(t, feed.now().point, 5)
	})
}

func TestTheChartsHaveAPointForEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		feed := &r.console.feed
		require.Equal(t, point{0}, feed.now().point) // the first has no rates
		time.Sleep(interval)
		require.Equal(t, point{0, 0, 0, 0, 0}, feed.now().point)

		ws := r.connect("alice", "t")
		for range 4 {
			write(t, ws, `{"type":"HEARTBEAT"}`)
		}
		time.Sleep(interval)
		p := feed.now().point
		require.Equal(t, point{1, 0, 0, 80}, p[:4])
		require.Positive(t, p[4]) // OPEN

		// No page looked for ten seconds.
		feed.rest()
		time.Sleep(11 * interval)
		require.Equal(t, point{1}, feed.now().point)
		time.Sleep(interval)
		require.Len(t, feed.now().point, 5)
		points, tick := feed.history()
		require.Len(t, points, 3+10+2)
		require.Equal(t, make([]point, 10), points[3:13])
		require.EqualValues(t, 14, tick)

		// A page that is opened in the second in which the last one was closed makes no second point.
		feed.rest()
		require.Len(t, feed.now().point, 5)
		again, _ := feed.history()
		require.Equal(t, points, again)
	})
}

func TestTheChartsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		for range chartPoints + 20 {
			r.console.feed.now()
			time.Sleep(interval)
		}
		points, _ := r.console.feed.history()
		require.Len(t, points, chartPoints)
		require.NotContains(t, points, point(nil))
		time.Sleep(24 * time.Hour)
		r.console.feed.now()
		points, _ = r.console.feed.history()
		require.Len(t, points, chartPoints)
		require.Equal(t, make([]point, chartPoints-1), points[:chartPoints-1])
	})
}

func TestARingKeepsTheNewest(t *testing.T) {
	r := ring[int]{limit: 3}
	none, seen := r.news(0)
	require.Nil(t, none)
	require.Zero(t, seen)
	for i := range 8 {
		r.add(i)
		got, added := r.news(seen)
		require.Equal(t, i+1, added)
		require.Len(t, got, min(i+1, 3))
		for j := range got {
			require.Equal(t, i-j, got[j])
		}
	}
	got, _ := r.news(8)
	require.Nil(t, got)
}

func TestTextsOfClientsAreCut(t *testing.T) {
	require.Equal(t, "short", clip("short"))
	require.Equal(t, strings.Repeat("x", maxKept), clip(strings.Repeat("x", maxKept)))
	require.Equal(t, strings.Repeat("x", maxKept)+"…", clip(strings.Repeat("x", maxKept+1)))
	require.Equal(t, "x"+strings.Repeat("é", maxKept/2-1)+"…", clip("x"+strings.Repeat("é", maxKept)))
}
