package peertest

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gopeerjs/peer"
)

// DefaultTimeout is how long a client waits for the host, unless the option [Timeout] says otherwise. It is longer than
// the defaults of [peer.Options] for the time until an EXPIRE (5 s) and until OPEN (at most 10 s).
const DefaultTimeout = 15 * time.Second

// An Option says how a client connects. An option that is given to [New] is the default of all clients of the
// [Host]. An option that is given to [Host.Dial] counts for that client only.
type Option func(*config)

// A config is the sum of the options. The zero values of its fields are the defaults, which withDefaults replaces.
type config struct {
	key     string
	token   string // "": made from the id
	header  http.Header
	jar     http.CookieJar
	from    netip.Addr
	timeout time.Duration
	ignored []peer.MessageType
}

// defaultFrom is in a network for examples (RFC 5737), and is what [net/http/httptest.NewRequest] uses.
var defaultFrom = netip.MustParseAddr("192.0.2.1")

// with returns a copy to which the options are applied.
func (c config) with(opts []Option) config {
	c.header = c.header.Clone()
	c.ignored = slices.Clone(c.ignored)
	for _, o := range opts {
		o(&c)
	}
	if c.key == "" {
		c.key = peer.DefaultKey
	}
	if !c.from.IsValid() {
		c.from = defaultFrom
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	return c
}

// hide removes the token, which is not "", from a text of the host: no token may get into the log of a test.
func (c config) hide(text string) string {
	return strings.NewReplacer(url.QueryEscape(c.token), "(token)", c.token, "(token)").Replace(text)
}

// Token is the token that the client sends, the option "token" of PeerJS. Default and "": a
// token that depends on the id only. So for the server, a second client with the same id is the
// same page, which reconnects and takes the id over. For another page that asks for the id, use
// another token.
func Token(token string) Option { return func(c *config) { c.token = token } }

// Key is the API key that the client sends, the option "key" of PeerJS. Default and "": [peer.DefaultKey].
func Key(key string) Option { return func(c *config) { c.key = key } }

// Header adds fields to the requests of the client. A field replaces the field of an earlier Header with the same
// name. A field without values is not sent, so http.Header{"Origin": nil} removes the Origin that [Host.Dial] sends.
// "Host" is the name of the host that the request is for. Header copies the fields. Default and nil: no fields.
func Header(fields http.Header) Option {
	fields = fields.Clone()
	return func(c *config) {
		if c.header == nil {
			c.header = make(http.Header)
		}
		for name, values := range fields {
			c.header[http.CanonicalHeaderKey(name)] = values
		}
	}
}

// Jar makes the client send the cookies of a jar, and keep the cookies of the answers in it, as a browser does. To
// connect as a user that has logged in, use the Jar of the client that [Host.HTTPClient] returned. Default and nil:
// [Host.Dial] sends and keeps no cookies, and [Host.HTTPClient] makes a jar.
func Jar(jar http.CookieJar) Option { return func(c *config) { c.jar = jar } }

// From is the IP address that the client connects from, as the host reads it from [http.Request.RemoteAddr]. Each
// connection has another port. Default and the zero Addr: 192.0.2.1.
func From(addr netip.Addr) Option { return func(c *config) { c.from = addr } }

// Timeout bounds each call that waits for the host. Inside a bubble of [testing/synctest] it is a time of the
// bubble's clock. Default, zero and negative: [DefaultTimeout].
func Timeout(d time.Duration) Option { return func(c *config) { c.timeout = d } }

// Ignore makes the client drop messages of these types when it reads them, for messages that the host sends by itself
// at a time that the test does not know. Each Ignore adds to the earlier ones. Default: the client drops nothing.
func Ignore(types ...peer.MessageType) Option {
	types = slices.Clone(types)
	return func(c *config) { c.ignored = append(c.ignored, types...) }
}
