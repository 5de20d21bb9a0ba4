//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// The tests of this file go up to each bound and one step over it.

// offerOfSize returns an OFFER for dst that is n bytes long, and its payload.
func offerOfSize(dst string, n int) (text, payload string) {
	head := fmt.Sprintf(`{"type":"OFFER","dst":%q,"payload":`, dst)
	payload = `"` + strings.Repeat("x", n-len(head)-len(`""}`)) + `"`
	return head + payload + `}`, payload
}

func TestAMessageMayBeAsLargeAsTheBound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ option, bound int }{
		"small":                           {100, 100},
		"a buffer of the server":          {4096, 4096},
		"above the library's own default": {32769, 32769},
		"default":                         {0, DefaultMaxMessageSize},
	} {
		t.Run(name, func(t *testing.T) {
			_, rec, by, p := victims(t, Options{MaxMessageSize: c.option})
			text, payload := offerOfSize("bob", c.bound)
			require.Len(t, text, c.bound)
			p.text(text)
			by.b.wantOffer("mallory", payload)
			p.write(rawFrame(rawText, text[:c.bound/2])) // fragments count together
			p.write(rawFrame(rawFin|rawCont, text[c.bound/2:]))
			by.b.wantOffer("mallory", payload)
			go p.tryWrite(rawTextFrame(text + " "))
			p.wantClose(1009)
			p.conn.Close()
			require.Equal(t, "-mallory message too big", rec.last(t, 4))
			by.talk()
		})
	}
}

func TestAMessageMayBeOfAnySizeWithoutABound(t *testing.T) {
	t.Parallel()
	_, _, by, p := victims(t, Options{MaxMessageSize: -1, MaxOutboxBytes: -1})
	text, payload := offerOfSize("bob", 3*DefaultMaxMessageSize)
	p.text(text)
	by.b.wantOffer("mallory", payload)
	by.talk()
}

// Who floods an absent id must not make the garbage collector run for everybody.
func TestARefusedMessageGivesItsBufferBack(t *testing.T) {
	const messages = 1000
	s := NewServer(Options{MaxHeldPerDestination: 1})
	defer s.Close()
	route := func(src string) outcome {
		frame, buf := frameBuffer(pooledFrame / 2)
		require.NotNil(t, buf)
		out, _ := s.realm.route("absent", parcel{frame: frame, buf: buf, src: src, deadline: time.Now().Add(time.Minute), keep: keepUntilExpiry})
		return out
	}
	require.Equal(t, held, route("first"))
	cost := allocated(func() {
		for range messages {
			require.Equal(t, notKept, route("second"))
		}
	})
	require.Less(t, cost/messages, uint64(pooledFrame*3/4), "bytes for each") // with -race, a pool loses some
}

// silentRig is a rig in a bubble with one sender and a client that reads nothing,
// not even OPEN. Nothing is between them: what is not read is not written. It has
// all the time that it wants for that.
func silentRig(t *testing.T, opts Options) (r *rig, rec *record, sender *testPeer, silent *rawPeer) {
	t.Helper()
	opts.WriteTimeout = -1
	r = newBubbleRig(t, opts)
	rec = watch(r.srv)
	sender = r.connect("sender")
	silent = r.rawOpen(smallReads).upgrade("silent")
	rec.wait(t, 2)
	synctest.Wait() // what comes before OPEN is written does not count
	return r, rec, sender, silent
}

func TestAnOutboxIsBoundedInMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, rec, sender, silent := silentRig(t, Options{MaxOutboxMessages: 10})
		for i := range 10 { // OPEN, which was there first, does not count
			sender.offer("silent", fmt.Sprint(i))
		}
		synctest.Wait()
		require.Len(t, rec.all(), 2)
		sender.offer("silent", `10`)
		require.Equal(t, "-silent slow consumer", rec.last(t, 3))
		silent.wantClose(1008)
		next := r.rawOpen().open("silent")
		for i := range 11 {
			next.want(fmt.Sprintf(`{"type":"OFFER","src":"sender","dst":"silent","payload":%d}`, i))
		}
		next.conn.Close()
	})
}

func TestAnOutboxIsBoundedInBytes(t *testing.T) {
	size := len(textFrame([]byte(`{"type":"OFFER","src":"sender","dst":"silent","payload":0}`)))
	for payload, fits := range map[string]bool{`0`: true, `10`: false} {
		synctest.Test(t, func(t *testing.T) {
			_, rec, sender, silent := silentRig(t, Options{MaxOutboxBytes: 10 * size})
			for range 9 {
				sender.offer("silent", `0`)
			}
			sender.offer("silent", payload)
			synctest.Wait()
			if fits {
				require.Len(t, rec.all(), 2)
				silent.conn.Close()
				return
			}
			require.Equal(t, "-silent slow consumer", rec.last(t, 3), "one byte over the bound")
			silent.wantClose(1008)
		})
	}
}

// A client cannot be blamed for what had come together before it was there.
func TestAnOutboxDoesNotCountWhatWasHeldForTheClient(t *testing.T) {
	for name, c := range map[string]struct {
		opts Options // with room for three messages
		held int
	}{
		"messages": {Options{MaxOutboxMessages: 3, WriteTimeout: -1}, 20},
		"bytes":    {Options{MaxOutboxBytes: 200, WriteTimeout: -1}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, c.opts)
				rec := watch(r.srv)
				sender := r.connect("sender")
				offer := func(n int) {
					for i := range n {
						sender.offer("silent", fmt.Sprint(i%10))
					}
				}
				offer(c.held)
				synctest.Wait()
				silent := r.rawOpen(smallReads).upgrade("silent")
				rec.wait(t, 2)
				offer(3)
				silent.want(`{"type":"OPEN"}`)
				for _, n := range []int{c.held, 3} {
					for i := range n {
						silent.want(fmt.Sprintf(`{"type":"OFFER","src":"sender","dst":"silent","payload":%d}`, i%10))
					}
				}
				synctest.Wait()
				offer(4)
				require.Equal(t, "-silent slow consumer", rec.last(t, 3), "all that was given has been read")
				silent.skipToEnd()
			})
		})
	}
}

func TestASingleMessageMayBeLargerThanAnOutbox(t *testing.T) {
	r := newRig(t, Options{MaxOutboxBytes: 100})
	a, b := r.connect("a"), r.connect("b")
	text, payload := offerOfSize("b", 10_000)
	a.send(text)
	b.wantOffer("a", payload)
}

func TestAnOutboxMayBeUnbounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 3 * DefaultMaxOutboxMessages
		_, rec, sender, silent := silentRig(t, Options{MaxOutboxMessages: -1, MaxOutboxBytes: -1})
		_, payload := offerOfSize("silent", 2*DefaultMaxOutboxBytes/n)
		for range n {
			sender.offer("silent", payload)
		}
		silent.want(`{"type":"OPEN"}`)
		for range n {
			silent.want(`{"type":"OFFER","src":"sender","dst":"silent","payload":` + payload + `}`)
		}
		require.Len(t, rec.all(), 2)
		silent.conn.Close()
	})
}

const limitText = "Server has reached its concurrent user limit"

func TestSoManyMayBeConnected(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimit: 2})
	rec := watch(r.srv)
	a, b := r.connect("a"), r.connect("b")
	r.dial("c", "t").wantRefused(TypeError, limitText)
	again := r.dial("a", "token-of-a") // needs no more room
	again.wantOpen()
	a.wantEnd()
	r.dial("c", "t").wantRefused(TypeError, limitText)
	b.close()
	for !strings.Contains(strings.Join(rec.all(), " "), "-b client closed") {
		rec.wait(t, len(rec.all())+1)
	}
	r.connect("c")
	closeServer(t, r.srv)
	require.EqualValues(t, 2, r.srv.Stats().Refused["limit"])
	require.Equal(t, 2, r.srv.Stats().PeakClients)
}

func TestAnyNumberMayBeConnectedWithoutALimit(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimit: -1, ConcurrentLimitPerAddr: -1})
	for i := range 100 {
		r.connect(fmt.Sprint(i))
	}
	require.Equal(t, 100, r.srv.Stats().PeakClients)
}

func TestMessagesAboveTheRateComeLateAndAllOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, n = 10, 100
		r := newBubbleRig(t, Options{MessageRate: rate, AliveTimeout: 4 * time.Second})
		rec := watch(r.srv)
		a, b := r.connect("a"), r.connect("b")
		start := time.Now()
		go func() {
			for i := range n {
				a.ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"type":"OFFER","dst":"b","payload":%d}`, i))
			}
		}()
		for i := range n {
			b.wantOffer("a", fmt.Sprint(i))
			// A burst of twice the rate, then one by one. The last of the burst has used up
			// the bucket, so that the next one is late already.
			late := time.Duration(max(0, i-2*rate)) * time.Second / rate
			require.InDelta(t, late, time.Since(start), float64(time.Millisecond), "message %d", i)
		}
		b.offer("a", `"I am not slowed down"`)
		a.wantOffer("b", `"I am not slowed down"`)
		require.Len(t, rec.all(), 2)
		require.Zero(t, total(r.srv.Stats().Dropped))
	})
}

func TestAHandshakeMayTakeSoLong(t *testing.T) {
	for name, c := range map[string]struct{ option, takes time.Duration }{
		"default": {0, DefaultHandshakeTimeout}, "own": {time.Second, time.Second}, "none": {-1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{
					HandshakeTimeout: c.option,
					Authenticate: func(r *http.Request, id, token string) (any, error) {
						if _, limited := r.Context().Deadline(); !limited {
							time.Sleep(time.Hour)
							return nil, r.Context().Err()
						}
						<-r.Context().Done()
						return nil, r.Context().Err()
					},
				})
				start := time.Now()
				p := r.dial("a", "t")
				if c.takes < 0 {
					time.Sleep(time.Hour)
					p.wantOpen()
					return
				}
				p.wantRefused(TypeError, "Authentication took too long")
				require.Equal(t, c.takes, time.Since(start))
				require.EqualValues(t, 1, r.srv.Stats().Refused["gave up"])
			})
		})
	}
}

func TestAWriteMayTakeSoLong(t *testing.T) {
	for name, c := range map[string]struct{ option, takes time.Duration }{
		"default": {0, DefaultWriteTimeout}, "own": {time.Second, time.Second}, "none": {-1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{WriteTimeout: c.option, AliveTimeout: -1})
				ended := make(chan time.Duration, 1)
				p := r.rawOpen().open("a")
				time.Sleep(time.Hour) // an idle client is in nobody's way
				start := time.Now()
				r.srv.OnDisconnect(func(c *Client, why DisconnectReason) {
					assert.Equal(t, ReasonSlowConsumer, why)
					ended <- time.Since(start)
				})
				require.NoError(t, r.srv.Realm().Send("a", Message{Type: "X"}))
				time.Sleep(time.Hour)
				if c.takes > 0 {
					require.Len(t, ended, 1)
					require.Equal(t, c.takes, <-ended)
					return
				}
				require.Empty(t, ended)
				p.want(`{"type":"X"}`)
				require.NoError(t, r.srv.Realm().Send("a", Message{Type: "Y"}))
				time.Sleep(time.Hour)
				p.want(`{"type":"Y"}`)
				r.srv.Realm().Client("a").end(ReasonSlowConsumer, nil, nil) // as the listener expects
				p.wantClose(1008)
			})
		})
	}
}
