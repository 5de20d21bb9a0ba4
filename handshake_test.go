package peer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refusals are the handshakes that are refused for what they say, in the order
// of the checks: each but the first has nothing wrong that comes before.
var refusals = []struct {
	name, query string
	message     string
	status      int // with RejectBeforeUpgrade
	cause       string
}{
	{"nothing", "", noParams, 400, "missing parameters"},
	{"no id", "key=peerjs&token=t", noParams, 400, "missing parameters"},
	{"no token", "key=peerjs&id=a", noParams, 400, "missing parameters"},
	{"no key", "id=a&token=t", noParams, 400, "missing parameters"},
	{"empty id", "key=peerjs&id=&token=t", noParams, 400, "missing parameters"},
	{"empty token", "key=peerjs&id=a&token=", noParams, 400, "missing parameters"},
	{"empty key", "key=&id=a&token=t", noParams, 400, "missing parameters"},
	{"empty id, wrong key", "key=wrong&id=&token=t", noParams, 400, "missing parameters"},
	{"first of two ids is empty", "key=peerjs&id=&id=a&token=t", noParams, 400, "missing parameters"},
	{"names in capitals", "KEY=peerjs&ID=a&TOKEN=t", noParams, 400, "missing parameters"},

	{"wrong key", "key=wrong&id=a&token=t", wrongKey, 401, "invalid key"},
	{"key in capitals", "key=PeerJS&id=a&token=t", wrongKey, 401, "invalid key"},
	{"key with a space", "key=peerjs%20&id=a&token=t", wrongKey, 401, "invalid key"},
	{"wrong key, bad id", "key=wrong&id=%00&token=t", wrongKey, 401, "invalid key"},
	{"first of two keys is wrong", "key=wrong&key=peerjs&id=a&token=t", wrongKey, 401, "invalid key"},

	{"line break in the id", "key=peerjs&id=a%0D%0AX:%20b&token=t", badID, 400, "invalid id"},
	{"NUL in the id", "key=peerjs&id=a%00&token=t", badID, 400, "invalid id"},
	{"DEL in the id", "key=peerjs&id=%7f&token=t", badID, 400, "invalid id"},
	{"C1 control in the id", "key=peerjs&id=%C2%85&token=t", badID, 400, "invalid id"},
	{"id is not UTF-8", "key=peerjs&id=a%FF&token=t", badID, 400, "invalid id"},
	{"half an emoji", "key=peerjs&id=%F0%9F%91&token=t", badID, 400, "invalid id"},
	{"surrogate in the id", "key=peerjs&id=%ED%A0%BD&token=t", badID, 400, "invalid id"},
	{"id of 1,025 bytes", "key=peerjs&token=t&id=" + strings.Repeat("x", 1025), badID, 400, "invalid id"},
	{"id of 1,025 bytes in 513 letters", "key=peerjs&token=t&id=x" + strings.Repeat("%C3%BC", 512), badID, 400, "invalid id"},

	{"token of 8,193 bytes", "key=peerjs&id=a&token=" + strings.Repeat("x", 8<<10+1), "The token is too long", 400, "invalid id"},
}

const (
	noParams = "No id, token, or key supplied to websocket server"
	wrongKey = "Invalid key provided"
	badID    = "The id is not valid"
	isFull   = "Server has reached its concurrent user limit"
	isTaken  = "ID is taken"
)

// chatter is what a client may have sent before it can know that it is refused.
func chatter() []byte {
	return []byte(strings.Repeat(string(rawTextFrame(`{"type":"OFFER","dst":"b","payload":"`+strings.Repeat("x", 1000)+`"}`)), 300))
}

func TestRefusalsCanBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, Options{})
	rec := watch(r.srv)
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			before := r.srv.Stats().Refused[c.cause]
			u := r.url + "/peerjs?" + c.query
			r.dialURL(u, nil).wantRefused(TypeError, c.message)
			r.rawOpen(smallWrites).begin(u).wantTurnedAway(TypeError, c.message)
			r.rawOpen(smallWrites).begin(u, chatter()).wantTurnedAway(TypeError, c.message)
			waitFor(t, func() bool { return r.srv.Stats().Refused[c.cause] == before+3 })
		})
	}
	require.Empty(t, rec.all())
	require.Zero(t, r.srv.Realm().Len())
}

func TestTheConcurrentLimit(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimit: 2})
	rec := watch(r.srv)
	a, _ := r.connect("a"), r.connect("b")
	for _, behind := range [][]byte{nil, chatter()} {
		r.rawOpen(smallWrites).begin(r.socketURL("/", "c", "t"), behind).wantTurnedAway(TypeError, isFull)
	}
	r.dial("a", "another").wantRefused(TypeIDTaken, isTaken) // is checked first
	a2 := r.dial("a", "token-of-a")                          // takes no place but its own
	a2.wantOpen()
	require.Equal(t, CloseReplaced, a.wantEnd())
	r.dial("c", "t").wantRefused(TypeError, isFull)
	a2.close()
	rec.about(t, "a", "+a", "-a replaced by its own token", "+a", "-a client closed")
	r.connect("c")
	require.Equal(t, 2, r.srv.Stats().PeakClients)
}

func TestNoConcurrentLimit(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimit: -1})
	r.connect("a")
	r.connect("b")
}

func TestAnyIDWorks(t *testing.T) {
	r := newRig(t, Options{})
	for name, id := range map[string]string{
		"prototype":           "__proto__",
		"constructor":         "constructor",
		"peerjs":              "peerjs",
		"one byte":            "x",
		"a space":             " ",
		"spaces around":       " a ",
		"capitals":            "Peer",
		"1,024 bytes":         strings.Repeat("x", 1024),
		"1,024 bytes, emoji":  strings.Repeat("👩", 256),
		"emoji sequence":      "👩🏽‍🚀",
		"right to left marks": "\u202ea\u200fb\u2067",
		"right to left":       "שלום",
		"composed":            "\u00fc",
		"decomposed":          "u\u0308",
		"line separator":      "\u2028",
		"byte order mark":     "\ufeff",
		"noncharacter":        "\uffff",
		"JSON":                `"],{"type":"OPEN"}\`,
		"HTML":                `<script>&'`,
		"URL":                 "a/b?c=d&e#f%20+",
		"format":              "%s%n%d",
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			peer, p := r.connect("peer"), r.dial(id, "t")
			p.wantOpen()
			require.Equal(t, id, r.srv.Realm().Client(id).ID())
			quoted, err := json.Marshal(id)
			require.NoError(t, err)
			p.offer("peer", `1`)
			peer.want(`{"type":"OFFER","src":` + string(quoted) + `,"dst":"peer","payload":1}`)
			peer.send(`{"type":"ANSWER","dst":` + string(quoted) + `,"payload":2}`)
			p.want(`{"type":"ANSWER","src":"peer","dst":` + string(quoted) + `,"payload":2}`)
			require.Contains(t, r.srv.Realm().ClientIDs(), id)
		})
	}
}

func TestOfTwoParametersTheFirstCounts(t *testing.T) {
	asked := make(chan [2]string, 1)
	r := newRig(t, Options{Authenticate: func(_ *http.Request, id, token string) (any, error) {
		asked <- [2]string{id, token}
		return nil, nil
	}})
	p := r.dialURL(r.url+"/peerjs?key=peerjs&key=wrong&id=one&id=two&token=t1&token=t2&id=", nil)
	p.wantOpen()
	require.Equal(t, [2]string{"one", "t1"}, <-asked)
	c := r.srv.Realm().Client("one")
	require.True(t, c != nil)
	require.Equal(t, "one", c.ID())
	require.Equal(t, "t1", c.Token())
	require.Equal(t, 1, r.srv.Realm().Len())
}

func TestTheHostSaysWhichIDsAreValid(t *testing.T) {
	r := newRig(t, Options{ValidID: func(id string) bool {
		if id == "panic" {
			panic("secret")
		}
		return strings.HasPrefix(id, "user-") || id == "" || len(id) > 1024
	}})
	rec := watch(r.srv)
	r.connect("user-1")
	r.dial(strings.Repeat("x", 2000), "t").wantOpen() // the default rule is replaced, not added to
	r.dial("other", "t").wantRefused(TypeError, badID)
	r.dial("panic", "t").wantRefused(TypeError, badID)
	r.dial("", "t").wantRefused(TypeError, noParams) // is no question of the rule
	rec.about(t, "!", "! calling ValidID: peer: panic in a function of the host: secret")
}

func TestStrictID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "Z9": true, "a-b_c d": true, "0": true, strings.Repeat("x", 1024): true,
		"": false, " a": false, "a ": false, "a--b": false, "a -b": false, "-": false, "_a": false, "a.b": false,
		"ü": false, "a\n": false, "a@b": false, "a[b": false, "a`b": false, "a{b": false, "a/b": false, "a:b": false,
		strings.Repeat("x", 1025): false,
	} {
		assert.Equal(t, want, StrictID(id), "%q", id)
	}
	r := newRig(t, Options{ValidID: StrictID})
	r.connect("a b")
	r.dial("a.b", "t").wantRefused(TypeError, badID)
}

// Frames that come with the request for the upgrade, or while the host thinks,
// are read after OPEN is on its way, in order.
func TestMessagesFromBeforeOpen(t *testing.T) {
	const n = 200
	var frames []byte
	for i := range n {
		frames = append(frames, rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":"b","payload":[%d,%q]}`, i, strings.Repeat("x", 100)))...)
	}
	wantAll := func(b *testPeer) {
		for i := range n {
			b.wantOffer("a", fmt.Sprintf(`[%d,%q]`, i, strings.Repeat("x", 100)))
		}
	}
	t.Run("at once", func(t *testing.T) {
		r := newRig(t, Options{})
		b := r.connect("b")
		a := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"), frames)
		a.want(`{"type":"OPEN"}`)
		wantAll(b)
	})
	authenticate := func(asked, answer chan bool) Options {
		return Options{Authenticate: func(_ *http.Request, id, _ string) (any, error) {
			if id == "a" {
				asked <- true
				<-answer
			}
			return nil, nil
		}}
	}
	t.Run("while the host thinks", func(t *testing.T) {
		asked, answer := make(chan bool), make(chan bool)
		r := newRig(t, authenticate(asked, answer))
		b := r.connect("b")
		a := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"), frames[:len(frames)/3])
		<-asked
		a.write(frames[len(frames)/3 : len(frames)/2])
		answer <- true
		a.write(frames[len(frames)/2:])
		a.want(`{"type":"OPEN"}`)
		wantAll(b)
	})
	t.Run("while the host thinks, not a plain socket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			asked, answer := make(chan bool), make(chan bool)
			r := newBubbleRig(t, authenticate(asked, answer))
			b := r.connect("b")
			a := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "t"))
			<-asked
			go a.write(frames) // what a pipe does not hold, it makes wait
			synctest.Wait()
			answer <- true
			a.want(`{"type":"OPEN"}`)
			wantAll(b)
		})
	})
}

// A spy is a middleware that keeps what a handler has hijacked.
type spy struct {
	http.ResponseWriter
	rw *bufio.ReadWriter
}

func (s *spy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	s.rw = rw
	return conn, rw, err
}

// What came with the request lies in a buffer of the HTTP server, which may use it again for
// something else, as the adaptors of some frameworks do.
func TestWhatCameWithTheRequestIsKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		srv := NewServer(Options{Authenticate: func(_ *http.Request, id, _ string) (any, error) {
			if s != nil {
				early, _ := s.rw.Reader.Peek(s.rw.Reader.Buffered())
				require.NotEmpty(t, early)
				clear(early)
			}
			return nil, nil
		}})
		r := serveBubbleRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s = nil; r.FormValue("id") == "early" {
				s = &spy{ResponseWriter: w}
				w = s
			}
			srv.ServeHTTP(w, r)
		}))
		receiver := r.connect("receiver")
		p := r.rawOpen(smallWrites).begin(r.socketURL("/", "early", "t"), rawTextFrame(`{"type":"OFFER","dst":"receiver","payload":1}`))
		p.want(`{"type":"OPEN"}`)
		receiver.wantOffer("early", `1`)
	})
}

// A hesitator returns nothing and no error so many times before it reads, as an io.Reader may.
type hesitator struct {
	net.Conn
	pause int
	left  int
}

func (h *hesitator) Read(p []byte) (int, error) {
	if h.left > 0 {
		h.left--
		return 0, nil
	}
	h.left = h.pause
	return h.Conn.Read(p)
}

func TestAReadThatReturnsNothingIsNotTheEnd(t *testing.T) {
	for _, pause := range []int{1, 99} {
		near, far := net.Pipe()
		s := newSocket(&hesitator{near, pause, pause}, nil, &budget{limit: -1})
		go far.Write(append(rawTextFrame("one"), rawTextFrame("two")...))
		for _, want := range []string{"one", "two"} {
			_, payload, err := s.next(-1)
			require.NoError(t, err)
			require.Equal(t, want, string(payload))
		}
		far.Close()
	}
	h := &hesitator{nil, 0, 100}
	_, _, err := newSocket(h, nil, &budget{limit: -1}).next(-1)
	require.ErrorIs(t, err, io.ErrNoProgress, "a connection that returns nothing for so long is given up")
	require.Zero(t, h.left)
}
