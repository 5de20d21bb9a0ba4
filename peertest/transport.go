package peertest

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// A transport makes the requests of one client. Each request has a connection of its own.
type transport struct {
	http.RoundTripper
	cfg    config
	socket bool            // the requests are for signalling sockets
	ended  context.Context // ends with the host
}

// newTransport returns the transport of a client. If it is for a socket, it stores its connection.
func newTransport(h *Host, cfg config, socket *atomic.Pointer[conn]) *transport {
	return &transport{socket: socket != nil, cfg: cfg, ended: h.ended, RoundTripper: &http.Transport{
		DisableKeepAlives: true, // a connection that is kept has goroutines
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := h.listener.dial(ctx, cfg.from)
			if err != nil {
				return nil, err
			}
			if socket != nil {
				socket.Store(c)
			}
			return c, nil
		},
	}}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	// A Timeout of http.Client, and a body that is not closed, would leave goroutines that wait for it.
	ctx, cancel := context.WithTimeout(r.Context(), t.cfg.timeout)
	context.AfterFunc(t.ended, cancel)
	r = r.Clone(ctx)
	for name, values := range t.cfg.header {
		if name == "Host" && len(values) > 0 {
			r.Host = values[0]
		} else if name != "Host" {
			r.Header[name] = values
		}
	}
	if _, given := r.Header["Origin"]; t.socket && !given {
		r.Header.Set("Origin", "http://"+r.Host)
	}
	res, err := t.RoundTripper.RoundTrip(r)
	if err != nil || res.StatusCode == http.StatusSwitchingProtocols { // a connection needs no context any more
		cancel()
		return res, err
	}
	res.Body = &body{res.Body, cancel}
	return res, nil
}

// A body ends the context of its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
