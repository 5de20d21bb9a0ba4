package peer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are about messages that trickle in: MaxPartialBytes bounds what all
// clients together have sent of messages that are not whole yet.

// partialWays are the ways to send a message so slowly. Each returns the message in two parts,
// which meet after n bytes of text.
var partialWays = map[string]func(text string, n int) (first, rest []byte){
	"one frame": func(text string, n int) (first, rest []byte) {
		frame := rawTextFrame(text)
		return frame[:len(frame)-len(text)+n], frame[len(frame)-len(text)+n:]
	},
	"fragments": func(text string, n int) (first, rest []byte) {
		const each = 700
		op := byte(rawText)
		for ; n >= each; n -= each {
			first = append(first, rawFrame(op, text[:each])...)
			text, op = text[each:], rawCont
		}
		return first, rawFrame(rawFin|op, text)
	},
	"fragments and pings": func(text string, n int) (first, rest []byte) {
		const each = 5000
		op := byte(rawText)
		for ; n >= each; n -= each {
			first = append(first, rawFrame(op, text[:each])...)
			first = append(first, rawFrame(rawFin|rawPong, "x")...)
			text, op = text[each:], rawCont
		}
		return first, rawFrame(rawFin|op, text)
	},
}

// onEveryStream runs f on a plain socket, and in bubbles.
func onEveryStream(t *testing.T, opts Options, f func(t *testing.T, r *rig)) {
	t.Run("plain", func(t *testing.T) { f(t, newRig(t, opts)) })
	inBubbles(t, opts, f)
}

// inBubbles runs f on a wrapped connection and over TLS.
func inBubbles(t *testing.T, opts Options, f func(t *testing.T, r *rig)) {
	t.Run("wrapped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newBubbleRig(t, opts)) })
	})
	config := testCertificate()
	t.Run("TLS", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newTLSBubbleRig(t, config, opts)) })
	})
}

// partials returns what the server counts of unfinished messages.
func (r *rig) partials() int { return int(r.srv.realm.partials.used.Load()) }

// takes sends a part of a message of which so many bytes count, and reports whether the server
// keeps the client.
func (r *rig) takes(p *rawPeer, part []byte, counted int) bool {
	r.t.Helper()
	before := r.partials()
	go p.tryWrite(part) // the server may read nothing more
	ended := func() bool { return r.srv.Realm().Client(p.id) == nil }
	waitFor(r.t, func() bool { return ended() || r.partials() >= before+counted })
	return !ended()
}

func TestUnfinishedMessagesAreBoundedInAll(t *testing.T) {
	const limit, part, clients = 100 << 10, 30 << 10, 12
	const least = part - 5000 - smallBuffer // that counts of a client
	text, payload := offerOfSize("bob", 31<<10)
	for name, split := range partialWays {
		t.Run(name, func(t *testing.T) {
			inBubbles(t, Options{MaxPartialBytes: limit}, func(t *testing.T, r *rig) {
				bob := r.connect("bob")
				first, rest := split(text, part)
				var kept []*rawPeer
				for i := range clients {
					p := r.rawOpen().open(fmt.Sprint("mallory", i))
					before := r.partials()
					go p.tryWrite(first)
					if synctest.Wait(); r.srv.Realm().Client(p.id) == nil {
						p.wantClose(1013)
						p.conn.Close()
						synctest.Wait()
						require.Equal(t, before, r.partials())
						continue
					}
					kept = append(kept, p)
					require.GreaterOrEqual(t, r.partials(), before+least)
					require.LessOrEqual(t, r.partials(), limit)
				}
				require.GreaterOrEqual(t, len(kept), 2)
				require.Less(t, len(kept), clients)
				require.EqualValues(t, clients-len(kept), r.srv.Stats().Disconnects[ReasonOverloaded])
				for i, p := range kept { // these are none the worse for it
					p.write(rest)
					bob.wantOffer(p.id, payload)
					synctest.Wait()
					require.LessOrEqual(t, r.partials(), limit*(len(kept)-i-1)/len(kept))
				}
				require.Zero(t, r.partials())
				p := r.rawOpen().open("later")
				p.write(first) // there is room again
				p.write(rest)
				bob.wantOffer(p.id, payload)
				for _, p := range append(kept, p) {
					p.conn.Close()
				}
				synctest.Wait()
				require.Zero(t, r.partials())
			})
		})
	}
}

// To the byte: of a frame what is over 8 KiB counts, its header included.
func TestTheBoundOnUnfinishedMessagesIsExact(t *testing.T) {
	for _, size := range []int{smallBuffer + 1, 20_000} { // of a frame
		for less, fits := range map[int]bool{0: true, 1: false} {
			opts := Options{MaxPartialBytes: 2*(size-smallBuffer) - less}
			t.Run(fmt.Sprint(size, less), func(t *testing.T) {
				onEveryStream(t, opts, func(t *testing.T, r *rig) {
					bob := r.connect("bob")
					head := len(rawHeader(rawFin|rawText, uint64(size-8)))
					text, payload := offerOfSize("bob", size-head)
					frame := rawTextFrame(text)
					require.Len(t, frame, size)
					var both []*rawPeer
					for i, want := range []bool{true, fits} {
						p := r.rawOpen().open(fmt.Sprint("mallory", i))
						require.Equal(t, want, r.takes(p, frame[:size-1], size-smallBuffer), "client %d", i)
						if both = append(both, p); !want {
							p.wantLast(ending{code: 1013})
							p.write(frame[size-1:]) // else the close frame would be a part of it
							p.answerClose()
							p.wantGone()
							continue
						}
						require.LessOrEqual(t, r.partials(), opts.MaxPartialBytes)
					}
					for i, p := range both {
						if i == 0 || fits {
							p.write(frame[size-1:])
							bob.wantOffer(p.id, payload)
						}
						p.conn.Close()
					}
					waitFor(t, func() bool { return r.partials() == 0 })
				})
			})
		}
	}
}

// The fragments of a message count together with the one that is arriving.
func TestFragmentsAndTheNextOneCountTogether(t *testing.T) {
	const each = 20 << 10
	frame := each + len(rawHeader(rawText, each))
	most := each + each + frame - smallBuffer // while the second is added to the first
	text, payload := offerOfSize("bob", 2*each)
	first, second := rawFrame(rawText, text[:each]), rawFrame(rawFin|rawCont, text[each:])
	for less, fits := range map[int]bool{0: true, 1: false} {
		t.Run(fmt.Sprint(fits), func(t *testing.T) {
			inBubbles(t, Options{MaxPartialBytes: most - less}, func(t *testing.T, r *rig) {
				bob, p := r.connect("bob"), r.rawOpen().open("mallory")
				p.write(first)
				p.write(second[:frame-1])
				synctest.Wait()
				require.Equal(t, each+frame-smallBuffer, r.partials())
				if p.write(second[frame-1:]); fits {
					bob.wantOffer("mallory", payload)
				} else {
					p.wantClose(1013)
				}
				p.conn.Close()
				synctest.Wait()
				require.Zero(t, r.partials())
			})
		})
	}
}

// What most clients send never counts, so that nobody can use up the bound with short messages.
func TestEightKilobytesOfAFrameDoNotCount(t *testing.T) {
	onEveryStream(t, Options{MaxPartialBytes: 1}, func(t *testing.T, r *rig) {
		const clients = 30
		bob := r.connect("bob")
		head := len(rawHeader(rawFin|rawText, smallBuffer-8))
		text, payload := offerOfSize("bob", smallBuffer-head)
		frame := rawTextFrame(text)
		require.Len(t, frame, smallBuffer)
		var ps []*rawPeer
		for i := range clients {
			p := r.rawOpen().open(fmt.Sprint("slow", i))
			for _, part := range [][]byte{frame[:1], frame[1:5], frame[5:100], frame[100:5000], frame[5000 : smallBuffer-1]} {
				p.write(part)
			}
			ps = append(ps, p)
		}
		for _, p := range ps {
			p.write(frame[smallBuffer-1:])
			bob.wantOffer(p.id, payload)
			p.conn.Close()
		}
		require.Zero(t, r.partials())
		require.Zero(t, r.srv.Stats().Disconnects[ReasonOverloaded])
	})
}

func TestUnfinishedMessagesMayBeUnbounded(t *testing.T) {
	const clients, part = 5, 100 << 10
	text, _ := offerOfSize("absent", 2*part)
	for name, split := range partialWays {
		t.Run(name, func(t *testing.T) {
			inBubbles(t, Options{MaxPartialBytes: -1}, func(t *testing.T, r *rig) {
				first, _ := split(text, part)
				for i := range clients {
					p := r.rawOpen().open(fmt.Sprint("large", i))
					p.write(first)
					defer p.conn.Close()
				}
				synctest.Wait()
				require.Equal(t, clients, r.srv.Realm().Len())
				require.Greater(t, r.partials(), clients*(part-5000-smallBuffer))
			})
		})
	}
}

// However a client with an unfinished message goes, the message is not counted any more.
func TestNothingIsCountedOfClientsThatHaveGone(t *testing.T) {
	text := strings.Repeat("x", 60_000)
	for name, end := range map[string]func(r *rig, p *rawPeer){
		"the connection is lost": func(_ *rig, p *rawPeer) { p.conn.Close() },
		"removed":                func(r *rig, p *rawPeer) { r.srv.Realm().RemoveClient(p.id) },
		"replaced":               func(r *rig, p *rawPeer) { r.dial(p.id, p.token).wantOpen() },
		"alive timeout":          func(*rig, *rawPeer) { time.Sleep(DefaultAliveTimeout) }, // it does not answer pings
		"the server closes":      func(r *rig, _ *rawPeer) { go r.srv.Close() },
		"a close frame":          func(_ *rig, p *rawPeer) { p.tryWrite(rawCloseFrame(1000, "")) },
		"a protocol error":       func(_ *rig, p *rawPeer) { p.tryWrite(rawTextFrame("")) },
		"too large a message":    func(_ *rig, p *rawPeer) { p.tryWrite(rawFrame(rawCont, strings.Repeat("x", 70_000))) },
	} {
		for way, split := range partialWays {
			if inFrame := way == "one frame"; inFrame && (name == "a close frame" || name == "a protocol error" || name == "too large a message") {
				continue // it would be a part of the frame
			}
			t.Run(name+", "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newBubbleRig(t, Options{MaxMessageSize: 100_000})
					p := r.rawOpen().open("a")
					p.pings(false) // it reads
					first, _ := split(text, 40_000)
					p.write(first)
					synctest.Wait()
					require.Greater(t, r.partials(), 30_000)
					end(r, p)
					time.Sleep(2 * lingerTimeout)
					require.Zero(t, r.partials())
				})
			})
		}
	}
}

// The host may be busy with an earlier message, or decide still whether the client may connect.
// The bound holds for what comes meanwhile.
func TestUnfinishedMessagesAreBoundedWhileTheHostThinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxPartialBytes: 10 << 10, Authenticate: func(*http.Request, string, string) (any, error) {
			time.Sleep(time.Second)
			return nil, nil
		}})
		p := r.rawOpen()
		p.upgrade("a")
		go p.tryWrite(rawTextFrame(strings.Repeat("x", 40<<10)))
		synctest.Wait()
		require.LessOrEqual(t, r.partials(), 10<<10)
		require.Equal(t, 1013, p.skipToEnd())
		p.conn.Close()
		synctest.Wait()
		require.Zero(t, r.partials())
		require.EqualValues(t, 1, r.srv.Stats().Disconnects[ReasonOverloaded])
	})
}

// A client ends inside of a frame that continues a message. The server counts neither the frame nor the fragments before
// it any more.
func TestAFragmentThatIsDroppedIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MaxPartialBytes: 1 << 20})
		for range 20 { // together they would be over the bound
			p := r.rawOpen().open("mallory")
			p.write(rawFrame(rawText, strings.Repeat("x", 200<<10)))
			p.write(rawHeader(rawFin|rawCont, 1000))
			p.write([]byte("abc"))
			synctest.Wait()
			require.NotZero(t, r.partials())
			p.conn.Close()
			synctest.Wait()
			require.Zero(t, r.partials())
		}
		require.Zero(t, r.srv.Stats().Disconnects[ReasonOverloaded])
	})
}
