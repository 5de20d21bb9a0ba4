package clustertest

import (
	"errors"
	"fmt"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

// Missing, and beats.
var missingChecks = []check{
	{name: "NodesThatBeatAreNotMissing", f: func(r *rig) {
		for end := time.Now().Add(cluster.MissingAfter + time.Second); time.Now().Before(end); time.Sleep(10 * pollEach) {
			if r.a.missing(r.b.name) || r.b.missing(r.a.name) || r.a.missing(r.a.name) {
				r.Fatalf("a node that has joined is missing")
			}
		}
	}},
	{name: "MissingAnswersForEachNode", f: func(r *rig) {
		nobody := "nobody-" + r.tag
		all, err := r.a.Missing(r.ctx(), r.b.name, nobody, r.a.name)
		if err != nil {
			r.Fatalf("Missing: %v", err)
		}
		missing, known := all[nobody]
		b, knownB := all[r.b.name]
		a, knownA := all[r.a.name]
		if !known || !knownA || !knownB || !missing || a || b {
			r.Fatalf("Missing of two nodes that have joined and one that has not is %v", all)
		}
		names := []string{r.b.name}
		for i := range cluster.MaxClaims - 1 {
			names = append(names, fmt.Sprint(nobody, i))
		}
		all, err = r.a.Missing(r.ctx(), names...)
		if err != nil || len(all) != len(names) || all[r.b.name] || !all[nobody+"0"] {
			r.Fatalf("Missing of %d nodes has %d, error %v", len(names), len(all), err)
		}
	}},
	{name: "NodesThatDoNotBeatAreMissing", breaks: true, f: func(r *rig) {
		r.a.cut()
		cut := time.Now()
		r.await("the node that was cut off is missing", func() bool {
			asked := time.Now()
			missing := r.b.missing(r.a.name)
			// Its last beat was at most a second before the cut.
			if missing && time.Since(cut) < cluster.MissingAfter-1500*time.Millisecond {
				r.Fatalf("a node is missing %v after its last beat at most", time.Since(cut)+time.Second)
			}
			if !missing && asked.Sub(cut) > cluster.MissingAfter+1500*time.Millisecond {
				r.Fatalf("a node is not missing %v after its last beat", asked.Sub(cut))
			}
			return missing
		})
		r.a.mend()
		r.await("the node is not missing", func() bool { return !r.b.missing(r.a.name) })
	}},
}

// What happens to the inbox and the handler when an engine is cut off, or data is lost.
var lostChecks = []check{
	{name: "ShortCutLosesNothing", breaks: true, f: func(r *rig) {
		var want []string
		for i := range 10 {
			r.a.cut()
			for j := range 10 {
				batch := fmt.Sprint(i, j)
				r.b.send(r.a, batch)
				want = append(want, batch)
			}
			r.a.mend()
		}
		r.a.got(want...)
	}},
	{name: "InboxOutlivesSilence", breaks: true, minutes: true, f: func(r *rig) {
		r.a.cut()
		r.advance(cluster.InboxTTL - 5*time.Second)
		r.b.send(r.a, "1")
		r.a.mend()
		r.a.got("1")
		r.a.lostBefore("", "1")
	}},
	{name: "NoReceiveWithoutBeats", breaks: true, f: func(r *rig) {
		r.a.hold()
		r.b.send(r.a, "1", "2", "3", "4")
		r.a.blocked("1")
		r.a.cut()
		r.await("the node that was cut off is missing", func() bool { return r.b.missing(r.a.name) })
		r.a.resume()
		r.never("Receive was called though the last beat was over 2 s ago", func() bool { return len(r.a.batches()) > 1 })
		r.a.mend()
		r.a.got("1", "2", "3", "4")
		r.a.lostBefore("1", "2")
	}},
	{name: "LostAfterSilence", breaks: true, f: func(r *rig) {
		r.a.cut()
		r.await("the node that was cut off is missing", func() bool { return r.b.missing(r.a.name) })
		r.b.send(r.a, "1", "2")
		r.a.mend()
		r.a.got("1", "2")
		r.a.lostBefore("", "1")
	}},
	{name: "LostAfterDataIsLost", breaks: true, f: func(r *rig) {
		r.a.granted(nowhere, cluster.Claim{ID: r.id("x"), Token: ann, Epoch: base})
		r.a.forget()
		r.comesBack(r.b, r.a, "1")
		r.comesBack(r.a, r.b, "1")
		r.a.lostBefore("", "1")
		r.b.lostBefore("", "1")
		r.a.renewed(cluster.Claim{ID: r.id("x"), Token: ann, Epoch: base + 1, Own: base})
		r.b.finds(r.id("x"), r.a.at(base+1))
	}},
	{name: "LostWaitsForReceive", breaks: true, f: func(r *rig) {
		r.a.hold()
		r.b.send(r.a, "1")
		r.a.blocked("1")
		r.a.forget()
		r.await("the inbox is there again", func() bool { return r.b.Send(r.ctx(), r.a.name, []byte("2")) == nil })
		r.never("Lost was called during Receive", r.a.lost)
		r.a.resume()
		r.a.got("1", "2")
		r.a.lostBefore("1", "2")
	}},
}

// comesBack sends a batch to a node as soon as that has its inbox again, and waits until it arrived.
func (r *rig) comesBack(from, to *node, batch string) {
	r.Helper()
	r.await("the inbox is there again", func() bool {
		err := from.Send(r.ctx(), to.name, []byte(batch))
		if err != nil && !errors.Is(err, cluster.ErrNoNode) {
			r.Fatalf("Send to a node whose inbox was lost: %v", err)
		}
		return err == nil
	})
	to.got(batch)
}
