//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Classes of clients.
const (
	stable  = iota // never changes its socket by itself
	mover          // opens another socket while it has one, which may be half dead
	dropper        // ends its socket, and comes back at once, soon or late
	classes = 5    // 0, 3 and 4: stable
)

// A client is one PeerJS client that reconnects by itself.
type client struct {
	w         *world
	i         int
	id, token string
	class     int
	rng       *rand.Rand    // of its own goroutine
	patience  time.Duration // without a sign of life

	mu     sync.Mutex
	cur    *sock                        // that it uses; nil: it is not connected
	wanted map[string]string            // room -> own data
	rooms  map[string]map[string]string // room -> member -> data, as told on this socket
	news   []roomLine                   // what it was told of rooms
	errors int                          // refusals in a row
}

const (
	heartbeat = 5 * time.Second
	trickle   = 150 * time.Millisecond
)

func newClient(w *world, i int, rng *rand.Rand) *client {
	c := &client{w: w, i: i, id: fmt.Sprintf("client-%03d", i), token: fmt.Sprintf("token-%d-%d", i, rng.IntN(1e9)),
		rng: rng, wanted: make(map[string]string), rooms: make(map[string]map[string]string)}
	if c.class = i % classes; c.class > dropper {
		c.class = stable
	}
	c.patience = c.between(2*time.Second, 5*time.Second)
	if i%4 == 0 {
		c.wanted[fmt.Sprint("room-", i/4%rooms)] = fmt.Sprintf(`{"name":%q}`, c.id)
	}
	if i%8 == 0 {
		c.wanted[fmt.Sprint("room-", (i/4+1)%rooms)] = "null"
	}
	return c
}

const rooms = 6

func (c *client) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.rng.Int64N(int64(to-from)))
}

// run lives until the world ends.
func (c *client) run() {
	c.sleep(c.between(0, 2*time.Second))
	beat, ping, call, churn := heartbeat, time.Duration(0), c.nextCall(), c.nextChurn()
	for c.w.ctx.Err() == nil {
		s := c.current()
		if s == nil {
			c.reconnect()
			ping, beat = 0, c.w.now()+heartbeat
			continue
		}
		now := c.w.now()
		if now >= beat {
			_ = s.w.write(opText, []byte(`{"type":"HEARTBEAT"}`))
			beat = now + heartbeat
		}
		if now >= ping {
			c.keepRooms()
			_ = s.w.write(opPing, nil)
			ping = now + c.patience/3
		}
		if now >= call {
			c.call()
			call = c.nextCall()
		}
		if now >= churn {
			if c.w.calm.Err() == nil {
				c.churn(s)
			}
			churn = c.nextChurn()
			continue
		}
		c.mu.Lock()
		silent := now - s.heard
		c.mu.Unlock()
		if silent > c.patience {
			c.give(s)
			continue
		}
		c.wait(s, min(beat, ping, call, churn)-c.w.now())
	}
}

func (c *client) current() *sock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur
}

// wait waits, or until the socket ends.
func (c *client) wait(s *sock, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ended:
	case <-c.w.ctx.Done():
	}
}

func (c *client) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.w.ctx.Done():
	}
}

// away is sleep, until all have to be there.
func (c *client) away(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.w.calm.Done():
	}
}

func (c *client) nextCall() time.Duration {
	mean := c.w.pause
	return c.w.now() + c.between(mean/2, mean*3/2)
}

func (c *client) nextChurn() time.Duration {
	switch c.class {
	case mover:
		return c.w.now() + c.between(5*time.Second, 14*time.Second)
	case dropper:
		return c.w.now() + c.between(4*time.Second, 18*time.Second)
	}
	return never
}

// reconnect opens a socket through any node, as behind a load balancer.
func (c *client) reconnect() {
	if c.connect() {
		c.errors = 0
		return
	}
	c.errors++
	c.sleep(min(2*time.Second, c.between(100*time.Millisecond, 400*time.Millisecond)<<min(c.errors, 4)))
}

// insist is reconnect until it works: the socket before is of no use any more.
func (c *client) insist() {
	for before := c.current(); c.w.ctx.Err() == nil && c.current() == before; {
		c.reconnect()
	}
}

// connect opens a socket and uses it from then on.
func (c *client) connect() bool {
	s := c.dial(c.rng.IntN(c.w.nodes()), c.token, c.between(4*time.Second, 8*time.Second))
	if s == nil {
		return false
	}
	c.mu.Lock()
	if old := c.cur; old != nil {
		old.Ended = min(old.Ended, s.Dialed)
	}
	if s.Ended == never {
		c.cur = s
	}
	clear(c.rooms)
	c.mu.Unlock()
	c.keepRooms()
	return true
}

// give gives a socket up that has been silent for too long.
func (c *client) give(s *sock) {
	c.w.count("given up", 1)
	if c.rng.IntN(2) == 0 {
		s.leave()
		return
	}
	c.mu.Lock()
	s.Ended, s.Quiet = min(s.Ended, c.w.now()), min(s.Quiet, c.w.now())
	if c.cur == s {
		c.cur = nil
	}
	c.mu.Unlock()
}

// churn changes the socket.
func (c *client) churn(s *sock) {
	if c.class == mover {
		switch c.rng.IntN(3) { // it has lost its network, and notices later
		case 0:
			s.mute()
			c.away(c.between(500*time.Millisecond, 4*time.Second))
			c.insist()
		case 1:
			read := s.stick()
			c.w.stuck(c, true)
			c.away(c.between(time.Second, 5*time.Second))
			c.insist()
			c.w.stuck(c, false)
			read()
		default:
			c.connect()
		}
		return
	}
	switch c.rng.IntN(6) {
	case 0:
		s.abort()
	case 1, 2:
		read := s.stick()
		c.w.stuck(c, true)
		c.away(c.between(time.Second, 3*time.Second))
		s.leave()
		c.w.stuck(c, false)
		read()
	default:
		s.leave()
	}
	switch c.rng.IntN(5) {
	case 0:
	case 1:
		c.away(c.between(6*time.Second, 9*time.Second)) // what is sent to it expires
	case 2:
		c.away(c.between(1500*time.Millisecond, 4500*time.Millisecond))
	default:
		c.away(c.between(800*time.Millisecond, 1200*time.Millisecond))
	}
}

// call calls somebody.
func (c *client) call() {
	if c.w.silent.Load() {
		return
	}
	dst := c.w.target(c)
	c.mu.Lock()
	c.sendLocked(dst, "OFFER")
	for range c.rng.IntN(3) {
		c.sendLocked(dst, "CANDIDATE")
	}
	c.mu.Unlock()
	if c.rng.IntN(2) == 0 {
		c.sleep(c.between(trickle/3, trickle*3))
		c.mu.Lock()
		c.sendLocked(dst, "CANDIDATE")
		if c.rng.IntN(4) == 0 {
			c.sendLocked(dst, "LEAVE")
		}
		c.mu.Unlock()
	}
}

type roomNews struct {
	Room    string                     `json:"room"`
	ID      string                     `json:"id"`
	Members []string                   `json:"members"`
	Data    json.RawMessage            `json:"data"`
	of      map[string]json.RawMessage // Data of ROOM-MEMBERS
}

// A roomLine is what a client was told of a room.
type roomLine struct {
	at             time.Duration
	room, id, kind string
	members        []string
}

// toldOf returns what the client was told of a member since a moment.
func (c *client) toldOf(id string, from time.Duration) (lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.news {
		if l.at >= from && (l.id == id || l.kind == "ROOM-MEMBERS") {
			lines = append(lines, fmt.Sprintf("%s %s in %s, with %s: %v", seconds(l.at), l.kind, l.room, id, l.id == id || slices.Contains(l.members, id)))
		}
	}
	return lines
}

// roomLocked follows the members of a room.
func (c *client) roomLocked(f frame) {
	var n roomNews
	if len(f.Payload) > 0 && json.Unmarshal(f.Payload, &n) != nil {
		return
	}
	c.news = append(c.news, roomLine{c.w.now(), n.Room, n.ID, f.Type, n.Members})
	switch f.Type {
	case "ROOM-MEMBERS":
		_ = json.Unmarshal(n.Data, &n.of)
		c.rooms[n.Room] = make(map[string]string)
		for _, id := range n.Members {
			c.rooms[n.Room][id] = string(n.of[id])
		}
	case "ROOM-JOINED":
		if m := c.rooms[n.Room]; m != nil {
			m[n.ID] = string(n.Data)
		}
	case "ROOM-LEFT":
		if n.ID == c.id {
			delete(c.rooms, n.Room)
		} else {
			delete(c.rooms[n.Room], n.ID)
		}
	case "ROOM-REFUSED":
		c.w.count("room refused", 1)
	}
}

// keepRooms joins the rooms that the client wants to be in and is not.
func (c *client) keepRooms() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == nil || c.cur.Quiet != never {
		return
	}
	for room, data := range c.wanted {
		if c.rooms[room] == nil {
			_ = c.cur.w.write(opText, fmt.Appendf(nil, `{"type":"ROOM-JOIN","payload":{"room":%q,"data":%s}}`, room, data))
		}
	}
}

// steal asks for the ids of others, with another token.
func (w *world) steal(rng *rand.Rand) {
	for w.ctx.Err() == nil {
		victim := w.clients[rng.IntN(len(w.clients))]
		if w.calm.Err() == nil && !w.silent.Load() && (victim.class != stable || !w.troubled()) {
			node := rng.IntN(w.nodes())
			if s := victim.dial(node, fmt.Sprint("thief-", rng.IntN(1e9)), 10*time.Second); s != nil {
				w.count("ids taken while free", 1)
				victim.sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
				s.leave()
			} else {
				w.count("refused thefts", 1)
			}
		}
		victim.sleep(time.Duration(500+rng.IntN(1500)) * time.Millisecond)
	}
}
