package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

const (
	// renewEvery is how often a node renews each claim. It stands in claims.go of the server.
	renewEvery = 100 * time.Second

	// busyAt is the part of a core from which more Redis help: a command waits as long as it takes
	// itself, on average, when a queue in front of one server is busy for half of the time.
	busyAt = 0.5
)

// habits are an example of what peers do.
type habits struct {
	peersPerNode    int
	connects, calls float64 // of a peer in an hour
}

var exampleHabits = habits{peersPerNode: 10_000, connects: 2, calls: 4}

func (h habits) String() string {
	return fmt.Sprintf("a peer with %g connects and %g calls an hour, %s on each node, in a second",
		h.connects, h.calls, round(float64(h.peersPerNode)))
}

// costs are what Redis needs, in seconds of its CPU.
type costs struct {
	node    float64 // in a second, for a node whose clients do nothing
	renewal float64
	connect float64 // with the disconnect
	call    float64 // as the scenario makes it at the greatest rate: two bursts
	apart   float64 // a call each message of which is a batch of its own
}

// costs calculates what Redis needs from the medians of two nodes. What it needs without a message is
// taken out of the costs of messages.
func (r *clusterResult) costs(set clusterSettings) (c costs, err error) {
	value := func(part, metric string) float64 {
		x := r.row(part, metric)
		if x == nil || len(x.Values[legTwo]) == 0 {
			err = errors.Join(err, fmt.Errorf("%s, %s was not measured", part, metric))
			return 0
		}
		return median(x.Values[legTwo])
	}
	quiet := value(partQuiet, metricRedis+" per second") / 1e3
	idle := value(partQuiet, metricCommands+" per second")
	c.node = (quiet - value(partBefore, metricRedis+" per second")/1e3) / 2
	c.renewal = value(partCrowd, metricRenewal) / 1e6
	c.connect = value(partConnect, metricRedis) / 1e6
	calls := set.calls[len(set.calls)-1].rate
	c.call = value(callName(calls), metricRedis)/1e6 - quiet/float64(calls)
	// At the lowest rate, each message arrives before the next one is sent: that is how many commands it
	// needs on its own. A command is taken at the next rate, since Redis always sleeps at the lowest.
	slow, next := set.loads[0].rate, set.loads[1].rate
	alone := value(rateName(slow), metricCommands) - idle/float64(slow)
	command := (value(rateName(next), metricRedis)/1e6 - quiet/float64(next)) /
		(value(rateName(next), metricCommands) - idle/float64(next))
	c.apart = callMessages * alone * command
	return c, err
}

// peer returns what a peer needs in a second.
func (c costs) peer(h habits, call float64) float64 {
	idle := c.node/float64(h.peersPerNode) + c.renewal/renewEvery.Seconds()
	return idle + (h.connects*c.connect+h.calls*call)/time.Hour.Seconds()
}

// carried prints how many things of a cost one core carries.
func carried(cost, part float64) string {
	if cost <= 0 {
		return "too little to be measured"
	}
	return round(part / cost)
}

// round prints a number with two digits that count.
func round(v float64) string {
	if v >= 100 {
		unit := math.Pow(10, math.Floor(math.Log10(v))-1)
		v = math.Round(v/unit) * unit
	}
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// print writes what Redis carries.
func (c costs) print(w io.Writer) error {
	fmt.Fprint(w, "\nWhat Redis carries, calculated from the medians of two nodes:\n\n")
	h := exampleHabits
	together, apart := c.peer(h, c.call), c.peer(h, c.apart)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tCPU of Redis, µs\tone core carries")
	for _, x := range []struct {
		what string
		cost float64
		unit string
	}{
		{"a node, in a second", c.node, "nodes"},
		{fmt.Sprintf("a connected peer that does nothing, in a second (renewed each %v)", renewEvery),
			c.renewal / renewEvery.Seconds(), "peers"},
		{"connect + disconnect", c.connect, "in a second"},
		{fmt.Sprintf("a call of %d messages in two bursts", callMessages), c.call, "in a second"},
		{"the same call, each message in a batch of its own", c.apart, "in a second"},
		{h.String(), together, "peers"},
		{"the same, each message in a batch of its own", apart, "peers"},
	} {
		fmt.Fprintf(tw, "%s\t%s\t%s %s\n", x.what, number(x.cost*1e6), carried(x.cost, 1), x.unit)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nRedis Cluster begins to help where one Redis needs %.0f %% of a core: "+
		"from %s to %s of these peers, or %s to %s calls in a second.\n", busyAt*100, carried(apart, busyAt), carried(together, busyAt),
		carried(c.apart, busyAt), carried(c.call, busyAt))
	return err
}
