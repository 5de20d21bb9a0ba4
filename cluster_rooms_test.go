//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// A roomer is a client that is in a room, whatever happens, and follows who else is.
type roomer struct {
	id string

	mu   sync.Mutex // guards the following
	p    *testPeer  // that it uses; nil: it is not connected
	list map[string]bool
	log  []string
}

// say sends a message about the room. The socket may have ended.
func (c *roomer) say(p *testPeer, kind string) {
	_ = p.ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":%q,"payload":{"room":"x"}}`, kind))
}

// use reads the frames of a socket until its end. Those that come after a younger socket was opened do not count.
func (c *roomer) use(p *testPeer, began time.Time) {
	for frame := range p.frames {
		var f struct {
			Type    string
			Payload struct {
				ID      string
				Members []string
			}
		}
		if json.Unmarshal([]byte(frame), &f) != nil && f.Type == "" {
			continue
		}
		c.mu.Lock()
		if f.Type == "OPEN" {
			c.p, c.list = p, nil
			go c.say(p, "ROOM-JOIN")
		}
		if c.p == p {
			c.log = append(c.log, fmt.Sprint(time.Since(began).Round(time.Millisecond), frame))
			switch id := f.Payload.ID; f.Type {
			case "ROOM-MEMBERS":
				c.list = make(map[string]bool)
				for _, id := range f.Payload.Members {
					c.list[id] = true
				}
			case "ROOM-JOINED":
				if c.list != nil {
					c.list[id] = true
				}
			case "ROOM-LEFT":
				if delete(c.list, id); id == c.id {
					c.list = nil
				}
			}
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p == p {
		c.p, c.list = nil, nil
	}
}

// Clients that take their ids over on any node, and leave and join again, have the same list when all has been quiet
// for a while, whatever the engine did.
func TestAllMembersHaveTheSameListInTheEnd(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	synctest.Test(t, func(t *testing.T) {
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		some := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
		m, rs := nodesWithRooms(t, 3)
		m.Seed(int64(seed))
		began := time.Now()
		cs := make([]*roomer, 6)
		dial := func(c *roomer) {
			p := rs[rng.IntN(len(rs))].dial(c.id, "t")
			go c.use(p, began)
		}
		for i := range cs {
			cs[i] = &roomer{id: fmt.Sprint("c", i)}
			dial(cs[i])
		}
		var notes []string
		note := func(format string, args ...any) {
			notes = append(notes, fmt.Sprint(time.Since(began).Round(time.Millisecond), " ", fmt.Sprintf(format, args...)))
		}
		fault := func() func() {
			name := rs[rng.IntN(len(rs))].srv.realm.node.name
			switch rng.IntN(6) {
			case 0:
				note("cut %s", name)
				m.Cut(name)
				return func() { m.Mend(name) }
			case 1:
				note("pause")
				m.Fail(0.5)
				m.Pause()
				return func() { m.Resume(); m.Fail(0) }
			case 2:
				note("forget")
				m.Forget()
			case 3:
				note("errors")
				m.Fail(0.3)
				return func() { m.Fail(0) }
			case 4:
				note("drop")
				m.Drop(0.3)
				return func() { m.Drop(0) }
			default:
				note("slow")
				m.Delay(some(300 * time.Millisecond))
				return func() { m.Delay(0) }
			}
			return func() {}
		}
		heal, until := func() {}, time.Duration(0)
		for time.Since(began) < 40*time.Second {
			if now := time.Since(began); now > until {
				heal()
				note("healed")
				if heal = func() {}; rng.IntN(2) == 0 {
					heal = fault()
				}
				until = now + some(8*time.Second)
			}
			time.Sleep(some(500 * time.Millisecond))
			c := cs[rng.IntN(len(cs))]
			c.mu.Lock()
			p := c.p
			joined := c.list != nil
			c.mu.Unlock()
			switch {
			case p == nil || rng.IntN(4) == 0:
				note("dial %s", c.id)
				dial(c)
			case !joined:
				c.say(p, "ROOM-JOIN")
			case rng.IntN(4) == 0:
				note("leave %s", c.id)
				c.say(p, "ROOM-LEAVE")
				c.say(p, "ROOM-JOIN")
			}
		}
		heal()
		note("healed")
		for range 10 { // all come back
			time.Sleep(time.Second)
			for _, c := range cs {
				c.mu.Lock()
				p, joined := c.p, c.list != nil
				c.mu.Unlock()
				if p == nil {
					dial(c)
				} else if !joined {
					c.say(p, "ROOM-JOIN")
				}
			}
		}
		time.Sleep(10 * time.Second)
		want := []string{"c0", "c1", "c2", "c3", "c4", "c5"}
		for _, c := range cs {
			c.mu.Lock()
			list := slices.Sorted(maps.Keys(c.list))
			if !slices.Equal(want, list) {
				for _, n := range notes {
					t.Log(n)
				}
				for _, line := range c.log {
					t.Log(line)
				}
			}
			c.mu.Unlock()
			require.Equal(t, want, list, c.id)
		}
		ids, err := rs[0].srv.Realm().RoomMembers(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, want, ids)
	})
}
