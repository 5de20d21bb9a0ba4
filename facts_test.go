package peer

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What the host can ask of a server and its clients.

func TestARegistrationCanBeTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AllowJoin: anyRoom})
		var lines []string
		all := map[string]func(name string) (remove func()){
			"connection": func(name string) func() { return srv.OnConnection(func(*Client) { lines = append(lines, name) }) },
			"disconnect": func(name string) func() {
				return srv.OnDisconnect(func(*Client, DisconnectReason) { lines = append(lines, name) })
			},
			"message": func(name string) func() { return srv.OnMessage(func(*Client, Message) { lines = append(lines, name) }) },
			"error":   func(name string) func() { return srv.OnError(func(*Client, error) { lines = append(lines, name) }) },
			"refuse": func(name string) func() {
				return srv.OnRefuse(func(*http.Request, string, string) { lines = append(lines, name) })
			},
			"join": func(name string) func() { return srv.OnJoin(func(string, *Client) { lines = append(lines, name) }) },
			"leave": func(name string) func() {
				return srv.OnLeave(func(string, *Client, DisconnectReason) { lines = append(lines, name) })
			},
		}
		var removeAll []func()
		for name, on := range all {
			on("first " + name)
			removeAll = append(removeAll, on("second "+name))
			on("third " + name)
		}
		r := serveBubbleRig(t, srv, nil)
		visit := func() []string {
			lines = nil
			p := r.connect("a")
			p.join("x")
			p.wantMembers("x", "a")
			p.send(`{"type":"nonsense"`)
			p.close()
			synctest.Wait()
			r.dialURL(strings.Replace(r.socketURL("/", "a", "t"), "key=peerjs", "key=wrong", 1), nil)
			synctest.Wait()
			return slices.Clone(lines)
		}
		before := visit()
		for name := range all {
			require.Subset(t, before, []string{"first " + name, "second " + name, "third " + name})
		}
		for _, remove := range removeAll {
			remove()
			remove() // may be called again
		}
		want := slices.DeleteFunc(before, func(s string) bool { return strings.HasPrefix(s, "second") })
		require.Equal(t, want, visit())
	})
}

// A function may take itself back while it is called.
func TestARegistrationCanBeTakenBackFromInside(t *testing.T) {
	r := newRig(t, Options{})
	rec := &record{change: make(chan struct{})}
	var remove func()
	remove = r.srv.OnConnection(func(c *Client) { rec.add("once " + c.ID()); remove() })
	r.srv.OnConnection(func(c *Client) { rec.add("always " + c.ID()) })
	r.connect("a")
	r.connect("b")
	rec.want(t, "once a", "always a", "always b")
}

func TestTheRequestIsThereUntilOnConnectionHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		look := func(where string, c *Client) {
			if req := c.Request(); req != nil {
				seen = append(seen, fmt.Sprint(where, " ", req.Header.Get("Cookie"), " ", req.URL.Query().Get("id")))
			} else {
				seen = append(seen, where+" nil")
			}
		}
		srv := NewServer(Options{AllowOverride: func(holder, newcomer *Client) bool {
			look("holder", holder)
			look("newcomer", newcomer)
			return true
		}})
		srv.OnConnection(func(c *Client) { look("connection", c) })
		srv.OnMessage(func(c *Client, _ Message) { look("message", c) })
		srv.OnDisconnect(func(c *Client, _ DisconnectReason) { look("disconnect", c) })
		r := serveBubbleRig(t, srv, nil)
		dial := func(token, cookie string) *testPeer {
			p := r.dialURL(r.socketURL("/", "a", token), http.Header{"Cookie": {cookie}})
			p.wantOpen()
			synctest.Wait()
			return p
		}
		a := dial("t", "user=ann")
		require.Nil(t, srv.Realm().Client("a").Request())
		a.send(`{"type":"HEARTBEAT"}`)
		synctest.Wait()
		dial("u", "user=bob")
		require.Equal(t, []string{
			"connection user=ann a", "message nil", "holder nil", "newcomer user=bob a", "disconnect nil", "connection user=bob a",
		}, seen)
	})
}

func TestAConnectionKnowsItsPredecessor(t *testing.T) {
	for name, c := range map[string]struct {
		token string
		leave bool
		want  bool
	}{
		"own token":     {"t", false, true},
		"another token": {"u", false, true},
		"a free id":     {"u", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{AllowOverride: OverrideAlways})
				var predecessors []*Client
				srv.OnConnection(func(c *Client) {
					predecessors = append(predecessors, c.Predecessor())
					if p := c.Predecessor(); p != nil && p.Successor() != c {
						t.Error("its successor is another")
					}
				})
				r := serveBubbleRig(t, srv, nil)
				old := r.dial("a", "t")
				old.wantOpen()
				synctest.Wait()
				first := srv.Realm().Client("a")
				if c.leave {
					old.close()
					synctest.Wait()
				}
				r.dial("a", c.token).wantOpen()
				synctest.Wait()
				require.Len(t, predecessors, 2)
				require.Nil(t, predecessors[0])
				require.Equal(t, c.want, predecessors[1] == first)
				require.Nil(t, srv.Realm().Client("a").Predecessor(), "a chain of predecessors would never be freed")
			})
		})
	}
}

func TestTheHostIsToldOfEveryRefusal(t *testing.T) {
	type refused struct{ id, cause, origin string }
	for cause, c := range map[string]struct {
		opts Options
		url  func(u string) string
		id   string
	}{
		"missing parameters": {Options{}, func(u string) string { return strings.Replace(u, "token=", "x=", 1) }, "a"},
		"invalid key":        {Options{}, func(u string) string { return strings.Replace(u, "key=peerjs", "key=x", 1) }, "a"},
		"invalid id":         {Options{ValidID: func(string) bool { return false }}, nil, "a"},
		"authentication": {Options{Authenticate: func(*http.Request, string, string) (any, error) {
			return nil, &Reject{Message: "no"}
		}}, nil, "a"},
		"before the upgrade": {Options{RejectBeforeUpgrade: true, Authenticate: func(*http.Request, string, string) (any, error) {
			return nil, &Reject{Message: "no"}
		}}, nil, "a"},
		"id taken": {Options{}, nil, "holder"},
		"limit":    {Options{ConcurrentLimit: 1}, nil, "a"},
		"origin":   {Options{AllowedOrigins: []string{"https://good.example"}}, nil, "a"},
	} {
		t.Run(cause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				holding := c.opts
				srv := NewServer(holding)
				var told []refused
				srv.OnRefuse(func(r *http.Request, id, cause string) {
					told = append(told, refused{id, cause, r.Header.Get("Origin")})
					panic("which changes nothing")
				})
				srv.OnRefuse(func(*http.Request, string, string) { told = append(told, refused{}) })
				r := serveBubbleRig(t, srv, nil)
				rec := watch(srv)
				if c.opts.Authenticate == nil && c.opts.ValidID == nil {
					r.connect("holder")
				}
				u := r.socketURL("/", c.id, "another token")
				if c.url != nil {
					u = c.url(u)
				}
				p, _, _ := r.tryDial(u, http.Header{"Origin": {"https://bad.example"}})
				if p != nil {
					require.NotEmpty(t, p.next()) // why
				}
				synctest.Wait()
				if cause == "before the upgrade" {
					cause = "authentication"
				}
				require.Equal(t, []refused{{c.id, cause, "https://bad.example"}, {}}, told)
				require.EqualValues(t, 1, srv.Stats().Refused[cause])
				require.Contains(t, rec.all(), "! calling OnRefuse: peer: panic in a function of the host: which changes nothing")
			})
		})
	}
}

func TestAConnectionCountsWhatItSendsAndReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MessageRate: 1})
		a, b := r.connect("a"), r.rawOpen().open("b")
		c, d := r.srv.Realm().Client("a"), r.srv.Realm().Client("b")
		synctest.Wait()
		open := len(openFrame)
		require.Equal(t, ClientStats{MessagesOut: 1, BytesOut: uint64(open)}, c.Stats())
		first := `{"type":"OFFER","dst":"b","payload":1}`
		for range 4 { // two at once, and then one a second
			a.send(first)
		}
		time.Sleep(5 * time.Second)
		got := c.Stats()
		require.EqualValues(t, 4, got.MessagesIn)
		require.EqualValues(t, 4*len(first), got.BytesIn)
		require.Equal(t, 2*time.Second, got.Throttled)
		relayed := len(textFrame([]byte(`{"type":"OFFER","src":"a","dst":"b","payload":1}`)))
		require.Equal(t, ClientStats{
			MessagesOut: 1, BytesOut: uint64(open), Waiting: 4, WaitingBytes: 4 * relayed, // a pipe has no buffer
		}, d.Stats())
		b.next()
		b.next()
		synctest.Wait()
		require.Equal(t, ClientStats{
			MessagesOut: 3, BytesOut: uint64(open + 2*relayed), Waiting: 2, WaitingBytes: 2 * relayed,
		}, d.Stats())
		b.conn.Close()
		synctest.Wait()
		require.EqualValues(t, 3, d.Stats().MessagesOut, "what has been counted stays")
		require.Zero(t, d.Stats().Waiting)
	})
}

func TestWhatIsHeldIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxHeldPerPair: 2})
		a, b := r.connect("a"), r.connect("b")
		synctest.Wait()
		start := time.Now()
		a.offer("x", "1")
		time.Sleep(time.Second)
		b.offer("x", "22")
		a.offer("x", "3")
		b.offer("y", "4")
		synctest.Wait()
		size := func(src, dst, payload string) int {
			return len(textFrame([]byte(fmt.Sprintf(`{"type":"OFFER","src":%q,"dst":%q,"payload":%s}`, src, dst, payload))))
		}
		held := func() map[string]Held {
			m := make(map[string]Held)
			for h := range r.srv.Realm().Held() {
				m[h.ID] = h
			}
			return m
		}
		got := held()
		require.True(t, got["x"].Since.Equal(start), "the oldest of them")
		require.True(t, got["y"].Since.Equal(start.Add(time.Second)))
		for id, h := range got {
			h.Since = time.Time{}
			got[id] = h
		}
		require.Equal(t, map[string]Held{
			"x": {ID: "x", Senders: 2, Messages: 3, Bytes: size("a", "x", "1") + size("b", "x", "22") + size("a", "x", "3")},
			"y": {ID: "y", Senders: 1, Messages: 1, Bytes: size("b", "y", "4")},
		}, got)
		for range r.srv.Realm().Held() {
			break // a loop may end early
		}
		st := r.srv.Stats()
		require.Equal(t, 4, st.HeldMessages)
		a.offer("x", "5") // over the bound: all of a's are dropped, and that is remembered
		a.wantExpire("x")
		b.offer("z", "6")
		require.Equal(t, 1, held()["x"].Senders)
		time.Sleep(time.Minute)
		require.Empty(t, held())
		require.Zero(t, r.srv.Stats().HeldMessages)
	})
}

func TestTheSnapshotHasTheLimitsAndWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := time.Now()
		r := newBubbleRig(t, Options{ConcurrentLimit: 7, MaxRooms: 8, MaxHeldBytes: 9, MaxPartialBytes: -1})
		time.Sleep(time.Minute)
		realm := r.srv.Realm()
		for _, id := range []string{"a", "b"} {
			r.connect(id)
			require.NoError(t, realm.Join("x", realm.Client(id)))
		}
		require.NoError(t, realm.Join("y", realm.Client("a")))
		p := r.rawOpen().open("c")
		p.write(rawFrame(rawText, strings.Repeat("x", 20<<10))) // the first half of a message
		synctest.Wait()
		st := r.srv.Stats()
		require.Equal(t, []int{7, 8, 9, -1}, []int{st.ConcurrentLimit, st.MaxRooms, st.MaxHeldBytes, st.MaxPartialBytes})
		require.Equal(t, []int{2, 3}, []int{st.Rooms, st.Members})
		require.True(t, st.Since.Equal(before))
		require.GreaterOrEqual(t, st.PartialBytes, 12<<10)
		realm.RemoveClient("a")
		synctest.Wait()
		st = r.srv.Stats()
		require.Equal(t, []int{1, 1}, []int{st.Rooms, st.Members})
	})
}

func TestDoneIsClosedWhenTheEndBegins(t *testing.T) {
	r := newRig(t, Options{})
	var inside atomic.Bool
	r.srv.OnDisconnect(func(*Client, DisconnectReason) {
		select {
		case <-r.srv.Done():
			inside.Store(true)
		default:
		}
	})
	r.connect("a")
	select {
	case <-r.srv.Done():
		t.Fatal("it has not begun")
	default:
	}
	require.NoError(t, r.srv.Close())
	require.True(t, inside.Load())
	<-r.srv.Done()
}

// ICE-SERVERS and OPEN go out in one write, and are two messages. The last frames are bytes that were sent.
func TestAConnectionCountsItsFirstAndItsLastFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ICEServers: iceOnly})
		a := r.rawOpen().upgrade("a")
		a.next()
		a.want(`{"type":"OPEN"}`)
		synctest.Wait()
		c := r.srv.Realm().Client("a")
		require.EqualValues(t, 2, c.Stats().MessagesOut)
		require.NoError(t, c.CloseWith(4444, "bye"))
		a.want(`{"type":"ERROR","payload":{"msg":"bye"}}`)
		a.wantWord(4444, "bye")
		synctest.Wait()
		require.Equal(t, a.got, c.Stats().BytesOut)
		require.EqualValues(t, 2, c.Stats().MessagesOut)
	})
}
