// Package look has what pages of the examples share: the style sheet, and the address that a program prints.
package look

import (
	_ "embed"
	"net"
	"net/http"
	"net/netip"
)

//go:embed look.css
var css []byte

// Serve answers with the style sheet.
func Serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(css)
}

// URL returns the address of a server for a browser on this machine. Firefox does not open the address of a listener
// on all addresses, http://[::]:8080/.
func URL(l net.Listener) string {
	addr := l.Addr().String()
	if a, err := netip.ParseAddrPort(addr); err == nil && a.Addr().IsUnspecified() {
		_, port, _ := net.SplitHostPort(addr)
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	return "http://" + addr + "/"
}
