//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tinySettings make every scenario short. They measure nothing: they show that the
// generator and the server still understand each other.
func tinySettings() settings {
	return settings{
		sizes:           []int{200},
		settle:          200 * time.Millisecond,
		idle:            50 * time.Millisecond,
		heartbeatRounds: 2,
		heartbeatEvery:  100 * time.Millisecond,
		pairs:           20,
		rate:            1000,
		warm:            50 * time.Millisecond,
		measure:         200 * time.Millisecond,
		churnWarm:       50,
		churnCycles:     100,
		fanIn:           20,
		flooders:        20,
		bystanders:      10,
		floodRate:       500,
		bystanderRate:   500,
		absent:          50,
		absentSenders:   10,
		held:            4,
		absentWaves:     1,
		expireTimeout:   300 * time.Millisecond,
		ending:          200,
		cluster: clusterSettings{
			warm:    50 * time.Millisecond,
			measure: 200 * time.Millisecond,
			loads:   []load{{50, 5}, {1000, 20}},
			cycles:  100,
			quiet:   100 * time.Millisecond,
			crowd:   200,
			calls:   []callLoad{{50, 5}, {200, 20}},
		},
	}
}

func TestEveryScenarioRunsAgainstOurServer(t *testing.T) {
	tmp := t.TempDir()
	ours, err := goServer(t.Context(), "ours", filepath.Join("..", "examples", "peerjs"), tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range scenarios(tinySettings()) {
		if sc.name == clusterName {
			continue // see cluster_test.go
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			samples, err := attempt(t.Context(), sc, ours, tinySettings(), t.TempDir(), "--expire_timeout", "300")
			if err != nil {
				t.Fatal(err)
			}
			if len(samples) == 0 {
				t.Fatal("nothing was measured")
			}
			for _, s := range samples {
				counts := strings.HasPrefix(s.metric, "CPU per ") && s.metric != "CPU per second of silence"
				if counts && s.value <= 0 {
					t.Errorf("%s is %v", s.metric, s.value)
				}
				if s.metric == "EXPIREs for 1,000 absent ids" && s.value != 1000 {
					t.Errorf("%s: %v", s.metric, s.value)
				}
			}
		})
	}
}

func TestAServerThatDoesNotStartIsReported(t *testing.T) {
	_, err := startServer(t.Context(), program{name: "false", argv: []string{"false"}}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "it ended at once") {
		t.Fatalf("got %v", err)
	}
}

func TestAStampComesBackFromTheMaskedFrame(t *testing.T) {
	o := newOffer(499, clientID(1, 7))
	const now = 123456789012
	f, rest, ok := nextFrame(unmasked(o.at(now)))
	if !ok || len(rest) != 0 || f.first != 0x80|opText {
		t.Fatalf("not a frame: %v, %d bytes left", ok, len(rest))
	}
	if len(f.payload) != offerSize || !json.Valid(f.payload) || kindOf(f.payload) != kindOffer {
		t.Fatalf("not an OFFER of %d bytes: %s", offerSize, f.payload)
	}
	for _, hint := range []int{0, 5, o.phase, len(f.payload)} {
		src, sent, at, ok := readStamp(f.payload, hint)
		if !ok || src != 499 || sent != now || at != o.phase {
			t.Errorf("hint %d: %d, %d, %d, %v", hint, src, sent, at, ok)
		}
	}
	if _, _, _, ok := readStamp([]byte(`{"type":"OFFER"}`), 0); ok {
		t.Error("a stamp in a message without one")
	}
}

// unmasked returns a client's frame as a server would send it.
func unmasked(b []byte) []byte {
	head := 2
	if b[1]&0x7f == 126 {
		head = 4
	}
	mask, payload := b[head:head+4], slices.Clone(b[head+4:])
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	out := slices.Clone(b[:head])
	out[1] &= 0x7f
	return append(out, payload...)
}

func TestTheKindOfAMessage(t *testing.T) {
	for msg, want := range map[string]kind{
		`{"type":"OPEN"}`:                       kindOpen,
		`{"type":"OFFER","src":"a","dst":"b"}`:  kindOffer,
		`{"src":"a","type":"OFFER","dst":"b"}`:  kindOffer,
		`{"type":"ANSWER","src":"a","dst":"b"}`: kindAnswer,
		`{"src":"a","type":"ANSWER","dst":"b"}`: kindAnswer,
		`{"type":"CANDIDATE","src":"a"}`:        kindCandidate,
		`{"src":"a","type":"CANDIDATE"}`:        kindCandidate,
		`{"type":"EXPIRE","src":"a"}`:           kindExpire,
		`{"type":"ERROR","payload":{"msg":""}}`: kindError,
		`{"type":"ID-TAKEN"}`:                   kindError,
		`{"type":"LEAVE"}`:                      kindOther,
		`{"type":""}`:                           kindOther,
		`nonsense`:                              kindOther,
	} {
		if got := kindOf([]byte(msg)); got != want {
			t.Errorf("%s: %d, want %d", msg, got, want)
		}
	}
}

// pipe returns a client with a socket whose other end is the test's.
func pipe(t *testing.T) (*conn, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLoop(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{loop: l, fd: fds[0], state: stateUpgrading}
	for len(l.conns) <= c.fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[c.fd] = c
	t.Cleanup(func() {
		l.close()
		syscall.Close(fds[1])
	})
	return c, fds[1]
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + handshakeAccept + "\r\n\r\n"

func TestFramesAreReadHoweverTheyAreCut(t *testing.T) {
	large := `{"type":"OFFER","payload":"` + strings.Repeat("x", 70000) + `"}`
	text := func(first byte, s string) []byte {
		b := unmasked(appendFrame(nil, opText, [4]byte{}, []byte(s)))
		b[0] = first
		return b
	}
	stream := []byte(switching)
	stream = append(stream, text(0x81, `{"type":"OPEN"}`)...)
	stream = append(stream, text(0x81, `{"type":"OFFER","payload":1}`)...)
	stream = append(stream, text(0x01, `{"type":"OFF`)...)
	stream = append(stream, text(0x89, `hello`)...) // a ping between two fragments
	stream = append(stream, text(0x00, `ER","pay`)...)
	stream = append(stream, text(0x80, `load":2}`)...)
	stream = append(stream, 0x81, 127, 0, 0, 0, 0, 0, byte(len(large)>>16), byte(len(large)>>8), byte(len(large)))
	stream = append(stream, large...)

	for _, step := range []int{1, 7, 1000, len(stream)} {
		c, other := pipe(t)
		opened := 0
		var got []string
		c.loop.onOpen = func(*conn) { opened++ }
		c.loop.onMessage = func(_ *conn, k kind, msg []byte, _ int64) {
			if k != kindOffer {
				t.Errorf("kind %d", k)
			}
			got = append(got, string(msg))
		}
		var rest []byte
		for part := range slices.Chunk(stream, step) {
			rest = slices.Clone(c.loop.consume(c, append(rest, part...)))
		}
		if c.loop.err != nil {
			t.Fatal(c.loop.err)
		}
		want := []string{`{"type":"OFFER","payload":1}`, `{"type":"OFFER","payload":2}`, large}
		if opened != 1 || !slices.Equal(got, want) || len(rest) != 0 {
			t.Errorf("step %d: %d times OPEN, %d messages, %d bytes left", step, opened, len(got), len(rest))
		}
		pong := make([]byte, 100)
		n, err := syscall.Read(other, pong)
		if err != nil {
			t.Fatal(err)
		}
		if want := appendFrame(nil, opPong, maskOf(0), []byte("hello")); !bytes.Equal(pong[:n], want) {
			t.Errorf("the ping was answered with %x", pong[:n])
		}
	}
}

func TestWhatTheGeneratorCannotMeasureIsAnError(t *testing.T) {
	for name, answer := range map[string]string{
		"a refusal":      "HTTP/1.1 403 Forbidden\r\n\r\n",
		"compression":    strings.Replace(switching, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 1),
		"a close":        switching + "\x88\x02\x03\xe8",
		"a masked frame": switching + "\x81\x80\x01\x02\x03\x04",
		"an ERROR":       switching + "\x81\x10" + `{"type":"ERROR"}`,
	} {
		c, _ := pipe(t)
		c.loop.consume(c, []byte(answer))
		if c.loop.err == nil {
			t.Errorf("%s went unnoticed", name)
		}
	}
}

func TestRowsMediansAndGoals(t *testing.T) {
	r := &result{Reference: "npm", Ours: "ours", Rounds: 3}
	for i, v := range []float64{10, 30, 20} {
		ours := []float64{4, 9, 6}[i]
		r.record("relay-1", false, []sample{{"CPU per message", "µs", v, goal{ratio: 0.4}}})
		r.record("relay-1", true, []sample{{"CPU per message", "µs", ours, goal{ratio: 0.4}}})
		for _, n := range []float64{1000, 5000} {
			name := map[float64]string{1000: "idle-1000", 5000: "idle-5000"}[n]
			r.record(name, false, []sample{{"memory of the whole process", "MiB", 50 + n/1024*8, goal{}}})
			r.record(name, true, []sample{{"memory of the whole process", "MiB", 10 + n/1024*16, goal{}}})
		}
	}
	r.record("open-loop", false, []sample{{lateMetric, "µs", 50, goal{}}})
	r.record("open-loop", true, []sample{{lateMetric, "µs", 2500, goal{}}})
	r.finish()
	x := r.Rows[0]
	if x.ReferenceMedian != 20 || x.OursMedian != 6 || x.Ratio != 0.3 || x.Ratios != [2]float64{0.3, 0.4} {
		t.Errorf("%+v", x)
	}
	if got := x.goal(); got != "≤ 0.40× met" {
		t.Errorf("goal: %q", got)
	}
	slope := r.Rows[len(r.Rows)-1]
	if slope.Metric != "memory per further connection, 1000 to 5000" || slope.Ratio != 2 {
		t.Errorf("%+v", slope)
	}
	var out bytes.Buffer
	if err := r.print(&out, tinySettings()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "20.0 (10.0–30.0)") {
		t.Errorf("no range in\n%s", out.String())
	}
	if !strings.Contains(out.String(), "up to 2500 µs late") {
		t.Errorf("no warning in\n%s", out.String())
	}
}

func TestChoosingScenarios(t *testing.T) {
	all := scenarios(fullSettings())
	names := func(list []scenario) (out []string) {
		for _, sc := range list {
			out = append(out, sc.name)
		}
		return out
	}
	got, err := choose(all, "idle-5000,relay")
	if want := []string{"idle-5000", "relay-1", "relay-16"}; err != nil || !slices.Equal(names(got), want) {
		t.Errorf("%v, %v", names(got), err)
	}
	if _, err := choose(all, "relay,nonsense"); err == nil {
		t.Error("an unknown name was accepted")
	}
}
