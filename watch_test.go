package peer

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func never(t *testing.T) func() { return func() { t.Error("nobody has gone") } }

func TestAWatchTakesInNoMoreThanTheBound(t *testing.T) {
	stream := rawTextFrame(textOf(100))
	frames := 4 * maxEarly / len(stream)
	test := func(t *testing.T, kind string, early int, filled func(w *wire) (stop func())) {
		all := slices.Concat(slices.Repeat([][]byte{stream}, frames)...)
		w := newWire(t, kind, slices.Clone(all[:early]))
		go w.far.Write(all[early:])
		filled(w)()
		require.Len(t, w.unread, maxEarly)
		w.read()
		for range frames {
			w.want(opText, textOf(100))
		}
		w.wantIdle()
	}
	for _, early := range []int{0, 1, 5000, maxEarly - 1, maxEarly} {
		t.Run(fmt.Sprint("after ", early, " bytes"), func(t *testing.T) {
			inBubble(t, func(t *testing.T, kind string) {
				test(t, kind, early, func(w *wire) func() {
					stop := w.watch(never(t))
					synctest.Wait()
					return stop
				})
			})
			t.Run("plain", func(t *testing.T) {
				test(t, "plain", early, func(w *wire) func() {
					stop := w.watch(never(t))
					waitFor(t, func() bool {
						stop()
						full := len(w.unread) >= maxEarly
						stop = w.watch(never(t))
						return full
					})
					return stop
				})
			})
		})
	}
}

// What a client says before it is answered counts for the budget as anything that is not whole.
func TestAWatchHasTheBudgetCountWhatItTakesIn(t *testing.T) {
	inBubble(t, func(t *testing.T, kind string) {
		w := newWire(t, kind, nil)
		frame := rawTextFrame(textOf(4 * smallBuffer))
		w.partials.limit = smallBuffer
		stop := w.watch(never(t)) // it is not a client's fault that others send much
		go w.far.Write(frame)
		synctest.Wait()
		stop()
		require.LessOrEqual(t, len(w.unread), 2*smallBuffer)
		require.LessOrEqual(t, w.partials.used.Load(), int64(smallBuffer))
		w.read()
		require.Equal(t, errPartials, w.wantEnd(), "the reader of the client finds out")
		w.discard()
		w.wantNothingKept()
	})
}

func TestAWatchTellsThatTheOtherSideHasGone(t *testing.T) {
	for kind := range wireKinds {
		for name, said := range map[string][]byte{"nothing": nil, "a message": rawTextFrame("hello"), "part of a message": rawTextFrame("hello")[:7]} {
			t.Run(kind+", after "+name, func(t *testing.T) {
				w := newWire(t, kind, nil)
				gone := make(chan struct{})
				stop := w.watch(func() { close(gone) })
				if said != nil {
					w.write(said)
				}
				w.far.Close()
				w.await(gone)
				stop()
				w.read()
				if name == "a message" {
					w.want(opText, "hello")
				}
				require.Error(t, w.wantEnd())
			})
		}
	}
}

// A client that has sent as much as it may is not read any more, so nobody learns of its end.
func TestAWatchThatIsStoppedSaysNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, kind string) {
		w := newWire(t, kind, nil)
		for range 3 {
			stop := w.watch(never(t))
			synctest.Wait()
			start := time.Now()
			stop()
			require.Zero(t, time.Since(start))
		}
		w.read()
		time.Sleep(time.Hour) // no deadline is left
		w.write(rawTextFrame("hello"))
		w.want(opText, "hello")
	})
}

// A forgetful connection forgets a deadline some times, as with an adaptor that clears it after
// the upgrade.
type forgetful struct {
	net.Conn
	times atomic.Int32
}

func (f *forgetful) SetReadDeadline(at time.Time) error {
	if at == past && f.times.Add(-1) >= 0 {
		at = time.Time{}
	}
	return f.Conn.SetReadDeadline(at)
}

func TestAWatchIsStoppedThoughADeadlineIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, "pipe", nil)
		conn := &forgetful{Conn: w.conn}
		conn.times.Store(3)
		w.conn = conn
		stop := w.watch(never(t))
		synctest.Wait()
		start := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(start), 100*time.Millisecond)
		w.read()
		time.Sleep(time.Hour)
		w.write(rawTextFrame("hello"))
		w.want(opText, "hello")
	})
}

func TestWhateverComesBeforeTheCloseFrameIsPassedOver(t *testing.T) {
	closing := rawCloseFrame(1000, "bye")
	var all [][]byte
	for _, n := range []int{0, 1, 125, 126, smallBuffer - 9, smallBuffer - 8, smallBuffer - 7, smallBuffer, smallBuffer + 1, 2*smallBuffer - 8, 2 * smallBuffer, 65_535, 65_536, 3 * readBuffer} {
		all = append(all, rawTextFrame(textOf(n)))
	}
	all = append(all, rawFrame(rawText, "in fragments"), rawFrame(rawFin|rawPing, "?"), rawFrame(rawFin|rawPong, string(closing)))
	inBubble(t, func(t *testing.T, kind string) {
		w := newWire(t, kind, nil)
		done := w.awaiting()
		for _, frame := range all {
			w.write(frame)
			wantAwaiting(t, done)
		}
		w.write(closing[:1])
		wantAwaiting(t, done)
		w.write(closing[1 : len(closing)-1])
		wantAwaiting(t, done)
		w.write(closing[len(closing)-1:])
		w.await(done) // the stream is open still
		w.discard()
		w.wantNothingKept()
	})
	for kind := range wireKinds {
		t.Run(kind+", in one write", func(t *testing.T) {
			w := newWire(t, kind, nil)
			done := w.awaiting()
			w.write(slices.Concat(slices.Concat(all...), closing))
			w.await(done)
		})
	}
}

// The reader may have left the socket anywhere in a frame.
func TestTheCloseFrameIsFoundFromInsideOfAFrame(t *testing.T) {
	closing := rawCloseFrame(1000, "")
	inBubble(t, func(t *testing.T, kind string) {
		if kind == "TLS" {
			t.Skip("nothing differs but the time that it takes")
		}
		for _, n := range []int{0, 5, 200, smallBuffer, 3 * smallBuffer, readBuffer + 100} {
			frame := rawTextFrame(textOf(n))
			for _, cut := range append(cutsOf(len(frame)), 0, len(frame)) {
				w := newWire(t, kind, nil)
				w.stopInside(frame[:cut])
				done := w.awaiting()
				wantAwaiting(t, done)
				if cut < len(frame) {
					w.write(frame[cut:])
				}
				wantAwaiting(t, done)
				w.write(closing)
				w.await(done)
				w.cut()
			}
		}
	})
}

// More than smallBuffer may be unread, and the close frame may lie there already.
func TestTheCloseFrameMayBeUnreadAlready(t *testing.T) {
	closing := rawCloseFrame(1000, "")
	for _, n := range []int{0, 1, 100, smallBuffer - 14, smallBuffer, 3 * smallBuffer} {
		for _, cut := range []int{0, 1, len(closing)} { // of the close frame, what has come
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, "pipe", slices.Concat(rawTextFrame(textOf(n)), closing[:cut]))
				done := w.awaiting()
				if cut < len(closing) {
					wantAwaiting(t, done)
					w.write(closing[cut:])
				}
				w.await(done)
			})
		}
	}
}

func TestAWaitForTheCloseFrameEndsWithTheStreamOrTheTime(t *testing.T) {
	part := rawTextFrame(textOf(2 * smallBuffer))
	for name, stream := range map[string][]byte{
		"nothing": nil, "a part of a header": part[:3], "a part of a frame": part[:100], "much of a frame": part[:smallBuffer+100], "a frame": part,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, kind string) {
				w := newWire(t, kind, nil)
				done := w.awaiting()
				if stream != nil {
					w.write(stream)
				}
				wantAwaiting(t, done)
				w.far.Close()
				w.await(done)

				late := newWire(t, kind, nil)
				start := time.Now()
				require.NoError(t, late.conn.SetReadDeadline(start.Add(lingerTimeout)))
				done = late.awaiting()
				if stream != nil {
					late.write(stream)
				}
				late.await(done)
				require.Equal(t, lingerTimeout, time.Since(start))
			})
		})
	}
}

// Behind a frame that is none, nobody can tell a close frame. To close a socket that has unread
// input would reset it.
func TestBehindABrokenFrameAllIsReadToTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, kind string) {
		w := newWire(t, kind, nil)
		done := w.awaiting()
		w.write(rawFrame(rawFin|3, ""))
		for range 3 {
			w.write(slices.Concat(rawCloseFrame(1000, ""), rawTextFrame(textOf(3*readBuffer))))
			wantAwaiting(t, done)
		}
		w.far.Close()
		w.await(done)
		w.wantNothingKept()
	})
}

// A function of the host may use a message still when somebody else reads the socket.
func TestAMessageInUseIsNotWrittenOver(t *testing.T) {
	for kind := range wireKinds {
		for name, frames := range map[string][]byte{
			"one frame": rawTextFrame(textOf(500)),
			"large":     rawTextFrame(textOf(2 * readBuffer)),
			"fragments": slices.Concat(rawFrame(rawText, textOf(400)), rawFrame(rawFin|rawCont, textOf(500)[400:])),
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				w := newWire(t, kind, nil)
				behind := rawTextFrame(textOf(3 * smallBuffer))
				go w.far.Write(slices.Concat(frames, behind))
				_, payload, err := w.next(-1)
				require.NoError(t, err)
				want := string(payload)
				w.leaveBuffers()
				done := w.awaiting()
				w.write(rawCloseFrame(1000, ""))
				w.await(done)
				w.discard()
				for range 10 { // somebody else gets what has come back to a pool
					other := newWire(t, kind, nil).read()
					other.write(rawTextFrame(longText))
					other.want(opText, longText)
				}
				require.True(t, want == string(payload))
				require.Zero(t, w.partials.used.Load())
			})
		}
	}
}

func TestAHalfOfAConnectionMayBeClosed(t *testing.T) {
	for _, kind := range []string{"plain", "TLS"} {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t, kind, nil)
			ended := make(chan error, 1)
			go func() {
				_, err := w.far.Read(make([]byte, 1))
				ended <- err
			}()
			w.closeWrite()
			require.Equal(t, io.EOF, <-ended)
			w.read()
			w.write(rawTextFrame("hello"))
			w.want(opText, "hello")
		})
	}
	newWire(t, "pipe", nil).closeWrite() // which has no halves
}
