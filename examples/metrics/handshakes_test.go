package main

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

// observed takes what is observed.
type observed []float64

func (o *observed) Observe(v float64) { *o = append(*o, v) }

var _ prometheus.Observer = (*observed)(nil)

func TestAHandshakeTakesTheTimeSinceItsArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o observed
		r := httptest.NewRequest("GET", "/", nil)
		timed := r.WithContext(withArrival(r.Context()))
		time.Sleep(1500 * time.Millisecond)
		observe(&o, timed)
		require.Equal(t, observed{1.5}, o)
	})
}

func TestARequestWithoutAnArrivalIsNotObserved(t *testing.T) {
	var o observed
	observe(&o, nil)
	observe(&o, httptest.NewRequest("GET", "/", nil))
	require.Empty(t, o)
}

func TestTheHistogramCountsOnlyClientsThatConnected(t *testing.T) {
	r := newRig(t, peer.Options{})
	r.dial("peerjs", "a", "1").want(open)
	r.dial("wrong", "b", "2").want(`{"type":"ERROR","payload":{"msg":"Invalid key provided"}}`)
	require.NoError(t, r.srv.Close())
	got := r.scrape()
	require.EqualValues(t, 1, got["peer_handshake_duration_seconds_count"])
	require.Positive(t, got["peer_handshake_duration_seconds_sum"])
	require.EqualValues(t, 1, got[`peer_handshake_duration_seconds_bucket{le="+Inf"}`])
}
