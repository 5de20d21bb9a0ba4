package turn

import (
	"net"
	"net/netip"
)

// special are the networks of IANA's registries of special-purpose addresses
// (iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry), multicast, and what was
// reserved before. Those that are reachable from everywhere (AS112, anycast) are among them: nobody calls there.
var special = prefixes(
	// IPv4
	"0.0.0.0/8",       // this network; Linux takes 0.0.0.0 for the machine itself
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // shared: behind a carrier's NAT
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, with the metadata services of clouds
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments, with DS-Lite, and the metadata service of Oracle
	"192.0.2.0/24",    // documentation
	"192.31.196.0/24", // AS112
	"192.52.193.0/24", // AMT
	"192.88.99.0/24",  // 6to4 relays
	"192.168.0.0/16",  // private
	"192.175.48.0/24", // AS112
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, and limited broadcast

	// IPv6. All that is outside of 2000::/3 is special, so that what will be assigned there is too.
	"::/3",              // unspecified, loopback, IPv4-compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard-only
	"2001::/23",         // protocol assignments: Teredo, benchmarks, ORCHID, DRIP, AS112
	"2001:db8::/32",     // documentation
	"2002::/16",         // 6to4: an IPv4 address is inside
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
	"4000::/2",          // not assigned, and segment routing (5f00::/16)
	"8000::/1",          // not assigned, ULA (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast
)

// specialFirst says for the first byte of an IPv4 address whether any network of special begins with it. Most
// packets need no other look.
var specialFirst = func() (first [256]bool) {
	for i := range first {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i)}), 8)
		for _, p := range special {
			first[i] = first[i] || p.Overlaps(block)
		}
	}
	return first
}()

func prefixes(texts ...string) (ps []netip.Prefix) {
	for _, text := range texts {
		ps = append(ps, netip.MustParsePrefix(text))
	}
	return ps
}

// isSpecial reports whether an address, which is unmapped, is in a special-purpose network.
func isSpecial(addr netip.Addr) bool {
	if addr.Is4() && !specialFirst[addr.As4()[0]] {
		return false
	}
	for _, p := range special {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// neverPeer reports whether no peer can have an address, so that AllowPeer is not asked: a packet to it may
// reach the machine itself, or many.
func neverPeer(addr netip.Addr) bool {
	return !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast
}

// peers decides with whom relays may talk. Relays call it for each packet.
type peers struct {
	public  netip.Addr              // is told to pages
	local   netip.Addr              // where relays of this server reach each other on this machine; may be public too
	machine map[netip.Addr]struct{} // all addresses of the machine, at which its other services listen
	allowed func(netip.Addr) bool
	isRelay func(port uint16) bool // reports whether a port is that of a relay now
}

// machineAddrs returns the addresses of the machine.
func machineAddrs() (map[netip.Addr]struct{}, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	own := make(map[netip.Addr]struct{})
	for _, a := range addrs {
		if prefix, ok := a.(*net.IPNet); ok {
			addr, _ := netip.AddrFromSlice(prefix.IP)
			own[addr.Unmap()] = struct{}{}
		}
	}
	return own, nil
}

// isOwn reports whether an address is one of the server itself.
func (p *peers) isOwn(addr netip.Addr) bool {
	if addr == p.public || addr == p.local {
		return true
	}
	_, own := p.machine[addr]
	return own
}

// allowsAddr reports whether any port of an address may be a peer.
func (p *peers) allowsAddr(addr netip.Addr) bool {
	if addr = addr.Unmap(); neverPeer(addr) || addr.Zone() != "" {
		return false
	}
	if p.isOwn(addr) {
		return addr == p.public
	}
	return !isSpecial(addr) || p.allowed != nil && p.allowed(addr)
}

// to returns where a packet for a peer has to be sent. The server's own public address stands for its relays
// only. They are reached on this machine: a NAT in front of it may not send a packet back in.
func (p *peers) to(peer netip.AddrPort) (netip.AddrPort, bool) {
	addr, port := peer.Addr().Unmap(), peer.Port()
	if p.isOwn(addr) {
		if addr != p.public || !p.isRelay(port) {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(p.local, port), true
	}
	return netip.AddrPortFrom(addr, port), port != 0 && p.allowsAddr(addr)
}

// from returns the peer that a packet comes from. It is the inverse of to.
func (p *peers) from(source netip.AddrPort) (netip.AddrPort, bool) {
	addr, port := source.Addr().Unmap(), source.Port()
	if p.isOwn(addr) { // relays send to each other from local
		return netip.AddrPortFrom(p.public, port), (addr == p.local || addr == p.public) && p.isRelay(port)
	}
	return netip.AddrPortFrom(addr, port), p.allowsAddr(addr)
}

// addrPortOf returns the address of a UDP or TCP connection, unmapped.
func addrPortOf(addr net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	switch a := addr.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}

// guarded returns a function that calls AllowPeer. A panic in it counts as a refusal.
func guarded(allow func(netip.Addr) bool) func(netip.Addr) bool {
	if allow == nil {
		return nil
	}
	return func(addr netip.Addr) (ok bool) {
		defer func() {
			if recover() != nil {
				ok = false
			}
		}()
		return allow(addr)
	}
}
