package look

import (
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThePagesHaveTheLookAndNeedNoOtherHost(t *testing.T) {
	pages := []string{"auth", "embed", "hosts/chi", "metrics"}
	for _, name := range pages {
		b, err := os.ReadFile(filepath.Join("../..", name, "page.html"))
		require.NoError(t, err)
		page := string(b)
		for _, part := range []string{
			`<html lang="en">`, `<meta charset="utf-8">`, `<meta name="viewport" content="width=device-width, initial-scale=1">`,
			`<link rel="stylesheet" href="/look.css">`, `<main>`, `<h1`,
		} {
			assert.Contains(t, page, part, name)
		}
		for _, part := range []string{"//unpkg.com", "https://", "http://", "confirm(", "alert(", "prompt(", "err.name}"} {
			assert.NotContains(t, page, part, name)
		}
		labelled := len(regexp.MustCompile(`<label>[^<]+<input `).FindAllString(page, -1))
		assert.Equal(t, strings.Count(page, "<input "), labelled, "%s: an input without a label", name)
	}
}

func TestTheStyleSheetIsServed(t *testing.T) {
	res := httptest.NewRecorder()
	Serve(res, nil)
	require.Equal(t, "text/css; charset=utf-8", res.Header().Get("Content-Type"))
	sheet, err := os.ReadFile("look.css")
	require.NoError(t, err)
	require.Equal(t, string(sheet), res.Body.String())
}

type addrListener struct {
	net.Listener
	addr string
}

func (l addrListener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(l.addr))
}

func TestABrowserOpensTheAddressThatIsPrinted(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080/", "[::1]:1": "http://[::1]:1/", "192.0.2.1:80": "http://192.0.2.1:80/",
		"[::]:8080": "http://127.0.0.1:8080/", "0.0.0.0:8080": "http://127.0.0.1:8080/",
	} {
		assert.Equal(t, want, URL(addrListener{addr: addr}), addr)
	}
}
