package peer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFramesOfEveryBoundarySizeAreRead(t *testing.T) {
	t.Parallel()
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			w.wantIdle()
			for _, n := range boundarySizes() {
				payload := textOf(n)
				w.write(rawTextFrame(payload))
				w.want(opText, payload)
				w.wantIdle()
				w.write(slices.Concat(rawTextFrame(payload), rawFrame(rawFin|rawBinary, "behind")))
				w.want(opText, payload)
				w.want(opBinary, "behind")
				w.wantIdle()
			}
			w.far.Close()
			require.ErrorIs(t, w.wantEnd(), errHungUp)
		})
	}
}

func TestAFrameMayBeCutAnywhere(t *testing.T) {
	t.Parallel()
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			for _, n := range []int{0, 1, 125, 126, smallBuffer - 8, smallBuffer - 7, smallBuffer, 3 * smallBuffer, 65_535, 65_536, readBuffer + 100} {
				payload := textOf(n)
				stream := slices.Concat(rawTextFrame(payload), rawFrame(rawFin|rawPing, "?"))
				for _, cut := range cutsOf(len(stream)) {
					w.push(stream[:cut])
					w.write(stream[cut:])
					w.want(opText, payload)
					w.want(opPing, "?")
				}
				w.wantIdle()
			}
		})
	}
}

func TestFramesMayComeByteByByte(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			stream := slices.Concat(rawTextFrame(textOf(130)), rawFrame(rawText, "frag"), rawFrame(rawFin|rawPing, "?"), rawFrame(rawFin|rawCont, "ment"))
			for i := range stream {
				w.push(stream[i : i+1])
			}
			w.want(opText, textOf(130))
			w.want(opPing, "?")
			w.want(opText, "fragment")
			w.wantIdle()
		})
	}
}

// What came with the handshake lies in a buffer that is just as long.
func TestAFrameMayBeginWithTheHandshake(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			stream := slices.Concat(rawTextFrame(textOf(130)), rawTextFrame("second"))
			for cut := 1; cut <= len(stream); cut++ {
				if kind == "TLS" && cut > 3 && cut < len(stream)-1 {
					continue // a TLS handshake takes long
				}
				w := newWire(t, kind, slices.Clone(stream[:cut])).read()
				if cut < len(stream) {
					w.write(stream[cut:])
				}
				w.want(opText, textOf(130))
				w.want(opText, "second")
				w.wantIdle()
				w.cut()
			}
		})
	}
}

// In the middle of a frame a socket keeps no more than smallBuffer, or twice what has come, and
// the budget knows of what is beyond smallBuffer.
func TestAPartOfAFrameIsKeptInLittleMemory(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			for _, n := range []int{200, smallBuffer - 8, smallBuffer, 3 * smallBuffer, readBuffer + 100, 4 * readBuffer} {
				frame := rawTextFrame(textOf(n))
				for _, cut := range []int{1, 2, 5, 14, 199, smallBuffer - 1, smallBuffer, smallBuffer + 1, 3 * smallBuffer, readBuffer, readBuffer + 1} {
					if cut >= len(frame) {
						continue
					}
					w := newWire(t, kind, nil).read()
					w.push(frame[:cut])
					if kind == "plain" { // it is read in its own time
						waitFor(t, func() bool { return w.waits() && w.partials.used.Load() >= int64(max(0, cut-smallBuffer)) })
					}
					used := w.partials.used.Load()
					require.LessOrEqual(t, used, int64(max(0, max(smallBuffer, 2*cut)-smallBuffer)), "%d of %d", cut, len(frame))
					require.GreaterOrEqual(t, used, int64(cut-smallBuffer-2*smallBuffer), "%d of %d", cut, len(frame))
					w.write(frame[cut:])
					w.want(opText, textOf(n))
					w.wantIdle()
					w.cut()
				}
			}
		})
	}
}

func TestFragmentsAreKeptUntilTheMessageIsWhole(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil).read()
			for _, sizes := range [][]int{{0, 0}, {1, 0, 1}, {smallBuffer, 0}, {smallBuffer, 1}, {1, smallBuffer}, {5, readBuffer, 5}, {readBuffer, readBuffer}, {100, 100, 100, 3 * smallBuffer}} {
				whole := ""
				for i, n := range sizes {
					first := byte(rawCont)
					if i == 0 {
						first = rawBinary
					}
					if i == len(sizes)-1 {
						first |= rawFin
					}
					part := textOf(n + i)[i:]
					whole += part
					w.write(rawFrame(first, part))
					w.write(rawFrame(rawFin|rawPong, "between"))
					if first&rawFin == 0 {
						w.want(opPong, "between")
						require.GreaterOrEqual(t, w.partials.used.Load(), int64(len(whole)-smallBuffer), "%d", sizes)
					}
				}
				w.want(opBinary, whole)
				w.want(opPong, "between")
				w.wantIdle()
			}
		})
	}
}

func TestABudgetIsNotExceeded(t *testing.T) {
	b := budget{limit: 10}
	for _, c := range []struct {
		n    int
		want bool
		used int64
	}{
		{9, true, 9}, {2, false, 9}, {1, true, 10}, {1, false, 10}, {0, true, 10}, {-4, true, 6}, {5, false, 6}, {4, true, 10}, {-10, true, 0}, {11, false, 0}, {10, true, 10},
	} {
		require.Equal(t, c.want, b.take(c.n), "%+v", c)
		require.Equal(t, c.used, b.used.Load(), "%+v", c)
	}
	none := budget{limit: 0}
	require.False(t, none.take(1))
	require.True(t, none.take(0))
	unlimited := budget{limit: -1}
	require.True(t, unlimited.take(1<<40))
	require.EqualValues(t, 1<<40, unlimited.used.Load())
}

// A frame of which smallBuffer is enough never counts. One byte more does.
func TestSmallFramesDoNotCountForTheBudget(t *testing.T) {
	for kind := range wireKinds {
		for n, fits := range map[int]bool{smallBuffer: true, smallBuffer + 1: false} {
			t.Run(fmt.Sprint(kind, " ", n), func(t *testing.T) {
				w := newWire(t, kind, nil)
				w.partials.limit = 0
				w.read()
				frame, payload := frameOf(n)
				w.push(frame[:1])
				go w.far.Write(frame[1:]) // which may not be read to its end
				if fits {
					w.want(opText, payload)
					w.wantIdle()
					return
				}
				require.Equal(t, errPartials, w.wantEnd())
				require.Zero(t, w.partials.used.Load(), "what was refused is not counted")
			})
		}
	}
}

// Who comes when the budget is used up is refused, and nobody else.
func TestTheBudgetIsForAllSocketsTogether(t *testing.T) {
	for kind := range wireKinds {
		t.Run(kind, func(t *testing.T) {
			first, second := newWire(t, kind, nil), newWire(t, kind, nil)
			second.socket.partials = &first.partials
			first.partials.limit = 10 * smallBuffer
			first.read()
			second.read()
			begin := rawFrame(rawText, textOf(5*smallBuffer))
			first.push(begin)
			first.write(rawFrame(rawFin|rawPing, "?"))
			first.want(opPing, "?")
			require.GreaterOrEqual(t, first.partials.used.Load(), int64(4*smallBuffer))
			go second.far.Write(rawFrame(rawText, textOf(12*smallBuffer)))
			require.Equal(t, errPartials, second.wantEnd())
			second.discard()
			require.Zero(t, second.counted)
			first.write(rawFrame(rawFin|rawCont, "end"))
			first.want(opText, textOf(5*smallBuffer)+"end")
			first.wantIdle()
		})
	}
}

func TestASocketKnowsWhetherAMessageIsAtHand(t *testing.T) {
	for _, c := range []struct {
		stream []byte
		want   bool // when all of it is there
	}{
		{rawTextFrame(""), true},
		{rawTextFrame("hello"), true},
		{rawTextFrame(textOf(126)), true},
		{rawFrame(rawFin|rawBinary, "hello"), true},
		{rawFrame(rawText, "hello"), false},
		{rawFrame(rawFin|rawPing, "hello"), false},
		{rawCloseFrame(1000, ""), false},
		{[]byte{0xff, 0xff, 0xff}, false},
	} {
		for n := range len(c.stream) {
			s := &socket{unread: c.stream[:n]}
			require.False(t, s.hasMessage(), "%x", c.stream[:n])
		}
		s := &socket{unread: c.stream}
		require.Equal(t, c.want, s.hasMessage(), "%x", c.stream)
		require.Equal(t, c.want, s.hasMessage(), "as often as one asks")
		s.unread = append(slices.Clone(c.stream), rawTextFrame("more")...)
		require.Equal(t, c.want, s.hasMessage(), "%x and more", c.stream)
	}
}

// A wrapper of the host's must see the bytes, so only a plain socket is read with system calls.
func TestOnlyPlainSocketsAreReadDirectly(t *testing.T) {
	for kind := range wireKinds {
		w := newWire(t, kind, nil)
		require.Equal(t, kind == "plain", w.raw != nil, kind)
		require.Equal(t, kind == "TLS", w.sealed, kind)
	}
	near, far := tcpPair(t)
	defer near.Close()
	defer far.Close()
	require.Nil(t, rawConn(struct{ *net.TCPConn }{near.(*net.TCPConn)}), "a wrapper")
}

// A page that is behind a proxy may never read: what the server holds for it is bounded by the
// outbox, not by what the system takes.
func TestAWriteTakesWhatThereIsRoomFor(t *testing.T) {
	t.Parallel()
	w := newWire(t, "plain", nil)
	data := []byte(strings.Repeat("0123456789", 1<<20))
	written := 0
	for written < len(data) {
		n, err := w.tryWrite(data[written:])
		require.NoError(t, err)
		written += n
		if n == 0 {
			break
		}
	}
	require.Less(t, written, len(data), "there is no room for all of it")
	got := make([]byte, written)
	_, err := io.ReadFull(w.far, got)
	require.NoError(t, err)
	require.True(t, string(got) == string(data[:written]))
	require.Nil(t, w.writing, "a buffer that may be used again is not held")

	require.NoError(t, w.conn.SetWriteDeadline(past))
	n, err := w.tryWrite(data[:1])
	require.NoError(t, err, "a deadline that has passed is for others")
	require.Zero(t, n)
	require.NoError(t, w.conn.SetWriteDeadline(time.Time{}))
	w.conn.Close()
	n, err = w.tryWrite(data[:1])
	require.True(t, errors.Is(err, net.ErrClosed), "%v", err)
	require.Zero(t, n)
}

func TestTheActivityIsToldToThoseThatWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, "pipe", nil).read()
		synctest.Wait()
		require.True(t, w.waits())
		change := w.watchActivity()
		require.Equal(t, change, w.watchActivity(), "all watch the same channel")
		time.Sleep(time.Minute)
		select {
		case <-change:
			t.Fatal("nothing has happened")
		default:
		}
		w.write(rawTextFrame("x"))
		<-change
		w.want(opText, "x")
		synctest.Wait()
		require.True(t, w.waits())
		require.InDelta(t, time.Minute, w.lastSeen(), 2)
		change = w.watchActivity()
		w.heard()
		<-change
		w.heard() // nobody watches
	})
}

// What a client has sent is neither kept nor counted once the message has been dealt with.
func TestAnIdleClientKeepsNothingOfItsLastMessage(t *testing.T) {
	text := `{"type":"HEARTBEAT","payload":"` + strings.Repeat("x", 200<<10) + `"}`
	for where, newRig := range map[string]func(*testing.T, Options) *rig{"plain": func(t *testing.T, o Options) *rig { return newRig(t, o) }, "TLS": tlsRig} {
		for how, frames := range map[string][]byte{
			"frame":     rawTextFrame(text),
			"fragments": append(rawFrame(rawText, text[:1000]), rawFrame(rawFin|rawCont, text[1000:])...),
		} {
			t.Run(where+", "+how, func(t *testing.T) {
				r := newRig(t, Options{MaxPartialBytes: 1 << 20})
				for i := range 10 { // together more than the bound
					r.rawOpen().open(fmt.Sprint("p", i)).write(frames)
					waitFor(t, func() bool { return r.srv.Stats().BytesIn >= uint64((i+1)*len(text)) })
				}
				waitFor(t, func() bool { return r.srv.realm.partials.used.Load() == 0 })
				require.Zero(t, r.srv.Stats().Disconnects[ReasonOverloaded])
			})
		}
	}
}
