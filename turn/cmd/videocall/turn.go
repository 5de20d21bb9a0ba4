package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strconv"

	"github.com/gopeerjs/peer/turn"
)

// startTURN opens the sockets of the TURN server and starts it.
func (c *config) startTURN(certs []tls.Certificate, logger *slog.Logger) (*turn.Server, error) {
	for _, port := range []int{c.minPort, c.maxPort} {
		if port < 1 || port > math.MaxUint16 {
			return nil, fmt.Errorf("-min-port and -max-port: %d is not a port", port)
		}
	}
	if !c.bindIP.IsValid() && c.publicIP.IsLoopback() {
		c.bindIP = c.publicIP // a try on one machine is not for the network
	}
	opts := turn.Options{
		PublicIP: c.publicIP, BindIP: c.bindIP, MinPort: uint16(c.minPort), MaxPort: uint16(c.maxPort),
		UserBytesPerSecond: c.userBytesPerSecond, Logger: logger,
	}
	err := c.listen(&opts, certs)
	if err == nil {
		var ts *turn.Server
		if ts, err = turn.New(opts); err == nil {
			logger.Info("turn", "urls", opts.URLs)
			return ts, nil
		}
	}
	var open []io.Closer // New has not taken them
	for _, pc := range opts.UDP {
		open = append(open, pc)
	}
	for _, ln := range opts.TCP {
		open = append(open, ln)
	}
	for _, socket := range open {
		err = errors.Join(err, socket.Close())
	}
	return nil, err
}

// listen opens the sockets, and puts them and their URLs into opts.
func (c *config) listen(opts *turn.Options, certs []tls.Certificate) error {
	host := ""
	if c.bindIP.IsValid() {
		host = c.bindIP.String()
	}
	at := func(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	public := func(local net.Addr) string {
		_, port, _ := net.SplitHostPort(local.String())
		return net.JoinHostPort(c.publicIP.String(), port)
	}
	pc, err := net.ListenPacket("udp", at(c.turnPort))
	if err != nil {
		return err
	}
	opts.UDP = append(opts.UDP, pc)
	opts.URLs = append(opts.URLs, "turn:"+public(pc.LocalAddr())+"?transport=udp")
	ln, err := net.Listen("tcp", at(c.turnPort))
	if err != nil {
		return err
	}
	opts.TCP = append(opts.TCP, ln)
	opts.URLs = append(opts.URLs, "turn:"+public(ln.Addr())+"?transport=tcp")
	if c.turnsPort < 0 {
		return nil
	}
	secure, err := tls.Listen("tcp", at(c.turnsPort), &tls.Config{Certificates: certs})
	if err != nil {
		return err
	}
	opts.TCP = append(opts.TCP, secure)
	// Browsers compare the host of the URL with the names in the certificate.
	opts.URLs = append(opts.URLs, "turns:"+cmp.Or(c.turnsHost, public(secure.Addr()))+"?transport=tcp")
	return nil
}
