package turn

import (
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
