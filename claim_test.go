package peer

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A newcomer that has ended the holder of its id may come to nothing all the same: meanwhile
// others have used the last place for its address, or the server closes. Then the id is free, what
// the holder was not sent waits for it, and the holder has left its rooms.
func TestAHolderThatWasEndedForNothing(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, srv *Server, other *Client)
		cause     refusalCause
		held      int // messages
	}{
		"the limit": {func(t *testing.T, srv *Server, other *Client) {
			require.Nil(t, srv.claim(t.Context(), other))
		}, refusedLimit, 1},
		"the server closes": {func(_ *testing.T, srv *Server, _ *Client) {
			srv.realm.close()
		}, refusedClosed, 0},
	} {
		for _, token := range []string{"t", "another"} {
			t.Run(name+", token "+token, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := NewServer(Options{ConcurrentLimitPerAddr: 1, AllowOverride: OverrideAlways, AliveTimeout: -1, ExpireTimeout: -1})
					client := func(id, token string, addr byte) *Client {
						c := stubClient(t, srv, id, token)
						c.limitAddr = netip.AddrFrom4([4]byte{192, 0, 2, addr})
						return c
					}
					holder, watcher := client("a", "t", 1), client("watcher", "t", 2)
					newcomer, other := client("a", token, 3), client("other", "t", 3)
					for _, c := range []*Client{holder, watcher} {
						silence(srv, c)
						require.NoError(t, srv.realm.Join("x", c))
					}
					p := parcel{src: "src", frame: openFrame, deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry}
					out, _ := srv.realm.route("a", p)
					require.Equal(t, delivered, out)
					holder.outbox.first() // a write is under way, which the newcomer waits for
					var no *refusal
					claimed := closedAfter(func() {
						if no = srv.claim(t.Context(), newcomer); no != nil {
							srv.turnAway(newcomer, no)
						}
					})
					synctest.Wait()
					require.NotZero(t, holder.Reason())
					c.meanwhile(t, srv, other)
					holder.mu.Lock()
					holder.noteLocked(0)
					holder.mu.Unlock()
					<-claimed
					require.NotNil(t, no)
					require.Equal(t, c.cause, no.cause)

					require.Nil(t, srv.realm.shard("a").clients["a"])
					if token == "t" { // else its own end tells the members
						require.Equal(t, []*Client{watcher}, srv.realm.Members("x"))
						last := watcher.outbox.parcels[len(watcher.outbox.parcels)-1]
						require.Contains(t, string(last.frame), `{"type":"ROOM-LEFT","payload":{"room":"x","id":"a","reason":"replaced by its own token"}}`)
					} else {
						srv.realm.leaveRooms(holder, ReasonOverridden)
					}
					require.EqualValues(t, c.held, srv.realm.heldParcels.Load())
					require.NoError(t, srv.realm.check())
					if c.cause == refusedLimit {
						next := client("a", "yet another", 4)
						require.Nil(t, srv.claim(t.Context(), next))
						next.Close()
						srv.realm.remove(next)
					}
					other.Close()
					srv.realm.remove(other)
					srv.realm.ClearMessageQueue("a")
					watcher.outbox = outbox{}
				})
			})
		}
	}
}

// The host can close a newcomer in AllowOverride. Such a newcomer does not get an id that has another holder, and the holder
// notices nothing.
func TestANewcomerThatHasEndedEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		srv := NewServer(Options{AliveTimeout: -1, AllowOverride: func(_, _ *Client) bool {
			asked++
			return true
		}})
		holder := stubClient(t, srv, "a", "t")
		require.Nil(t, srv.claim(t.Context(), holder))
		for _, token := range []string{"t", "another"} {
			newcomer := stubClient(t, srv, "a", token)
			newcomer.Close()
			no := srv.claim(t.Context(), newcomer)
			require.NotNil(t, no, "token %s", token)
			require.Equal(t, refusedGone, no.cause)
			require.Zero(t, holder.Reason())
			newcomer.writers.Wait()
		}
		require.Zero(t, asked, "there is nothing to decide")
		require.Same(t, holder, srv.Realm().Client("a"))
		holder.Close()
		srv.realm.remove(holder)
		holder.writers.Wait()
	})
}
