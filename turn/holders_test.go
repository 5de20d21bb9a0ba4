package turn

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopeerjs/peer/peertest"
	"github.com/stretchr/testify/require"
)

func TestTheCredentialsOfAFormerHolderDoNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		a := h.Dial("alice", peertest.Token("a"))
		first := h.last("alice")
		a.Vanish()
		time.Sleep(2 * goneAfter)
		require.Equal(t, "gone", h.may(first))
		b := h.Dial("alice", peertest.Token("b"))
		second := h.last("alice")
		b.Vanish()
		synctest.Wait()
		require.NotEqual(t, "ok", h.may(first))
		require.Equal(t, "ok", h.may(second), "it has a minute of its own")
		time.Sleep(goneAfter)
		require.Equal(t, "gone", h.may(second))
	})
}

// Each holder's credentials expire a second later than those of the one before, however many there are.
func TestCredentialsThatThisServerIssuedDoNotLastTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		skew := int(clockSkew / time.Second)
		for i := range skew + 10 {
			h.Dial("alice", peertest.Token(strconv.Itoa(i))).Close()
			synctest.Wait()
		}
		h.Dial("alice", peertest.Token("mine"))
		username := h.last("alice")
		expiry, name, _ := parseUsername(username)
		require.Greater(t, expiry, time.Now().Add(DefaultTTL+clockSkew).Unix())
		require.Equal(t, "ok", h.may(username))
		require.Equal(t, "lasts too long", h.may(strconv.FormatInt(expiry+1, 10)+":"+name), "nobody has issued it")
	})
}

func TestClientsThatLeaveDoNotPushOutThoseThatWereRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Options{})
		h.ts.users.bound = 10
		h.Dial("mallory")
		revoked := h.last("mallory")
		require.True(t, h.srv.Realm().RemoveClient("mallory"))
		synctest.Wait()
		for i := range 2 * h.ts.users.bound {
			h.Dial(strconv.Itoa(i)).Close()
			synctest.Wait()
		}
		require.Equal(t, h.ts.users.bound, h.ts.Stats().Remembered)
		require.Equal(t, "revoked", h.may(revoked))
		time.Sleep(2 * goneAfter)
		require.Equal(t, "ok", h.may(h.last("0")), "the earliest is forgotten")
		require.Equal(t, "gone", h.may(h.last(strconv.Itoa(2*h.ts.users.bound-1))))

		for i := range h.ts.users.bound {
			h.ts.Revoke(strconv.Itoa(i))
		}
		require.Equal(t, h.ts.users.bound, h.ts.Stats().Remembered)
		require.Equal(t, "ok", h.may(revoked), "now it was the earliest")
		time.Sleep(DefaultTTL + time.Second)
		require.Zero(t, h.ts.Stats().Remembered)
		require.Empty(t, h.ts.users.all)
	})
}
