package peer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parcelsOf returns parcels with these frames.
func parcelsOf(frames ...string) (ps []parcel) {
	for _, f := range frames {
		ps = append(ps, parcel{frame: []byte(f), keep: keepUntilExpiry})
	}
	return ps
}

// ofSizes returns parcels whose frames have these sizes.
func ofSizes(sizes ...int) (ps []parcel) {
	for _, n := range sizes {
		ps = append(ps, parcel{frame: make([]byte, n), keep: keepUntilExpiry})
	}
	return ps
}

// outboxOf returns an outbox that has been pushed these parcels.
func outboxOf(ps ...parcel) *outbox {
	o := new(outbox)
	for _, p := range ps {
		o.push(p)
	}
	return o
}

// wantOutbox wants these frames in o, in order, and its books to agree with them.
func wantOutbox(t *testing.T, o *outbox, frames ...string) {
	t.Helper()
	var got []string
	for _, p := range o.parcels {
		got = append(got, string(p.frame))
	}
	require.Equal(t, frames, got)
	wantBooks(t, o)
}

// wantBooks wants what an outbox counts to agree with what is in it, and nothing to be held
// that is not.
func wantBooks(t *testing.T, o *outbox) {
	t.Helper()
	require.Equal(t, size(o.parcels), o.bytes)
	require.GreaterOrEqual(t, o.given.parcels, 0)
	require.GreaterOrEqual(t, o.given.bytes, 0)
	require.LessOrEqual(t, o.inflight, len(o.parcels))
	for _, left := range o.parcels[len(o.parcels):cap(o.parcels)] {
		require.Nil(t, left.frame, "a parcel that has gone is not held")
	}
	if len(o.parcels) != len(o.room) {
		require.Nil(t, o.room[0].frame, "nor where the only parcel lies")
	}
}

func TestAnOutboxIsFilledInItsOrder(t *testing.T) {
	for name, c := range map[string]struct {
		inherited, held []string
		want            []string // with what is put in front, and what is pushed
	}{
		"OPEN alone": {nil, nil, []string{"OPEN", "front1", "front2", "pushed"}},
		"held":       {nil, []string{"h1", "h2"}, []string{"OPEN", "front1", "front2", "h1", "h2", "pushed"}},
		"inherited":  {[]string{"i1", "i2"}, nil, []string{"OPEN", "i1", "i2", "front1", "front2", "pushed"}},
		"both":       {[]string{"i1"}, []string{"h1"}, []string{"OPEN", "i1", "front1", "front2", "h1", "pushed"}},
	} {
		t.Run(name, func(t *testing.T) {
			var o outbox
			o.fill(parcelsOf("OPEN")[0], parcelsOf(c.inherited...), parcelsOf(c.held...), -1, -1)
			wantOutbox(t, &o, slices.Concat([]string{"OPEN"}, c.inherited, c.held)...)
			require.Equal(t, tally{parcels: len(o.parcels), bytes: o.bytes}, o.given)
			before := o.given
			o.pushFront(parcelsOf("front1")[0])
			wantBooks(t, &o)
			o.push(parcelsOf("pushed")[0])
			o.pushFront(parcelsOf("front2")[0])
			wantOutbox(t, &o, c.want...)
			require.Equal(t, before, o.given, "what comes later counts")
		})
	}
}

// What a predecessor was not sent counts beyond one outbox, in messages and in bytes.
func TestAnOutboxIsGivenNoMoreThanOneOfItsPredecessor(t *testing.T) {
	for _, c := range []struct {
		inherited            []int // sizes; OPEN has 1 byte, and one parcel of 5 bytes was held
		maxParcels, maxBytes int
		want                 tally
	}{
		{nil, 2, 10, tally{parcels: 2, bytes: 6}},
		{[]int{3}, 2, 10, tally{parcels: 3, bytes: 9}},
		{[]int{5, 5}, 2, 10, tally{parcels: 4, bytes: 16}},
		{[]int{5, 6}, 2, 10, tally{parcels: 4, bytes: 16}},
		{[]int{3, 3, 3}, 2, 10, tally{parcels: 4, bytes: 15}},
		{[]int{5, 5, 5, 5}, 2, 10, tally{parcels: 4, bytes: 16}},
		{[]int{5, 5, 5, 5}, 3, 19, tally{parcels: 5, bytes: 25}},
		{[]int{5, 5}, 0, 0, tally{parcels: 2, bytes: 6}},
		{[]int{5, 5}, -1, 9, tally{parcels: 4, bytes: 15}},
		{[]int{5, 5}, 1, -1, tally{parcels: 3, bytes: 16}},
		{[]int{5, 5}, -1, -1, tally{parcels: 4, bytes: 16}},
		{[]int{5, 5}, -100, -100, tally{parcels: 4, bytes: 16}},
	} {
		var o outbox
		o.fill(ofSizes(1)[0], ofSizes(c.inherited...), ofSizes(5), c.maxParcels, c.maxBytes)
		require.Equal(t, c.want, o.given, "%+v", c)
		require.Len(t, o.parcels, 2+len(c.inherited))
		wantBooks(t, &o)
	}
}

func TestAnOutboxIsFullAtEachBound(t *testing.T) {
	for _, c := range []struct {
		given, waiting       []int // sizes
		n                    int   // of the next frame
		maxParcels, maxBytes int
		want                 bool
	}{
		{nil, nil, 1, 1, 1, false},
		{nil, nil, 1, 0, -1, true},
		{nil, nil, 99, 1, 10, false}, // one frame always has room
		{nil, nil, 99, -1, 0, false},
		{nil, []int{1}, 99, 2, 10, true},
		{nil, []int{99}, 1, 2, 10, true},
		{nil, []int{1}, 1, -1, 0, true},
		{nil, []int{5}, 1, 1, -1, true},
		{nil, []int{5}, 1, 2, -1, false},
		{nil, []int{5, 5}, 1, 2, -1, true},
		{nil, []int{5, 5}, 1, 3, -1, false},
		{nil, []int{5}, 4, -1, 10, false},
		{nil, []int{5}, 5, -1, 10, false},
		{nil, []int{5}, 6, -1, 10, true},
		{nil, []int{5, 5}, 1, -1, 10, true},
		{nil, []int{5, 4}, 1, -1, 10, false},
		{nil, []int{5, 5, 5}, 99, -1, -1, false},
		{nil, []int{5, 5, 5}, 99, -100, -100, false},
		{[]int{5, 5, 5}, nil, 99, 1, 10, false}, // nothing waits but what was given
		{[]int{5, 5, 5}, []int{1}, 1, 1, -1, true},
		{[]int{5, 5, 5}, []int{1}, 1, 2, -1, false},
		{[]int{5, 5, 5}, []int{5}, 5, -1, 10, false},
		{[]int{5, 5, 5}, []int{5}, 6, -1, 10, true},
		{[]int{1, 1, 1}, []int{5}, 6, -1, 10, true},
	} {
		o := outboxOf()
		o.give(ofSizes(c.given...))
		for _, p := range ofSizes(c.waiting...) {
			o.push(p)
		}
		require.Equal(t, c.want, o.full(c.n, c.maxParcels, c.maxBytes), "%+v", c)
	}
}

// What was given stops to count when it has been written, and what is pushed counts until then.
func TestWhatIsGivenIsWrittenOff(t *testing.T) {
	o := outboxOf(ofSizes(3)...)
	o.give(ofSizes(4, 5))
	require.Equal(t, tally{parcels: 2, bytes: 9}, o.given)
	for _, want := range []tally{{parcels: 1, bytes: 6}, {bytes: 2}, {}} {
		o.wrote(len(o.first()))
		require.Equal(t, want, o.given)
		wantBooks(t, o)
	}
	require.Empty(t, o.parcels)
	require.False(t, o.full(10, 1, 10))
	o.push(ofSizes(10)[0])
	require.True(t, o.full(1, 1, -1), "the bound holds as ever")
	require.True(t, o.full(1, -1, 10))
}

func TestAnEmptyOutboxHasNothingToWrite(t *testing.T) {
	var o outbox
	require.Nil(t, o.first())
	require.False(t, o.joinable())
	require.Zero(t, o.inflight)
	o.push(parcelsOf("x")[0])
	require.Equal(t, "x", string(o.first()))
	require.Equal(t, 1, o.inflight, "a write is under way")
	o.wrote(1)
	require.Zero(t, o.inflight)
	require.Nil(t, o.first())
	require.Zero(t, o.inflight)
}

func TestFramesAreJoinableIfTwoFitIntoAWrite(t *testing.T) {
	for _, c := range []struct {
		sizes   []int
		written int // of the first
		want    bool
	}{
		{[]int{1}, 0, false},
		{[]int{1, 1}, 0, true},
		{[]int{joinedBytes - 1, 1}, 0, true},
		{[]int{1, joinedBytes - 1}, 0, true},
		{[]int{joinedBytes - 1, 2}, 0, false},
		{[]int{joinedBytes, 1}, 0, false},
		{[]int{joinedBytes + 9, 1}, 9, false},
		{[]int{joinedBytes + 9, 1}, 10, true},
		{[]int{1, joinedBytes, 1}, 0, false},
	} {
		o := outboxOf(ofSizes(c.sizes...)...)
		o.first()
		o.wrote(c.written)
		require.Equal(t, c.want, o.joinable(), "%+v", c)
	}
}

func TestAsManyFramesAreJoinedAsFit(t *testing.T) {
	for _, c := range []struct {
		frames  string
		written int
		room    int
		want    string
	}{
		{"abc de", 0, 5, "abcde"},
		{"abc de", 0, 6, "abcde"},
		{"abc de fg", 0, 6, "abcde"},
		{"abc de fg", 0, 7, "abcdefg"},
		{"abc de fg", 0, 4, "abc"},
		{"abc de fg", 1, 4, "bcde"},
		{"abc de fg", 2, 4, "cde"},
		{"abc de fg", 2, 5, "cdefg"},
		{"abc de f", 0, 4, "abc"}, // what does not fit is not overtaken
	} {
		o := outboxOf(parcelsOf(strings.Fields(c.frames)...)...)
		o.first()
		o.wrote(c.written)
		b := o.join(make([]byte, 0, c.room))
		require.Equal(t, c.want, string(b), "%+v", c)
		require.Equal(t, c.room, cap(b), "in the buffer that it was given")
		before := o.bytes
		o.wrote(len(b))
		wantBooks(t, o)
		require.Zero(t, o.offset, "the write ends with a frame")
		require.Equal(t, before-len(b)-c.written, o.bytes)
	}
}

func TestAWriteMayEndAnywhere(t *testing.T) {
	for _, c := range []struct {
		n      int // bytes written of "abc" "de" "f"
		left   string
		offset int
	}{
		{0, "abc de f", 0}, {1, "abc de f", 1}, {2, "abc de f", 2}, {3, "de f", 0}, {4, "de f", 1}, {5, "f", 0}, {6, "", 0},
	} {
		o := outboxOf(parcelsOf("abc", "de", "f")...)
		all := o.join(make([]byte, 0, 9))
		o.wrote(c.n)
		wantOutbox(t, o, append([]string(nil), strings.Fields(c.left)...)...)
		require.Equal(t, c.offset, o.offset)
		require.Zero(t, o.inflight)
		require.Equal(t, string(all[c.n:]), string(o.join(make([]byte, 0, 9))), "the next write goes on there")
	}
}

// TestNoByteOfAnOutboxIsLostOrRepeated pushes and writes at random. What was written must be
// what was pushed, byte for byte.
func TestNoByteOfAnOutboxIsLostOrRepeated(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var o outbox
		var pushed, written []byte
		next := func() parcel {
			frame := []byte(strings.Repeat(string(rune('a'+rnd.IntN(26))), 1+rnd.IntN(9)))
			pushed = append(pushed, frame...)
			return parcel{frame: frame, keep: keepUntilExpiry}
		}
		o.fill(next(), nil, nil, -1, -1)
		for range 60 {
			for range rnd.IntN(4) {
				o.push(next())
			}
			var b []byte
			if rnd.IntN(2) == 0 && o.joinable() {
				b = o.join(make([]byte, 0, 10+rnd.IntN(20)))
			} else {
				b = o.first()
			}
			if rnd.IntN(2) == 0 {
				o.push(next()) // while the write is under way
			}
			n := rnd.IntN(len(b) + 1)
			written = append(written, b[:n]...)
			o.wrote(n)
			wantBooks(t, &o)
		}
		for b := o.first(); b != nil; b = o.first() {
			written = append(written, b...)
			o.wrote(len(b))
		}
		require.True(t, bytes.Equal(pushed, written), "seed %d: %q, not %q", seed, written, pushed)
	}
}

func TestWhatAnOutboxLeavesIsSortedByItsRetention(t *testing.T) {
	var all []parcel
	for i, keep := range []retention{keepNone, keepForSamePeer, keepForSuccessor, keepUntilExpiry, keepNone, keepForSamePeer, keepForSuccessor, keepUntilExpiry} {
		all = append(all, parcel{frame: fmt.Append(nil, i), keep: keep})
	}
	for least, want := range map[retention]struct {
		kept    string
		dropped int // what concerns one connection is no loss
	}{
		keepForSamePeer:  {"123567", 0},
		keepForSuccessor: {"2367", 2},
		keepUntilExpiry:  {"37", 4},
	} {
		o := outboxOf(all...)
		o.give(parcelsOf("8")) // which is kept in any case
		o.first()
		o.wrote(0)
		kept, dropped := o.take(least)
		got := ""
		for _, p := range kept {
			got += string(p.frame)
		}
		require.Equal(t, want.kept+"8", got)
		require.Equal(t, want.dropped, dropped)
		require.Equal(t, outbox{}, *o)
		kept, dropped = o.take(least)
		require.Empty(t, kept)
		require.Zero(t, dropped)
	}
}

// The stream of a client whose outbox was taken ends inside of a frame still.
func TestATakenOutboxKnowsWhereTheStreamEnds(t *testing.T) {
	o := outboxOf(parcelsOf("abc", "de")...)
	o.first()
	o.wrote(2)
	kept, _ := o.take(keepUntilExpiry)
	require.Equal(t, parcelsOf("abc", "de"), kept, "as a whole, though a part was written")
	require.Equal(t, outbox{offset: 2}, *o)
}

func TestTheOnlyParcelLiesInTheOutboxItself(t *testing.T) {
	var o outbox
	for range 3 {
		o.push(parcelsOf("a")[0])
		require.Equal(t, "a", string(o.room[0].frame))
		require.Equal(t, 1, cap(o.parcels))
		o.wrote(len(o.first()))
		wantOutbox(t, &o)
	}
	for range 100 {
		o.push(parcelsOf("b")[0])
		wantBooks(t, &o)
	}
	for o.first() != nil {
		require.Equal(t, "b", string(o.first()))
		o.wrote(1)
		wantBooks(t, &o)
	}
	require.Equal(t, 1, cap(o.parcels), "an idle client keeps no room for a burst")
	o.push(parcelsOf("c")[0])
	require.Equal(t, "c", string(o.room[0].frame))
}

func TestAWrittenParcelGivesItsBufferBack(t *testing.T) {
	const messages = 1000
	var o outbox
	cost := allocated(func() {
		for range messages {
			frame, buf := frameBuffer(pooledFrame / 2)
			require.NotNil(t, buf)
			o.push(parcel{frame: append(frame, make([]byte, pooledFrame/2)...), buf: buf})
			o.wrote(len(o.first()))
		}
	})
	require.Less(t, cost/messages, uint64(pooledFrame*3/4), "bytes for each") // with -race, a pool loses some
}
