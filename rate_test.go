package peer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever a client sends as a message counts for its rate, so that no mistake is cheaper than a
// message. What the WebSocket protocol needs does not.
func TestWhatCountsForTheRate(t *testing.T) {
	const rate, n = 10, 25 // a burst of 20 is free
	for name, c := range map[string]struct {
		frame  []byte
		counts bool
	}{
		"a heartbeat":            {rawTextFrame(`{"type":"HEARTBEAT"}`), true},
		"no JSON":                {rawTextFrame(`hello`), true},
		"nothing":                {rawTextFrame(``), true},
		"no UTF-8 in binary":     {rawFrame(rawFin|rawBinary, "\xff"), true},
		"an unknown type":        {rawTextFrame(`{"type":"CHAT","dst":"b"}`), true},
		"no destination":         {rawTextFrame(`{"type":"OFFER"}`), true},
		"for nobody":             {rawTextFrame(`{"type":"LEAVE","dst":"absent"}`), true},
		"what is not authorized": {rawTextFrame(`{"type":"ANSWER","dst":"forbidden"}`), true},
		"a room":                 {rawTextFrame(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`), true},
		"in two fragments":       {append(rawFrame(rawText, `{"type":`), rawFrame(rawFin|rawCont, `"X"}`)...), true},
		"a pong":                 {rawFrame(rawFin|rawPong, "x"), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{
					MessageRate: rate, AllowJoin: anyRoom,
					Authorize: func(_ *Client, m Message) error {
						if m.Dst == "forbidden" {
							return &Reject{}
						}
						return nil
					},
				})
				a, b := r.rawConnect("a"), r.connect("b")
				start := time.Now()
				go func() {
					for range n {
						a.tryWrite(c.frame)
					}
					a.tryWrite(rawTextFrame(`{"type":"OFFER","dst":"b","payload":1}`))
				}()
				b.wantOffer("a", `1`)
				late := time.Duration(0)
				if c.counts {
					late = (n - 2*rate) * time.Second / rate
				}
				require.InDelta(t, late, time.Since(start), float64(time.Millisecond))
			})
		})
	}
}

// A client that was quiet may send a burst again, of the same size however long it was quiet.
func TestTheBurstOfAQuietClient(t *testing.T) {
	const rate = 10
	for _, c := range []struct {
		quiet time.Duration
		free  int // how many messages come at once
	}{
		{0, 0}, {time.Second / 2, rate / 2}, {time.Second, rate}, {2 * time.Second, 2 * rate}, {time.Hour, 2 * rate},
	} {
		t.Run(c.quiet.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, Options{MessageRate: rate, AliveTimeout: -1})
				a, b := r.connect("a"), r.connect("b")
				for i := range 2 * rate { // the burst that every client begins with
					a.offer("b", fmt.Sprint(i))
					b.wantOffer("a", fmt.Sprint(i))
				}
				time.Sleep(c.quiet)
				start := time.Now()
				go func() {
					for i := range 2*rate + 5 {
						a.offer("b", fmt.Sprint(i))
					}
				}()
				for i := range 2*rate + 5 {
					b.wantOffer("a", fmt.Sprint(i))
					late := time.Duration(max(0, i-c.free)) * time.Second / rate
					require.InDelta(t, late, time.Since(start), float64(time.Millisecond), "message %d", i)
				}
			})
		})
	}
}

func TestANegativeRateIsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MessageRate: -1})
		a, b := r.connect("a"), r.connect("b")
		start := time.Now()
		for i := range 200 {
			a.offer("b", fmt.Sprint(i))
			b.wantOffer("a", fmt.Sprint(i))
		}
		require.Zero(t, time.Since(start))
	})
}

// A client that sends too fast is not read for a while. Before that, all that it has sent so far
// is on its way, and the server keeps no buffer of a pool for it.
func TestNothingIsHeldBackWhileAClientIsTooFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{MessageRate: 1}) // a burst of 2 is free
		a, b := r.rawConnect("a"), r.connect("b")
		client := r.srv.Realm().Client("a")
		var all []byte
		for i := range 6 {
			all = append(all, rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":"b","payload":%d}`, i))...)
		}
		start := time.Now()
		go a.tryWrite(all) // in one write
		for i := range 6 {
			b.wantOffer("a", fmt.Sprint(i))
			late := time.Duration(max(0, i-2)) * time.Second
			require.InDelta(t, late, time.Since(start), float64(time.Millisecond), "message %d", i)
			synctest.Wait()
			require.Nil(t, client.socket.buf)
		}
		a.conn.Close()
	})
}
