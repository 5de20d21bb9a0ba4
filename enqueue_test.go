package peer

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// quietClient is a client that is connected, with a plain socket or a pipe, and a writer that
// never comes.
func quietClient(t *testing.T, kind string, opts Options) (s *Server, c *Client) {
	opts.AliveTimeout = -1
	s = NewServer(opts)
	near, far := wireKinds[kind](t)
	c = benchClient(s, near, "a", "t")
	silence(s, c)
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return s, c
}

func TestAWriteThatWaitedIsJudgedByItsResult(t *testing.T) {
	late := os.ErrDeadlineExceeded
	for name, c := range map[string]struct {
		kind   string
		n      int // bytes written
		err    error
		ended  bool // before the result came
		gone   bool
		reason DisconnectReason
		writer writerState
	}{
		"all of it":                      {"plain", 3, nil, false, false, 0, busy},
		"late":                           {"plain", 0, late, false, false, ReasonSlowConsumer, busy},
		"late, but it takes what it can": {"plain", 1, late, false, false, 0, busy},
		"late, and unknown how much":     {"pipe", 1, late, false, false, ReasonSlowConsumer, busy},
		"broken":                         {"plain", 0, errFrail, false, true, 0, broken},
		"broken in the middle":           {"plain", 1, errFrail, false, true, 0, broken},
		"a pipe breaks":                  {"pipe", 0, errFrail, false, true, 0, broken},
		"interrupted by the end":         {"plain", 1, late, true, false, ReasonRemoved, busy},
		"broken, and ended before":       {"plain", 0, errFrail, true, false, ReasonRemoved, busy},
		"all of it, and ended meanwhile": {"pipe", 3, nil, true, false, ReasonRemoved, busy},
	} {
		t.Run(name, func(t *testing.T) {
			_, cl := quietClient(t, c.kind, Options{})
			cl.outbox.push(parcelsOf("abc")[0])
			cl.outbox.first()
			if c.ended {
				require.True(t, cl.end(ReasonRemoved, nil, nil))
			}
			_, gone := cl.wroteSlowly(c.n, c.err)
			require.Equal(t, c.gone, gone)
			require.Equal(t, c.reason, cl.Reason())
			require.Equal(t, c.writer, cl.writer)
			require.Zero(t, cl.outbox.inflight)
			require.EqualValues(t, c.n, cl.traffic.bytesOut.Load())
		})
	}
}

func TestAWriterIsNeededUntilNothingIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		waiting int // messages of three bytes
		n       int // bytes written of the first
		err     error
		ended   bool
		more    bool
		writer  writerState
	}{
		"all of it":                {1, 3, nil, false, false, idle},
		"a part":                   {1, 2, nil, false, true, busy},
		"nothing":                  {1, 0, nil, false, true, busy},
		"one of two":               {2, 3, nil, false, true, busy},
		"broken":                   {2, 0, errFrail, false, false, broken},
		"all, and ended meanwhile": {1, 3, nil, true, true, busy}, // the last frames are still to be written
		"broken, and ended":        {1, 0, errFrail, true, true, busy},
	} {
		t.Run(name, func(t *testing.T) {
			_, cl := quietClient(t, "plain", Options{})
			for range c.waiting {
				cl.outbox.push(parcelsOf("abc")[0])
			}
			cl.outbox.first()
			if c.ended {
				require.True(t, cl.end(ReasonRemoved, nil, nil))
			}
			more, _ := cl.wrote(c.n, c.err)
			require.Equal(t, c.more, more)
			require.Equal(t, c.writer, cl.writer)
		})
	}
}

// sizedParcel returns a parcel of so many bytes.
func sizedParcel(n int, src string, keep retention) parcel {
	return parcel{frame: make([]byte, n), src: src, keep: keep}
}

// While a newcomer that has evicted a client is on its way, it inherits what comes for the id, in
// order and within the bounds.
func TestWhatComesForAnEvictedClientIsForTheNewcomer(t *testing.T) {
	t.Run("by retention", func(t *testing.T) {
		for keep, want := range map[retention]map[DisconnectReason]bool{
			keepForSamePeer:  {ReasonReplaced: true, ReasonOverridden: false, ReasonUnresponsive: false},
			keepForSuccessor: {ReasonReplaced: true, ReasonOverridden: true, ReasonUnresponsive: true},
			keepUntilExpiry:  {ReasonReplaced: true, ReasonOverridden: true, ReasonUnresponsive: true},
		} {
			for why, accepted := range want {
				_, c := quietClient(t, "pipe", Options{})
				require.True(t, c.evict(new(Client), why, nil))
				_, err := c.enqueue(sizedParcel(1, "src", keep))
				require.Equal(t, accepted, err == nil, "%v, %v", keep, why)
				_, err = c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
				require.NoError(t, err, "what is not meant for the newcomer leaves no gap")
			}
		}
	})
	t.Run("in order", func(t *testing.T) {
		_, c := quietClient(t, "pipe", Options{MaxOutboxBytes: 20})
		require.True(t, c.evict(new(Client), ReasonReplaced, nil))
		for _, step := range []struct {
			n  int
			ok bool
		}{{10, true}, {11, false}, {1, false}, {10, false}} { // the last two would have had room
			_, err := c.enqueue(sizedParcel(step.n, "src", keepUntilExpiry))
			require.Equal(t, step.ok, err == nil, "%d bytes", step.n)
		}
	})
	t.Run("within the bound", func(t *testing.T) {
		_, c := quietClient(t, "pipe", Options{MaxOutboxMessages: 2})
		require.True(t, c.evict(new(Client), ReasonReplaced, nil))
		for i := range 4 {
			_, err := c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
			require.Equal(t, i < 2, err == nil)
		}
		require.Equal(t, ReasonReplaced, c.Reason())
	})
	t.Run("in buffers of its own", func(t *testing.T) {
		_, c := quietClient(t, "pipe", Options{})
		require.True(t, c.evict(new(Client), ReasonReplaced, nil))
		frame, buf := frameBuffer(pooledFrame / 2)
		_, err := c.enqueue(parcel{frame: frame, buf: buf, src: "src", keep: keepUntilExpiry})
		require.NoError(t, err)
		require.Nil(t, c.outbox.parcels[0].buf)
	})
	t.Run("until it has the id", func(t *testing.T) {
		_, c := quietClient(t, "pipe", Options{})
		next := new(Client)
		require.True(t, c.evict(next, ReasonReplaced, nil))
		_, err := c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
		require.NoError(t, err)
		kept, _ := c.takeUnwritten(next, keepForSamePeer)
		require.Len(t, kept, 1)
		_, err = c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
		require.ErrorIs(t, err, ErrNotConnected)
		require.Empty(t, c.outbox.parcels, "nobody would take it out any more")
		kept, dropped := c.takeUnwritten(next, keepNone)
		require.Empty(t, kept)
		require.Zero(t, dropped)
	})
	t.Run("if there is one", func(t *testing.T) {
		_, c := quietClient(t, "pipe", Options{})
		c.Close()
		_, err := c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
		require.ErrorIs(t, err, ErrNotConnected)
		require.Empty(t, c.outbox.parcels)
	})
}

// Before OPEN a client cannot be too slow: what has no room is refused, or waits outside.
func TestWhatComesBeforeOpenIsBounded(t *testing.T) {
	newcomer := func(opts Options) (*Server, *Client) {
		s, c := quietClient(t, "pipe", opts)
		c.writer = unopened
		c.outbox.fill(parcel{frame: openFrame}, nil, nil, -1, -1)
		return s, c
	}
	_, c := newcomer(Options{MaxOutboxMessages: 2})
	for i := range 4 { // of the server's own
		_, err := c.enqueue(sizedParcel(1, "", keepForSamePeer))
		require.Equal(t, i < 2, err == nil)
		require.Equal(t, i >= 2, errors.Is(err, ErrSlowConsumer))
	}
	require.Len(t, c.outbox.parcels, 3)
	require.Zero(t, c.Reason())

	_, c = newcomer(Options{MaxOutboxBytes: 20})
	for _, step := range []struct {
		n    int
		src  string
		want error
	}{
		{10, "src", nil}, {11, "src", errNoRoom}, {1, "src", errNoRoom}, {10, "other", errNoRoom}, // what comes later overtakes nothing
		{9, "", nil}, {2, "", ErrSlowConsumer}, {1, "", nil},
	} {
		_, err := c.enqueue(sizedParcel(step.n, step.src, keepUntilExpiry))
		require.Equal(t, step.want, err, "%+v", step)
	}
	require.Zero(t, c.Reason())
}

// What had no room before OPEN is held, and comes behind what had. Then the bounds are those of
// any client.
func TestWhatHadNoRoomBeforeOpenComesInOrder(t *testing.T) {
	s, c := quietClient(t, "pipe", Options{MaxOutboxMessages: 2})
	c.writer = unopened
	for i, want := range []outcome{delivered, delivered, held, held} {
		out, _ := s.realm.route("a", parcel{frame: fmt.Append(nil, i), src: "src", deadline: time.Now().Add(time.Hour), keep: keepUntilExpiry})
		require.Equal(t, want, out)
	}
	require.Equal(t, 1, len(s.realm.shard("a").queues))
	c.open(s.realm.shard("a").takeLocked(s.realm, "a"))
	wantOutbox(t, &c.outbox, "0", "1", "2", "3")
	require.Equal(t, tally{parcels: 2, bytes: 2}, c.outbox.given)
	require.True(t, c.evict(new(Client), ReasonReplaced, nil))
	c.outbox.wrote(0)
	_, _ = c.outbox.take(keepNone)
	_, err := c.enqueue(sizedParcel(1, "src", keepUntilExpiry))
	require.NoError(t, err, "nothing is in front of it any more")
}

// Pings and pongs are about one connection: a successor gets what the host has sent, and none of them.
func TestASuccessorGetsNoPingAndNoPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{AliveTimeout: 10 * time.Second})
		p := r.rawOpen(smallWrites).openAs("a", "t")
		r.sendOwn("a", "FIRST") // p does not read it, so all that follows waits
		p.write(rawFrame(rawFin|rawPing, "hello"))
		time.Sleep(6 * time.Second) // the server pings
		r.sendOwn("a", "SECOND")
		synctest.Wait()
		c := r.srv.Realm().Client("a")
		require.Len(t, c.outbox.parcels, 4)
		require.True(t, c.pinged)
		next := r.rawOpen(smallWrites).openAs("a", "t")
		next.want(`{"type":"FIRST"}`)
		next.want(`{"type":"SECOND"}`)
		r.sendOwn("a", "THIRD")
		next.want(`{"type":"THIRD"}`)
		p.conn.Close()
		next.conn.Close()
	})
}

// A message that lies in the client itself moves out when another one comes, also while
// it is being written.
func TestAMessageMayMoveWhileItsWriteWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		p := r.rawOpen().open("a")
		synctest.Wait()
		c := r.srv.Realm().Client("a")
		require.NoError(t, c.Send(Message{Type: "A"}))
		require.Len(t, c.outbox.parcels, 1)
		require.NotNil(t, c.outbox.room[0].frame)
		require.NoError(t, c.Send(Message{Type: "B"}))
		p.want(`{"type":"A"}`)
		p.want(`{"type":"B"}`)
	})
}

// Neither an idle client holds a message nor one that has ended.
func TestNobodyHoldsAMessageThatHasGone(t *testing.T) {
	holdsNone := func(c *Client) {
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Empty(t, c.outbox.parcels)
		for _, left := range append(c.outbox.parcels[:cap(c.outbox.parcels)], c.outbox.room[0]) {
			require.Nil(t, left.frame)
		}
	}
	for _, messages := range []int{1, 2, 4, 20} { // the outbox keeps its room if there were few
		synctest.Test(t, func(t *testing.T) {
			r := newBubbleRig(t, Options{})
			p := r.rawOpen().open("a")
			c := r.srv.Realm().Client("a")
			send := func() {
				for range messages {
					require.NoError(t, c.Send(Message{Type: "APP"}))
				}
			}
			holdsNone(c)
			for range 3 {
				send()
				for range messages {
					p.want(`{"type":"APP"}`)
				}
				holdsNone(c)
			}
			send()
			p.conn.Close()
			holdsNone(c)
		})
	}
}
