package peer

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// remoteAddr returns the address of a client, and how it is shown. The address is not
// valid if nobody tells it, as behind a Unix socket that is not trusted.
// network is that of the connection.
func (s *Server) remoteAddr(r *http.Request, network string) (netip.Addr, string) {
	addr, known := parseHop(r.RemoteAddr)
	if trusted := known && s.trusts(addr) || s.opts.TrustUnixProxy && network == "unix"; !trusted {
		return addr, r.RemoteAddr
	}
	hops := forwardedFor(r.Header)
	for _, hop := range slices.Backward(hops) {
		next, ok := parseHop(hop)
		if !ok {
			break // the proxies do not vouch for what stands left of it
		}
		if addr = next; !s.trusts(addr) {
			break
		}
	}
	if !addr.IsValid() {
		return addr, r.RemoteAddr
	}
	return addr, addr.String()
}

func (s *Server) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.opts.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// forwardedFor returns the chain of addresses that proxies have noted, the
// nearest last. Forwarded (RFC 7239) counts only where there is no
// X-Forwarded-For: a proxy that writes the one lets the other pass unread.
func forwardedFor(h http.Header) []string {
	if lines := h.Values("X-Forwarded-For"); len(lines) > 0 {
		return strings.Split(strings.Join(lines, ","), ",")
	}
	var hops []string
	for element := range strings.SplitSeq(strings.Join(h.Values("Forwarded"), ","), ",") {
		hop := ""
		for param := range strings.SplitSeq(element, ";") {
			if name, value, _ := strings.Cut(param, "="); strings.EqualFold(strings.TrimSpace(name), "for") {
				hop = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		hops = append(hops, hop)
	}
	return hops
}

// parseHop parses an address with or without brackets and port.
func parseHop(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(hop)
	if ap, err := netip.ParseAddrPort(hop); err == nil {
		return plainAddr(ap.Addr()), true
	}
	addr, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return plainAddr(addr), err == nil
}

// plainAddr makes equal what is the same host: a zone is any text that the sender
// of a header likes.
func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// nat64 is where IPv4 addresses are in IPv6 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// limitAddrOf returns what ConcurrentLimitPerAddr counts: the address, or its /64.
func limitAddrOf(addr netip.Addr) netip.Addr {
	if addr.Is6() && !addr.IsLinkLocalUnicast() && !nat64.Contains(addr) {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}
