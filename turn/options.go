package turn

import (
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The defaults of [Options].
const (
	DefaultMinPort = 49152 // the first of the dynamic ports (RFC 6335)
	DefaultMaxPort = 65535
	DefaultTTL     = time.Hour

	DefaultMaxPerUser         = 100        // relays
	DefaultMaxRelays          = 10000      // relays
	DefaultMaxConns           = 10000      // TCP connections
	DefaultMaxConnsPerAddr    = 500        // TCP connections
	DefaultUserBytesPerSecond = 12_500_000 // 100 Mbit/s

	secretBytes    = 32 // of a random Secret
	minSecretBytes = 16 // of one that is given
)

// Options configure a [Server]. They are copied by [New], so changing them afterwards has no effect. The zero
// value of a field means its default, which the field's comment states. A negative limit means that there is
// none. PublicIP and one of UDP and TCP are required.
type Options struct {
	// PublicIP is the address at which browsers reach this machine: relays have it. It is not guessed. All
	// relays have its family. Behind a NAT that maps the machine one to one, it is the address outside. Required.
	PublicIP netip.Addr

	// BindIP is the address of this machine at which relays are bound. It has the family of PublicIP.
	// Default: all addresses of that family.
	BindIP netip.Addr

	// UDP are the sockets at which clients are served by UDP. The server reads each on one goroutine: one
	// socket can use one processor for what comes from clients. The server owns the sockets when New has
	// returned no error, and closes them.
	UDP []net.PacketConn

	// TCP are the listeners at which clients are served by TCP. The connections of a [tls.Listener] are TLS
	// ("turns:"). The server owns the listeners when New has returned no error, and closes them.
	TCP []net.Listener

	// URLs are what pages are told of the server, for example "turns:turn.example.com:5349?transport=tcp".
	// Set them if one of TCP is a tls.Listener, with the name in its certificate: Firefox connects by TLS to names
	// only. Set them if a NAT changes the ports, too. Default: a URL with PublicIP and the port for each of UDP
	// and TCP.
	URLs []string

	// Secret signs the credentials. Servers with the same secret accept each other's credentials, and so does
	// coturn (use-auth-secret, static-auth-secret). It has at least 16 bytes. Default: 32 random bytes.
	Secret []byte

	// MinPort and MaxPort are the first and the last UDP port of relays. A firewall must let all of them
	// pass. Default [DefaultMinPort] and [DefaultMaxPort].
	MinPort, MaxPort uint16

	// TTL is how long credentials are valid. It is checked when a relay is made: a relay that exists lives on
	// as long as the client refreshes it, so a long call is not cut. Servers that share a secret have the same
	// TTL: credentials that last more than five minutes longer are refused. The server of the pages should
	// send new ones in time (peer.Options.ICERefresh is at most TTL). Default [DefaultTTL]; negative is an error.
	TTL time.Duration

	// MaxPerUser bounds the relays of one user. A browser makes one for each network connection and each
	// transport in the URLs: in a call of twelve, one page has 11 peers, with 2 PeerJS connections each, with
	// 2 relays each in Chromium: 44. A client over the limit reads 486. Default [DefaultMaxPerUser]; negative
	// means no limit.
	MaxPerUser int

	// MaxRelays bounds the relays of all users together. Each needs a port and a file descriptor. A client
	// over the limit reads 486. Default [DefaultMaxRelays]; negative means no limit.
	MaxRelays int

	// MaxConns bounds the TCP connections, including those that have not authenticated. A connection over the
	// limit is closed at once. Default [DefaultMaxConns]; negative means no limit.
	MaxConns int

	// MaxConnsPerAddr bounds the TCP connections of one address. All addresses of one IPv6 /64 count as one.
	// Each relay over TCP needs a connection, and all people behind one NAT have the same address. A
	// connection over the limit is closed at once. Default [DefaultMaxConnsPerAddr]; negative means no limit.
	MaxConnsPerAddr int

	// UserBytesPerSecond bounds what is relayed for one user: the payload of both directions and of all its
	// relays together, with bursts of a quarter of a second. Packets over it are dropped and counted; the
	// congestion control of WebRTC then sends less. Default [DefaultUserBytesPerSecond]; negative means no limit.
	UserBytesPerSecond int

	// AllowPeer decides whether relays may talk to an address in a special-purpose network of IANA, for example
	// a private one. The addresses are never IPv4-mapped. It is not asked for other addresses, which are
	// always allowed, nor for multicast, broadcast, unspecified addresses and those that the machine's
	// interfaces have when New is called, which never are (of the own public address, the ports of relays
	// are). All of 127.0.0.0/8 is the machine too: do not allow it. It is called for each packet to or from
	// such an address, on several goroutines at once, so it should only compare. A panic in it counts as a
	// refusal. Default (nil): no special-purpose address is allowed.
	AllowPeer func(addr netip.Addr) bool

	// Logger gets one line when a user's relays are ended (Info), when a socket fails (Warn, at most one a
	// minute), and for what pion says about mistakes of clients (Debug). A line never contains a credential.
	// Default (nil): nothing is logged.
	Logger *slog.Logger
}

// prepare checks the options and returns a copy with every zero field set to its default.
func (o Options) prepare() (Options, error) {
	errs := append(o.checkAddrs(), o.checkListeners()...)
	o.MinPort, o.MaxPort = cmp.Or(o.MinPort, DefaultMinPort), cmp.Or(o.MaxPort, DefaultMaxPort)
	if o.MinPort > o.MaxPort {
		errs = append(errs, wrong("MinPort %d is above MaxPort %d", o.MinPort, o.MaxPort))
	}
	if o.TTL = cmp.Or(o.TTL, DefaultTTL); o.TTL < time.Second {
		errs = append(errs, wrong("TTL %v is less than a second", o.TTL))
	}
	if o.Secret = slices.Clone(o.Secret); len(o.Secret) == 0 {
		o.Secret = make([]byte, secretBytes)
		rand.Read(o.Secret) // never fails
	} else if n := len(o.Secret); n < minSecretBytes {
		errs = append(errs, wrong("Secret has %d bytes: it needs %d, so that nobody can guess it", n, minSecretBytes))
	}
	if o.URLs = slices.Clone(o.URLs); len(o.URLs) == 0 && len(errs) == 0 {
		o.URLs = o.urls()
	}
	for _, url := range o.URLs {
		if scheme, rest, _ := strings.Cut(url, ":"); rest == "" || !slices.Contains(schemes, scheme) {
			errs = append(errs, wrong("URLs: %q is not of the form turn:host:port or turns:host:port", url))
		}
	}
	o.setLimits()
	o.UDP, o.TCP = slices.Clone(o.UDP), slices.Clone(o.TCP)
	o.AllowPeer = guarded(o.AllowPeer)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, errors.Join(errs...)
}

var schemes = []string{"turn", "turns", "stun", "stuns"}

// wrong is the error for a mistake in the options.
func wrong(format string, args ...any) error { return fmt.Errorf("turn: Options."+format, args...) }

// checkAddrs sets BindIP to its default, and returns what is wrong with the addresses.
func (o *Options) checkAddrs() []error {
	o.PublicIP, o.BindIP = o.PublicIP.Unmap(), o.BindIP.Unmap()
	switch ip := o.PublicIP; {
	case !ip.IsValid():
		return []error{wrong("PublicIP is required: the address at which browsers reach this machine")}
	case ip.IsUnspecified(), ip.IsMulticast(), ip.Zone() != "":
		return []error{wrong("PublicIP %v is not the address of a machine", ip)}
	case o.BindIP.IsValid() && o.BindIP.Is4() != ip.Is4():
		return []error{wrong("BindIP %v is not of the family of PublicIP %v", o.BindIP, ip)}
	case !o.BindIP.IsValid() && ip.Is4():
		o.BindIP = netip.IPv4Unspecified()
	case !o.BindIP.IsValid():
		o.BindIP = netip.IPv6Unspecified()
	}
	return nil
}

func (o *Options) setLimits() {
	o.MaxPerUser = cmp.Or(o.MaxPerUser, DefaultMaxPerUser)
	o.MaxRelays = cmp.Or(o.MaxRelays, DefaultMaxRelays)
	o.MaxConns = cmp.Or(o.MaxConns, DefaultMaxConns)
	o.MaxConnsPerAddr = cmp.Or(o.MaxConnsPerAddr, DefaultMaxConnsPerAddr)
	o.UserBytesPerSecond = cmp.Or(o.UserBytesPerSecond, DefaultUserBytesPerSecond)
}

// full reports whether n has reached a limit; a negative one is never reached.
func full(n, limit int) bool { return limit >= 0 && n >= limit }

// checkListeners returns what is wrong with UDP and TCP. Clients are told apart by their IP addresses, so
// sockets of other kinds cannot be served.
func (o *Options) checkListeners() (errs []error) {
	if len(o.UDP)+len(o.TCP) == 0 {
		errs = append(errs, wrong("UDP and TCP are empty: clients need one socket to connect to"))
	}
	for i, pc := range o.UDP {
		if pc == nil {
			errs = append(errs, wrong("UDP[%d] is nil", i))
		} else if _, ok := pc.LocalAddr().(*net.UDPAddr); !ok {
			errs = append(errs, wrong("UDP[%d] has the address %v, which is not of UDP", i, pc.LocalAddr()))
		}
	}
	for i, ln := range o.TCP {
		if ln == nil {
			errs = append(errs, wrong("TCP[%d] is nil", i))
		} else if _, ok := ln.Addr().(*net.TCPAddr); !ok {
			errs = append(errs, wrong("TCP[%d] has the address %v, which is not of TCP", i, ln.Addr()))
		}
	}
	return errs
}

// tlsListener is the type of what [tls.NewListener] returns.
var tlsListener = reflect.TypeOf(tls.NewListener(nil, nil))

// urls returns the URLs of the sockets, each once: several sockets may share a port.
func (o *Options) urls() (urls []string) {
	add := func(scheme string, port int, transport string) {
		host := net.JoinHostPort(o.PublicIP.String(), strconv.Itoa(port))
		if url := scheme + ":" + host + "?transport=" + transport; !slices.Contains(urls, url) {
			urls = append(urls, url)
		}
	}
	for _, pc := range o.UDP {
		add("turn", pc.LocalAddr().(*net.UDPAddr).Port, "udp")
	}
	for _, ln := range o.TCP {
		scheme := "turn"
		if reflect.TypeOf(ln) == tlsListener {
			scheme = "turns"
		}
		add(scheme, ln.Addr().(*net.TCPAddr).Port, "tcp")
	}
	return urls
}
