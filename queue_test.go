package peer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at returns a moment n seconds after some beginning.
func at(n int) time.Time { return time.Unix(1_000_000_000+int64(n), 0) }

// par returns a parcel from src whose deadline is at(deadline).
func par(src, frame string, deadline int) parcel {
	return parcel{frame: []byte(frame), src: src, deadline: at(deadline), keep: keepUntilExpiry}
}

// offerTo pushes p if it is within the bounds.
func offerTo(q *queue, p parcel, perPair, parcels int) bool {
	if !q.fits(&p, bounds{perPair, parcels, -1}) {
		return false
	}
	q.push(p)
	return true
}

func always(*parcel) bool { return true }

func taken(q *queue) []parcel {
	before := q.tally
	ps, t := q.take()
	if t.plus(before) != (tally{}) {
		panic("take does not tell what it took")
	}
	return ps
}

func dropped(q *queue, src string) int { return -q.drop(sender{id: src}).parcels }

func expireAt(t *testing.T, q *queue, now time.Time) (srcs []string, n int) {
	t.Helper()
	before := q.tally
	ss, _, changed := q.expire(now)
	for _, s := range ss {
		srcs = append(srcs, s.id)
	}
	require.Equal(t, q.tally, before.plus(changed))
	return srcs, -changed.parcels
}

// wantQueue wants these frames in q, in order, and its books to agree with them.
func wantQueue(t *testing.T, q *queue, frames ...string) {
	t.Helper()
	var got []string
	bytes := 0
	for _, p := range q.all() {
		got = append(got, string(p.frame))
		bytes += len(p.frame)
	}
	require.Equal(t, frames, got)
	require.Equal(t, bytes, q.bytes, "bytes")
}

func wantNext(t *testing.T, q *queue, deadline int) {
	t.Helper()
	next := q.soonest()
	require.NotNil(t, next)
	require.Equal(t, at(deadline), next.deadline)
}

func TestQueueKeepsTheOrderOfArrival(t *testing.T) {
	var q queue
	require.Nil(t, q.soonest(), "the zero queue is empty")
	require.Empty(t, taken(&q))
	for i, src := range []string{"a", "b", "a", "c", "b"} {
		require.True(t, offerTo(&q, par(src, src+fmt.Sprint(i), 10+i), 9, 9))
	}
	wantQueue(t, &q, "a0", "b1", "a2", "c3", "b4")
	wantNext(t, &q, 10)
	ps := taken(&q)
	require.Len(t, ps, 5)
	require.Equal(t, par("a", "a2", 12), ps[2], "a parcel stays as it was")
	wantQueue(t, &q)
	require.Nil(t, q.soonest())
	require.Zero(t, dropped(&q, "a"), "nothing is left of a sender")
	require.True(t, offerTo(&q, par("a", "again", 30), 1, 1), "nor in the bounds")
	wantNext(t, &q, 30)
}

func TestQueueIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		pair, all int
		srcs      string
		accepted  string // for each of srcs, y or n
	}{
		"per pair":            {2, 9, "aaabbab", "yynyynn"},
		"in all":              {9, 3, "abcda", "yyynn"},
		"both":                {2, 3, "aaabb", "yynyn"},
		"one":                 {1, 1, "aab", "ynn"},
		"no bound":            {-1, -1, "aaaaabbb", "yyyyyyyy"},
		"no bound per pair":   {-1, 3, "aaaa", "yyyn"},
		"no bound in all":     {1, -1, "aabbc", "ynyny"},
		"nothing per pair":    {0, 9, "ab", "nn"},
		"nothing in all":      {9, 0, "ab", "nn"},
		"nothing, and all":    {0, -1, "ab", "nn"},
		"nothing, whoever":    {-1, 0, "ab", "nn"},
		"very negative bound": {-100, -100, "aab", "yyy"},
	} {
		var q queue
		accepted, frames := "", []string(nil)
		for i, src := range tc.srcs {
			frame := fmt.Sprintf("%c%d", src, i)
			if offerTo(&q, par(string(src), frame, i), tc.pair, tc.all) {
				accepted += "y"
				frames = append(frames, frame)
			} else {
				accepted += "n"
			}
		}
		require.Equal(t, tc.accepted, accepted, name)
		wantQueue(t, &q, frames...)
		if len(frames) == 0 {
			require.Nil(t, q.soonest(), "%s: what was turned away leaves nothing behind", name)
		}
	}
}

func TestPairExpiresAsOneWithItsOldestParcel(t *testing.T) {
	var q queue
	for i, src := range []string{"a", "b", "a", "c", "a"} {
		offerTo(&q, par(src, src+fmt.Sprint(i), 10+i), -1, -1)
	}
	srcs, n := expireAt(t, &q, at(10).Add(-1))
	require.Empty(t, srcs)
	require.Zero(t, n)
	wantNext(t, &q, 10)

	srcs, n = expireAt(t, &q, at(10))
	require.Equal(t, []string{"a"}, srcs, "once for three parcels, at the very deadline of the first")
	require.Equal(t, 3, n)
	wantQueue(t, &q, "b1", "c3")
	wantNext(t, &q, 11)

	require.True(t, offerTo(&q, par("a", "a5", 20), 1, -1), "a pair that has expired begins anew")
	srcs, n = expireAt(t, &q, at(19))
	require.Equal(t, []string{"b", "c"}, srcs)
	require.Equal(t, 2, n)
	wantQueue(t, &q, "a5")
	wantNext(t, &q, 20)
	srcs, n = expireAt(t, &q, at(99))
	require.Equal(t, []string{"a"}, srcs)
	require.Equal(t, 1, n)
	require.Nil(t, q.soonest())
}

func TestNewcomerWithAnEarlierDeadlineIsTheNextToExpire(t *testing.T) {
	var q queue // deadlines are made before the lock is got, so they can come out of order
	offerTo(&q, par("a", "a0", 12), -1, -1)
	offerTo(&q, par("b", "b0", 10), -1, -1)
	offerTo(&q, par("c", "c0", 11), -1, -1)
	wantNext(t, &q, 10)
	srcs, _ := expireAt(t, &q, at(11))
	require.Equal(t, []string{"b", "c"}, srcs)
	wantQueue(t, &q, "a0")
}

func TestPairsOfTheSameDeadlineExpireInOrderOfArrival(t *testing.T) {
	var q queue
	for _, src := range []string{"b", "a", "c", "b"} {
		offerTo(&q, par(src, src, 10), -1, -1)
	}
	srcs, n := expireAt(t, &q, at(10))
	require.Equal(t, []string{"b", "a", "c"}, srcs)
	require.Equal(t, 4, n)
}

func TestAnExpiredPairIsRememberedUntilItsDeadline(t *testing.T) {
	var q queue
	for i, src := range []string{"a", "b", "a"} {
		q.push(par(src, src+fmt.Sprint(i), 10+i))
	}
	require.False(t, q.expired(sender{id: "a"}))
	require.Equal(t, tally{parcels: -2, bytes: -4, expired: 1}, q.expirePair(sender{id: "a"}, at(99)))
	require.True(t, q.expired(sender{id: "a"}))
	require.Equal(t, tally{expired: 0}, q.expirePair(sender{id: "a"}, at(99)), "once")
	require.Equal(t, tally{expired: 1}, q.expirePair(sender{id: "c"}, at(12)), "of a sender that had nothing waiting")
	require.Equal(t, tally{1, 2, 2}, q.tally)
	wantQueue(t, &q, "b1")
	wantNext(t, &q, 10)
	srcs, _, held := q.expire(at(11))
	require.Equal(t, []sender{{id: "b"}}, srcs, "the sender of an expired pair has been told")
	require.Equal(t, tally{parcels: -1, bytes: -2, expired: -1}, held)
	require.False(t, q.expired(sender{id: "a"}))
	require.True(t, q.expired(sender{id: "c"}))
	require.Equal(t, tally{parcels: 1, bytes: 2, expired: -1}, q.push(par("c", "c3", 20)), "a new offer is a new question")
	wantNext(t, &q, 12)
	q.expire(at(12))
	require.Zero(t, q.tally)
	require.Nil(t, q.soonest())
}

func TestFitsCountsEveryBound(t *testing.T) {
	var q queue
	q.push(par("a", "12345", 10))
	q.push(par("b", "12345", 10))
	for _, c := range []struct {
		src, frame string
		b          bounds
		want       bool
	}{
		{"a", "1", bounds{2, 3, 11}, true},
		{"a", "1", bounds{1, 3, 11}, false},
		{"c", "1", bounds{1, 3, 11}, true},
		{"c", "1", bounds{1, 2, 11}, false},
		{"c", "12", bounds{1, 3, 11}, false},
		{"c", "12", bounds{1, 3, 12}, true},
		{"a", "123456789", bounds{-1, -1, -1}, true},
		{"a", "1", bounds{0, -1, -1}, false},
	} {
		p := par(c.src, c.frame, 10)
		require.Equal(t, c.want, q.fits(&p, c.b), "%+v", c)
	}
	var one queue
	one.push(par("a", "123456789", 10))
	for frame, fits := range map[string]bool{"1": true, "12": false} {
		p := par("b", frame, 10)
		require.Equal(t, fits, one.fits(&p, bounds{-1, -1, 10}), "beside one that waits")
	}
	small := par("b", "1", 10)
	require.False(t, one.fits(&small, bounds{-1, -1, 8}), "nothing may wait beside one that is larger than the bound")
	require.False(t, one.fits(&small, bounds{-1, -1, 0}))
	large := par("a", "123456789", 10)
	require.True(t, new(queue).fits(&large, bounds{1, 1, 1}), "one parcel may always wait, however large")
	require.False(t, new(queue).fits(&large, bounds{1, 0, 1}))
}

func TestWhatComesBackCanBeRefused(t *testing.T) {
	var q queue
	q.push(par("a", "a-new", 20))
	back := []parcel{par("a", "a-1", 10), par("b", "b-1", 10), par("a", "a-2", 10)}
	booked := q.unshift(back, func(p *parcel) bool { return p.src == "a" })
	require.Equal(t, tally{parcels: 2, bytes: 6}, booked)
	wantQueue(t, &q, "a-1", "a-2", "a-new")
}

func TestDropRemovesAllThatOneSenderHas(t *testing.T) {
	var q queue
	for i, src := range []string{"a", "b", "a", "c"} {
		offerTo(&q, par(src, src+fmt.Sprint(i), 10+i), -1, -1)
	}
	require.Zero(t, dropped(&q, "nobody"))
	require.Equal(t, 2, dropped(&q, "a"))
	wantQueue(t, &q, "b1", "c3")
	wantNext(t, &q, 11)
	require.Zero(t, dropped(&q, "a"))
	require.Equal(t, 1, dropped(&q, "b"))
	require.Equal(t, 1, dropped(&q, "c"))
	wantQueue(t, &q)
}

func TestWhatComesBackGoesFirstWithItsOwnDeadline(t *testing.T) {
	var q queue
	offerTo(&q, par("b", "b-new", 20), -1, -1)
	offerTo(&q, par("c", "c-new", 21), -1, -1)
	q.unshift([]parcel{par("a", "a-old", 15), par("c", "c-old", 12), par("a", "a-older", 14)}, always)
	wantQueue(t, &q, "a-old", "c-old", "a-older", "b-new", "c-new")
	wantNext(t, &q, 12)
	require.False(t, offerTo(&q, par("c", "c", 30), 2, -1), "what came back counts")
	require.False(t, offerTo(&q, par("d", "d", 30), -1, 5))

	srcs, n := expireAt(t, &q, at(14))
	require.Equal(t, []string{"c", "a"}, srcs, "by deadline, and the new parcel of a pair goes with its old one")
	require.Equal(t, 4, n)
	wantQueue(t, &q, "b-new")
	wantNext(t, &q, 20)
}

func TestWhatComesBackIsTurnedAwayByNoBound(t *testing.T) {
	var q queue
	require.True(t, offerTo(&q, par("a", "a0", 10), 1, 1))
	q.unshift([]parcel{par("a", "a1", 11), par("b", "b1", 9)}, always)
	wantQueue(t, &q, "a1", "b1", "a0")
	wantNext(t, &q, 9)
	srcs, _ := expireAt(t, &q, at(10))
	require.Equal(t, []string{"b", "a"}, srcs, "a later parcel that comes back delays nothing")
	q.unshift(nil, always)
	wantQueue(t, &q)
}

func TestWhatComesBackIsNotWrittenOver(t *testing.T) {
	outbox := []parcel{par("a", "a0", 10), par("b", "b0", 10), par("c", "c0", 10)}
	var q queue
	offerTo(&q, par("d", "d0", 20), -1, -1)
	q.unshift(outbox[:2], always)
	offerTo(&q, par("e", "e0", 21), -1, -1)
	wantQueue(t, &q, "a0", "b0", "d0", "e0")
	require.Equal(t, "c0", string(outbox[2].frame))
}

// A naive queue is the obvious one: it works everything out from its parcels.
type naive []parcel

func (m naive) of(src string) (ps []parcel) {
	for _, p := range m {
		if p.src == src {
			ps = append(ps, p)
		}
	}
	return ps
}

func (m naive) without(srcs ...string) naive {
	return slices.DeleteFunc(slices.Clone(m), func(p parcel) bool { return slices.Contains(srcs, p.src) })
}

func (m naive) deadline(src string) time.Time {
	byDeadline := func(a, b parcel) int { return a.deadline.Compare(b.deadline) }
	return slices.MinFunc(m.of(src), byDeadline).deadline
}

// due returns the senders whose time is over, the first one first.
func (m naive) due(now time.Time) (srcs []string) {
	for _, p := range m {
		if !slices.Contains(srcs, p.src) && !m.deadline(p.src).After(now) {
			srcs = append(srcs, p.src)
		}
	}
	slices.SortFunc(srcs, func(a, b string) int { return m.deadline(a).Compare(m.deadline(b)) })
	return srcs
}

func (m naive) check(t *testing.T, q *queue) {
	t.Helper()
	require.True(t, slices.EqualFunc(m, q.all(), func(a, b parcel) bool {
		return string(a.frame) == string(b.frame) && a.src == b.src && a.deadline.Equal(b.deadline) && a.keep == b.keep
	}), "want %v, got %v", m, q.all())
	bytes := 0
	for _, p := range m {
		bytes += len(p.frame)
	}
	require.Equal(t, bytes, q.bytes)
	require.Equal(t, len(m), q.parcels)
	next := q.soonest()
	require.Equal(t, len(m) > 0, next != nil)
	for _, p := range m {
		require.False(t, p.deadline.Before(next.deadline), "next is the earliest")
	}
	require.True(t, next == nil || len(m.due(next.deadline)) > 0, "next is somebody's")
}

func TestQueueBehavesAsTheNaiveOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		maxPair, maxAll := rnd.IntN(8)-1, rnd.IntN(20)-1
		var q queue
		var m naive
		now, made := 0, 0
		make1 := func(deadline int) parcel { // deadlines differ, so that their order is no matter of taste
			made++
			p := par(string("abcdefg"[rnd.IntN(7)]), fmt.Sprintf("%0*d", 1+rnd.IntN(9), made), deadline)
			p.deadline = p.deadline.Add(time.Duration(made))
			return p
		}
		for range 150 {
			switch op := rnd.IntN(20); {
			case op < 12:
				p := make1(now + 10)
				if len(m.of(p.src)) == 0 {
					p.deadline = p.deadline.Add(-time.Duration(rnd.IntN(3)) * time.Second)
				}
				fits := (maxAll < 0 || len(m) < maxAll) && (maxPair < 0 || len(m.of(p.src)) < maxPair)
				require.Equal(t, fits, offerTo(&q, p, maxPair, maxAll), "seed %d", seed)
				if fits {
					m = append(m, p)
				}
			case op < 14:
				var back []parcel
				for range rnd.IntN(4) {
					back = append(back, make1(now+rnd.IntN(11)))
				}
				m = append(slices.Clone(back), m...)
				q.unshift(back, always)
			case op < 16:
				src := string("abcdefg"[rnd.IntN(7)])
				require.Equal(t, len(m.of(src)), dropped(&q, src), "seed %d", seed)
				m = m.without(src)
			case op < 19:
				now += rnd.IntN(5)
				due := m.due(at(now))
				rest := m.without(due...)
				srcs, n := expireAt(t, &q, at(now))
				require.Equal(t, due, srcs, "seed %d", seed)
				require.Equal(t, len(m)-len(rest), n, "seed %d", seed)
				m = rest
			default:
				assert.Len(t, taken(&q), len(m))
				m = nil
			}
			m.check(t, &q)
		}
	}
}
