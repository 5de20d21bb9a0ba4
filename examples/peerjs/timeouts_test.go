//lint:file-ignore SA1019 see client.go

package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// inBubble serves on the ends of net.Pipe, in fake time. What serve returns comes
// from the channel.
func inBubble(t *testing.T, test func(t *testing.T, dial func() net.Conn, out *lines, quit func(), done <-chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, quit := context.WithCancel(t.Context())
		done := make(chan error, 1)
		out := newLines(t)
		go func() {
			done <- serve(ctx, l, config{}, log.New(out, "", 0), log.New(io.Discard, "", 0))
			close(done)
		}()
		out.want("listening on .*")
		out.want("clients are made with .*")
		test(t, l.dial, out, quit, done)
		quit()
		for range done {
		}
	})
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

func TestWhoIsSlowIsCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, sent string
		want       time.Duration
	}{
		{"before the request", "", 10 * time.Second},
		{"in the header", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nX-Slow: ", 10 * time.Second},
		{"in the body", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345", 20 * time.Second},
		{"between requests", "GET /peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n", 60 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, _ func(), _ <-chan error) {
				conn := dial()
				began := time.Now()
				_, err := io.WriteString(conn, tc.sent)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, conn)
				require.NoError(t, err)
				require.Equal(t, tc.want, time.Since(began))
			})
		})
	}
}

func TestAnAnswerThatIsNotReadIsCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, _ func(), _ <-chan error) {
		conn := dial()
		began := time.Now()
		_, err := io.WriteString(conn, "GET /peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-time.After(21 * time.Second)
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 21*time.Second, time.Since(began))
	})
}

// dialPipes opens the socket of a client, and reads it as long as it lives.
func dialPipes(t *testing.T, dialPipe func() net.Conn, id string) (a *client, frames <-chan string) {
	browser := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialPipe(), nil },
	}}
	a = dial(t, browser, "http://peer.test/peerjs?key=peerjs&token=1&id="+id)
	read := make(chan string, 100)
	go func() {
		defer close(read)
		for {
			_, data, err := a.ws.Read(context.Background()) // answers pings too
			if err != nil {
				return
			}
			read <- string(data)
		}
	}()
	require.Equal(t, open, <-read)
	return a, read
}

func TestALongSocketIsNotCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, out *lines, quit func(), _ <-chan error) {
		a, frames := dialPipes(t, dial, "alice")
		out.want(`connected "alice" .*`)
		<-time.After(time.Hour)
		a.send(`{"type":"OFFER","dst":"alice"}`)
		require.Equal(t, `{"type":"OFFER","src":"alice","dst":"alice"}`, <-frames)
		quit()
		require.Empty(t, <-frames)
		out.want("shutting down.*")
		out.want(`disconnected "alice": server shutdown`)
	})
}

func TestADrainHasAnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() net.Conn, _ *lines, quit func(), done <-chan error) {
		_, frames := dialPipes(t, dial, "alice")
		conn := dial()
		_, err := io.WriteString(conn, "GET /peerjs/id HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
		require.NoError(t, err)
		go io.Copy(io.Discard, conn)
		synctest.Wait()
		began := time.Now()
		quit()
		require.Empty(t, <-frames)
		require.Zero(t, time.Since(began), "sockets do not wait for a request")
		require.EqualError(t, <-done, "shutting down: clients or requests were left after 8s")
		require.Equal(t, drainTimeout, time.Since(began))
	})
}
