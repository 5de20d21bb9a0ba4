package main

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gopeerjs/peer"
)

// arrivalKey is the key of the time at which a request arrived, in its context.
type arrivalKey struct{}

// timeHandshakes returns a handler to mount in the place of srv, and a histogram of the
// time from the arrival of a request at this handler until OnConnection. Authenticate is
// part of this time. Refused handshakes are not counted.
func timeHandshakes(srv *peer.Server) (http.Handler, prometheus.Histogram) {
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "peer_handshake_duration_seconds",
		Help:    "Time from the arrival of the request until the client is connected.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	srv.OnConnection(func(c *peer.Client) { observe(seconds, c.Request()) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(w, r.WithContext(withArrival(r.Context())))
	}), seconds
}

func withArrival(ctx context.Context) context.Context {
	return context.WithValue(ctx, arrivalKey{}, time.Now())
}

// observe ignores a request that is gone, and a request that came past the handler.
func observe(seconds prometheus.Observer, r *http.Request) {
	if r == nil {
		return
	}
	if arrival, ok := r.Context().Value(arrivalKey{}).(time.Time); ok {
		seconds.Observe(time.Since(arrival).Seconds())
	}
}
