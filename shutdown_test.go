package peer

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// closing shuts the server of a rig down, and returns a channel that is closed when that is over.
func (r *rig) closing() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		closeServer(r.t, r.srv)
	}()
	return done
}

// wantNotDone wants a channel not to be closed when nothing else happens.
func wantNotDone(t *testing.T, done <-chan struct{}) {
	t.Helper()
	synctest.Wait()
	select {
	case <-done:
		t.Fatal("it has not waited")
	default:
	}
}

// A function of the host that does not look at its context may say yes when the server has
// closed.
func TestNobodyIsAdmittedAfterTheEnd(t *testing.T) {
	for name, opts := range map[string]Options{
		"checked after the upgrade":   {},
		"checked before the upgrade":  {RejectBeforeUpgrade: true},
		"without a handshake timeout": {HandshakeTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, release := make(chan struct{}), make(chan struct{})
				opts.Authenticate = func(*http.Request, string, string) (any, error) {
					close(asked)
					<-release
					return "user", nil
				}
				r := newBubbleRig(t, opts)
				rec := watch(r.srv)
				p := r.rawOpen()
				p.write([]byte(handshakeFor(socketTarget("a", "t"))))
				if !opts.RejectBeforeUpgrade {
					require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
				}
				<-asked
				done := r.closing()
				wantNotDone(t, done)
				close(release)
				if opts.RejectBeforeUpgrade {
					require.Equal(t, http.StatusSwitchingProtocols, p.response().StatusCode)
				}
				p.wantClose(1001)
				<-done
				require.Empty(t, rec.all())
				require.Zero(t, r.srv.Realm().Len())
				st := r.srv.Stats()
				require.EqualValues(t, 1, st.Refused["shutdown"])
				require.Zero(t, st.Accepted)
				require.Zero(t, st.PeakClients)
				p.conn.Close()
			})
		})
	}
}

// A takeover that the end of the server interrupts leaves nobody in the realm.
func TestNobodyTakesAnIDOverAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, release := make(chan struct{}), make(chan struct{})
		r := newBubbleRig(t, Options{AllowOverride: func(old, new *Client) bool {
			close(asked)
			<-release
			return true
		}})
		rec := watch(r.srv)
		a := r.connect("a")
		p := r.dial("a", "another")
		<-asked
		done := r.closing()
		synctest.Wait()
		require.Equal(t, 1001, a.wantEnd())
		wantNotDone(t, done)
		close(release)
		require.Equal(t, 1001, p.wantEnd())
		<-done
		require.Equal(t, []string{"+a", "-a server shutdown"}, rec.all())
		require.Zero(t, r.srv.Realm().Len())
		require.EqualValues(t, 1, r.srv.Stats().Refused["shutdown"])
	})
}

func TestAMessageThatIsRoutedAfterTheEndIsDropped(t *testing.T) {
	for _, dst := range []string{"absent", "b"} { // b has ended
		for typ, dropped := range map[string]map[string]uint64{
			"OFFER": {"shutdown": 1, "absent": 1}, // and its EXPIRE
			"NOTE":  {"absent": 1},
		} {
			t.Run(typ+" for "+dst, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asked, release := make(chan struct{}), make(chan struct{})
					r := newBubbleRig(t, Options{RelayTypes: []MessageType{"NOTE"}, Authorize: func(*Client, Message) error {
						close(asked)
						<-release
						return nil
					}})
					a, b := r.connect("a"), r.connect("b")
					a.send(fmt.Sprintf(`{"type":%q,"dst":%q}`, typ, dst))
					<-asked
					done := r.closing()
					require.Equal(t, 1001, a.wantEnd())
					require.Equal(t, 1001, b.wantEnd())
					wantNotDone(t, done)
					close(release)
					<-done
					st := r.srv.Stats()
					require.Equal(t, countersWith(r.srv.Stats().Dropped, dropped), st.Dropped)
					require.Zero(t, st.Held+st.Relayed+st.Returned)
					require.Zero(t, st.HeldBytes)
				})
			})
		}
	}
}

func TestWhatWaitsAtTheEndIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, sender, silent := silentRig(t, Options{RelayTypes: []MessageType{"NOTE"}})
		for i := range 3 {
			sender.offer("silent", fmt.Sprint(i))
			sender.send(`{"type":"NOTE","dst":"silent"}`)
		}
		for i := range 5 {
			sender.offer(fmt.Sprint("absent", i), `0`)
		}
		synctest.Wait()
		require.Zero(t, total(r.srv.Stats().Dropped))
		done := r.closing()
		synctest.Wait() // so that silent reads nothing of it
		silent.skipToEnd()
		silent.conn.Close()
		<-done
		st := r.srv.Stats()
		require.Equal(t, countersWith(r.srv.Stats().Dropped, map[string]uint64{"shutdown": 3 + 5, "absent": 3}), st.Dropped)
		require.Zero(t, st.Returned, "nothing waits for a server that has closed")
		require.Zero(t, st.Expires, "and there is nobody to tell")
		require.Zero(t, st.HeldBytes)
		require.Empty(t, sender.frames)
	})
}

// Nobody waits longer than that for a client that does not hang up, however its connection ends.
func TestAClientThatNeverHangsUpIsLeft(t *testing.T) {
	config := testCertificate()
	const longest = 2*farewellTimeout + lingerTimeout
	for kind, newRig := range map[string]func(t *testing.T) *rig{
		"pipe": func(t *testing.T) *rig { return newBubbleRig(t, Options{}) },
		"TLS":  func(t *testing.T) *rig { return newTLSBubbleRig(t, config, Options{}) },
	} {
		for name, end := range map[string]func(p *rawPeer, c *Client){
			"removed":        func(p *rawPeer, c *Client) { c.Close() },
			"protocol error": func(p *rawPeer, c *Client) { p.write(rawFrame(rawFin|rawCont, "")) },
			"too big":        func(p *rawPeer, c *Client) { p.write(rawHeader(rawFin|rawText, DefaultMaxMessageSize+1)) },
			"goodbye":        func(p *rawPeer, c *Client) { p.write(rawCloseFrame(1000, "")) },
			"goodbye to a ping": func(p *rawPeer, c *Client) {
				go c.probe(waitLimit)
				first, _ := p.next()
				require.Equal(p.t, byte(rawFin|rawPing), first)
				p.write(rawCloseFrame(1000, ""))
			},
			"LEAVE": func(p *rawPeer, c *Client) { p.text(`{"type":"LEAVE"}`) },
		} {
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprint(kind, ", ", name, ", reads ", reads), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r := newRig(t)
						p := r.rawConnect("a")
						c := r.srv.Realm().Client("a")
						start := time.Now()
						end(p, c)
						if reads {
							first, _ := p.next()
							require.Equal(t, byte(rawFin|rawClose), first)
						}
						done := r.closing()
						<-done
						require.LessOrEqual(t, time.Since(start), longest)
						wantNoGoroutines(t)
						p.conn.Close()
					})
				})
			}
		}
	}
}
