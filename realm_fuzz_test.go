package peer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzRealm lets a few clients do what the input says, two bytes a step, and
// compares what they read, what the host is told and what waits with the model.
func FuzzRealm(f *testing.F) {
	steps := func(pairs ...byte) []byte { return pairs }
	f.Add([]byte{})
	f.Add(steps(0, 0, 0, stepConnect, 0, stepConnect, 1, stepOffer, 3))
	f.Add(steps(0, 0, 0, stepConnect, 0, stepOffer, 4, stepCandidate, 4, stepWait, 11, stepConnect, 1))
	f.Add(steps(1, 0, 0, stepConnect, 0, stepConnect, 5, stepOffer, 4, stepConnect, 1, stepConnect, 4, stepConnect, 0))
	f.Add(append(steps(1, 0, 0, stepConnect, 0, stepConnect, 13), slices.Repeat(steps(stepOffer, 4), 6)...))
	f.Add(append(steps(0, 0, 0, stepConnect, 0), append(slices.Repeat(steps(stepOffer, 8, stepCandidate, 8), 4), stepWait, 11)...))
	f.Add(steps(1, 0, 0, stepConnect, 13, stepOffer, 5, stepSend, 1, stepTell, 1, stepRemove, 1, stepConnect, 1, stepClear, 1))
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 0 && len(input) <= 1+2*100 {
			play(t, input)
		}
	})
}

// TestTheRealmDoesWhatItsModelSays plays games with more sense than a fuzzer's
// first ones: most steps are messages, and most clients are there.
func TestTheRealmDoesWhatItsModelSays(t *testing.T) {
	t.Parallel()
	often := []byte{stepConnect, stepConnect, stepOffer, stepOffer, stepOffer, stepCandidate, stepCandidate, stepWait, stepTurn}
	rnd := rand.New(rand.NewPCG(3, 4))
	reasons := make(map[string]int)
	for range modelGames {
		input := []byte{byte(rnd.IntN(2))}
		for range 60 {
			step := byte(rnd.IntN(numSteps))
			if rnd.IntN(4) > 0 {
				step = often[rnd.IntN(len(often))]
			}
			input = append(input, step, byte(rnd.IntN(256)))
		}
		t.Run("", func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("input %q", input)
				}
			}()
			for _, events := range play(t, input) {
				for _, e := range events {
					reasons[e[2:]]++
				}
			}
		})
	}
	for _, why := range []DisconnectReason{
		ReasonClientClosed, ReasonConnectionLost, ReasonLeft, ReasonReplaced, ReasonOverridden, ReasonRemoved, ReasonSlowConsumer,
	} {
		require.NotZero(t, reasons[" "+why.String()], why)
	}
}

// play plays one game and returns what the host was told.
func play(t *testing.T, input []byte) (events map[string][]string) {
	synctest.Test(t, func(t *testing.T) {
		g := newGame(t, input[0]&1 == 1)
		for in := input[1:]; len(in) >= 2; in = in[2:] {
			g.step(in[0], int(in[1]))
		}
		g.over()
		events = g.m.events
	})
	return events
}

const modelGames = 100

// The steps. What they are about is in the second byte.
const (
	stepConnect byte = iota
	stepOffer
	stepCandidate
	stepLeaveTo
	stepLeave
	stepDrop
	stepClose
	stepRemove
	stepClear
	stepWait
	stepTurn // from reading to not reading and back
	stepSend // to the id
	stepTell // to the connection
	numSteps = iota
)

// A game is a server in a bubble beside its model.
type game struct {
	t     *testing.T
	r     *rig
	rec   *record
	m     *model
	peers map[*modelConn]*rawPeer
	n     int // messages sent so far
}

func newGame(t *testing.T, override bool) *game {
	opts := Options{
		AliveTimeout: -1, WriteTimeout: -1, ProbeAfter: -1, MaxOutboxMessages: modelMaxOutbox,
		MaxHeldPerPair: modelMaxPerPair, MaxHeldPerDestination: modelMaxPerDest,
	}
	if override {
		opts.AllowOverride = OverrideAlways
	}
	r := newBubbleRig(t, opts)
	return &game{t: t, r: r, rec: watch(r.srv), m: newModel(override), peers: make(map[*modelConn]*rawPeer)}
}

func (g *game) step(step byte, arg int) {
	time.Sleep(time.Microsecond) // no two deadlines are the same
	id := string(rune('a' + arg%4))
	other := string(rune('a' + arg/4%4))
	c := g.m.conns[id]
	p := g.peers[c]
	realm := g.r.srv.Realm()
	switch step % numSteps {
	case stepConnect:
		g.connect(id, string(rune('x'+arg/4%3)), arg/12%2 == 1)
	case stepOffer:
		g.relay(c, "OFFER", other, keepUntilExpiry, false)
	case stepCandidate:
		g.relay(c, "CANDIDATE", other, keepUntilExpiry, true)
	case stepLeaveTo:
		g.relay(c, "LEAVE", other, keepForSuccessor, false)
	case stepLeave:
		if c != nil {
			p.write(rawTextFrame(`{"type":"LEAVE"}`))
			g.m.end(c, ReasonLeft)
		}
	case stepDrop:
		if c != nil {
			p.conn.Close()
			g.m.end(c, ReasonConnectionLost)
			delete(g.peers, c)
		}
	case stepClose:
		if c != nil {
			p.write(rawCloseFrame(1000, ""))
			g.m.end(c, ReasonClientClosed)
		}
	case stepRemove:
		require.Equal(g.t, c != nil, realm.RemoveClient(id))
		if c != nil {
			g.m.end(c, ReasonRemoved)
		}
	case stepClear:
		require.Equal(g.t, g.m.clear(id), realm.ClearMessageQueue(id))
	case stepWait:
		time.Sleep(time.Duration(arg%12+1) * time.Second / 2)
	case stepTurn:
		if c != nil {
			c.stuck = !c.stuck
		}
	case stepSend:
		if err := realm.Send(id, Message{Type: "SENT"}); c == nil {
			require.ErrorIs(g.t, err, ErrNotConnected)
		} else {
			g.m.route(id, modelMessage{text: `{"type":"SENT"}`, keep: keepForSuccessor})
		}
	case stepTell:
		if c != nil {
			realm.Client(id).Send(Message{Type: "TOLD"})
			g.m.route(id, modelMessage{text: `{"type":"TOLD"}`, keep: keepForSamePeer})
		}
	}
	g.compare()
}

func (g *game) connect(id, token string, stuck bool) {
	p := g.r.rawOpen()
	p.id = id
	p.write([]byte(handshakeFor(socketTarget(id, token))))
	require.Equal(g.t, 101, p.response().StatusCode)
	if c, _ := g.m.connect(id, token, stuck); c != nil {
		g.peers[c] = p
		return
	}
	p.want(`{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`)
	p.wantClose(1008)
	p.conn.Close()
}

// relay sends a numbered message.
func (g *game) relay(c *modelConn, typ MessageType, dst string, f retention, follows bool) {
	if c == nil {
		return
	}
	g.n++
	deadline := time.Now().Add(DefaultExpireTimeout)
	g.peers[c].write(rawTextFrame(fmt.Sprintf(`{"type":%q,"dst":%q,"payload":%d}`, typ, dst, g.n)))
	g.m.route(dst, modelMessage{
		src: c.id, keep: f, continues: follows, deadline: deadline,
		text: fmt.Sprintf(`{"type":%q,"src":%q,"dst":%q,"payload":%d}`, typ, c.id, dst, g.n),
	})
}

// compare lets everything happen that has to, and wants it to be what the model
// says.
func (g *game) compare() {
	synctest.Wait()
	g.m.tick(time.Now())
	for _, c := range slices.SortedFunc(maps.Keys(g.peers), func(a, b *modelConn) int { return strings.Compare(a.id, b.id) }) {
		p := g.peers[c]
		ended := g.m.conns[c.id] != c
		if !c.stuck {
			g.read(c, p, ended)
		}
		if ended {
			p.conn.Close()
			delete(g.peers, c)
		}
	}
	synctest.Wait()
	require.Equal(g.t, slices.Sorted(maps.Keys(g.m.conns)), nilIfEmpty(g.r.srv.Realm().ClientIDs()))
	require.Equal(g.t, g.m.heldBytes(), g.r.srv.Stats().HeldBytes)
	require.NoError(g.t, g.r.srv.realm.check())
}

func nilIfEmpty(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

// read reads all there is for a client that reads.
func (g *game) read(c *modelConn, p *rawPeer, ended bool) {
	var want, got []string
	if !ended {
		for _, msg := range c.unread {
			want = append(want, msg.text)
		}
		c.unread, c.given = nil, 0
	}
	if c.last != "" {
		want = append(want, c.last)
	}
	for {
		first, payload, err := p.readWithin(1)
		if err != nil {
			if !ended {
				require.ErrorIs(g.t, err, os.ErrDeadlineExceeded, c.id)
			}
			break
		}
		if first == rawFin|rawClose {
			require.True(g.t, ended, "%s is closed: %q", c.id, payload)
			require.Equal(g.t, c.code, int(payload[0])<<8|int(payload[1]))
			break
		}
		got = append(got, string(payload))
	}
	sortExpires(want)
	sortExpires(got)
	require.Equal(g.t, want, got, "frames for %s", c.id)
}

// sortExpires sorts each run of EXPIRE: those of different ids may come at the
// same time, and then in any order.
func sortExpires(frames []string) {
	for len(frames) > 0 {
		n := slices.IndexFunc(frames, func(f string) bool { return !strings.HasPrefix(f, `{"type":"EXPIRE"`) })
		if n < 0 {
			n = len(frames)
		}
		slices.Sort(frames[:n])
		frames = frames[min(n+1, len(frames)):]
	}
}

// over ends the game. The host must have been told of everything in order.
func (g *game) over() {
	for id := range 4 { // one by one: what one had not read may expire, and be too much for the next
		g.step(stepDrop, id)
	}
	got := make(map[string][]string)
	for _, line := range g.rec.all() {
		got[line[1:2]] = append(got[line[1:2]], line)
	}
	require.Equal(g.t, g.m.events, got)
}
