package turn

import (
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// permitted are the addresses of peers for which a client has a permission, as pion tells. Each packet of a peer
// looks here, so a change makes a new set, and a look takes no lock. The zero value is empty.
type permitted struct {
	mu  sync.Mutex // held by whoever changes the set
	set atomic.Pointer[map[netip.Addr]struct{}]
}

func (p *permitted) load() map[netip.Addr]struct{} {
	if set := p.set.Load(); set != nil {
		return *set
	}
	return nil
}

func (p *permitted) has(addr netip.Addr) bool {
	_, ok := p.load()[addr]
	return ok
}

// add adds an address, and returns how many there are.
func (p *permitted) add(ip net.IP) int {
	return p.change(ip, func(set map[netip.Addr]struct{}, addr netip.Addr) { set[addr] = struct{}{} })
}

// remove removes an address. pion may tell twice that a permission has ended.
func (p *permitted) remove(ip net.IP) {
	p.change(ip, func(set map[netip.Addr]struct{}, addr netip.Addr) { delete(set, addr) })
}

func (p *permitted) change(ip net.IP, edit func(map[netip.Addr]struct{}, netip.Addr)) int {
	addr, _ := netip.AddrFromSlice(ip)
	p.mu.Lock()
	defer p.mu.Unlock()
	set := maps.Clone(p.load())
	if set == nil {
		set = make(map[netip.Addr]struct{})
	}
	edit(set, addr.Unmap())
	p.set.Store(&set)
	return len(set)
}
