package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/require"
)

// The test of this file lets clients with numbered offers move between nodes while faults are made, and judges
// the nodes by what the clients sent and got. The rules are those of package chaos in peerredis, whose judge
// also says which EXPIRE is for which message: here nothing takes time but what is meant to, so counting them
// is enough.

// A scene is what happens to a cluster, and what of the rules it excuses.
type scene struct {
	name  string
	fault func(w *theatre)
	twice bool // a message may come twice
	order bool // or after a later one
	both  bool // or come and expire
	lost  bool // or neither
}

var scenes = []scene{
	{name: "quiet", fault: func(w *theatre) {}},
	{name: "slow", fault: func(w *theatre) { w.m.Delay(w.some(time.Millisecond, 300*time.Millisecond)) }},
	{name: "errors", fault: func(w *theatre) { w.m.Fail(0.2); w.m.Drop(0.02) }},
	{name: "short pauses", fault: func(w *theatre) {
		w.again(func() {
			w.m.Pause()
			time.Sleep(w.some(0, time.Second))
			w.m.Resume()
		})
	}},
	{name: "short cuts", fault: func(w *theatre) {
		w.again(func() {
			name := w.rs[w.pick(len(w.rs))].srv.realm.node.name
			w.m.Cut(name)
			time.Sleep(w.some(0, 1200*time.Millisecond))
			w.m.Mend(name)
		})
	}},
	{name: "a node is killed", twice: true, lost: true, fault: func(w *theatre) { w.kill(len(w.rs) - 1) }},
	{name: "a node stands still", twice: true, order: true, both: true, fault: func(w *theatre) {
		name := w.rs[0].srv.realm.node.name
		w.m.Cut(name)
		time.Sleep(w.some(6*time.Second, 9*time.Second))
		w.m.Mend(name)
	}},
	{name: "the engine loses its data", both: true, lost: true, fault: func(w *theatre) { w.m.Forget() }},
	{name: "a long pause", both: true, fault: func(w *theatre) {
		w.m.Pause()
		time.Sleep(w.some(5*time.Second, 8*time.Second))
		w.m.Resume()
	}},
}

const (
	stageClients = 5
	stageTalk    = 20 * time.Second // clients send for so long
	stageEnd     = 16 * time.Second // and then wait for what becomes of it
	stageLimit   = 2*DefaultExpireTimeout + 2*time.Second + 500*time.Millisecond
	stageStall   = 3 * time.Second // for so long a slow client reads nothing
)

type theatre struct {
	t   *testing.T
	m   *cluster.Memory
	rs  []*rig
	end time.Time // of the talk

	mu       sync.Mutex // guards the following
	rng      *rand.Rand
	dead     map[int]bool
	opens    int
	conns    []*stageConn
	messages map[offerKey]*stageMessage
	expires  map[[2]string][]time.Time // source and destination -> when the source read one
}

type offerKey struct {
	conn int
	dst  string
	n    int
}

type stageMessage struct {
	offerKey
	at  time.Time
	got []arrival
}

type arrival struct {
	conn  int
	place int // in what the connection read
}

// A stageConn is a socket of a client.
type stageConn struct {
	w      *theatre
	number int
	id     string
	node   int
	conn   net.Conn
	slow   bool
	opened int // its place among all that have read OPEN; guarded by the lock of the theatre
	began  time.Time
	ended  chan struct{}
	read   int            // frames
	sent   map[string]int // by destination

	writing sync.Mutex
	end     time.Time // zero: it lasts; guarded by the lock of the world
}

func (w *theatre) began() time.Time { return w.end.Add(-stageTalk) }

func (w *theatre) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (w *theatre) some(from, to time.Duration) time.Duration {
	return from + time.Duration(w.pick(int(to-from)))
}

// again calls f from time to time while the clients talk.
func (w *theatre) again(f func()) {
	for time.Now().Before(w.end.Add(-4 * time.Second)) {
		f()
		time.Sleep(w.some(0, 4*time.Second))
	}
}

// kill cuts a node off, for ever, and its clients with it.
func (w *theatre) kill(node int) {
	w.m.Cut(w.rs[node].srv.realm.node.name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[node] = true
	for _, c := range w.conns {
		if c.node == node {
			c.conn.Close()
		}
	}
}

// connect opens a socket on some node, or returns nil.
func (w *theatre) connect(id, token string) *stageConn {
	node := w.pick(len(w.rs))
	w.mu.Lock()
	for w.dead[node] {
		node = (node + 1) % len(w.rs)
	}
	w.mu.Unlock()
	conn, err := w.rs[node].dialer(context.Background(), "tcp", "")
	if err != nil {
		return nil
	}
	conn.SetDeadline(time.Now().Add(waitLimit))
	conn.Write([]byte(handshakeFor(socketTarget(id, token))))
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return nil
	}
	conn.SetDeadline(time.Time{})
	c := &stageConn{w: w, id: id, node: node, conn: conn, slow: w.pick(5) == 0,
		began: time.Now(), ended: make(chan struct{}), sent: make(map[string]int)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead[node] {
		conn.Close()
	}
	c.number = len(w.conns)
	w.conns = append(w.conns, c)
	go c.readAll(br)
	return c
}

// readAll reads until nothing more comes, also when the client has closed its socket: what the server wrote
// has come.
func (c *stageConn) readAll(br *bufio.Reader) {
	defer close(c.ended)
	defer c.conn.Close()
	defer c.noteEnd()
	for {
		op, payload, err := readServerFrame(br)
		switch {
		case err != nil:
			return
		case op == rawPing:
			c.write(rawFrame(rawFin|rawPong, string(payload)))
		case op == rawClose:
			c.noteEnd()
			c.write(rawCloseFrame(1000, ""))
		case op == rawText:
			c.note(payload)
		}
		if c.slow && c.w.pick(20) == 0 {
			time.Sleep(c.w.some(0, stageStall))
		}
	}
}

// readServerFrame reads a short frame without a mask.
func readServerFrame(br *bufio.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	for i := range head {
		if head[i], err = br.ReadByte(); err != nil {
			return 0, nil, err
		}
	}
	n := int(head[1])
	if n == 126 {
		high, _ := br.ReadByte()
		low, _ := br.ReadByte()
		n = int(high)<<8 | int(low)
	}
	for len(payload) < n && err == nil {
		var b byte
		b, err = br.ReadByte()
		payload = append(payload, b)
	}
	return head[0] & 0xf, payload, err
}

func (c *stageConn) noteEnd() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.end.IsZero() {
		c.end = time.Now()
	}
}

func (c *stageConn) write(b []byte) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(waitLimit))
	_, err := c.conn.Write(b)
	return err == nil
}

// note notes a message that was read.
func (c *stageConn) note(b []byte) {
	var f struct {
		Type, Src, Dst string
		Payload        json.RawMessage
	}
	if json.Unmarshal(b, &f) != nil {
		c.w.t.Errorf("not JSON: %s", b)
	}
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	c.read++
	switch MessageType(f.Type) {
	case TypeOpen: // a socket can wait for long, and be overtaken by one that is dialled later
		w.opens++
		c.opened = w.opens
	case TypeOffer:
		k := offerKey{dst: c.id}
		if _, err := fmt.Sscanf(string(f.Payload), "[%d,%d]", &k.conn, &k.n); err != nil || w.messages[k] == nil {
			w.t.Errorf("%s was not sent to %s", b, c.id)
			return
		}
		w.messages[k].got = append(w.messages[k].got, arrival{c.number, c.read})
	case TypeExpire:
		pair := [2]string{c.id, f.Src}
		w.expires[pair] = append(w.expires[pair], time.Now())
	}
}

// offer sends the next offer to an id.
func (c *stageConn) offer(dst string) bool {
	c.sent[dst]++
	k := offerKey{c.number, dst, c.sent[dst]}
	c.w.mu.Lock()
	c.w.messages[k] = &stageMessage{offerKey: k, at: time.Now()}
	c.w.mu.Unlock()
	return c.write(rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":[%d,%d]}`, dst, k.conn, k.n)))
}

func stageID(i int) string { return fmt.Sprint("c", i) }

// live is one client: it connects, sends for a while, moves or goes away, and comes back.
func (w *theatre) live(id string) {
	for time.Now().Before(w.end) {
		token := "its own"
		if w.pick(8) == 0 {
			token = fmt.Sprint("another ", w.pick(1000))
		}
		c := w.connect(id, token)
		if c == nil {
			time.Sleep(w.some(0, time.Second))
			continue
		}
		until := time.Now().Add(w.some(300*time.Millisecond, 8*time.Second))
		for time.Now().Before(until) && time.Now().Before(w.end) {
			for range 1 + w.pick(4) {
				if !c.offer(stageID(w.pick(stageClients + 1))) { // the last one is nobody
					break
				}
			}
			select {
			case <-c.ended:
				until = time.Now()
			case <-time.After(w.some(time.Millisecond, 400*time.Millisecond)):
			}
		}
		if !time.Now().Before(w.end) {
			return // the socket stays open
		}
		switch w.pick(4) {
		case 0, 1: // it moves, and its old socket is closed by the server
			continue
		case 2:
			c.noteEnd()
			c.write(rawCloseFrame(1000, ""))
		case 3:
			c.noteEnd()
			c.conn.Close()
		}
		time.Sleep(w.some(0, 7*time.Second))
	}
}

var stageSeed atomic.Uint64 // of the last run: -count makes more of them

func TestEachOfferOnNodesArrivesOnceInOrderOrExpires(t *testing.T) {
	t.Parallel()
	for range len(scenes) {
		seed := stageSeed.Add(1)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runScene(t, seed) })
		})
	}
}

func runScene(t *testing.T, seed uint64) {
	p := scenes[seed%uint64(len(scenes))]
	w := &theatre{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), end: time.Now().Add(stageTalk), dead: make(map[int]bool),
		messages: make(map[offerKey]*stageMessage), expires: make(map[[2]string][]time.Time),
	}
	w.m, w.rs = nodes(t, 2+w.pick(2), Options{
		AllowOverride: OverrideAlways, MaxHeldPerPair: []int{-1, 3}[w.pick(2)], MaxOutboxMessages: []int{-1, 10}[w.pick(2)],
	})
	w.m.Seed(int64(seed))
	var talk sync.WaitGroup
	for i := range stageClients {
		talk.Go(func() { w.live(stageID(i)) })
	}
	time.Sleep(w.some(3*time.Second, 8*time.Second))
	p.fault(w)
	talk.Wait()
	w.m.Fail(0)
	w.m.Drop(0)
	w.m.Delay(0)
	time.Sleep(stageEnd)
	w.judge(p)
	for _, r := range w.rs {
		w.m.Mend(r.srv.realm.node.name)
	}
	for _, c := range w.conns {
		c.conn.Close()
		<-c.ended
	}
	if t.Failed() {
		t.Logf("seed %d: %s, %d nodes", seed, p.name, len(w.rs))
	}
	came := 0
	for _, m := range w.messages {
		came += len(m.got)
	}
	t.Logf("%d connections, %d offers, %d came", len(w.conns), len(w.messages), came)
	require.Greater(t, came, len(w.messages)/4)
}
