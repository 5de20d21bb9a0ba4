package chaos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func rulesOf(fs []Finding) (rules []string) {
	for _, f := range violations(fs) {
		rules = append(rules, f.Rule)
	}
	return rules
}

func TestSockets(t *testing.T) {
	ended := func(s scene, i, at, code int) { // by the server
		s.Conns[i].Ended, s.Conns[i].EOF, s.Conns[i].Code = ms(at), ms(at), code
	}
	refused := func(s scene, i int, word string) {
		c := s.Conns[i]
		c.Word, c.Ended, c.EOF, c.Opened, c.Gave = word, c.Opened, c.Opened, never, false
	}
	for _, c := range []struct {
		name string
		make func(s scene)
		want []string
	}{
		{"open to the end", func(s scene) { s.conn("a", 0, 0, -1) }, nil},
		{"left", func(s scene) { s.conn("a", 0, 0, 500) }, nil},
		{"replaced", func(s scene) { s.conn("a", 0, 0, -1); s.conn("a", 1, 500, -1); ended(s, 0, 498, 4002) }, nil},
		{"replaced by nobody", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 490, 4002) }, []string{"replaced by nobody"}},
		{"closed by a fault of the engine", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 4005); s.fault("redis-kill", -1, 100, 200) },
			[]string{"claim lost to nobody"}},
		{"claim lost while a node stood still", func(s scene) {
			s.conn("a", 0, 0, -1)
			s.conn("a", 1, 5000, -1)
			ended(s, 0, 8000, 4005)
			s.fault("stop", 0, 1000, 7900)
		}, nil},
		{"replaced while its node is cut off", func(s scene) { s.conn("a", 0, 0, -1); s.conn("a", 1, 5000, -1); ended(s, 0, 6000, 4005) }, nil},
		{"claim lost to one that was refused", func(s scene) {
			s.conn("a", 0, 0, -1)
			s.conn("a", 1, 5000, -1)
			refused(s, 1, "ERROR")
			ended(s, 0, 6000, 4005)
			s.fault("redis-stop", -1, 3000, 6000)
		}, []string{"claim lost"}},
		{"slow", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 6000, 1008); s.Conns[0].Quiet = ms(2000) }, nil},
		{"slow though it read", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 6000, 1008) }, []string{"closed"}},
		{"claim lost without a fault", func(s scene) { s.conn("a", 0, 0, -1); s.conn("a", 1, 5000, -1); ended(s, 0, 8000, 4005) },
			[]string{"claim lost"}},
		{"cut without a fault", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 0) }, []string{"no close frame"}},
		{"cut by a kill", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 0); s.fault("kill", 0, 899, 899) }, nil},
		{"cut by a kill of another node", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 0); s.fault("kill", 1, 899, 899) },
			[]string{"no close frame"}},
		{"unresponsive though it answered", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 4003) }, []string{"unresponsive"}},
		{"unresponsive", func(s scene) { s.conn("a", 0, 0, -1); ended(s, 0, 900, 4003); s.Conns[0].Quiet = ms(100) }, nil},
		{"a thief is refused", func(s scene) {
			s.conn("a", 0, 0, -1)
			s.Conns[s.conn("a", 1, 5000, -1)].Thief = true
			refused(s, 1, "ID-TAKEN")
		}, nil},
		{"a thief gets the id", func(s scene) {
			s.conn("a", 0, 0, -1)
			s.Conns[s.conn("a", 1, 5000, 6500)].Thief = true
		}, []string{"stolen id"}},
		{"a thief gets the id that nobody has", func(s scene) {
			s.conn("a", 0, 0, 4000)
			s.Conns[s.conn("a", 1, 5000, 6500)].Thief = true
		}, nil},
		{"the owner is refused", func(s scene) { s.conn("a", 0, 0, -1); refused(s, 0, "ID-TAKEN") }, []string{"own id refused"}},
		{"the owner is refused because of a thief", func(s scene) {
			s.conn("a", 0, 2000, -1)
			refused(s, 0, "ID-TAKEN")
			s.Conns[s.conn("a", 1, 500, 1990)].Thief = true
		}, nil},
		{"an error without a fault", func(s scene) { s.conn("a", 0, 0, -1); refused(s, 0, "ERROR") }, []string{"socket refused"}},
		{"an error while the engine is away", func(s scene) { s.conn("a", 0, 0, -1); refused(s, 0, "ERROR"); s.fault("redis-stop", -1, 0, 3000) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene()
			c.make(s)
			require.Equal(t, c.want, rulesOf(judgeSockets(s.History)))
		})
	}
}

func TestEnd(t *testing.T) {
	lists := func() map[string]map[string]string { return map[string]map[string]string{"r": {"a": "1", "b": "2"}} }
	clean := func() *Snapshot {
		return &Snapshot{
			Clients: []Belief{
				{ID: "a", Sockets: []int{1}, On: []int{0}, Rooms: lists(), Data: map[string]string{"r": "1"}},
				{ID: "b", Sockets: []int{2}, On: []int{1}, Rooms: lists(), Data: map[string]string{"r": "2"}},
				{ID: "c", Sockets: []int{3}, On: []int{1}},
			},
			Nodes:  []NodeBelief{{[]string{"a"}, 1}, {[]string{"b", "c"}, 2}},
			Claims: map[string]string{"a": "x", "b": "y", "c": "y"},
			Listed: []map[string][]string{{"r": {"a", "b"}}},
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(s *Snapshot)
		want  []string
	}{
		{"clean", func(s *Snapshot) {}, nil},
		{"two holders", func(s *Snapshot) { s.Clients[0].Sockets, s.Clients[0].On = []int{1, 4}, []int{0, 1} }, []string{"holders"}},
		{"no holder", func(s *Snapshot) {
			s.Clients[2].Sockets, s.Clients[2].On, s.Nodes[1] = nil, nil, NodeBelief{[]string{"b"}, 1}
		}, []string{"holders"}},
		{"two nodes list an id", func(s *Snapshot) { s.Nodes[0] = NodeBelief{[]string{"a", "c"}, 2} }, []string{"holders"}},
		{"a client that nobody is", func(s *Snapshot) { s.Nodes[0] = NodeBelief{[]string{"a", "z"}, 2} }, []string{"holders"}},
		{"a wrong counter", func(s *Snapshot) { s.Nodes[1].Clients = 3 }, []string{"counter"}},
		{"no claim", func(s *Snapshot) { delete(s.Claims, "c") }, []string{"claims"}},
		{"a claim elsewhere", func(s *Snapshot) {
			s.Claims["d"], s.Claims["c"] = "y", "x"
			s.Clients = append(s.Clients, Belief{ID: "d", Sockets: []int{5}, On: []int{1}})
			s.Nodes[1] = NodeBelief{[]string{"b", "c", "d"}, 3}
		}, []string{"claims"}},
		{"a member is missing in a list", func(s *Snapshot) { delete(s.Clients[0].Rooms["r"], "b") }, []string{"rooms"}},
		{"a member too many in a list", func(s *Snapshot) { s.Clients[1].Rooms["r"]["c"] = "" }, []string{"rooms"}},
		{"other data", func(s *Snapshot) { s.Clients[1].Rooms["r"]["a"] = "9" }, []string{"rooms"}},
		{"all have the same wrong list", func(s *Snapshot) {
			delete(s.Clients[0].Rooms["r"], "a")
			delete(s.Clients[1].Rooms["r"], "a")
		}, []string{"rooms", "rooms"}},
		{"a node has another list", func(s *Snapshot) { s.Listed[0]["r"] = []string{"a"} }, []string{"rooms"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := clean()
			c.spoil(s)
			require.Equal(t, c.want, rulesOf(judgeEnd(s)))
		})
	}
}
