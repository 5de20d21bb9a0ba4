package turn

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// connOf is a connection over which these bytes come one by one.
func connOf(sent []byte) *conn {
	s := &Server{}
	s.wrongTCP = newLimiter(clock{time.Now()}, wrongPace)
	return &conn{s: s, in: bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(sent)), maxDatagram)}
}

// pion calls itself once for each read that gives it a part of a frame.
func TestAReadOfAConnectionIsOneFrame(t *testing.T) {
	longest := append([]byte{0x40, 0, (maxDatagram - 4) >> 8, (maxDatagram - 4) & 0xff}, make([]byte, maxDatagram-4)...)
	frames := [][]byte{
		stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw,
		{0x40, 0, 0, 0},
		{0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0},
		longest,
		stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("alice")).Raw,
	}
	c := connOf(bytes.Join(frames, nil))
	buf := make([]byte, maxDatagram)
	for _, frame := range frames {
		n, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, frame, buf[:n])
	}
	_, err := c.Read(buf)
	require.ErrorIs(t, err, io.EOF)
}

func TestAFrameThatIsNoneEndsTheConnection(t *testing.T) {
	buf := make([]byte, maxDatagram)
	for name, head := range map[string][]byte{
		"a message that is too long":   {0, 1, 0xff, 0xfc},
		"a message just too long":      {0, 1, (maxDatagram - 19) >> 8, (maxDatagram - 19) & 0xff},
		"ChannelData that is too long": {0x40, 0, 0xff, 0xff},
		"ChannelData padded too long":  {0x40, 0, (maxDatagram - 3) >> 8, (maxDatagram - 3) & 0xff},
		"RTP":                          {0x80, 0, 0, 0},
		"nothing known":                {0xff, 0, 0, 0},
	} {
		_, err := connOf(append(head, make([]byte, 2*maxDatagram)...)).Read(buf)
		require.ErrorIs(t, err, errFrame, name)
	}
	_, err := connOf([]byte{0, 1, 0, 0, 0x21}).Read(buf)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "a part of a frame")
}

// pion tells late that the relay of the connection before has ended.
func TestAClientThatIsBackFromTheSamePortKeepsItsRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newPipeServer(t, plain, Options{})
		events, addr := s.events(), &net.UDPAddr{}
		first := l.dial("192.0.2.1:1000")
		synctest.Wait()
		before := s.connFrom("192.0.2.1:1000")
		s.running.Add(1)
		events.OnAllocationCreated(before.RemoteAddr(), before.LocalAddr(), "", "", "", addr, 0)
		require.EqualValues(t, 1, before.relays.Load())
		first.Close()
		synctest.Wait()
		c := l.dial("192.0.2.1:1000")
		synctest.Wait()
		now := s.connFrom("192.0.2.1:1000")
		require.NotSame(t, before, now)
		s.running.Add(1)
		events.OnAllocationCreated(now.RemoteAddr(), now.LocalAddr(), "", "", "", addr, 0)
		events.OnAllocationDeleted(before.RemoteAddr(), before.LocalAddr(), "", "", "")
		require.EqualValues(t, 1, now.relays.Load())
		events.OnAllocationDeleted(now.RemoteAddr(), now.LocalAddr(), "", "", "")
		require.Equal(t, authTimeout, lifetime(c))
	})
}
