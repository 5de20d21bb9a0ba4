package peertest

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

// connect returns the ends of a connection in memory.
func connect(t *testing.T) (near, far net.Conn) {
	l := newPipeListener()
	accepted := make(chan net.Conn)
	go func() {
		c, err := l.Accept()
		assert.NoError(t, err)
		accepted <- c
	}()
	near, err := l.dial(t.Context(), defaultFrom)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return near, <-accepted
}

func TestWhatWasWrittenIsReadBeforeTheEnd(t *testing.T) {
	near, far := connect(t)
	_, err := near.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, near.Close())
	all, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "hello", string(all))
	_, err = far.Write([]byte("?"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = near.Write([]byte("?"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = near.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestBothEndsAgreeOnTheAddresses(t *testing.T) {
	near, far := connect(t)
	require.Equal(t, near.LocalAddr(), far.RemoteAddr())
	require.Equal(t, near.RemoteAddr(), far.LocalAddr())
}

func TestAReadEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := connect(t)
		start := time.Now()
		require.NoError(t, near.SetReadDeadline(start.Add(time.Second)))
		_, err := near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))

		// A deadline that has passed comes before what there is to read, and ends a read that waits.
		_, err = far.Write([]byte("x"))
		require.NoError(t, err)
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, near.SetDeadline(time.Time{}))
		_, err = near.Read(make([]byte, 1))
		require.NoError(t, err)
		go func() {
			time.Sleep(time.Second)
			near.SetReadDeadline(time.Unix(1, 0))
		}()
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestAListenerThatNobodyAcceptsFromCanBeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.dial(ctx, defaultFrom)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		go func() {
			time.Sleep(time.Second)
			l.Close()
		}()
		_, err = l.dial(t.Context(), defaultFrom)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = l.dial(t.Context(), defaultFrom)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// The frames of a client that is used on several goroutines do not mix.
func TestSendAndCloseWriteWholeFrames(t *testing.T) {
	srv := peer.NewServer(peer.Options{MaxMessageSize: -1})
	defer srv.Close()
	chat := []byte(`{"type":"CHAT","payload":"` + strings.Repeat("x", 1<<20) + `"}`) // is written in many pieces
	left := make(chan peer.DisconnectReason, 1)
	srv.OnDisconnect(func(_ *peer.Client, why peer.DisconnectReason) { left <- why })
	h := New(t, srv, "/")
	for range 3 {
		alice := h.Dial("alice")
		var senders sync.WaitGroup
		begun := make(chan struct{}, 2)
		for range cap(begun) {
			senders.Go(func() {
				begun <- struct{}{}
				for alice.write(chat) == nil {
				}
			})
		}
		<-begun
		require.NoError(t, alice.write(chat))
		alice.Close()
		senders.Wait()
		require.Equal(t, peer.ReasonClientClosed, <-left)
	}
}

// The end of a test may come while a client connects.
func TestAClientThatConnectsAtTheEndIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(t, http.NotFoundHandler(), "/")
		h.end()
		require.ErrorIs(t, h.add(&Client{}), errEnded)
		require.Empty(t, h.clients)
	})
}
