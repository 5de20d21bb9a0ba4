package peer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func nested(open, inner, shut string) string {
	const levels = 10_000
	return strings.Repeat(open, levels) + inner + strings.Repeat(shut, levels)
}

// toBob returns an OFFER for bob with more text before its end.
func toBob(more string) string { return `{"type":"OFFER","dst":"bob"` + more + `}` }

// notMessages are frames that are not one JSON object: each is an error.
var notMessages = []string{
	``, ` `, `hello`, `null`, `true`, `0`, `-1.5e3`, `"OFFER"`, `[]`, `[` + toBob("") + `]`,
	`{"type":"\`, `{"type":"\u`, `{"type":"\u006`, `{"type":"O\`, `{"type":"01234567\u1`,
	`{`, `}`, `{]`, `{"type"`, `{"type":`, `{"type":}`, `{"type":"OFFER"`, `{"type":"OFFER","dst":"bob"`,
	toBob(`,`), toBob(`}`), toBob(``) + toBob(``), toBob(``) + "\x00", toBob(` /* comment */`), toBob(` "payload":1`),
	`{type:"OFFER","dst":"bob"}`, `{'type':'OFFER','dst':'bob'}`, `{"type":"OFFER";"dst":"bob"}`, `{"type":"OFFER" "dst":"bob"}`,
	toBob(`,"payload":undefined`), toBob(`,"payload":NaN`), toBob(`,"payload":01`), toBob(`,"payload":1.`), toBob(`,"payload":+1`),
	toBob(`,"payload":"a` + "\n" + `b"`), toBob(`,"payload":"\x41"`), toBob(`,"payload":"\u12"`), toBob(`,"payload":"`),
	toBob(`,"payload":[1,]`), toBob(`,"payload":{"a"}`), toBob(`,"payload":{"a":1,}`), toBob(`,1:2`),
	"\xef\xbb\xbf" + toBob(``), "\v" + toBob(``), "\u00a0" + toBob(``), "\x00",
	nested(`[`, ``, ``), nested(`{"a":`, ``, ``), toBob(`,"payload":` + nested(`[`, ``, `]`)),
	toBob(`,"payload":` + nested(`{"a":`, `1`, `}`)), toBob(`,"unknown":` + nested(`[{"a":`, `1`, `}]`)),
}

// notRelayed are messages that nobody gets: each is dropped without an error.
var notRelayed = []string{
	`{}`, `{"dst":"bob"}`, `{"type":null,"dst":"bob"}`, `{"type":1,"dst":"bob"}`, `{"type":["OFFER"],"dst":"bob"}`,
	`{"type":{"OFFER":1},"dst":"bob"}`, `{"type":"","dst":"bob"}`, `{"type":"offer","dst":"bob"}`, `{"type":"OFFER ","dst":"bob"}`,
	`{"Type":"OFFER","dst":"bob"}`, `{"type":"OFFER"}`, `{"type":"OFFER","dst":null}`, `{"type":"OFFER","dst":""}`,
	`{"type":"OFFER","dst":1}`, `{"type":"OFFER","dst":["bob"]}`, `{"type":"OFFER","dst":{"toString":"bob"}}`,
	`{"type":"OFFER","dst":true}`, `{"type":"OFFER","Dst":"bob"}`, `{"type":"OFFER","dst":"bob","dst":2}`,
	`{"type":"LEAVE","dst":0}`, `{"type":"LEAVE","dst":{}}`, `{"type":"LEAVE","dst":false}`, `{"type":"LEAVE","dst":[]}`,
	`{"type":"OPEN","dst":"bob"}`, `{"type":"ERROR","dst":"bob","payload":{"msg":"x"}}`, `{"type":"ID-TAKEN","dst":"bob"}`,
	`{"type":"INVALID-KEY","dst":"bob"}`, `{"type":"OVERRIDE_CONNECTION","dst":"bob"}`, `{"type":"HEARTBEAT","type":"x","dst":"bob"}`,
	`{"type":"__proto__","dst":"bob"}`, `{"__proto__":` + toBob(``) + `}`, `{"type":"constructor","dst":"bob"}`,
}

// relayed are unusual messages that go through, and what bob gets of them.
var relayed = [][2]string{
	{`{"payload":1,"dst":"bob","type":"OFFER"}`, `{"type":"OFFER","src":"mallory","dst":"bob","payload":1}`},
	{`{"\u0074ype":"OFFER","d\u0073t":"bob"}`, `{"type":"OFFER","src":"mallory","dst":"bob"}`},
	{`{"type":"OFFER","dst":"alice","type":"ANSWER","dst":"bob"}`, `{"type":"ANSWER","src":"mallory","dst":"bob"}`},
	{`{"type":"OFFER","src":"alice","dst":"bob"}`, `{"type":"OFFER","src":"mallory","dst":"bob"}`},
	{toBob(`,"payload":1e999999`), `{"type":"OFFER","src":"mallory","dst":"bob","payload":1e999999}`},
	{toBob(`,"payload":"\ud800"`), `{"type":"OFFER","src":"mallory","dst":"bob","payload":"\ud800"}`},
	{toBob(`,"payload":{"a":1,"a":2}`), `{"type":"OFFER","src":"mallory","dst":"bob","payload":{"a":1,"a":2}}`},
	{toBob(`,"payload":{"__proto__":{}}`), `{"type":"OFFER","src":"mallory","dst":"bob","payload":{"__proto__":{}}}`},
	{"\t\r\n {\"type\" : \"OFFER\" , \"dst\":\"bob\"}\n", `{"type":"OFFER","src":"mallory","dst":"bob"}`},
}

func TestWhatIsNoMessageIsDroppedAndNothingElseHappens(t *testing.T) {
	r, rec, by, p := victims(t, Options{})
	size := 0
	for _, s := range slices.Concat(notMessages, notRelayed) {
		size += len(s)
	}
	cost := allocated(func() {
		for i, s := range notMessages {
			p.text(s)
			assert.Contains(t, rec.last(t, 4+i), ErrBadMessage.Error(), "%.80q", s)
		}
		for i, s := range notRelayed {
			p.text(s)
			last := rec.last(t, 4+len(notMessages)+i)
			assert.True(t, strings.Contains(last, ErrUnknownType.Error()) || strings.Contains(last, ErrNoDestination.Error()), "%.80q: %s", s, last)
		}
		for _, s := range relayed {
			p.text(s[0])
			by.b.want(s[1])
		}
	})
	require.Less(t, cost, uint64(16*size))
	require.Len(t, rec.all(), 3+len(notMessages)+len(notRelayed))
	st := r.srv.Stats()
	require.EqualValues(t, len(notMessages), st.Dropped["bad message"])
	require.EqualValues(t, len(notRelayed), st.Dropped["unknown type"])
	require.EqualValues(t, len(relayed), st.Relayed)
	by.talk()
}

func TestBinaryFramesAreTakenAsText(t *testing.T) {
	_, rec, by, p := victims(t, Options{})
	p.write(rawFrame(rawFin|rawBinary, offerToBob))
	by.b.wantOffer("mallory", `"of mallory"`)
	for _, s := range []string{"", "\x00\x01\x02", "\xff", toBob(`,"payload":"` + "\xff" + `"`), toBob(`,"` + "\xc0" + `":1`)} {
		n := len(rec.all())
		p.write(rawFrame(rawFin|rawBinary, s))
		require.Contains(t, rec.last(t, n+1), ErrBadMessage.Error(), "%q", s)
	}
	p.write(rawFrame(rawBinary, offerToBob[:10]))
	p.write(rawFrame(rawFin|rawCont, offerToBob[10:]))
	by.b.wantOffer("mallory", `"of mallory"`)
	by.talk()
}

func TestAMessageMayComeInManyFragments(t *testing.T) {
	_, _, by, p := victims(t, Options{})
	payload := `"` + strings.Repeat("x", 100_000) + `"`
	text := toBob(`,"payload":` + payload)
	b := rawFrame(rawText, "")
	for i := range len(text) {
		b = append(b, rawFrame(rawCont, text[i:i+1])...)
	}
	b = append(b, rawFrame(rawFin|rawCont, "")...)
	cost := allocated(func() {
		p.write(b)
		by.b.wantOffer("mallory", payload)
	})
	require.Less(t, cost, uint64(20*len(text)))
	by.talk()
}

func TestControlFramesMayComeBetweenFragments(t *testing.T) {
	_, _, by, p := victims(t, Options{})
	p.write(rawFrame(rawText, ""))
	for i := range len(offerToBob) {
		p.write(rawFrame(rawFin|rawPing, fmt.Sprint(i)))
		p.write(rawFrame(rawFin|rawPong, "not asked for"))
		p.write(rawFrame(rawCont, offerToBob[i:i+1]))
		_, payload := p.next()
		require.Equal(t, fmt.Sprint(i), string(payload), "a pong comes before the message is whole")
	}
	p.write(rawFrame(rawFin|rawCont, ""))
	by.b.wantOffer("mallory", `"of mallory"`)
	by.talk()
}

func TestAFloodOfPingsIsAnsweredWhileTheClientReads(t *testing.T) {
	r, rec, by, p := victims(t, Options{})
	const pings = 10_000
	wrote := make(chan error, 1)
	go func() {
		var b []byte
		for i := range pings {
			b = append(b, rawFrame(rawFin|rawPing, fmt.Sprint(i))...)
		}
		wrote <- p.tryWrite(b)
	}()
	for i := range pings {
		first, payload := p.next()
		require.Equal(t, byte(rawFin|rawPong), first)
		require.Equal(t, fmt.Sprint(i), string(payload))
		if i%1000 == 0 {
			by.talk()
		}
	}
	require.NoError(t, <-wrote)
	require.Len(t, rec.all(), 3)
	require.NotNil(t, r.srv.Realm().Client("mallory"))
}

func TestAFloodOfPingsEndsWhoDoesNotReadThePongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 256
		r := newBubbleRig(t, Options{MaxOutboxMessages: bound, WriteTimeout: -1})
		rec := watch(r.srv)
		by := r.bystanders()
		p := r.rawOpen(smallReads).upgrade("mallory")
		rec.wait(t, 3)
		for range bound {
			p.write(rawFrame(rawFin|rawPing, strings.Repeat("x", 125)))
		}
		by.talk()
		require.Len(t, rec.all(), 3)
		p.tryWrite(rawFrame(rawFin|rawPing, ""))
		require.Equal(t, "-mallory slow consumer", rec.last(t, 4))
		p.wantClose(1008)
		by.talk()
	})
}

func TestAMessageWithoutEndIsClosedAtTheBound(t *testing.T) {
	slow(t)
	begin, fill := rawFrame(rawText, `"`), strings.Repeat("x", 50_000)
	for name, endless := range map[string][2][]byte{
		"small fragments": {begin, rawFrame(rawCont, fill[:100])},
		"large fragments": {begin, rawFrame(rawCont, fill)},
		"one frame":       {rawHeader(rawFin|rawText, 1<<63-1), []byte(fill)},
	} {
		t.Run(name, func(t *testing.T) {
			send := func(p *rawPeer) {
				p.write(endless[0])
				go func() {
					for p.tryWrite(endless[1]) == nil {
					}
				}()
			}
			attack{name, send, ReasonMessageTooBig, 1009}.run(t, Options{MaxMessageSize: 64 << 10})
		})
	}
}

// Memory is spent on what has come, not on what a header says will come.
func TestAnnouncedBytesCostNothing(t *testing.T) {
	const n = 50
	r := newRig(t, Options{MaxMessageSize: -1})
	rec := watch(r.srv)
	by := r.bystanders()
	cost := allocated(func() {
		for i := range n {
			p := r.rawOpen().open(fmt.Sprint("mallory", i))
			p.write(append(rawHeader(rawFin|rawText, 1<<63-1), offerToBob...))
		}
		rec.wait(t, 2+n)
		by.talk()
	})
	require.Less(t, cost, uint64(n*200<<10))
}

// A request line may be as long as net/http allows, and an id or a token is part
// of it: a connection that held on to that would hold on to all of it.
func TestNothingIsKeptOfALongRequest(t *testing.T) {
	const clients, long = 16, 900 << 10
	r := newRig(t, Options{})
	inUse := func() uint64 {
		var m runtime.MemStats
		for range 2 { // what pools hold goes with the second
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	padding := "&padding=" + strings.Repeat("x", long)
	before := inUse()
	for i := range clients {
		id := fmt.Sprint("plain-", i)
		if i%2 == 1 {
			id = fmt.Sprint("<escaped-in-JSON>", i)
		}
		p := r.rawOpen()
		p.write([]byte(handshakeFor(fmt.Sprintf("/peerjs?key=peerjs&id=%s&token=token", id) + padding)))
		require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
		p.want(`{"type":"OPEN"}`)
	}
	require.Equal(t, clients, r.srv.Realm().Len())
	kept := (int64(inUse()) - int64(before)) / clients
	require.Less(t, kept, int64(long/4), "bytes per connection, those of the test's own side included")
}

// The payloads of ROOM-JOIN and ROOM-LEAVE are a client's own: whatever they are, all that the server answers is JSON.
func TestOddPayloadsAboutRoomsAreAnsweredWithJSON(t *testing.T) {
	r := newRig(t, Options{AllowJoin: anyRoom, MaxRoomsPerClient: -1, MaxOutboxBytes: -1, MaxOutboxMessages: -1})
	rec := watchRooms(r.srv)
	a := r.rawOpen().open("a")
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, payload := range []string{
		`null`, `[]`, `"x"`, `5`, `{}`, `{"data":1}`, `{"room":null}`, `{"room":{}}`, `{"room":""}`, `{"room":"\u0000"}`,
		`{"room":"` + strings.Repeat("y", 2000) + `"}`, `{"room":"x","data":null}`,
		`{"room":"x1","data":` + nested(512) + `}`,
		`{"room":"x2","data":` + nested(512) + `,"data":1}`, `{"\u0072oom":"x3","\u0064ata":2}`,
		`{"room":"x4","data":"\ud800"}`, `{"room":"\ud800","data":3}`,
		`{"room":"x5","data":"` + "\u2028\u2029<>&" + `"}`, `{"room":"x6","data": {"a" : [ 1 , 2 ] } }`,
		`{"room":"x7","data":1e999}`, `{"room":"x8","data":{"a":1,"a":2}}`, `{"room":"x9","data":` + nested(1000) + `}`,
		`{"room":"z","data":-0}`, `{"room":"z1","data":true}`,
	} {
		a.text(`{"type":"ROOM-JOIN","payload":` + payload + `}`)
		a.text(`{"type":"ROOM-LEAVE","payload":` + payload + `}`)
	}
	a.text(`{"type":"ROOM-JOIN"}`)
	a.text(`{"type":"ROOM-LEAVE"}`)
	a.text(`{"type":"OFFER","dst":"a","payload":7}`)
	var got []string
	for len(got) == 0 || !strings.Contains(got[len(got)-1], `"payload":7`) {
		_, b := a.next()
		require.True(t, json.Valid(b), "%q", b)
		got = append(got, string(b))
	}
	for _, list := range []string{
		`{"room":"x3","members":["a"],"data":{"a":2}}`, `{"room":"x6","members":["a"],"data":{"a":{"a" : [ 1 , 2 ] }}}`,
		`{"room":"z1","members":["a"],"data":{"a":true}}`,
	} {
		require.Contains(t, got, `{"type":"ROOM-MEMBERS","payload":`+list+`}`)
	}
	require.Contains(t, rec.all(), ">x5 a")
	for why, n := range r.srv.Stats().Disconnects {
		require.Zero(t, n, why)
	}
}
