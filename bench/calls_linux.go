package main

import (
	"fmt"
	"strings"
	"time"
)

// callCandidates is how many CANDIDATEs each side of a call sends, and callMessages is how many
// messages a call has in all: an OFFER, an ANSWER, and the CANDIDATEs of both.
const (
	callCandidates = 10
	callMessages   = 2 * (1 + callCandidates)
)

// calls are calls as PeerJS makes them: one client sends an OFFER and its CANDIDATEs; when the other one
// has the OFFER, it sends an ANSWER and its own CANDIDATEs. A browser sends the CANDIDATEs in several
// bursts; here each side sends all of them at once, so that the time of a call is that of the servers.
type calls struct {
	t     *trial
	n     int
	pairs []*conn // caller i and callee n+i
	offer []*offer
	more  [][][]byte // frames that client i sends next
	start []int64
	got   []int // messages that client i has
	ended int
	took  []float64 // microseconds from the OFFER to the last message
}

// newCalls prepares a call between each two of the pairs.
func newCalls(t *trial, pairs []*conn) *calls {
	n := len(pairs) / 2
	c := &calls{t: t, n: n, pairs: pairs, start: make([]int64, n), got: make([]int, 2*n), more: make([][][]byte, 2*n)}
	for i := range 2 * n {
		dst := pairs[(i+n)%(2*n)].id
		if i < n {
			c.offer = append(c.offer, newOffer(i, dst))
		} else {
			c.more[i] = append(c.more[i], appendFrame(nil, opText, maskOf(i), answerText(dst)))
		}
		for k := range callCandidates {
			c.more[i] = append(c.more[i], appendFrame(nil, opText, maskOf(i+k), candidateText(k, dst)))
		}
	}
	return c
}

// call starts call i.
func (c *calls) call(i int) {
	if i >= c.n {
		return
	}
	c.start[i] = c.t.now()
	c.pairs[i].write(c.offer[i].at(c.start[i]))
	c.sendMore(i)
}

func (c *calls) sendMore(i int) {
	for _, frame := range c.more[i] {
		c.pairs[i].write(frame)
	}
}

// receive checks a message: each client gets an OFFER or an ANSWER first, and then all CANDIDATEs in
// order.
func (c *calls) receive(at *conn, k kind, msg []byte, now int64) {
	i, first := at.index, kindAnswer
	if i >= c.n {
		first = kindOffer
	}
	want := kindCandidate
	if c.got[i] == 0 {
		want = first
	}
	if k != want || k == kindCandidate && string(field(msg, "usernameFragment")) != candidateName(c.got[i]-1) {
		c.t.fail("client %d of a call got, after %d messages, %.200s", i, c.got[i], msg)
		return
	}
	c.got[i]++
	if k == kindOffer {
		c.sendMore(i)
	}
	if pair := i % c.n; c.got[pair] == callMessages/2 && c.got[pair+c.n] == callMessages/2 {
		c.ended++
		c.took = append(c.took, float64(now-c.start[pair])/1e3)
	}
}

// run makes all calls at a fixed rate per second, and waits for their end.
func (c *calls) run(rate float64) error {
	d := time.Duration(float64(c.n) / rate * float64(time.Second))
	c.t.onMessage = c.receive
	defer func() { c.t.onMessage = nil }()
	c.t.pace(rate, d+time.Second, c.call)
	defer c.t.unpace()
	if err := c.t.must("the calls", d+10*time.Second, func() bool { return c.ended == c.n }); err != nil {
		return fmt.Errorf("%w: %d of %d were made", err, c.ended, c.n)
	}
	return nil
}

// answerText returns an ANSWER as the PeerJS client writes it.
func answerText(dst string) []byte {
	text := strings.Replace(string(offerText(dst)), `"type":"OFFER"`, `"type":"ANSWER"`, 1)
	return []byte(strings.Replace(text, `"type":"offer"`, `"type":"answer"`, 1))
}

// candidateText returns CANDIDATE number k of a client as the PeerJS client writes it.
func candidateText(k int, dst string) []byte {
	return fmt.Appendf(nil, `{"type":"CANDIDATE","payload":{"candidate":{"candidate":"candidate:%d 1 udp %d `+
		`192.0.2.%d %d typ srflx raddr 0.0.0.0 rport 0 generation 0 ufrag %[5]s network-id 1 network-cost 10","sdpMLineIndex":0,"sdpMid":"0",`+
		`"usernameFragment":"%[5]s"},"type":"data","connectionId":"dc_lq3x7y0m1p"},"dst":"%s"}`,
		842163049+k*7919, 1686052607-k*256, k+1, 50000+k*37, candidateName(k), dst)
}

// candidateName tells the candidates of a client apart.
func candidateName(k int) string { return fmt.Sprintf("%04d", k) }
