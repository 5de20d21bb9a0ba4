package peer

import (
	"encoding/json"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are about a client whose reader sits in a function of the host, or
// waits for something else.

// busyFor is how long the reader of the client "busy" is held up.
const busyFor = 8 * time.Second

// busyWays are the ways in which the reader of the client "busy" can be held up. Each of them
// starts a server whose functions call hold, and connects the client.
var busyWays = map[string]func(t *testing.T, opts Options, hold func(c *Client)) (*rig, *rawPeer){
	"OnConnection": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		srv := NewServer(opts)
		srv.OnConnection(hold)
		r := serveBubbleRig(t, srv, nil)
		return r, r.rawOpen(smallReads).upgrade("busy")
	},
	"OnDisconnect of the predecessor": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		srv := NewServer(opts)
		r := serveBubbleRig(t, srv, nil)
		r.dial("busy", "t").wantOpen()
		first := srv.Realm().Client("busy")
		srv.OnDisconnect(func(c *Client, _ DisconnectReason) {
			if c == first {
				hold(c)
			}
		})
		p := r.rawOpen()
		p.write([]byte(handshakeFor(socketTarget("busy", "t"))))
		p.response()
		return r, p
	},
	"OnMessage": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		srv := NewServer(opts)
		srv.OnMessage(func(c *Client, _ Message) { hold(c) })
		return busyOver(t, srv, `{"type":"HEARTBEAT"}`)
	},
	"Authorize": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		opts.Authorize = func(c *Client, _ Message) error { hold(c); return nil }
		return busyOver(t, NewServer(opts), `{"type":"OFFER","dst":"absent"}`)
	},
	"AllowJoin": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		opts.AllowJoin = func(c *Client, _ string, _ json.RawMessage) error { hold(c); return nil }
		return busyOver(t, NewServer(opts), `{"type":"ROOM-JOIN","payload":{"room":"x"}}`)
	},
	"OnError": func(t *testing.T, opts Options, hold func(*Client)) (*rig, *rawPeer) {
		srv := NewServer(opts)
		srv.OnError(func(c *Client, _ error) { hold(c) })
		return busyOver(t, srv, `no message`)
	},
	"MessageRate": func(t *testing.T, opts Options, _ func(*Client)) (*rig, *rawPeer) {
		opts.MessageRate = 0.1 // the burst is two tenths of a message
		return busyOver(t, NewServer(opts), `{"type":"HEARTBEAT"}`)
	},
}

// busyOver lets the client "busy" send a text that holds its reader up.
func busyOver(t *testing.T, srv *Server, text string) (*rig, *rawPeer) {
	r := serveBubbleRig(t, srv, nil)
	p := r.rawOpen().open("busy")
	p.text(text)
	return r, p
}

// holdUp calls f in a bubble, in each of these ways, with the client "busy" and a peer that may
// send to it.
func holdUp(t *testing.T, opts Options, f func(t *testing.T, r *rig, c *Client, sender *testPeer)) {
	t.Helper()
	for name, way := range busyWays {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := opts
				opts.HandshakeTimeout = -1
				r, p := way(t, opts, func(c *Client) {
					if c.ID() == "busy" {
						time.Sleep(busyFor)
					}
				})
				synctest.Wait()
				c := r.srv.Realm().Client("busy")
				require.NotNil(t, c)
				require.True(t, c.readerIs(paused))
				f(t, r, c, r.connect("sender"))
				p.conn.Close()
				time.Sleep(2 * busyFor)
			})
		})
	}
}

// The end of a client does not wait for what its reader does. Its id is free, and what it was
// not sent waits for the next connection, in order.
func TestTheIDOfABusyClientIsFreeAtOnce(t *testing.T) {
	holdUp(t, Options{}, func(t *testing.T, r *rig, c *Client, sender *testPeer) {
		start := time.Now()
		sender.offer("busy", `1`) // which it does not read
		synctest.Wait()
		c.Close()
		synctest.Wait()
		require.Equal(t, 1, r.srv.Realm().Len())
		require.NotZero(t, r.srv.Stats().HeldBytes)
		r.connect("second").offer("busy", `2`)
		synctest.Wait()
		next := r.dial("busy", "another")
		synctest.Wait()
		require.Zero(t, time.Since(start))
		require.Equal(t, "another", r.srv.Realm().Client("busy").Token())
		next.wantOpen()
		next.wantOffer("sender", `1`)
		next.wantOffer("second", `2`)
		require.Empty(t, sender.frames)
	})
}

func TestWhatABusyClientWasNotSentExpiresInTime(t *testing.T) {
	holdUp(t, Options{}, func(t *testing.T, r *rig, c *Client, sender *testPeer) {
		start := time.Now()
		sender.offer("busy", `1`)
		time.Sleep(time.Second)
		c.Close()
		sender.wantExpire("busy")
		require.Equal(t, DefaultExpireTimeout, time.Since(start))
	})
}

// Nobody knows whether a client lives that the server does not read, so it is not blamed.
func TestABusyClientKeepsItsID(t *testing.T) {
	opts := Options{ProbeAfter: time.Second, AliveTimeout: 3 * time.Second}
	holdUp(t, opts, func(t *testing.T, r *rig, c *Client, _ *testPeer) {
		time.Sleep(busyFor - time.Second)
		start := time.Now()
		r.dial("busy", "another").wantRefused(TypeIDTaken, isTaken)
		require.Zero(t, time.Since(start))
		require.Same(t, c, r.srv.Realm().Client("busy"))
		require.False(t, c.pinged)
	})
}

// The reader may be held up when a probe begins, or get held up meanwhile.
func TestAProbeDoesNotBlameABusyHolder(t *testing.T) {
	const timeout = 2 * time.Second
	for _, c := range []struct {
		name     string
		from, to time.Duration // when the reader is held up, since the probe has begun
		end      time.Duration // when the holder ends; 0: it does not
		heard    time.Duration // when those that wait for a sign of life are woken; 0: they are not
		alive    bool
		takes    time.Duration
	}{
		{name: "before and after", from: -1, to: 2 * timeout, alive: true},
		{name: "from the middle on", from: timeout / 2, to: 2 * timeout, alive: true, takes: timeout},
		{name: "until shortly before the end", from: timeout / 2, to: timeout - 1, takes: timeout},
		{name: "while somebody looks", from: timeout / 4, to: timeout - 1, heard: timeout / 2, alive: true, takes: timeout / 2},
		{name: "after somebody has looked", from: timeout / 2, to: timeout - 1, heard: timeout / 4, takes: timeout},
		{name: "never", from: 2 * timeout, to: 3 * timeout, takes: timeout},
		{name: "it has ended", from: 2 * timeout, to: 3 * timeout, end: -1},
		{name: "it has ended while it was held up", from: -2, to: 2 * timeout, end: -1},
		{name: "it ends", from: 2 * timeout, to: 3 * timeout, end: timeout / 2, takes: timeout / 2},
		{name: "it ends while it is held up", from: timeout / 4, to: 2 * timeout, end: timeout / 2, takes: timeout / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{AliveTimeout: -1})
				holder := stubClient(t, srv, "a", "t")
				holder.setReader(reading)
				require.Nil(t, srv.claim(t.Context(), holder))
				begin := time.Now().Add(time.Minute)
				go func() {
					time.Sleep(time.Until(begin.Add(c.from)))
					holder.pauseReading(func() { time.Sleep(c.to - c.from) }, nil)
				}()
				if c.end != 0 {
					go func() {
						time.Sleep(time.Until(begin.Add(c.end)))
						holder.Close()
					}()
				}
				if c.heard != 0 {
					time.AfterFunc(time.Until(begin.Add(c.heard)), holder.socket.heard)
				}
				time.Sleep(time.Until(begin))
				require.Equal(t, c.alive, holder.probe(timeout))
				require.Equal(t, c.takes, time.Since(begin))
				time.Sleep(4 * timeout)
				holder.stopReading()
				holder.Close()
				srv.realm.remove(holder)
				holder.writers.Wait()
			})
		})
	}
}

// probeOf lets a probe of this client be under way, and returns a function that lets it fail.
func probeOf(srv *Server, c *Client) (fail func()) {
	failed := make(chan bool)
	go srv.probes.Do(c.ID(), func() (any, error) {
		<-failed
		return c, nil
	})
	synctest.Wait()
	return func() { close(failed) }
}

// The id may have changed hands while a probe was under way. What the probe has found out about
// the old holder says nothing about the new one.
func TestAProbeIsAboutOneConnection(t *testing.T) {
	for name, c := range map[string]struct {
		of     func(old, holder *Client) *Client // the client that was probed
		before func(holder *Client)
		want   bool
	}{
		"of the old holder":              {func(old, _ *Client) *Client { return old }, func(*Client) {}, true},
		"of the holder":                  {func(_, holder *Client) *Client { return holder }, func(*Client) {}, false},
		"the holder has ended meanwhile": {func(old, _ *Client) *Client { return old }, (*Client).Close, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Options{AliveTimeout: -1})
				old, holder := stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t")
				fail := probeOf(srv, c.of(old, holder))
				answer := make(chan bool, 1)
				go func() { answer <- srv.answers(t.Context(), holder) }()
				synctest.Wait()
				c.before(holder)
				fail()
				require.Equal(t, c.want, <-answer)
				holder.Close()
				holder.writers.Wait()
			})
		})
	}
}

// A client that takes the id over by the same token gets everything that its predecessor was
// not sent, also what only the same peer may get. The predecessor's reader, wherever it is, must
// not take the client out of the realm before that.
func TestATakeoverOfABusyClientLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Options{AliveTimeout: -1})
		holder, heir := stubClient(t, srv, "a", "t"), stubClient(t, srv, "a", "t")
		silence(srv, holder)
		holder.setReader(reading)
		go srv.pause(holder, func() { time.Sleep(busyFor) })
		synctest.Wait()
		require.NoError(t, holder.Send(Message{Type: "OWN"}))
		require.True(t, holder.evict(heir, ReasonReplaced, nil))
		synctest.Wait() // whoever waits for the end has done what there is to do
		require.Equal(t, 1, srv.Realm().Len(), "the place is kept")
		_, err := srv.realm.admit(heir, holder, true)
		require.NoError(t, err)
		require.Len(t, heir.outbox.parcels, 2)
		require.Equal(t, textFrame([]byte(`{"type":"OWN"}`)), heir.outbox.parcels[1].frame)
		time.Sleep(busyFor)
		heir.Close()
		srv.realm.remove(heir)
		heir.writers.Wait()
	})
}

// What a client has sent before is on its way when a function of the host begins.
func TestAFunctionOfTheHostHoldsUpNothingThatCameBefore(t *testing.T) {
	const second = `{"type":"OFFER","dst":"b","payload":"second"}`
	for name, c := range map[string]struct {
		second string
		opts   Options
		host   func(srv *Server)
	}{
		"Authorize": {second, Options{Authorize: func(_ *Client, m Message) error {
			if string(m.Payload) == `"second"` {
				time.Sleep(busyFor)
			}
			return nil
		}}, func(*Server) {}},
		"OnMessage": {second, Options{}, func(srv *Server) {
			srv.OnMessage(func(_ *Client, m Message) {
				if string(m.Payload) == `"second"` {
					time.Sleep(busyFor)
				}
			})
		}},
		"OnError": {`no message`, Options{}, func(srv *Server) {
			srv.OnError(func(*Client, error) { time.Sleep(busyFor) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(c.opts)
				c.host(srv)
				r := serveBubbleRig(t, srv, nil)
				b, p := r.connect("b"), r.rawOpen().open("a")
				start := time.Now()
				p.write(append(rawTextFrame(`{"type":"OFFER","dst":"b","payload":"first"}`), rawTextFrame(c.second)...))
				b.wantOffer("a", `"first"`)
				require.Zero(t, time.Since(start))
				p.conn.Close()
				time.Sleep(busyFor)
			})
		})
	}
}

// A client may have ended before the function begins. Its id is free then too, unless a newcomer has evicted it.
func TestTheIDOfAClientThatEndsBeforeAFunctionIsFree(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(c *Client)
		left int
	}{
		"closed":  {(*Client).Close, 0},
		"evicted": {func(c *Client) { c.evict(new(Client), ReasonReplaced, nil) }, 1},
		"well":    {func(*Client) {}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := quietClient(t, "pipe", Options{})
			client.setReader(reading)
			c.end(client)
			srv.pause(client, func() { require.Equal(t, c.left, srv.Realm().Len()) })
		})
	}
}

// A function of the host may cause another one, as a panic in OnConnection does with OnError. The
// reader is back when the outer one has returned.
func TestAFunctionInsideOfAnotherLeavesTheReaderPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := endingClient(t)
		defer far.Close()
		late := func() { t.Error("the pause is over") }
		c.pauseReading(func() {
			c.pauseReading(func() { require.True(t, c.readerIs(paused)) }, late)
			require.True(t, c.readerIs(paused))
		}, late)
		require.True(t, c.readerIs(reading))
		go io.Copy(io.Discard, far)
		c.Close()
		c.stopReading()
		c.writers.Wait()
	})
}
