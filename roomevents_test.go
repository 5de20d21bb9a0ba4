package peer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watchRooms is watch for a server whose record has joins and leaves too.
func watchRooms(srv *Server) *record {
	rec := watch(srv)
	srv.OnJoin(func(room string, c *Client) { rec.add(">" + room + " " + c.ID()) })
	srv.OnLeave(func(room string, c *Client, why DisconnectReason) {
		rec.add("<" + room + " " + c.ID() + " " + why.String())
	})
	return rec
}

func TestTheHostIsToldOfJoinsAndLeaves(t *testing.T) {
	for name, newRig := range map[string]func(*testing.T, Options) *rig{
		"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{AllowJoin: anyRoom})
			rec := watchRooms(r.srv)
			realm := r.srv.Realm()
			a := r.rawOpen().open("a")
			a.text(`{"type":"ROOM-JOIN","payload":{"room":"x"}}`)
			rec.want(t, "+a", ">x a")
			// While the client is silent, the host's own joins are told at once.
			require.NoError(t, realm.Join("y", realm.Client("a")))
			rec.want(t, "+a", ">x a", ">y a")
			require.Equal(t, []string{"x", "y"}, realm.Client("a").Rooms())
			require.True(t, realm.Leave("x", realm.Client("a")))
			rec.want(t, "+a", ">x a", ">y a", "<x a left")
			c := realm.Client("a")
			a.conn.Close()
			rec.want(t, "+a", ">x a", ">y a", "<x a left", "<y a connection lost", "-a connection lost")
			require.Empty(t, c.Rooms())
			require.ErrorIs(t, realm.Join("z", c), ErrNotConnected)
		})
	}
}

// Whatever the reader waits for, it goes on with it afterwards.
func TestAReaderMayBeWokenAnywhere(t *testing.T) {
	message := `{"type":"OFFER","dst":"bob","payload":"` + strings.Repeat("x", 300) + `"}`
	whole := rawTextFrame(message)
	first, rest := rawFrame(rawText, message[:100]), rawFrame(rawFin, message[100:])
	fragments := slices.Concat(first, rest)
	places := map[string]struct {
		stream []byte
		at     []int
	}{
		"in a frame":     {whole, []int{0, 1, 2, 5, 8, 9, 100, len(whole) - 1}},
		"in a fragment":  {fragments, []int{1, 50, len(first), len(first) + 1, len(first) + 7, len(first) + 60, len(fragments) - 1}},
		"more than once": {fragments, []int{3, 3, 40, 40, len(first), len(first) + 9, len(first) + 9, len(fragments) - 1}},
	}
	for kind, newRig := range map[string]func(*testing.T, Options) *rig{
		"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig,
	} {
		for name, p := range places {
			t.Run(kind+", "+name, func(t *testing.T) {
				r := newRig(t, Options{})
				rec := watchRooms(r.srv)
				a, bob := r.rawOpen().open("a"), r.connect("bob")
				rec.wait(t, 2)
				c, sent := r.srv.Realm().Client("a"), 0
				want := rec.all()
				for i, at := range p.at {
					a.write(p.stream[sent:at])
					sent = at
					room := fmt.Sprint(i)
					require.NoError(t, r.srv.Realm().Join(room, c))
					want = append(want, ">"+room+" a")
					rec.want(t, want...) // so the reader has been woken
				}
				a.write(p.stream[sent:])
				bob.wantOffer("a", `"`+strings.Repeat("x", 300)+`"`)
				a.write(whole)
				bob.wantOffer("a", `"`+strings.Repeat("x", 300)+`"`)
				require.Zero(t, r.srv.Stats().Disconnects[ReasonConnectionLost])
			})
		}
	}
}

// OnJoin does not interrupt another event of its client.
func TestAJoinInsideAnEventIsToldBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{HandshakeTimeout: -1})
		rec := &record{change: make(chan struct{})}
		in := func(event string, c *Client) {
			rec.add(event)
			srv.Realm().Join(event, c)
			time.Sleep(time.Second)
			rec.add("/" + event)
		}
		srv.OnJoin(func(room string, c *Client) { rec.add(">" + room) })
		srv.OnConnection(func(c *Client) { in("connection", c) })
		srv.OnMessage(func(c *Client, m Message) { in("message", c) })
		srv.OnLeave(func(room string, c *Client, why DisconnectReason) { rec.add("<" + room) })
		srv.OnDisconnect(func(c *Client, why DisconnectReason) { in("disconnect", c) })
		r := serveBubbleRig(t, srv, nil)
		a := r.rawOpen().upgrade("a").deaf()
		time.Sleep(2 * time.Second)
		a.text(`{"type":"HEARTBEAT"}`)
		time.Sleep(2 * time.Second)
		a.conn.Close()
		time.Sleep(2 * time.Second)
		rec.want(t, "connection", "/connection", ">connection", "message", "/message", ">message",
			"<connection", "<message", "disconnect", "/disconnect")
	})
}

func TestATakeoverThatMembersAreNotToldOfIsNotToldTheHost(t *testing.T) {
	for name, c := range map[string]struct {
		opts   Options
		token  string
		silent bool
	}{
		"own token":                       {Options{}, "t", true},
		"another token, rooms are kept":   {Options{AllowOverride: OverrideAlways, KeepRoomsOnOverride: true}, "u", true},
		"another token, rooms are left":   {Options{AllowOverride: OverrideAlways}, "u", false},
		"own token, with the option":      {Options{KeepRoomsOnOverride: true}, "t", true},
		"another token, with no override": {Options{KeepRoomsOnOverride: true}, "u", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, c.opts)
				realm := r.srv.Realm()
				member, old := r.connect("member"), r.dial("a", "t")
				old.wantOpen()
				require.NoError(t, realm.JoinWith("x", realm.Client("a"), json.RawMessage(`"Ann"`)))
				old.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"],"data":{"a":"Ann"}}}`)
				require.NoError(t, realm.Join("x", realm.Client("member")))
				member.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a","member"],"data":{"a":"Ann"}}}`)
				synctest.Wait()
				rec := watchRooms(r.srv)
				first := realm.Client("a")
				p := r.dial("a", c.token)
				synctest.Wait()
				if c.token != "t" && c.opts.AllowOverride == nil {
					require.Empty(t, rec.all())
					p.wantRefused(TypeIDTaken, "ID is taken")
					return
				}
				p.wantOpen()
				successor := realm.Client("a")
				require.NotSame(t, first, successor)
				if c.silent {
					require.Equal(t, []string{"x"}, successor.Rooms())
					require.Empty(t, member.frames)
					require.NotContains(t, strings.Join(rec.all(), "\n"), "x")
					require.NoError(t, realm.Join("x", successor)) // the data has come along
					p.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a","member"],"data":{"a":"Ann"}}}`)
				} else {
					member.wantLeft("x", "a", "overridden")
					require.Empty(t, successor.Rooms())
					require.Contains(t, rec.all(), "<x a overridden")
				}
				require.Empty(t, first.Rooms())
				require.NoError(t, r.srv.realm.check())
			})
		})
	}
}

// Of joins and leaves from everywhere, the host hears in the right order, and never two things of a
// client at once.
func TestEventsOfRoomsKeepTheirPlace(t *testing.T) {
	t.Parallel()
	const clients, rounds, rooms = 6, 150, 3
	srv := NewServer(Options{AllowJoin: anyRoom, AllowOverride: OverrideAlways, ProbeAfter: -1})
	tl := followEvents(srv)
	var in [clients]map[string]bool // by client; guarded by its events
	for i := range in {
		in[i] = make(map[string]bool)
	}
	index := func(c *Client) (i int) { fmt.Sscan(c.ID(), &i); return i }
	var told atomic.Int64
	srv.OnJoin(func(room string, c *Client) {
		tl.enter(c, func() {
			if in[index(c)][room] || tl.online[c.ID()] != c {
				tl.fault("%s joined %s twice, or while not connected", c.ID(), room)
			}
			in[index(c)][room] = true
		})
		told.Add(1)
	})
	srv.OnLeave(func(room string, c *Client, why DisconnectReason) {
		tl.enter(c, func() {
			if !in[index(c)][room] || tl.online[c.ID()] != c || why == 0 {
				tl.fault("%s left %s for %v without having joined, or while not connected", c.ID(), room, why)
			}
			delete(in[index(c)], room)
		})
	})
	srv.OnDisconnect(func(c *Client, why DisconnectReason) {
		tl.mu.Lock()
		defer tl.mu.Unlock()
		if len(in[index(c)]) > 0 {
			tl.fault("%s disconnected while in %v", c.ID(), slices.Collect(maps.Keys(in[index(c)])))
		}
	})
	r := serveRig(t, srv, nil)
	parallel(2*clients, func(i int) {
		id := fmt.Sprint(i / 2)
		for n := range rounds {
			room := fmt.Sprint(n % rooms)
			if i%2 == 1 { // the host
				if c := srv.Realm().Client(id); c != nil {
					srv.Realm().Join(room, c)
					srv.Realm().Leave(fmt.Sprint((n+1)%rooms), c)
				}
				continue
			}
			p := r.rawOpen().upgrade(id).deaf()
			for range n % 7 {
				p.tryWrite(rawTextFrame(`{"type":"ROOM-JOIN","payload":{"room":"` + room + `"}}`))
				p.tryWrite(rawTextFrame(`{"type":"OFFER","dst":"nobody"}`))
			}
			if n%2 == 0 {
				p.tryWrite(rawTextFrame(`{"type":"ROOM-LEAVE","payload":{"room":"` + room + `"}}`))
				p.tryWrite(rawCloseFrame(1000, ""))
			}
			p.conn.Close()
		}
	})
	waitFor(t, func() bool { return srv.Realm().Len() == 0 })
	closeServer(t, srv)
	tl.check(t)
	require.NotZero(t, told.Load())
	require.NoError(t, srv.realm.check())
}

func TestAMemberMayHaveData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		r := newBubbleRig(t, Options{AllowJoin: func(c *Client, room string, data json.RawMessage) error {
			seen = append(seen, c.ID()+" "+string(data))
			return nil
		}})
		realm := r.srv.Realm()
		a, b := r.connect("a"), r.connect("b")
		a.send(`{"type":"ROOM-JOIN","payload":{"room":"x","data":{"name":"Ann","n":1.50}}}`)
		a.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"],"data":{"a":{"name":"Ann","n":1.50}}}}`)
		b.send(`{"type":"ROOM-JOIN","payload":{"room":"x"}}`)
		b.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a","b"],"data":{"a":{"name":"Ann","n":1.50}}}}`)
		a.wantJoined("x", "b")
		require.True(t, realm.Leave("x", realm.Client("b")))
		a.wantLeft("x", "b", "left")
		b.wantLeft("x", "b", "left")
		require.NoError(t, realm.JoinWith("x", realm.Client("b"), json.RawMessage(`"Bob"`)))
		a.want(`{"type":"ROOM-JOINED","payload":{"room":"x","id":"b","data":"Bob"}}`)
		b.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a","b"],"data":{"a":{"name":"Ann","n":1.50},"b":"Bob"}}}`)
		a.send(`{"type":"ROOM-JOIN","payload":{"room":"x","data":2}}`) // it is a member already
		a.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a","b"],"data":{"a":{"name":"Ann","n":1.50},"b":"Bob"}}}`)

		most := `"` + strings.Repeat("x", maxRoomData-2) + `"`
		require.NoError(t, realm.JoinWith("y", realm.Client("a"), json.RawMessage(most)))
		a.next()
		for _, bad := range []string{most[:1] + "x" + most[1:], `{`, ``, "\"\xff\""} {
			require.ErrorIs(t, realm.JoinWith("z", realm.Client("a"), json.RawMessage(bad)), ErrRoomData, "%.20q", bad)
		}
		a.send(`{"type":"ROOM-JOIN","payload":{"room":"z","data":` + most[:1] + "x" + most[1:] + `}}`)
		a.wantNotLetIn("z", "the data of a member is not JSON of at most 1,024 bytes")
		require.Equal(t, []string{`a {"name":"Ann","n":1.50}`, "b ", "a 2"}, seen)
	})
}

// The list of members with all their data must fit an outbox.
func TestTheListOfMembersIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxOutboxBytes: 5000})
		realm := r.srv.Realm()
		data := json.RawMessage(`"` + strings.Repeat("x", 1000) + `"`)
		for i := range 5 {
			id := fmt.Sprint("p", i)
			p := r.connect(id)
			err := realm.JoinWith("x", realm.Client(id), data)
			if i < 4 {
				require.NoError(t, err)
				require.Contains(t, p.next(), `"ROOM-MEMBERS"`)
				continue
			}
			require.ErrorIs(t, err, ErrRoomFull)
		}
		require.True(t, realm.Leave("x", realm.Client("p0")))
		require.NoError(t, realm.JoinWith("x", realm.Client("p4"), data), "what a member took is free when it leaves")
		require.Equal(t, 4, realm.RoomLen("x"))
		require.Zero(t, realm.RoomLen("y"))
		require.NoError(t, r.srv.realm.check())
	})
}

// The list has the data as they are. JSON that is made for a page of HTML would take six bytes for each "<".
func TestTheListOfMembersCountsWhatItTakes(t *testing.T) {
	opts := Options{MaxOutboxBytes: 20000}
	srv := NewServer(opts)
	realm := srv.Realm()
	data := json.RawMessage(`"` + strings.Repeat("<", 1000) + `"`)
	for i := 0; ; i++ {
		c := stubClient(t, srv, fmt.Sprint("p", i), "t")
		silence(srv, c)
		defer c.end(ReasonRemoved, nil, nil)
		if err := realm.JoinWith("x", c, data); err != nil {
			require.ErrorIs(t, err, ErrRoomFull)
			break
		}
		require.Len(t, c.outbox.parcels, 1)
		list := string(c.outbox.parcels[0].frame)
		require.Contains(t, list, `"ROOM-MEMBERS"`)
		require.Equal(t, i+1, strings.Count(list, string(data)))
		require.Less(t, len(list), opts.MaxOutboxBytes)
	}
	require.Equal(t, 19, realm.RoomLen("x"))
}

func TestABroadcastMayLeaveMembersOut(t *testing.T) {
	onNodes(t, Options{}, func(t *testing.T, r *rig) {
		realm := r.srv.Realm()
		peers := make(map[string]*testPeer)
		for _, id := range []string{"a", "b", "c"} {
			peers[id] = r.connect(id)
			require.NoError(t, r.join("x", id))
		}
		stranger := r.connect("stranger")
		n, err := realm.Broadcast("x", Message{Type: "HI"}, realm.Client("a"), realm.Client("stranger"), nil)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		for id, p := range peers {
			p.next() // ROOM-MEMBERS
			for _, other := range []string{"a", "b", "c"} {
				if other > id {
					p.wantJoined("x", other)
				}
			}
			if id != "a" {
				p.want(`{"type":"HI"}`)
			}
		}
		stranger.offer("a", "1")
		peers["a"].wantOffer("stranger", "1") // and nothing before
	})
}

// The reader of a client that ends leaves the rooms of the client, and then tells the host what is noted. So the end of
// a membership and its note must be one step: a reader that ends between two steps finds neither, and OnLeave is lost.
func TestALeaveIsNotedInTheStepThatEndsTheMembership(t *testing.T) {
	srv := NewServer(Options{AliveTimeout: -1})
	defer closeServer(t, srv)
	srv.OnLeave(func(string, *Client, DisconnectReason) {})
	for i := range 5 {
		c := stubClient(t, srv, fmt.Sprint(i), "t")
		silence(srv, c)
		require.NoError(t, srv.Realm().Join("x", c))
		require.Equal(t, []roomNews{{room: "x"}}, c.takeNews())
		look := func(int) {
			for range 5 {
				c.mu.Lock()
				noted := len(c.membership.names) + len(c.membership.news)
				time.Sleep(2 * time.Millisecond) // so that the mutex goes to those that wait for it, in their order
				c.mu.Unlock()
				assert.NotZero(t, noted, "neither a member nor one that has left")
			}
		}
		leave := func() { srv.Realm().Leave("x", c) }
		inTurns(&c.mu, leave, func() { parallel(3, look) }) // while one looks, another one waits
		require.Equal(t, []roomNews{{"x", ReasonLeft}}, c.takeNews())
		c.end(ReasonRemoved, nil, nil)
		srv.realm.remove(c)
	}
}
