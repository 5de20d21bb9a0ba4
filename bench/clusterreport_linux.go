package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// clusterRow is one line of the table of the cluster: a metric in all legs.
type clusterRow struct {
	Part, Metric, Unit string
	Values             [numLegs][]float64 // one for each round; none: it is not measured there
	Goal               float64            `json:",omitempty"`
	GoalIsAdded        bool               `json:",omitempty"` // the goal is for what the second node adds
}

// clusterResult is what the scenario cluster has measured.
type clusterResult struct {
	Skipped string `json:",omitempty"` // why there is nothing
	Rows    []*clusterRow
}

// record adds the notes of one run of a leg.
func (r *clusterResult) record(l leg, notes []note) {
	for _, n := range notes {
		x := r.row(n.part, n.metric)
		if x == nil {
			x = &clusterRow{Part: n.part, Metric: n.metric, Unit: n.unit, Goal: n.goal.most, GoalIsAdded: n.goal.added}
			at := len(r.Rows) // behind the other metrics of its part
			for i, y := range r.Rows {
				if y.Part == n.part {
					at = i + 1
				}
			}
			r.Rows = slices.Insert(r.Rows, at, x)
		}
		x.Values[l] = append(x.Values[l], n.value)
	}
}

// row returns the row of a metric, or nil.
func (r *clusterResult) row(part, metric string) *clusterRow {
	i := slices.IndexFunc(r.Rows, func(x *clusterRow) bool { return x.Part == part && x.Metric == metric })
	if i < 0 {
		return nil
	}
	return r.Rows[i]
}

// added returns by how much two nodes exceed one, for each round.
func (x *clusterRow) added() (d []float64) {
	one, two := x.Values[legOne], x.Values[legTwo]
	for i := range min(len(one), len(two)) {
		d = append(d, two[i]-one[i])
	}
	return d
}

func (x *clusterRow) goal() string {
	values := x.Values[legTwo]
	if x.GoalIsAdded {
		values = x.added()
	}
	if x.Goal == 0 || len(values) == 0 {
		return ""
	}
	text := fmt.Sprintf("≤ %g", x.Goal)
	if x.GoalIsAdded {
		text += " added"
	}
	// What is left to do from before falls into a span too: two commands are 2.001 then.
	const slack = 1.005
	if median(values) <= slack*x.Goal {
		return text + " met"
	}
	return text + " missed"
}

// print writes the table, and what follows from it.
func (r *clusterResult) print(w io.Writer, set clusterSettings) error {
	if r.Skipped != "" {
		_, err := fmt.Fprintf(w, "\n%s was left out: %s.\n", clusterName, r.Skipped)
		return err
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, clusterName+"\tmetric\tunit")
	for l := range numLegs {
		fmt.Fprintf(tw, "\t%v", l)
	}
	fmt.Fprintln(tw, "\tadded by the second\tgoal")
	for _, x := range r.Rows {
		fmt.Fprintf(tw, "%s\t%s\t%s", x.Part, x.Metric, x.Unit)
		for _, values := range append(x.Values[:], x.added()) {
			fmt.Fprintf(tw, "\t%s", withRange(median(values), values))
		}
		fmt.Fprintf(tw, "\t%s\n", x.goal())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, x := range r.Rows {
		for l, values := range x.Values {
			if late := median(values); x.Metric == lateMetric && late > lateBound {
				warnLate(w, fmt.Sprintf("%s, %v, %s", clusterName, leg(l), x.Part), late)
			}
		}
	}
	c, err := r.costs(set)
	if err != nil {
		return err
	}
	return c.print(w)
}
