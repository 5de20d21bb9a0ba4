//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestTheScenarioClusterRuns(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip(errNoRedis)
	}
	set := tinySettings()
	node, err := goServer(t.Context(), "node", filepath.Join("..", "examples", "hosts", "cluster"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var r clusterResult
	for l := range numLegs {
		notes, err := runLeg(t.Context(), l, node, set, t.TempDir())
		busy := (*busyError)(nil)
		for tries := 1; tries < 5 && errors.As(err, &busy); tries++ {
			notes, err = runLeg(t.Context(), l, node, set, t.TempDir())
		}
		if err != nil {
			t.Fatal(err)
		}
		r.record(l, notes)
	}
	value := func(l leg, part, metric string) float64 {
		x := r.row(part, metric)
		if x == nil || len(x.Values[l]) != 1 {
			t.Fatalf("%s, %s was not measured", part, metric)
		}
		return x.Values[l][0]
	}
	for l := range numLegs {
		for _, part := range []string{partConnect, callName(200)} {
			if value(l, part, metricNodes) <= 0 || l != legWithout && value(l, part, metricRedis) <= 0 {
				t.Errorf("%v, %s: nothing was used", l, part)
			}
		}
	}
	// Each claims and releases, but the last releases can come later.
	for _, l := range []leg{legOne, legTwo} {
		if got := value(l, partConnect, metricScripts); got < 1.5 || got > 2.5 {
			t.Errorf("%v: %v scripts for a connect and a disconnect", l, got)
		}
	}
	if one, two := value(legOne, callName(200), metricCommands), value(legTwo, callName(200), metricCommands); two < one+1 {
		t.Errorf("a call takes %v commands on one node, %v across two", one, two)
	}
}

func TestWithoutRedisTheScenarioIsLeftOutByName(t *testing.T) {
	node := t.TempDir() + "/node"
	if out, err := exec.Command("ln", "-s", "/bin/false", node).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("PATH", "")
	r := &result{}
	if err := r.runCluster(t.Context(), options{rounds: 1, node: node, set: tinySettings()}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.print(&out, tinySettings()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "cluster was left out: redis-server is not installed.") {
		t.Errorf("printed:\n%s", out.String())
	}
}

func TestCommandstatsAreRead(t *testing.T) {
	const info = "# Commandstats\r\n" +
		"cmdstat_xadd:calls=12,usec=90,usec_per_call=7.50,rejected_calls=0,failed_calls=0\r\n" +
		"cmdstat_client|setinfo:calls=3,usec=1,usec_per_call=0.33,rejected_calls=0,failed_calls=0\r\n" +
		"cmdstat_EVALSHA:calls=5,usec=10,usec_per_call=2.00,rejected_calls=0,failed_calls=0\r\n"
	got, err := parseCommands(info)
	if want := (commands{"xadd": 12, "client|setinfo": 3, "evalsha": 5}); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
	d := got.since(commands{"xadd": 10, "client|setinfo": 3})
	if want := (commands{"xadd": 2, "evalsha": 5}); !reflect.DeepEqual(d, want) || d.all() != 7 || d.scripts() != 5 {
		t.Errorf("%v, %d, %d", d, d.all(), d.scripts())
	}
	for _, bad := range []string{"cmdstat_xadd", "cmdstat_xadd:usec=1", "cmdstat_xadd:calls=x", "cmdstat_xadd:calls=-1"} {
		if _, err := parseCommands(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestRepliesOfRedisAreRead(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("$5\r\nab\r\nc\r\n$0\r\n\r\n-ERR no\r\n$9\r\nshort\r\n"))
	for _, want := range []string{"ab\r\nc", ""} {
		if got, err := readBulk(r); err != nil || got != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, what := range []string{"an error", "a text that ends early", "nothing"} {
		if got, err := readBulk(r); err == nil {
			t.Errorf("%s was read as %q", what, got)
		}
	}
}

// measured returns a result in which each metric of two nodes has the given median.
func measured(values map[[2]string]float64) *clusterResult {
	r := new(clusterResult)
	for key, v := range values {
		for _, d := range []float64{-1e-9, 0, 1e-9} {
			r.record(legTwo, []note{{part: key[0], metric: key[1], value: v + d}})
		}
	}
	return r
}

func TestWhatOneRedisCarriesIsCalculated(t *testing.T) {
	set := clusterSettings{loads: []load{{50, 20}, {2000, 500}}, calls: []callLoad{{50, 1}, {400, 1}}}
	values := map[[2]string]float64{
		{partBefore, metricRedis + " per second"}:   1,
		{partQuiet, metricRedis + " per second"}:    3, // ms
		{partQuiet, metricCommands + " per second"}: 20,
		{partCrowd, metricRenewal}:                  10,
		{partConnect, metricRedis}:                  25,
		{callName(400), metricRedis}:                207.5,
		{rateName(50), metricCommands}:              4.4,
		{rateName(2000), metricRedis}:               21.5,
		{rateName(2000), metricCommands}:            1.01,
	}
	c, err := measured(values).costs(set)
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6*want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("a node", c.node, 1e-3)
	near("a renewal", c.renewal, 10e-6)
	near("a connect", c.connect, 25e-6)
	near("a call", c.call, 200e-6)
	// A message alone needs 4.4 - 20/50 = 4 commands of (21.5 - 1.5)/(1.01 - 0.01) = 20 µs.
	near("a call of single messages", c.apart, 22*4*20e-6)
	h := habits{peersPerNode: 1000, connects: 36, calls: 18}
	near("a peer", c.peer(h, c.call), 1e-6+0.1e-6+0.25e-6+1e-6)

	var out bytes.Buffer
	if err := c.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"5,000 in a second", "40,000 in a second", "10,000,000 peers", "280 to 2,500 calls"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	delete(values, [2]string{partCrowd, metricRenewal})
	if _, err := measured(values).costs(set); err == nil {
		t.Error("a renewal was calculated from nothing")
	}
	if got := carried(-1, 1); got != "too little to be measured" {
		t.Errorf("a cost below zero: %q", got)
	}
}

func TestGoalsOfTheClusterAndOrderOfRows(t *testing.T) {
	var r clusterResult
	add := clusterGoal{most: 30, added: true}
	for i := range 3 {
		base := float64(i) * 100 // the machine is slower in later rounds
		r.record(legWithout, []note{
			{"message", metricNodes, "µs", base + 8, add}, {"call", metricNodes, "µs", 1, clusterGoal{}}})
		r.record(legOne, []note{{"message", metricNodes, "µs", base + 10, add}})
		r.record(legTwo, []note{
			{"message", metricNodes, "µs", base + 35, add}, {"message", metricRedis, "µs", 9, clusterGoal{most: 8}}})
	}
	var order []string
	for _, x := range r.Rows {
		order = append(order, x.Part+" "+x.goal())
	}
	want := []string{"message ≤ 30 added met", "message ≤ 8 missed", "call "}
	if !reflect.DeepEqual(order, want) {
		t.Errorf("%q", order)
	}
	if got := r.row("message", metricNodes).added(); !reflect.DeepEqual(got, []float64{25, 25, 25}) {
		t.Errorf("added: %v", got)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestTheMessagesOfACall(t *testing.T) {
	dst := clientID(1, 7)
	for _, c := range []struct {
		text []byte
		kind kind
	}{{answerText(dst), kindAnswer}, {candidateText(3, dst), kindCandidate}} {
		if !json.Valid(c.text) || kindOf(c.text) != c.kind || string(field(c.text, "dst")) != dst {
			t.Errorf("not a message of kind %d: %s", c.kind, c.text)
		}
	}
	if got := string(field(candidateText(3, dst), "usernameFragment")); got != candidateName(3) {
		t.Errorf("candidate %q", got)
	}
}
