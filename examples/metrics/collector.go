package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gopeerjs/peer"
)

// A collector shows the counters of a server to Prometheus. It keeps none itself: each
// scrape takes one snapshot by [peer.Server.Stats], from which all of its numbers come.
//
// A process with several servers registers each collector with a label of its own, by
// [prometheus.WrapRegistererWith].
type collector struct {
	stats func() peer.Stats
}

// A metric is one number of the Stats. Collect leaves a negative number out: only a bound
// is ever negative, and then there is no bound. A series of -1 would make each comparison
// with the bound wrong, and a comparison with a missing series finds nothing.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(peer.Stats) float64
}

// A family is a counter for each of several causes. Stats has all of them from the
// start, at 0. That is what rate needs to see the first one happen: of a series that
// begins at 1, it does not know that it has grown.
type family struct {
	desc   *prometheus.Desc
	values func(peer.Stats) map[string]uint64
}

var metrics = []metric{
	gauge("peer_clients", "Clients connected now.",
		func(st peer.Stats) int { return st.Clients }),
	gauge("peer_clients_peak", "The most clients that were connected at once since the start.",
		func(st peer.Stats) int { return st.PeakClients }),
	gauge("peer_held_bytes", "Bytes of the messages that wait for absent destinations now.",
		func(st peer.Stats) int { return st.HeldBytes }),
	gauge("peer_held_messages", "Messages that wait for absent destinations now.",
		func(st peer.Stats) int { return st.HeldMessages }),
	gauge("peer_partial_bytes", "Bytes of messages of which only a part has arrived now.",
		func(st peer.Stats) int { return st.PartialBytes }),
	gauge("peer_rooms", "Rooms that have members now.",
		func(st peer.Stats) int { return st.Rooms }),
	gauge("peer_room_members", "Members of all rooms now. A client counts once for each of its rooms.",
		func(st peer.Stats) int { return st.Members }),

	gauge("peer_clients_limit", "The bound ConcurrentLimit. Without a bound, the series is missing.",
		func(st peer.Stats) int { return st.ConcurrentLimit }),
	gauge("peer_rooms_limit", "The bound MaxRooms. Without a bound, the series is missing.",
		func(st peer.Stats) int { return st.MaxRooms }),
	gauge("peer_held_limit_bytes", "The bound MaxHeldBytes. Without a bound, the series is missing.",
		func(st peer.Stats) int { return st.MaxHeldBytes }),
	gauge("peer_partial_limit_bytes", "The bound MaxPartialBytes. Without a bound, the series is missing.",
		func(st peer.Stats) int { return st.MaxPartialBytes }),
	{newDesc("peer_start_time_seconds", "When the server was made, in seconds since 1970."), prometheus.GaugeValue,
		func(st peer.Stats) float64 { return float64(st.Since.UnixMilli()) / 1000 }},

	counter("peer_connections_accepted_total", "Connections that got OPEN.",
		func(st peer.Stats) uint64 { return st.Accepted }),
	counter("peer_messages_relayed_total", "Messages put into the outbox of their destination, EXPIRE included.",
		func(st peer.Stats) uint64 { return st.Relayed }),
	counter("peer_messages_held_total", "Messages that waited for an absent destination.",
		func(st peer.Stats) uint64 { return st.Held }),
	counter("peer_messages_returned_total", "Messages that were saved from a connection that ended before they were written.",
		func(st peer.Stats) uint64 { return st.Returned }),
	counter("peer_expires_total", "EXPIRE messages made for senders whose destination did not come.",
		func(st peer.Stats) uint64 { return st.Expires }),
	counter("peer_received_bytes_total", "Payload bytes of the frames that clients have sent.",
		func(st peer.Stats) uint64 { return st.BytesIn }),
	counter("peer_sent_bytes_total", "Bytes of the frames written to clients.",
		func(st peer.Stats) uint64 { return st.BytesOut }),

	gauge("peer_cluster_nodes", "Other nodes of the cluster that this one has to do with.",
		func(st peer.Stats) int { return ofCluster(st).Nodes }),
	gauge("peer_cluster_queued_bytes", "Bytes of messages that other nodes have not confirmed.",
		func(st peer.Stats) int { return ofCluster(st).QueuedBytes }),
	counter("peer_cluster_batches_total", "Batches that were sent to other nodes of the cluster.",
		func(st peer.Stats) uint64 { return ofCluster(st).Batches }),
	counter("peer_cluster_repeated_total", "Batches that were sent again after an error, or came twice.",
		func(st peer.Stats) uint64 { return ofCluster(st).Repeated }),
	counter("peer_cluster_gaps_total", "Batches of other nodes that never came.",
		func(st peer.Stats) uint64 { return ofCluster(st).Gaps }),
	counter("peer_cluster_refused_total", "Messages of other nodes that found no client, or no room.",
		func(st peer.Stats) uint64 { return ofCluster(st).Refused }),
	counter("peer_cluster_returned_total", "Messages that came back from another node.",
		func(st peer.Stats) uint64 { return ofCluster(st).Returned }),
	counter("peer_cluster_finds_total", "Look-ups of ids.",
		func(st peer.Stats) uint64 { return ofCluster(st).Finds }),
	counter("peer_cluster_claims_total", "Claims of ids and renewals.",
		func(st peer.Stats) uint64 { return ofCluster(st).Claims }),
	counter("peer_cluster_lost_total", "How often the engine may have lost data, or others may have thought this node dead.",
		func(st peer.Stats) uint64 { return ofCluster(st).Lost }),
	counter("peer_cluster_errors_total", "Errors of the engine, and batches that could not be read.",
		func(st peer.Stats) uint64 { return ofCluster(st).Errors }),
}

// ofCluster returns the counters of the cluster, which are 0 for a server that is alone.
func ofCluster(st peer.Stats) peer.ClusterStats {
	if st.Cluster == nil {
		return peer.ClusterStats{}
	}
	return *st.Cluster
}

var families = []family{
	counters("peer_connections_refused_total", "Handshakes that were refused, by cause.", "cause",
		func(st peer.Stats) map[string]uint64 { return st.Refused }),
	counters("peer_messages_dropped_total", "Messages that came to nothing, by cause.", "cause",
		func(st peer.Stats) map[string]uint64 { return st.Dropped }),
	counters("peer_disconnects_total", "Connections that ended, by reason.", "reason", disconnects),
}

func gauge(name, help string, value func(peer.Stats) int) metric {
	return metric{newDesc(name, help), prometheus.GaugeValue, func(st peer.Stats) float64 { return float64(value(st)) }}
}

func counter(name, help string, value func(peer.Stats) uint64) metric {
	return metric{newDesc(name, help), prometheus.CounterValue, func(st peer.Stats) float64 { return float64(value(st)) }}
}

func counters(name, help, label string, values func(peer.Stats) map[string]uint64) family {
	return family{newDesc(name, help, label), values}
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func disconnects(st peer.Stats) map[string]uint64 {
	byText := make(map[string]uint64, len(st.Disconnects))
	for why, n := range st.Disconnects {
		byText[why.String()] = n
	}
	return byText
}

// Describe is part of [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect is part of [prometheus.Collector]. It may be called concurrently.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st := c.stats()
	for _, m := range metrics {
		if v := m.value(st); v >= 0 {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v)
		}
	}
	for _, f := range families {
		for label, n := range f.values(st) {
			ch <- prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, float64(n), label)
		}
	}
}
