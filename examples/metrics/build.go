package main

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

const peerModule = "github.com/gopeerjs/peer"

// buildInfo returns the gauge peer_build_info. Its value is always 1. Its labels name the
// version of the module peer and of Go. It takes the results of [debug.ReadBuildInfo].
func buildInfo(info *debug.BuildInfo, ok bool) prometheus.Collector {
	labels := prometheus.Labels{"version": "unknown", "go_version": "unknown"}
	if ok {
		labels["version"], labels["go_version"] = peerVersion(info), info.GoVersion
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "peer_build_info",
		Help:        "Always 1. The labels name the version of the module peer and of Go.",
		ConstLabels: labels,
	})
	g.Set(1)
	return g
}

// peerVersion returns the version of the module peer. A directory that replaces the
// module has no version: then it is "(devel)".
func peerVersion(info *debug.BuildInfo) string {
	for _, m := range info.Deps {
		if m.Path != peerModule {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" {
			return "(devel)"
		}
		return m.Version
	}
	return "unknown"
}
