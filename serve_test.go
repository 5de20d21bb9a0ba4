package peer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The types of the protocol keep their meaning, whatever the host lists in RelayTypes and
// HoldTypes.

func TestWhatTheServerSendsCannotBeForged(t *testing.T) {
	forged := []MessageType{
		"OPEN", "ERROR", "ID-TAKEN", "INVALID-KEY", "OVERRIDE_CONNECTION",
		"ROOM-MEMBERS", "ROOM-REFUSED", "ROOM-JOINED", "ROOM-LEFT",
		"", "HEARTBEAT", "ROOM-JOIN", "ROOM-LEAVE",
	}
	for name, opts := range map[string]Options{
		"RelayTypes": {RelayTypes: append([]MessageType{"OWN"}, forged...)},
		"HoldTypes":  {HoldTypes: append([]MessageType{"OWN"}, forged...)},
		"both":       {RelayTypes: forged, HoldTypes: append([]MessageType{"OWN"}, forged...)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts.AllowJoin = anyRoom
				r := newBubbleRig(t, opts)
				a, b := r.connect("a"), r.connect("b")
				send := func(typ MessageType) {
					for _, dst := range []string{"b", "late"} {
						a.send(fmt.Sprintf(`{"type":%q,"dst":%q,"payload":{"room":"x","id":"a","members":["a"],"msg":"m"}}`, typ, dst))
					}
				}
				for _, typ := range forged {
					send(typ)
				}
				send("OWN")
				own := func(dst string) string {
					return `{"type":"OWN","src":"a","dst":"` + dst + `","payload":{"room":"x","id":"a","members":["a"],"msg":"m"}}`
				}
				b.want(own("b"))
				late := r.connect("late")
				if opts.HoldTypes != nil {
					late.want(own("late"))
				}
				synctest.Wait()
				require.Empty(t, b.frames)
				require.Empty(t, late.frames)
				a.wantMembers("x", "a") // it has asked for that, whatever the destination
				a.wantMembers("x", "a")
				a.wantLeft("x", "a", "left")
				require.Empty(t, a.frames)
			})
		})
	}
}

// OFFER, ANSWER and CANDIDATE wait for their destination, LEAVE and EXPIRE do not.
func TestNoOptionChangesWhatTheProtocolHolds(t *testing.T) {
	all := []MessageType{"OFFER", "ANSWER", "CANDIDATE", "LEAVE", "EXPIRE"}
	for name, opts := range map[string]Options{
		"neither":    {},
		"RelayTypes": {RelayTypes: all},
		"HoldTypes":  {HoldTypes: all},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubbleRig(t, opts)
				a := r.connect("a")
				for _, typ := range all {
					a.send(fmt.Sprintf(`{"type":%q,"dst":"late"}`, typ))
				}
				synctest.Wait()
				require.EqualValues(t, 2, r.srv.Stats().Dropped["absent"])
				late := r.connect("late")
				for _, typ := range all[:3] {
					late.want(fmt.Sprintf(`{"type":%q,"src":"a","dst":"late"}`, typ))
				}
				time.Sleep(time.Minute)
				require.Empty(t, late.frames)
				require.Empty(t, a.frames)
			})
		})
	}
}

// What becomes of a message whose destination is taken over, or ends, before the message is
// written.
func TestWhoGetsWhatAnIDWasNotSent(t *testing.T) {
	t.Parallel()
	relayed := func(typ string) string { return fmt.Sprintf(`{"type":%q,"src":"sender","dst":"a"}`, typ) }
	sends := func(typ string) func(*rig, *testPeer) {
		return func(_ *rig, sender *testPeer) { sender.send(fmt.Sprintf(`{"type":%q,"dst":"a"}`, typ)) }
	}
	asks := func(text string) func(*rig, *rawPeer) {
		return func(_ *rig, p *rawPeer) { p.text(text) }
	}
	none := func(*rig, *rawPeer) {}
	const joined = `{"type":"ROOM-JOINED","payload":{"room":"x","id":"sender"}}`
	for _, c := range []struct {
		name string
		send func(r *rig, sender *testPeer) // to the id "a"
		asks func(r *rig, p *rawPeer)       // what makes the server send it
		text string
		// who gets it: a successor with the same token, another successor, a later connection
		same, other, later bool
	}{
		{"OFFER", sends("OFFER"), none, relayed("OFFER"), true, true, true},
		{"ANSWER", sends("ANSWER"), none, relayed("ANSWER"), true, true, true},
		{"CANDIDATE", sends("CANDIDATE"), none, relayed("CANDIDATE"), true, true, true},
		{"one of HoldTypes", sends("HOLD"), none, relayed("HOLD"), true, true, true},
		{"LEAVE", sends("LEAVE"), none, relayed("LEAVE"), true, true, false},
		{"EXPIRE", sends("EXPIRE"), none, relayed("EXPIRE"), true, true, false},
		{"one of RelayTypes", sends("NOTE"), none, relayed("NOTE"), true, true, false},
		{"Realm.Send", func(r *rig, _ *testPeer) { r.sendOwn("a", "OWN") }, none, `{"type":"OWN"}`, true, true, false},
		{"Client.Send", func(r *rig, _ *testPeer) { r.srv.Realm().Client("a").Send(Message{Type: "OWN"}) }, none, `{"type":"OWN"}`, true, false, false},
		{"Broadcast", func(r *rig, _ *testPeer) { r.srv.Realm().Broadcast("x", Message{Type: "OWN"}) }, none, `{"type":"OWN"}`, true, false, false},
		{"ROOM-JOINED", func(_ *rig, sender *testPeer) { sender.join("x") }, none, joined, true, false, false},
		{"ROOM-MEMBERS", nil, asks(`{"type":"ROOM-JOIN","payload":{"room":"x"}}`), `{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"]}}`, true, false, false},
		{"ROOM-REFUSED", nil, asks(`{"type":"ROOM-JOIN"}`), `{"type":"ROOM-REFUSED","payload":{"room":"","msg":"A payload with the name of a \"room\" is needed"}}`, true, false, false},
		{"ROOM-LEFT", nil, asks(`{"type":"ROOM-LEAVE","payload":{"room":"x"}}`), `{"type":"ROOM-LEFT","payload":{"room":"x","id":"a","reason":"left"}}`, true, false, false},
		{"EXPIRE of the server", nil, asks(`{"type":"OFFER","dst":"full"}`), `{"type":"EXPIRE","src":"full","dst":"a"}`, true, true, false},
		{"a pong", nil, func(_ *rig, p *rawPeer) { p.write(rawFrame(rawFin|rawPing, "x")) }, "", false, false, false},
		{"a ping", func(r *rig, _ *testPeer) { go r.srv.Realm().Client("a").probe(time.Hour) }, none, "", false, false, false},
	} {
		for how, gets := range map[string]bool{"same token": c.same, "another": c.other, "later": c.later} {
			t.Run(c.name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newBubbleRig(t, Options{
						AllowOverride: OverrideAlways, AllowJoin: anyRoom,
						RelayTypes: []MessageType{"NOTE"}, HoldTypes: []MessageType{"HOLD"},
						Authorize: func(_ *Client, m Message) error {
							if m.Dst == "full" {
								return &Reject{}
							}
							return nil
						},
					})
					realm := r.srv.Realm()
					sender := r.connect("sender")
					p := r.rawOpen().open("a")
					client := realm.Client("a")
					require.NoError(t, realm.Join("x", client))
					p.want(`{"type":"ROOM-MEMBERS","payload":{"room":"x","members":["a"]}}`)
					synctest.Wait()
					if c.send != nil {
						c.send(r, sender)
					}
					c.asks(r, p) // what comes of it is not read
					synctest.Wait()
					token := p.token
					switch how {
					case "another":
						token = "another"
					case "later":
						require.True(t, realm.RemoveClient("a"))
					}
					next := r.dial("a", token)
					next.wantOpen()
					if gets {
						next.want(c.text)
					}
					synctest.Wait()
					require.Empty(t, next.frames)
					p.conn.Close()
				})
			})
		}
	}
}

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
				a, b := r.rawOpen().open("a"), r.connect("b")
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
		a, b := r.rawOpen().open("a"), r.connect("b")
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

// bubble runs f in a synctest bubble: time is fake, and every goroutine made in it
// must end when f has returned. Timers are not looked for.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestAMessageForAnAbsentPeerExpiresOnceAfterFiveSeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a, b := r.connect("a"), r.connect("b")
		start := time.Now()
		a.offer("absent", `1`)
		b.offer("absent", `2`)
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			a.send(`{"type":"CANDIDATE","dst":"absent","payload":{}}`)
		}
		a.offer("also absent", `3`)
		a.wantExpire("absent")
		require.Equal(t, 5*time.Second, time.Since(start), "all of a pair expire with its first message")
		b.wantExpire("absent")
		a.wantExpire("also absent")
		require.Equal(t, 6*time.Second, time.Since(start))
		time.Sleep(time.Minute / 2)
		require.Empty(t, a.frames)
		require.Empty(t, b.frames)
		require.Equal(t, uint64(3), r.srv.Stats().Expires)
	})
}

func TestAHeldOfferIsDeliveredRightAfterOpen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a, b := r.connect("a"), r.connect("b")
		a.offer("late", `1`)
		synctest.Wait() // nothing orders what two clients send
		b.offer("late", `2`)
		synctest.Wait()
		a.send(`{"type":"CANDIDATE","dst":"late","payload":3}`)
		a.send(`{"type":"LEAVE","dst":"late"}`)
		time.Sleep(5*time.Second - 1)
		late := r.connect("late")
		late.wantOffer("a", `1`)
		late.wantOffer("b", `2`)
		late.want(`{"type":"CANDIDATE","src":"a","dst":"late","payload":3}`)
		time.Sleep(10 * time.Second)
		require.Empty(t, late.frames, "LEAVE is not held")
		require.Empty(t, a.frames, "what was delivered does not expire")
	})
}

func TestANegativeExpireTimeoutHoldsForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{ExpireTimeout: -1, AliveTimeout: -1})
		a := r.connect("a")
		a.offer("late", `1`)
		time.Sleep(24 * time.Hour)
		r.connect("late").wantOffer("a", `1`)
	})
}

func TestAClearedQueueIsAnsweredAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{})
		a := r.connect("a")
		a.offer("absent", `1`)
		a.offer("absent", `2`)
		synctest.Wait()
		require.Equal(t, 2, r.srv.Realm().ClearMessageQueue("absent"))
		require.Equal(t, 0, r.srv.Realm().ClearMessageQueue("absent"))
		a.wantExpire("absent")
		time.Sleep(time.Minute / 2)
		require.Empty(t, a.frames)
	})
}

func TestWhatADeadConnectionLeftExpiresAtItsFirstDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRig(t, Options{WriteTimeout: -1})
		a := r.connect("a")
		stuck := r.rawOpen().open("stuck").bare() // reads OPEN and then nothing: a pipe has no buffer
		start := time.Now()
		a.offer("stuck", `1`)
		time.Sleep(2 * time.Second)
		a.offer("stuck", `2`)
		time.Sleep(2 * time.Second)
		stuck.Close()
		a.wantExpire("stuck")
		require.Equal(t, 5*time.Second, time.Since(start))
		time.Sleep(10 * time.Second)
		require.Empty(t, a.frames)
	})
}
