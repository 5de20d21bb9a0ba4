package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// in returns the rig for a subtest.
func (r *rig) in(t testing.TB) *rig {
	c := *r
	c.t = t
	return &c
}

// dialRaw makes a handshake by hand, with frames sent in the same breath, and
// reads its answer and nothing more.
func (r *rig) dialRaw(u string, behind ...[]byte) *rawPeer {
	r.t.Helper()
	p := r.rawOpen()
	if tcp, ok := p.conn.(*net.TCPConn); ok { // what the server does not read must not look as if it did
		require.NoError(r.t, tcp.SetWriteBuffer(4096))
	}
	out := []byte(handshakeFor(strings.TrimPrefix(u, r.url)))
	for _, frame := range behind {
		out = append(out, frame...)
	}
	p.write(out)
	require.Equal(r.t, http.StatusSwitchingProtocols, p.response().StatusCode)
	return p
}

// hold connects an id by hand and reads OPEN, and nothing after it.
func (r *rig) hold(id, token string) *rawPeer {
	r.t.Helper()
	p := r.dialRaw(r.socketURL("/", id, token))
	p.want(`{"type":"OPEN"}`)
	return p
}

// wantTurnedAway wants a message for people of this type, to the byte, then the
// close frame, then the end of the stream in good order: a reset could have cost
// a client what came before.
func (p *rawPeer) wantTurnedAway(t MessageType, msg string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":%q,"payload":{"msg":%q}}`, t, msg))
	first, payload := p.next()
	require.Equal(p.t, byte(rawFin|rawClose), first)
	require.GreaterOrEqual(p.t, len(payload), 2)
	require.EqualValues(p.t, 1008, binary.BigEndian.Uint16(payload))
	p.answerClose()
	_, err := p.br.ReadByte()
	require.Equal(p.t, io.EOF, err, "the end of the stream")
	p.conn.Close()
}

// pings counts the pings that come until the stream ends. With answer, each gets
// its pong.
func (p *rawPeer) pings(answer bool) (count func() int) {
	pings := make(chan int, 1)
	pings <- 0
	go func() {
		for {
			first, payload, err := p.read()
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
			case err != nil:
				return
			case first == rawFin|rawPing:
				pings <- <-pings + 1
				if answer {
					p.tryWrite(rawFrame(rawFin|rawPong, string(payload)))
				}
			}
		}
	}()
	return func() int {
		n := <-pings
		pings <- n
		return n
	}
}

// about waits until what was told about one id is exactly this, in this order;
// the events of different ids have none. The id "!" stands for the errors.
func (r *record) about(t testing.TB, id string, lines ...string) {
	t.Helper()
	var got []string
	deadline := time.After(waitLimit)
	for {
		r.mu.Lock()
		change := r.change
		got = got[:0]
		for _, line := range r.lines {
			if line == "+"+id || strings.HasPrefix(line, "-"+id+" ") || strings.HasPrefix(line, id+" ") {
				got = append(got, line)
			}
		}
		r.mu.Unlock()
		if len(got) >= len(lines) {
			require.Equal(t, lines, got)
			return
		}
		select {
		case <-change:
		case <-deadline:
			require.Equal(t, lines, got)
		}
	}
}

// waitFor waits for what no event tells.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, waitLimit, time.Millisecond)
}
