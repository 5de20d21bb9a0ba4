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
					p := r.rawConnect("a")
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
