package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
)

// row is one line of the table: a metric of a scenario, measured on both sides.
type row struct {
	Scenario  string
	Metric    string
	Unit      string
	Reference []float64 // one value for each round
	Ours      []float64
	GoalRatio float64 `json:",omitempty"` // what Ratio should be at most
	GoalValue float64 `json:",omitempty"` // what the median of Ours should be at most

	// Set by finish.
	ReferenceMedian, OursMedian float64
	Ratio                       float64    `json:",omitempty"` // of the medians, ours to the reference's
	Ratios                      [2]float64 // least and greatest of the rounds
}

// result is what -json writes.
type result struct {
	Time, Go, Node, Kernel, Processor string
	Cores, Rounds                     int
	Quick                             bool
	Reference, Ours                   string
	Rows                              []*row
	Cluster                           *clusterResult `json:",omitempty"`
}

// lateMetric is the row that tells whether latencies can be believed: not when the
// load generator missed its schedule by more than lateBound microseconds.
const (
	lateMetric = "load generator late, p99"
	lateBound  = 1000
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// record adds the samples of one trial to the rows.
func (r *result) record(scenario string, ours bool, samples []sample) {
	for _, s := range samples {
		i := slices.IndexFunc(r.Rows, func(x *row) bool { return x.Scenario == scenario && x.Metric == s.metric })
		if i < 0 {
			i = len(r.Rows)
			r.Rows = append(r.Rows, &row{Scenario: scenario, Metric: s.metric, Unit: s.unit,
				GoalRatio: s.goal.ratio, GoalValue: s.goal.value})
		}
		if ours {
			r.Rows[i].Ours = append(r.Rows[i].Ours, s.value)
		} else {
			r.Rows[i].Reference = append(r.Rows[i].Reference, s.value)
		}
	}
}

// finish computes what follows from the values.
func (r *result) finish() {
	r.addSlope()
	for _, x := range r.Rows {
		x.ReferenceMedian, x.OursMedian = median(x.Reference), median(x.Ours)
		if x.ReferenceMedian <= 0 || x.OursMedian < 0 {
			continue // a ratio of growths, one of which is none, says nothing
		}
		x.Ratio = x.OursMedian / x.ReferenceMedian
		x.Ratios = [2]float64{x.Ratio, x.Ratio}
		for i := range min(len(x.Reference), len(x.Ours)) {
			if x.Reference[i] > 0 {
				ratio := x.Ours[i] / x.Reference[i]
				x.Ratios = [2]float64{min(x.Ratios[0], ratio), max(x.Ratios[1], ratio)}
			}
		}
	}
}

// addSlope adds what one more connection costs in memory, from the smallest to the
// largest number measured: for what is beyond a process's limit of files.
func (r *result) addSlope() {
	var least, most *row
	var from, to int
	for _, x := range r.Rows {
		var n int
		if _, err := fmt.Sscanf(x.Scenario, "idle-%d", &n); err != nil || x.Metric != "memory of the whole process" {
			continue
		}
		if least == nil || n < from {
			least, from = x, n
		}
		if most == nil || n > to {
			most, to = x, n
		}
	}
	if least == most {
		return
	}
	slope := &row{Scenario: "idle", Metric: fmt.Sprintf("memory per further connection, %d to %d", from, to), Unit: "KiB"}
	per := func(a, b []float64) (out []float64) {
		for i := range min(len(a), len(b)) {
			out = append(out, (b[i]-a[i])*1024/float64(to-from))
		}
		return out
	}
	slope.Reference, slope.Ours = per(least.Reference, most.Reference), per(least.Ours, most.Ours)
	r.Rows = append(r.Rows, slope)
}

// goal returns what is asked of a row and whether it is so.
func (x *row) goal() string {
	verdict := func(value, most float64) string {
		if value <= most {
			return "met"
		}
		return "missed"
	}
	switch {
	case x.GoalRatio > 0 && x.Ratio > 0:
		return fmt.Sprintf("≤ %.2f× %s", x.GoalRatio, verdict(x.Ratio, x.GoalRatio))
	case x.GoalValue > 0:
		return fmt.Sprintf("≤ %g %s", x.GoalValue, verdict(x.OursMedian, x.GoalValue))
	}
	return ""
}

// number prints a value with three digits that count.
func number(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	digits := 0
	for a := math.Abs(v); a < 100 && digits < 2; a *= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func withRange(m float64, values []float64) string {
	if len(values) < 2 {
		return number(m)
	}
	return fmt.Sprintf("%s (%s–%s)", number(m), number(slices.Min(values)), number(slices.Max(values)))
}

// print writes the tables.
func (r *result) print(w io.Writer, set settings) error {
	fmt.Fprintf(w, "%s; %d cores, %s, Linux %s, %s, Node %s; rounds: %d%s\n",
		r.Time, r.Cores, r.Processor, r.Kernel, r.Go, r.Node, r.Rounds, map[bool]string{true: ", quick"}[r.Quick])
	var err error
	if len(r.Rows) > 0 {
		err = r.printBeside(w)
	}
	if r.Cluster != nil {
		err = errors.Join(err, r.Cluster.print(w, set.cluster))
	}
	return err
}

// printBeside writes the table of the two servers.
func (r *result) printBeside(w io.Writer) error {
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "scenario\tmetric\tunit\t%s\t%s\tratio\tgoal\n", r.Reference, r.Ours)
	for _, x := range r.Rows {
		ratio := "-"
		if x.Ratio > 0 {
			ratio = withRange(x.Ratio, x.Ratios[:])
			if len(x.Ours) < 2 {
				ratio = number(x.Ratio)
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Scenario, x.Metric, x.Unit,
			withRange(x.ReferenceMedian, x.Reference), withRange(x.OursMedian, x.Ours), ratio, x.goal())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, x := range r.Rows {
		if late := max(x.ReferenceMedian, x.OursMedian); x.Metric == lateMetric && late > lateBound {
			warnLate(w, x.Scenario, late)
		}
	}
	return nil
}

func warnLate(w io.Writer, what string, late float64) {
	fmt.Fprintf(w, "\n%s: the load generator was up to %s µs late: the machine was busy, do not believe the latencies.\n",
		what, number(late))
}

// writeJSON writes everything to a file, the values of each round included.
func (r *result) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
