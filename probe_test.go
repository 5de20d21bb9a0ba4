package peer

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const newcomers = 50

// probed is a bubble with a holder of the id "a" that has said nothing since the
// bubble began, and answers pings if it is told to.
func probed(t *testing.T, opts Options, answer bool, test func(t *testing.T, r *rig, rec *record, holder *rawPeer, pings func() int)) {
	t.Helper()
	onNodesInBubbles(t, opts, func(t *testing.T, r *rig) {
		rec := r.watch()
		holder := r.rawOpen(smallWrites).openAs("a", "holder")
		pings := holder.pings(answer)
		synctest.Wait()
		test(t, r, rec, holder, pings)
	})
}

func TestASilentHolderLosesItsID(t *testing.T) {
	for _, c := range []struct {
		name           string
		opts           Options
		after, timeout time.Duration
	}{
		{"default", Options{}, DefaultProbeAfter, DefaultProbeTimeout},
		{"own times", Options{ProbeAfter: 3 * time.Second, ProbeTimeout: 500 * time.Millisecond}, 3 * time.Second, 500 * time.Millisecond},
		{"override refused", Options{AllowOverride: func(_, _ *Client) bool { return false }}, DefaultProbeAfter, DefaultProbeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			probed(t, c.opts, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, pings func() int) {
				old := r.client("a")
				time.Sleep(c.after + 1)
				asked := time.Now()
				ps := r.dialMany("a")
				synctest.Wait()
				require.Equal(t, 1, pings(), "they share one probe")
				require.Len(t, rec.all(), 1, "nobody is ended yet")
				winner := wantOneOpen(t, ps)
				require.WithinDuration(t, asked.Add(c.timeout), time.Now(), r.moment(), "those that come too late meet the new holder")
				rec.want(t, "+a", "-a unresponsive", "+a")
				require.Equal(t, ReasonUnresponsive, old.Reason())
				synctest.Wait()
				require.EqualValues(t, newcomers-1, r.refused("id taken"))
				wantIntroduced(r.connect("b"), winner)
			})
		})
	}
}

// A holder that does not even read is no different: the ping cannot be written.
func TestAHolderThatReadsNothingLosesItsID(t *testing.T) {
	onNodesInBubbles(t, Options{}, func(t *testing.T, r *rig) {
		rec := r.watch()
		r.rawOpen(smallWrites).openAs("a", "holder")
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		winner := wantOneOpen(t, r.dialMany("a"))
		require.WithinDuration(t, asked.Add(DefaultProbeTimeout), time.Now(), r.moment())
		rec.want(t, "+a", "-a unresponsive", "+a")
		wantIntroduced(r.connect("b"), winner)
	})
}

func TestLatecomersShareTheProbe(t *testing.T) {
	probed(t, Options{}, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, pings func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		ps := []*testPeer{r.dial("a", "first")}
		time.Sleep(DefaultProbeTimeout - 1)
		ps = append(ps, r.dial("a", "late"))
		synctest.Wait()
		require.Equal(t, 1, pings())
		wantOneOpen(t, ps)
		require.WithinDuration(t, asked.Add(DefaultProbeTimeout), time.Now(), r.moment())
		r.dial("a", "too late").wantRefused(TypeIDTaken, isTaken)
		rec.want(t, "+a", "-a unresponsive", "+a")
	})
}

func TestAHolderThatAnswersKeepsItsID(t *testing.T) {
	for name, at := range map[string]time.Duration{"soon after": 2 * time.Second, "when it is silent again": DefaultProbeAfter + 1} {
		t.Run(name, func(t *testing.T) {
			probed(t, Options{}, true, func(t *testing.T, r *rig, rec *record, _ *rawPeer, pings func() int) {
				time.Sleep(DefaultProbeAfter + 1)
				asked := time.Now()
				for _, p := range r.dialMany("a") {
					p.wantRefused(TypeIDTaken, isTaken)
				}
				require.LessOrEqual(t, time.Since(asked), r.moment())
				require.Equal(t, 1, pings())
				time.Sleep(at)
				r.dial("a", "again").wantRefused(TypeIDTaken, isTaken)
				require.Equal(t, at > DefaultProbeAfter, pings() == 2)
				rec.want(t, "+a")
			})
		})
	}
}

// Anything that comes is an answer, and one that comes in the last moment counts.
func TestALateAnswerIsOne(t *testing.T) {
	probed(t, Options{}, false, func(t *testing.T, r *rig, rec *record, holder *rawPeer, _ func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		p := r.dial("a", "newcomer")
		time.Sleep(DefaultProbeTimeout - 1)
		holder.write(rawTextFrame(`{"type":"HEARTBEAT"}`))
		p.wantRefused(TypeIDTaken, isTaken)
		time.Sleep(time.Second)
		rec.want(t, "+a")
	})
}

func TestAHolderThatHangsUpDuringItsProbe(t *testing.T) {
	onNodesInBubbles(t, Options{}, func(t *testing.T, r *rig) {
		holder := r.rawOpen(smallWrites).openAs("a", "holder")
		old := r.client("a")
		holder.pings(false)
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		ps := r.dialMany("a")
		time.Sleep(time.Second)
		holder.conn.Close()
		wantOneOpen(t, ps)
		require.LessOrEqual(t, time.Since(asked), time.Second+r.moment()) // the others meet the new holder
		require.Equal(t, ReasonConnectionLost, old.Reason())
	})
}

func TestNoProbeIsMade(t *testing.T) {
	for _, c := range []struct {
		name   string
		opts   Options
		silent time.Duration
	}{
		{"before two heartbeats", Options{}, DefaultProbeAfter},
		{"before its time", Options{ProbeAfter: 25 * time.Second}, 25 * time.Second},
		{"with ProbeAfter negative", Options{ProbeAfter: -1}, 29 * time.Second},
		{"with ProbeTimeout negative", Options{ProbeTimeout: -1}, 29 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			probed(t, c.opts, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, pings func() int) {
				time.Sleep(c.silent)
				asked := time.Now()
				r.dial("a", "newcomer").wantRefused(TypeIDTaken, isTaken)
				require.WithinDuration(t, asked.Add(blindTimeout), time.Now(), r.trip())
				synctest.Wait()
				require.Zero(t, pings())
				rec.want(t, "+a")
			})
		})
	}
}

func TestAPeerNeedsNoProbeForItsOwnID(t *testing.T) {
	probed(t, Options{}, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, pings func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		r.dial("a", "holder").wantOpen()
		require.Zero(t, time.Since(asked))
		require.Zero(t, pings())
		rec.want(t, "+a", "-a replaced by its own token", "+a")
	})
}

// A holder whose messages the host is busy with is not silent.
func TestAHolderIsNotBlamedForASlowHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		rec := watch(r.srv)
		done := make(chan bool)
		r.srv.OnMessage(func(*Client, Message) { <-done })
		r.rawOpen(smallWrites).openAs("a", "holder").write(rawTextFrame(`{"type":"HEARTBEAT"}`))
		time.Sleep(DefaultProbeAfter + time.Second)
		asked := time.Now()
		r.dial("a", "newcomer").wantRefused(TypeIDTaken, isTaken)
		require.Zero(t, time.Since(asked))
		rec.want(t, "+a")

		// From then on it is.
		done <- true
		time.Sleep(DefaultProbeAfter + 1)
		r.dial("a", "newcomer").wantOpen()
		rec.want(t, "+a", "-a unresponsive", "+a")
	})
}

// A newcomer that does not wait for the end of the probe never has the id,
// however it goes and whatever it has said before.
func TestANewcomerThatGivesUpLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		say  []byte
	}{
		{"hangs up", nil},
		{"says goodbye and hangs up", rawCloseFrame(1001, "")},
		{"sends something, hangs up", rawTextFrame(`{"type":"HEARTBEAT"}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			probed(t, Options{}, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, _ func() int) {
				time.Sleep(DefaultProbeAfter + 1)
				p := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "newcomer"))
				time.Sleep(DefaultProbeTimeout / 2)
				if c.say != nil {
					p.write(c.say)
				}
				p.conn.Close()
				synctest.Wait()
				require.EqualValues(t, 1, r.refused("gave up"), "it is not waited for")
				time.Sleep(DefaultProbeTimeout)
				require.Equal(t, "+a", rec.all()[0])
				require.NotContains(t, rec.all()[1:], "+a")
				r.dial("a", "another").wantOpen()
				rec.want(t, "+a", "-a unresponsive", "+a")
			})
		})
	}
}

// A handshake takes no longer than HandshakeTimeout, a probe included.
func TestANewcomerDoesNotWaitForAProbeLongerThanItMay(t *testing.T) {
	const least = DefaultProbeTimeout / 2
	probed(t, Options{HandshakeTimeout: least}, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, _ func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		r.dial("a", "newcomer").wantRefused(TypeError, "The handshake took too long")
		require.Equal(t, least, time.Since(asked))
		rec.want(t, "+a")
	})
}

func TestNewcomersThatStayOutliveOneThatGivesUp(t *testing.T) {
	probed(t, Options{}, false, func(t *testing.T, r *rig, rec *record, _ *rawPeer, _ func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		asked := time.Now()
		first := r.dial("a", "first") // whose probe it is
		synctest.Wait()
		ps := r.dialMany("a")
		time.Sleep(DefaultProbeTimeout / 2)
		first.drop()
		wantOneOpen(t, ps)
		require.WithinDuration(t, asked.Add(DefaultProbeTimeout), time.Now(), r.moment())
		rec.want(t, "+a", "-a unresponsive", "+a")
	})
}

// A half-open connection, as a lost network leaves it: the kernel still takes
// what is written, and nobody is there.
func TestAHalfOpenHolderLosesItsID(t *testing.T) {
	slow(t)
	t.Parallel()
	r := newRig(t, Options{ProbeAfter: 1, ProbeTimeout: time.Second})
	rec := watch(r.srv)
	r.rawOpen(smallWrites).openAs("a", "holder")
	winner := wantOneOpen(t, r.dialMany("a"))
	rec.want(t, "+a", "-a unresponsive", "+a")
	wantIntroduced(r.connect("b"), winner)
}

// newTightRig is newRig with a kernel that takes little of what is written.
func newTightRig(t *testing.T, opts Options) *rig {
	opts.WriteTimeout, opts.ExpireTimeout = -1, time.Minute // for a slow machine
	srv := NewServer(opts)
	ts := httptest.NewUnstartedServer(srv)
	ts.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		assert.NoError(t, c.(*net.TCPConn).SetWriteBuffer(4096))
		return ctx
	}
	ts.Start()
	t.Cleanup(func() {
		closeServer(t, srv)
		ts.Close()
	})
	return &rig{t: t, srv: srv, url: ts.URL, dialer: new(net.Dialer).DialContext}
}

// What a half-open holder was not sent, for its buffers are full, goes to the
// next owner of the id in order, before what comes later.
func TestWhatAStuckHolderWasNotSent(t *testing.T) {
	for _, c := range []struct {
		name, token string
		opts        Options
		want        string
	}{
		{"probe", "other", Options{ProbeAfter: 1, ProbeTimeout: 300 * time.Millisecond}, "unresponsive"},
		{"override", "other", Options{AllowOverride: OverrideAlways}, "overridden"},
		{"own token", "holder", Options{}, "replaced by its own token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			const messages = 100
			r := newTightRig(t, c.opts)
			rec := watch(r.srv)
			holder := r.rawOpen(smallWrites).begin(r.socketURL("/", "a", "holder"))
			require.NoError(t, holder.conn.(*net.TCPConn).SetReadBuffer(4096))
			rec.want(t, "+a")
			b := r.connect("b")
			filler := strings.Repeat("x", 10_000)
			for i := range messages {
				b.offer("a", fmt.Sprintf(`[%d,%q]`, i, filler))
			}
			b.offer("b", `0`) // when it is back, all the others have been routed
			b.wantOffer("b", `0`)

			p := r.dial("a", c.token)
			p.wantOpen()
			b.offer("a", fmt.Sprintf(`[%d,%q]`, messages, filler))
			first := -1
			for next := 0; next <= messages; next++ {
				f := p.next()
				if first < 0 {
					_, err := fmt.Sscanf(f, `{"type":"OFFER","src":"b","dst":"a","payload":[%d,`, &first)
					require.NoError(t, err)
					require.Less(t, first, messages, "nothing was left for the newcomer")
					next = first
				}
				require.True(t, f == fmt.Sprintf(`{"type":"OFFER","src":"b","dst":"a","payload":[%d,%q]}`, next, filler), "message %d", next)
			}
			rec.about(t, "a", "+a", "-a "+c.want, "+a")
		})
	}
}

// Who has seen the silence and asks when it is over already does not ask again.
func TestAHolderIsNotAskedRightAfterItsAnswer(t *testing.T) {
	probed(t, Options{}, true, func(t *testing.T, r *rig, _ *record, _ *rawPeer, pings func() int) {
		time.Sleep(DefaultProbeAfter + 1)
		c := r.client("a")
		require.True(t, r.srv.answers(t.Context(), c))
		require.Equal(t, 1, pings())
		require.True(t, r.srv.answers(t.Context(), c))
		require.Equal(t, 1, pings())
	})
}
