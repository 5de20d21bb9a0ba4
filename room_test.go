//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

func TestMembersLearnWhoComesAndWhoGoes(t *testing.T) {
	ends := map[string]struct {
		end    func(r *rig, p *testPeer)
		reason string
	}{
		"leaves the room":    {func(r *rig, p *testPeer) { p.send(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`) }, "left"},
		"leaves altogether":  {func(r *rig, p *testPeer) { p.send(`{"type":"LEAVE"}`) }, "left"},
		"closes its page":    {func(r *rig, p *testPeer) { p.close() }, "client closed"},
		"loses its network":  {func(r *rig, p *testPeer) { p.drop() }, "connection lost"},
		"is removed":         {func(r *rig, p *testPeer) { r.srv.Realm().RemoveClient(p.id) }, "removed"},
		"sends it not UTF-8": {func(r *rig, p *testPeer) { p.send("\"\xff\"") }, "invalid UTF-8"},
	}
	for name, tc := range ends {
		t.Run(name, func(t *testing.T) {
			onNodes(t, Options{AllowJoin: anyRoom}, func(t *testing.T, r *rig) {
				a, b := r.connect("a"), r.connect("b")
				a.join("x")
				a.wantMembers("x", "a")
				b.join("x")
				b.wantMembers("x", "a", "b")
				a.wantJoined("x", "b")
				tc.end(r, b)
				a.wantLeft("x", "b", tc.reason)
				r.srv.Realm().Broadcast("x", Message{Type: "END"})
				a.want(`{"type":"END"}`) // and nothing between
				require.Equal(t, []string{"x"}, r.srv.Realm().Rooms())
			})
		})
	}
}

func TestATakeoverByTheOwnTokenIsNoLeaveAndNoJoin(t *testing.T) {
	onNodes(t, Options{AllowJoin: anyRoom, AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		a, b := r.connect("a"), r.connect("b")
		a.join("x")
		a.wantMembers("x", "a")
		b.join("x")
		b.wantMembers("x", "a", "b")
		a.wantJoined("x", "b")
		again := r.connect("b")
		require.Equal(t, CloseReplaced, b.wantEnd())
		if !r.isOne() { // the other node has the list from now on
			again.wantMembers("x", "a", "b")
		}
		n, err := r.srv.Realm().Broadcast("x", Message{Type: "HELLO"})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		a.want(`{"type":"HELLO"}`)
		again.want(`{"type":"HELLO"}`)
		again.join("x") // as a page does that does not know what it missed
		again.wantMembers("x", "a", "b")
		other := r.dial("b", "another token")
		other.wantOpen()
		a.wantLeft("x", "b", "overridden")
		other.join("x")
		other.wantMembers("x", "a", "b")
		a.wantJoined("x", "b")
	})
}

func TestTheHostDecidesWhoJoins(t *testing.T) {
	r := newRig(t, Options{AllowJoin: func(c *Client, room string, _ json.RawMessage) error {
		switch room {
		case "members only":
			return &Reject{Message: "Ask the owner of the room"}
		case "broken":
			return errors.New("secret of the database")
		case "panic":
			panic("oops")
		}
		return nil
	}})
	a := r.connect("a")
	a.join("members only")
	a.wantNotLetIn("members only", "Ask the owner of the room")
	a.join("broken")
	a.wantNotLetIn("broken", "You may not join this room")
	a.join("")
	a.wantNotLetIn("", "the name of a room needs 1 to 1,024 bytes of UTF-8 without control characters")
	for _, payload := range []string{`,"payload":[]`, `,"payload":"x"`, `,"payload":null`, `,"payload":{}`, `,"payload":{"room":5}`, `,"payload":{"Room":"x"}`, ``} {
		a.send(`{"type":"ROOM-JOIN"` + payload + `}`)
		a.wantNotLetIn("", `A payload with the name of a "room" is needed`)
	}
	a.send(`{"type":"ROOM-LEAVE","payload":{"room":"never joined"}}`)
	a.send(`{"type":"ROOM-JOINED","dst":"a","payload":{"room":"x","id":"forged"}}`)
	a.join("x")
	a.wantMembers("x", "a")
	a.join("panic")
	require.Equal(t, 1011, a.wantEnd())
}

func TestClientsDoNotJoinUnlessTheHostAllowsIt(t *testing.T) {
	onNodes(t, Options{}, func(t *testing.T, r *rig) {
		a, b := r.connect("a"), r.connect("b")
		a.join("x")
		a.wantNotLetIn("x", "Clients may not join rooms by themselves here")
		a.send(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`)
		b.offer("a", `1`)
		a.wantOffer("b", `1`)
		realm := r.srv.Realm()
		require.Empty(t, realm.Rooms())
		require.NoError(t, realm.Join("x", realm.Client("a")))
		a.wantMembers("x", "a")
		require.NoError(t, r.join("x", "b"))
		b.wantMembers("x", "a", "b")
		a.wantJoined("x", "b")
		r.wantRoom("x", "a", "b")
		require.True(t, realm.Leave("x", realm.Client("a")))
		a.wantLeft("x", "a", "left")
		b.wantLeft("x", "a", "left")
		require.False(t, realm.Leave("x", realm.Client("a")))
		gone := realm.Client("a")
		realm.RemoveClient("a")
		require.ErrorIs(t, realm.Join("x", gone), ErrNotConnected)
		_, err := realm.Broadcast("x", Message{Type: "X", Payload: []byte("{")})
		require.ErrorIs(t, err, ErrBadMessage)
	})
}

func TestRoomsAreBounded(t *testing.T) {
	r := newRig(t, Options{MaxRooms: 2, MaxRoomMembers: 2, MaxRoomsPerClient: 2})
	realm := r.srv.Realm()
	for _, id := range []string{"a", "b", "c"} {
		r.connect(id)
	}
	a, b, c := realm.Client("a"), realm.Client("b"), realm.Client("c")
	require.NoError(t, realm.Join("1", a))
	require.NoError(t, realm.Join("1", b))
	require.ErrorIs(t, realm.Join("1", c), ErrRoomFull)
	require.NoError(t, realm.Join("1", a), "a member already")
	require.NoError(t, realm.Join("2", a))
	require.ErrorIs(t, realm.Join("3", c), ErrTooManyRooms)
	require.True(t, realm.Leave("2", a))
	require.NoError(t, realm.Join("3", c), "an empty room is gone")
	require.NoError(t, realm.Join("3", a))
	require.ErrorIs(t, realm.Join("4", a), ErrTooManyRooms)
	for _, name := range []string{"", "a\nb", "\xff", strings.Repeat("x", maxIDBytes+1)} {
		require.ErrorIs(t, realm.Join(name, b), ErrRoomName)
	}
}

func TestAClientIsInSoManyRooms(t *testing.T) {
	r := newRig(t, Options{MaxRoomsPerClient: 2})
	r.connect("a")
	realm := r.srv.Realm()
	a := realm.Client("a")
	require.NoError(t, realm.Join("1", a))
	require.NoError(t, realm.Join("2", a))
	require.ErrorIs(t, realm.Join("3", a), ErrTooManyRooms)
	require.True(t, realm.Leave("1", a))
	require.NoError(t, realm.Join("3", a))
}

func TestRoomsStayInOrderWhileIDsChangeHands(t *testing.T) {
	t.Parallel()
	onNodes(t, Options{AllowJoin: anyRoom, AllowOverride: OverrideAlways}, func(t *testing.T, r *rig) {
		watcher := r.connect("watcher")
		watcher.join("x")
		watcher.wantMembers("x", "watcher")
		parallel(6, func(i int) {
			for n := range 30 {
				p := r.dial(fmt.Sprint("id", i%3), fmt.Sprint("token", n%2))
				for _, room := range []string{"x", "y"} { // who is overtaken by the next finds its socket closed
					p.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"ROOM-JOIN","payload":{"room":"`+room+`"}}`))
				}
				if n%5 == 0 {
					r.srv.Realm().RemoveClient(p.id)
				}
			}
		})
		for i := range 3 {
			p := r.dial(fmt.Sprint("id", i), "last")
			p.wantOpen()
			r.srv.Realm().RemoveClient(p.id)
		}
		here := map[string]bool{}
		left := 0
		r.srv.Realm().Broadcast("x", Message{Type: "END"})
		for f := watcher.next(); f != `{"type":"END"}`; f = watcher.next() {
			_, rest, _ := strings.Cut(f, `"id":"`)
			id, _, _ := strings.Cut(rest, `"`)
			switch {
			case strings.Contains(f, "ROOM-JOINED"):
				require.False(t, here[id], "joined twice: %s", f)
				here[id] = true
			case strings.Contains(f, "ROOM-LEFT"):
				require.True(t, here[id], "left without being there: %s", f)
				here[id] = false
				left++
			}
		}
		require.NotZero(t, left)
	})
}

func TestARoomEndsWithItsMembers(t *testing.T) {
	onNodesInBubbles(t, Options{AllowJoin: anyRoom}, func(t *testing.T, r *rig) {
		a := r.connect("a")
		a.join("x")
		a.wantMembers("x", "a")
		a.drop()
		synctest.Wait()
		require.Empty(t, r.srv.Realm().Rooms())
		require.Zero(t, r.srv.realm.rooms.seats)
	})
}

// A client that cannot be told who the members are is closed for that, which is no error of the host's.
func TestAJoinThatOverflowsTheOutboxIsNoErrorOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{AllowJoin: anyRoom, MaxOutboxMessages: 1})
		rec := watch(r.srv)
		mallory := r.rawOpen().open("mallory") // reads OPEN, and then nothing: a pipe has no buffer
		for i := range 3 {
			mallory.tryWrite(rawTextFrame(fmt.Sprintf(`{"type":"ROOM-JOIN","payload":{"room":"%d"}}`, i)))
			synctest.Wait()
		}
		rec.want(t, "+mallory", "-mallory slow consumer")
		require.Empty(t, r.srv.Realm().Rooms())
	})
}

// To find room for a client and to make it a member is one step.
func TestOneOfTwoClientsGetsTheLastPlaceInARoom(t *testing.T) {
	srv := NewServer(Options{AliveTimeout: -1, MaxRoomMembers: 1})
	defer closeServer(t, srv)
	realm := srv.Realm()
	for range 5 {
		a, b := stubClient(t, srv, "a", "t"), stubClient(t, srv, "b", "t")
		silence(srv, a)
		silence(srv, b)
		var errA, errB error
		inTurns(&realm.rooms.mu, func() { errA = realm.Join("x", a) }, func() { errB = realm.Join("x", b) })
		members := realm.Members("x")
		require.Len(t, members, 1)
		for c, err := range map[*Client]error{a: errA, b: errB} {
			if c == members[0] {
				require.NoError(t, err)
				require.Len(t, c.outbox.parcels, 1, "it reads who the members are")
			} else {
				require.ErrorIs(t, err, ErrRoomFull)
				require.Empty(t, c.outbox.parcels, "it reads nothing")
			}
			c.end(ReasonRemoved, nil, nil)
			realm.leaveRooms(c, ReasonRemoved)
			realm.remove(c)
		}
	}
}

// OnDisconnect comes when everything else is over, so the host finds the rooms as they are then.
func TestAClientHasLeftItsRoomsWhenTheHostIsTold(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"removed":    func(r *rig) { r.srv.Realm().RemoveClient("a") },
		"overridden": func(r *rig) { r.dial("a", "another") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{AllowJoin: anyRoom, AllowOverride: OverrideAlways})
				a, watcher := r.connect("a"), r.connect("watcher")
				a.join("x")
				a.wantMembers("x", "a")
				watcher.join("x")
				watcher.wantMembers("x", "a", "watcher")
				members := make(chan []*Client, 1)
				r.srv.OnDisconnect(func(c *Client, _ DisconnectReason) {
					if c.ID() == "a" && len(members) == 0 {
						members <- r.srv.Realm().Members("x")
					}
				})
				end(r)
				require.Equal(t, []*Client{r.srv.Realm().Client("watcher")}, <-members)
				watcher.wantLeft("x", "a", name)
			})
		})
	}
}

// A member whose id changes hands by its own token misses nothing that the room is told.
func TestABroadcastDuringATakeoverReachesTheMember(t *testing.T) {
	slow(t)
	t.Parallel()
	srv := NewServer(Options{MaxOutboxMessages: -1, MaxOutboxBytes: -1})
	srv.OnConnection(func(c *Client) {})
	r := serveRig(t, srv, nil)
	p := r.connect("a")
	require.NoError(t, srv.Realm().Join("room", srv.Realm().Client("a")))
	p.next()
	var mu sync.Mutex
	got := map[string]int{}
	var readers sync.WaitGroup
	collect := func(p *testPeer) {
		for f := range p.frames {
			mu.Lock()
			got[f]++
			mu.Unlock()
		}
	}
	first := p
	readers.Go(func() { collect(first) })
	stop := make(chan struct{})
	sent := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, err := srv.Realm().Broadcast("room", Message{Type: "N", Payload: fmt.Append(nil, sent)})
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
			if sent++; sent%50 == 0 {
				runtime.Gosched()
			}
		}
	})
	for range 60 {
		p := r.dial("a", "token-of-a")
		readers.Go(func() { collect(p) })
	}
	close(stop)
	wg.Wait()
	waitFor(t, func() bool {
		c := srv.Realm().Client("a")
		if c == nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.stage == online && c.writer == idle && len(c.outbox.parcels) == 0
	})
	closeServer(t, srv)
	readers.Wait()
	for n := range sent {
		require.Equal(t, 1, got[fmt.Sprintf(`{"type":"N","payload":%d}`, n)], "message %d of %d", n, sent)
	}
}

// The host may keep the data that AllowJoin gets: what the client sends later does not change them.
func TestTheDataOfAJoinMayBeKept(t *testing.T) {
	kept := make(chan json.RawMessage, 10)
	r := newRig(t, Options{AllowJoin: func(_ *Client, _ string, data json.RawMessage) error {
		kept <- data
		return nil
	}})
	a := r.rawOpen().open("a")
	a.text(`{"type":"ROOM-JOIN","payload":{"room":"x","data":"Ann is my name"}}`)
	a.next()
	data := <-kept
	for range 50 {
		a.text(`{"type":"OFFER","dst":"b","payload":"` + strings.Repeat("SECRET", 20) + `"}`)
	}
	a.text(`{"type":"ROOM-JOIN","payload":{"room":"x","data":1}}`)
	a.next()
	require.Equal(t, `"Ann is my name"`, string(data))
}

// A newcomer can evict two clients before it is admitted. If the host has let both join one room, the newcomer has one
// place in it.
func TestTwoPredecessorsInOneRoomLeaveOnePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		realm := srv.realm
		admit := func(c, predecessor *Client) {
			holder, err := realm.admit(c, predecessor, true)
			require.NoError(t, err)
			require.Nil(t, holder)
		}
		evict := func(c, successor *Client) {
			require.True(t, c.evict(successor, ReasonReplaced, nil))
			successor.inheritedFrom = append(successor.inheritedFrom, c)
		}
		first, second, c := stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t")
		admit(first, nil)
		require.NoError(t, realm.Join("x", first))
		evict(first, c)
		realm.remove(first) // an event of it runs still, so it is in its rooms
		admit(second, nil)
		require.NoError(t, realm.Join("x", second))
		evict(second, c)
		admit(c, second)
		require.Equal(t, []string{"x"}, c.Rooms())
		require.Equal(t, 1, realm.RoomLen("x"))
		require.NoError(t, realm.check())
		require.True(t, realm.Leave("x", c))
		require.Empty(t, c.Rooms())
		c.end(ReasonRemoved, nil, nil)
		realm.remove(c)
		for _, c := range []*Client{first, second, c} {
			realm.finish(c)
		}
		require.NoError(t, realm.check())
	})
}

// An error of AllowJoin is the host's, also if it wraps one of this package, as that of a send to another client.
func TestAnErrorOfAllowJoinIsReportedWhateverItWraps(t *testing.T) {
	for _, wrapped := range []error{ErrNotConnected, ErrSlowConsumer, ErrRoomFull} {
		r := newRig(t, Options{AllowJoin: func(*Client, string, json.RawMessage) error {
			return fmt.Errorf("asking the owner: %w", wrapped)
		}})
		errs := make(chan error, 1)
		r.srv.OnError(func(_ *Client, err error) { errs <- err })
		a := r.connect("a")
		a.join("x")
		a.wantNotLetIn("x", "You may not join this room")
		require.ErrorIs(t, <-errs, wrapped)
		require.Empty(t, r.srv.Realm().Rooms())
	}
}
