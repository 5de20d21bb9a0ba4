package chaos

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scene makes histories. Times are in milliseconds.
type scene struct{ *History }

func newScene() scene { return scene{&History{End: time.Hour}} }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// conn adds a socket that is open from a time to another; to < 0: until the end.
func (s scene) conn(id string, node, from, to int) int {
	c := &Conn{ID: id, Node: node, Dialed: ms(from - 5), Opened: ms(from), Ended: never, EOF: never, Quiet: never, Reset: never}
	if to >= 0 {
		c.Ended, c.EOF, c.Gave = ms(to), ms(to+5), true
	}
	s.Conns = append(s.Conns, c)
	return len(s.Conns) - 1
}

func (s scene) send(conn int, dst string, seq, at int) {
	s.Sends = append(s.Sends, Send{conn, dst, seq, "OFFER", ms(at)})
}

func (s scene) recv(conn, from, seq, at int) {
	s.Recvs = append(s.Recvs, Recv{conn, from, seq, "OFFER", ms(at)})
}

func (s scene) expire(conn int, dst string, at int) {
	s.Expires = append(s.Expires, Expire{conn, dst, ms(at)})
}

func (s scene) fault(kind string, node, from, to int) {
	s.Faults = append(s.Faults, Fault{kind, node, ms(from), ms(to)})
}

func TestPairs(t *testing.T) {
	const a, b = 0, 1 // alice on node 0, bob on node 1, from 0 to the end unless a case says otherwise
	both := func(s scene) { s.conn("alice", 0, 0, -1); s.conn("bob", 1, 0, -1) }
	alone := func(s scene) { s.conn("alice", 0, 0, -1) }
	for _, c := range []struct {
		name  string
		make  func(s scene)
		want  []string // rules of the violations
		class []string // classes of the exceptions
	}{
		{"delivered", func(s scene) {
			both(s)
			for i := 1; i < 20; i++ {
				s.send(a, "bob", i, 10000+i)
				s.recv(b, a, i, 10003+i)
			}
		}, nil, nil},
		{"lost", func(s scene) { both(s); s.send(a, "bob", 1, 10000) }, []string{"lost"}, nil},
		{"lost among others", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 10001)
			s.recv(b, a, 2, 10005)
		}, []string{"lost"}, nil},
		{"twice", func(s scene) { both(s); s.send(a, "bob", 1, 10000); s.recv(b, a, 1, 10003); s.recv(b, a, 1, 10200) },
			[]string{"twice"}, nil},
		{"wrong order", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 10001)
			s.recv(b, a, 2, 10004)
			s.recv(b, a, 1, 10005)
		}, []string{"order"}, nil},
		{"order is judged by sockets, not by when they were read", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 10010)
			s.conn("bob", 2, 10006, -1)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 10001)
			s.recv(2, a, 2, 10007)
			s.recv(1, a, 1, 10009)
		}, nil, nil},
		{"expired, with what was sent after it", func(s scene) {
			alone(s)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 10100)
			s.send(a, "bob", 3, 14500)
			s.expire(a, "bob", 15001)
		}, nil, nil},
		{"expired twice in a row", func(s scene) {
			alone(s)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 14999)
			s.expire(a, "bob", 15001)
			s.expire(a, "bob", 20001)
		}, nil, nil},
		{"neither, and nobody was there", func(s scene) { alone(s); s.send(a, "bob", 1, 10000) }, []string{"lost"}, nil},
		{"late EXPIRE", func(s scene) { alone(s); s.send(a, "bob", 1, 10000); s.expire(a, "bob", 16700) },
			[]string{"late EXPIRE"}, nil},
		{"early EXPIRE", func(s scene) { alone(s); s.send(a, "bob", 1, 10000); s.expire(a, "bob", 13000) },
			[]string{"early EXPIRE"}, nil},
		{"second EXPIRE", func(s scene) {
			alone(s)
			s.send(a, "bob", 1, 10000)
			s.expire(a, "bob", 15001)
			s.expire(a, "bob", 15050)
		}, []string{"second EXPIRE"}, nil},
		{"both", func(s scene) {
			alone(s)
			s.conn("bob", 1, 14900, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 14950)
			s.expire(a, "bob", 15001)
		}, []string{"both"}, nil},
		{"expired, though the destination was there", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.expire(a, "bob", 15001)
		}, []string{"lost"}, nil},
		{"an EXPIRE does not cover what was overtaken", func(s scene) {
			alone(s)
			s.conn("bob", 1, 9900, 10200)
			s.send(a, "bob", 1, 10000)
			s.send(a, "bob", 2, 10050)
			s.recv(b, a, 2, 10060)
			s.send(a, "bob", 3, 10400)
			s.expire(a, "bob", 15401)
		}, []string{"lost"}, nil},
		{"held, then received", func(s scene) {
			alone(s)
			s.conn("bob", 1, 14000, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 14001)
		}, nil, nil},
		{"received late", func(s scene) {
			alone(s)
			s.conn("bob", 1, 16800, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 16801)
		}, []string{"late"}, nil},
		{"received late, by the socket after one that did not read", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 18000)
			s.Conns[b].Quiet = ms(9900)
			s.conn("bob", 0, 17990, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(2, a, 1, 18001)
		}, nil, nil},
		{"received late, though its destination read again", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 11000)
			s.Conns[b].Quiet = ms(9900)
			s.conn("bob", 0, 10990, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(2, a, 1, 18001)
		}, []string{"late"}, nil},
		{"slow to one that is there", func(s scene) { both(s); s.send(a, "bob", 1, 10000); s.recv(b, a, 1, 13500) },
			[]string{"slow"}, nil},
		{"sender has gone", func(s scene) { s.conn("alice", 0, 0, 12000); s.send(a, "bob", 1, 10000) }, nil, nil},
		{"EXPIRE for what an earlier connection sent", func(s scene) {
			s.conn("alice", 0, 0, 12000)
			s.conn("alice", 1, 12100, -1)
			s.send(0, "bob", 1, 10000)
			s.send(1, "bob", 1, 12500)
			s.expire(1, "bob", 15001)
			s.expire(1, "bob", 17501)
		}, nil, nil},
		{"one EXPIRE for what two connections sent", func(s scene) {
			s.conn("alice", 0, 0, 12000)
			s.conn("alice", 0, 12100, -1)
			s.send(0, "bob", 1, 10000)
			s.send(1, "bob", 1, 12500)
			s.expire(1, "bob", 15001)
		}, nil, nil},
		{"never sent", func(s scene) { both(s); s.recv(b, a, 1, 10000) }, []string{"not sent"}, nil},
		{"to the wrong one", func(s scene) {
			both(s)
			s.conn("carol", 1, 0, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(2, a, 1, 10005)
		}, []string{"lost", "not sent"}, nil},
		{"sunk with a reset", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 10100)
			s.Conns[b].Reset = s.Conns[b].Ended
			s.send(a, "bob", 1, 10000)
		}, nil, []string{"reset of a socket"}},
		{"lost long before a reset", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 11000)
			s.Conns[b].Reset = s.Conns[b].Ended
			s.send(a, "bob", 1, 10000)
		}, []string{"lost"}, nil},
		{"lost by a node that was killed", func(s scene) {
			alone(s)
			s.conn("bob", 1, 0, 10010)
			s.send(a, "bob", 1, 10000)
			s.fault("kill", 1, 10010, 10010)
		}, nil, []string{"kill"}},
		{"a kill excuses nothing elsewhere", func(s scene) { both(s); s.send(a, "bob", 1, 10000); s.fault("kill", 2, 10010, 10010) },
			[]string{"lost"}, nil},
		{"twice because a node stood still", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 10003)
			s.recv(b, a, 1, 18000)
			s.fault("stop", 1, 10001, 18001)
		}, nil, []string{"stop"}},
		{"twice though a node stood still for a moment only", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 10003)
			s.recv(b, a, 1, 12100)
			s.fault("stop", 1, 10001, 12001)
		}, []string{"twice"}, nil},
		{"expired after ten seconds around a fault", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.expire(a, "bob", 20100)
			s.fault("redis-kill", everywhere, 10001, 10500)
		}, nil, nil},
		{"lost with the data of the engine", func(s scene) { both(s); s.send(a, "bob", 1, 10000); s.fault("redis-kill", everywhere, 10001, 10500) },
			nil, []string{"redis-kill"}},
		{"twice is not excused by lost data", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 10003)
			s.recv(b, a, 1, 12100)
			s.fault("redis-kill", everywhere, 10001, 10500)
		}, []string{"twice"}, nil},
		{"a local pair does not need the engine", func(s scene) {
			alone(s)
			s.conn("bob", 0, 0, -1)
			s.send(a, "bob", 1, 10000)
			s.expire(a, "bob", 15001)
			s.fault("redis-kill", everywhere, 10001, 10500)
		}, []string{"lost"}, nil},
		{"a client that joins rooms needs the engine", func(s scene) {
			s.conn("alice", 0, 9500, -1)
			s.conn("bob", 0, 0, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 13500)
			s.fault("redis-stop", everywhere, 9400, 13400)
		}, nil, nil},
		{"a client that has joined its rooms does not", func(s scene) {
			s.conn("alice", 0, 0, -1)
			s.conn("bob", 0, 0, -1)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 13500)
			s.fault("redis-stop", everywhere, 9400, 13400)
		}, []string{"slow"}, nil},
		{"a LEAVE may be lost", func(s scene) { both(s); s.Sends = append(s.Sends, Send{a, "bob", 1, "LEAVE", ms(10000)}) }, nil, nil},
		{"a judge that is late does not accuse", func(s scene) {
			both(s)
			s.send(a, "bob", 1, 10000)
			s.recv(b, a, 1, 13500)
			s.Lags = append(s.Lags, Lag{ms(13000), ms(900)})
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene()
			c.make(s)
			var rules, classes []string
			for _, f := range judgePairs(s.History) {
				if f.Class == "" {
					rules = append(rules, f.Rule)
				} else {
					classes = append(classes, f.Class)
				}
			}
			require.Equal(t, c.want, rules)
			require.Equal(t, c.class, classes)
		})
	}
}
