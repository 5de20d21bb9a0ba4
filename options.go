package peer

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// The defaults of [Options]. Those that PeerServer has too have the values of its
// command.
const (
	DefaultKey              = "peerjs"
	DefaultExpireTimeout    = 5 * time.Second
	DefaultAliveTimeout     = 60 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultProbeAfter       = 10 * time.Second
	DefaultProbeTimeout     = 2 * time.Second

	DefaultConcurrentLimit       = 5000
	DefaultMaxMessageSize        = 1 << 20
	DefaultMaxTokenBytes         = 8 << 10
	DefaultMaxPartialBytes       = 32 << 20
	DefaultMaxOutboxMessages     = 1024
	DefaultMaxOutboxBytes        = 2 << 20
	DefaultMaxHeldPerPair        = 100
	DefaultMaxHeldPerDestination = 500
	DefaultMaxHeldBytes          = 64 << 20
	DefaultMaxRooms              = 10000
	DefaultMaxRoomMembers        = 100
	DefaultMaxRoomsPerClient     = 20
)

// Options configure a [Server]. They are copied by [NewServer], so changing them
// afterwards has no effect. The zero value of every field is a good default,
// which the field's comment states; a negative limit or timeout means none.
//
// A field that is a function decides something. It may be called by many
// connections at once, never runs under a lock, and may be slow: it delays only
// the connection that it decides about. If it panics, that counts as a refusal,
// and ends the connection if there is one.
type Options struct {
	// Path is a prefix of the server's addresses below the place where it is
	// mounted, as in PeerServer ("path"). Mounted at "/peerjs/" with Path
	// "/myapp", clients are given path "/peerjs/myapp". Default "/": none.
	Path string

	// Key is the API key that clients send (PeerServer "key", client "key"). It
	// is public: it tells applications apart and protects nothing. Default
	// [DefaultKey].
	Key string

	// ExpireTimeout is how long a message waits for a destination that is not
	// connected (PeerServer "expire_timeout"). Then it is dropped, and its
	// sender gets one EXPIRE for everything it sent there. Default
	// [DefaultExpireTimeout]; negative lets it wait for ever.
	ExpireTimeout time.Duration

	// AliveTimeout is how long a client may be silent (PeerServer
	// "alive_timeout"). It is pinged after half of it and closed after all of
	// it. Any frame is a sign of life. Default [DefaultAliveTimeout]; negative
	// never closes a silent client.
	AliveTimeout time.Duration

	// HandshakeTimeout bounds the time from the upgrade to OPEN. For Authenticate and
	// for a newcomer that waits for an id it works through the context of the request:
	// a function that does not look at that is waited for. If the functions of
	// OnConnection take longer, OPEN goes out before they return. Default
	// [DefaultHandshakeTimeout]; negative means none.
	HandshakeTimeout time.Duration

	// WriteTimeout is how long a client may take no byte of what is sent to it
	// before it is closed as a [ReasonSlowConsumer]. Over TLS it has to take a
	// whole message in that time. Default [DefaultWriteTimeout]; negative waits for
	// ever.
	WriteTimeout time.Duration

	// ConcurrentLimit is how many clients may be connected at once (PeerServer
	// "concurrent_limit"). More are told so and closed. Default
	// [DefaultConcurrentLimit]; negative means no limit.
	ConcurrentLimit int

	// ConcurrentLimitPerAddr is the same for clients of one remote address (see
	// TrustedProxies), or of one IPv6 network of 64 bits: whoever has one address
	// of it commonly has them all. Default and negative mean no limit.
	ConcurrentLimitPerAddr int

	// TrustedProxies are the networks of the reverse proxies in front of the
	// server. For connections from there, and only for these, the address of
	// the client is read from X-Forwarded-For, or from Forwarded (RFC 7239) if
	// there is none, from right to left up to the first address that is not
	// itself a trusted proxy. A proxy that writes only Forwarded must remove
	// X-Forwarded-For. Default none.
	TrustedProxies []netip.Prefix

	// TrustUnixProxy says the same of a reverse proxy that connects to a Unix socket,
	// which has no address to name in TrustedProxies. Whoever may open the socket
	// file is believed. Default false: the addresses of clients behind a Unix socket
	// are not known, and ConcurrentLimitPerAddr does not count these clients.
	TrustUnixProxy bool

	// AllowDiscovery lets anybody with the key list the connected ids
	// (PeerServer "allow_discovery"). Default false: 401.
	AllowDiscovery bool

	// AllowedOrigins are the web origins whose pages may use the server
	// (PeerServer "corsOptions"), both by HTTP (CORS) and by WebSocket (403 for
	// others), each with its scheme: "https://example.com",
	// "https://*.example.com" for the subdomains, or "*" for all. A page of the
	// server's own host is always allowed, and so is a client that sends no Origin,
	// which no browser is. Default (empty): any origin, as PeerServer.
	AllowedOrigins []string

	// GenerateClientID makes the ids for GET {key}/id (PeerServer
	// "generateClientId"). It is asked again while the id it gave is connected,
	// ten times at most. Its error is logged, and the client reads a 500, or a
	// 403 with its text if it is a [Reject]. Default: a random UUID, version 4
	// (RFC 9562).
	GenerateClientID func(r *http.Request) (string, error)

	// ValidID reports whether a client may ask for this id at all. Default:
	// not empty, at most 1,024 bytes of valid UTF-8, no control characters.
	// [StrictID] is the stricter rule of the PeerJS client. A rule of your own
	// should bound the length.
	ValidID func(id string) bool

	// Authenticate decides whether the client of request r may connect as id.
	// It runs after the upgrade, so that a browser can read the answer, and
	// before the id is touched. The context of r ends when the client goes,
	// when HandshakeTimeout is over, when the server shuts down, and when
	// Authenticate returns. The user it returns is
	// [Client.User] for the life of the connection. A [Reject] is what the
	// client reads; any other error is reported to OnError, and the client
	// reads "Authentication failed". Compare secrets in constant time
	// (crypto/subtle). Default: everybody may connect.
	Authenticate func(r *http.Request, id, token string) (user any, err error)

	// RejectBeforeUpgrade makes the key, the id and Authenticate be checked
	// before the upgrade and answered with a plain 400, 401 or 403, for clients
	// that are not browsers (a browser's page cannot see why an upgrade
	// failed). Default false.
	RejectBeforeUpgrade bool

	// AllowOverride decides whether a new connection with another token may
	// take the id of an old one over ("allow_override_connect"). It can compare
	// [Client.User] of both; the new one is not connected yet. Default (nil): never.
	// [OverrideAlways] is the plain switch.
	AllowOverride func(old, new *Client) bool

	// ProbeAfter is how long the holder of an id must have been silent before a
	// newcomer who asks for the id makes the server ping the holder. A holder
	// that answers keeps its id. Default [DefaultProbeAfter], two heartbeats of
	// a PeerJS client; negative never probes.
	ProbeAfter time.Duration

	// ProbeTimeout is how long a holder that was pinged has to answer before it
	// is ended ([ReasonUnresponsive]) and the newcomer gets the id. Default
	// [DefaultProbeTimeout]; negative never probes.
	ProbeTimeout time.Duration

	// Authorize decides whether a message may go from a client to its
	// destination: m has type, source, destination and raw payload. An error
	// drops the message and is reported to [Server.OnError]; the sender of an
	// OFFER gets EXPIRE at once, as if the destination were absent. It is asked
	// when the message comes: if that is held, who gets it may not be connected
	// yet, so decide by the id and not by [Realm.Client]. Default: everybody
	// may send to everybody.
	Authorize func(from *Client, m Message) error

	// RelayTypes are message types of the application's own that are relayed
	// like LEAVE: to a connected destination, else dropped. The types of the
	// protocol cannot be among them. Default none.
	RelayTypes []MessageType

	// HoldTypes are message types of the application's own that are relayed
	// and held for an absent destination like OFFER. Default none.
	HoldTypes []MessageType

	// AllowJoin switches on that clients join rooms by themselves, with
	// [TypeRoomJoin], and decides on each. A [Reject] is what the client reads;
	// any other error is reported to OnError, and the client reads a neutral
	// text. Default (nil): only the host puts clients in rooms, with
	// [Realm.Join].
	AllowJoin func(c *Client, room string) error

	// MaxRooms bounds the rooms that have members. Over it a new one is
	// [ErrTooManyRooms]. Default [DefaultMaxRooms]; negative means no bound.
	MaxRooms int

	// MaxRoomMembers bounds the members of one room. Over it, [ErrRoomFull].
	// Each of them is told of everybody who comes and goes. Default
	// [DefaultMaxRoomMembers]; negative means no bound.
	MaxRoomMembers int

	// MaxRoomsPerClient bounds the rooms that one client is in. Over it,
	// [ErrTooManyRooms]. Default [DefaultMaxRoomsPerClient]; negative means no
	// bound.
	MaxRoomsPerClient int

	// MaxTokenBytes bounds the token of a client in bytes, so that the login in it may
	// be a signed one (JWT) of an identity provider. A client with a longer token reads
	// an ERROR and is closed. The token is in the address of the request: proxies
	// and [http.Server] have bounds of their own for that. Default
	// [DefaultMaxTokenBytes]; negative means no bound.
	MaxTokenBytes int

	// MaxMessageSize bounds one message in bytes. Who sends a larger one is
	// closed with 1009 ([ReasonMessageTooBig]). MaxOutboxBytes should be at least
	// twice as much: behind a message that is larger than that, nothing may wait
	// until it is written. Default [DefaultMaxMessageSize]; negative means no bound.
	MaxMessageSize int

	// MessageRate is how many messages a client may send per second in the long
	// run, with bursts of twice as many. Above it the server reads from that
	// client more slowly; nothing is dropped. Default and negative mean no
	// limit.
	MessageRate float64

	// MaxOutboxMessages bounds what may wait to be written to one client, in
	// messages. Who lets it overflow is closed ([ReasonSlowConsumer]); nobody
	// else is affected. What it is given when it connects does not count: what
	// was held for it, and as much as this of what its predecessor had not been
	// sent. Default [DefaultMaxOutboxMessages]; negative means no bound.
	MaxOutboxMessages int

	// MaxOutboxBytes is the same in bytes, and bounds what waits for one absent
	// destination too. One message may always wait, however large. Default
	// [DefaultMaxOutboxBytes]; negative means no bound.
	MaxOutboxBytes int

	// MaxHeldPerPair bounds the messages that one sender may have waiting for
	// one absent destination. Over it, all of them are dropped and the sender
	// gets its EXPIRE at once. Default [DefaultMaxHeldPerPair]; negative means
	// no bound.
	MaxHeldPerPair int

	// MaxHeldPerDestination bounds the messages that wait for one absent
	// destination, with the same answer. Default
	// [DefaultMaxHeldPerDestination]; negative means no bound.
	MaxHeldPerDestination int

	// MaxHeldBytes bounds the bytes that wait for absent destinations in all,
	// with the same answer. Default [DefaultMaxHeldBytes]; negative means no
	// bound.
	MaxHeldBytes int

	// MaxPartialBytes bounds what all clients together have sent of messages that are
	// not whole yet, in bytes. What a client has sent of one frame does not count up to
	// 8 KiB. A client that sends more when the bound is reached is closed with 1013
	// ([ReasonOverloaded]). Default [DefaultMaxPartialBytes]; negative means no bound.
	MaxPartialBytes int

	// Logger gets one line for each connection, disconnect and refusal (Info),
	// for each error of the host's (Warn), and for each that a client has caused
	// (Debug). It never sees a token, a key or a payload. Default nil: silent.
	Logger *slog.Logger
}

// OverrideAlways is an [Options.AllowOverride] that lets every newcomer take a
// connected id over.
func OverrideAlways(old, new *Client) bool { return true }

// StrictID is an [Options.ValidID] with the rule of the PeerJS browser client:
// letters and digits of ASCII, with single spaces, dashes or underscores between
// them. Like the default it takes at most 1,024 bytes.
func StrictID(id string) bool {
	separated := true // nothing, or a separator, was last
	for _, c := range []byte(id) {
		switch {
		case c-'0' <= 9 || c|0x20-'a' <= 'z'-'a':
			separated = false
		case (c == ' ' || c == '-' || c == '_') && !separated:
			separated = true
		default:
			return false
		}
	}
	return !separated && len(id) <= maxIDBytes
}

// forever is a duration that can be added to any time of ours.
const forever = 100 * 365 * 24 * time.Hour

// maxIDBytes bounds an id, and the name of a room.
const maxIDBytes = 1024

func validID(id string) bool {
	isControl := func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }
	return id != "" && len(id) <= maxIDBytes && utf8.ValidString(id) && !strings.ContainsFunc(id, isControl)
}

// withDefaults returns a copy with every zero field set to its default.
func (o Options) withDefaults() Options {
	o.Path = strings.Trim(o.Path, "/")
	setDefault(&o.Key, DefaultKey)
	setDefault(&o.ExpireTimeout, DefaultExpireTimeout)
	if o.ExpireTimeout < 0 {
		o.ExpireTimeout = forever
	}
	setDefault(&o.AliveTimeout, DefaultAliveTimeout)
	setDefault(&o.HandshakeTimeout, DefaultHandshakeTimeout)
	setDefault(&o.WriteTimeout, DefaultWriteTimeout)
	setDefault(&o.ProbeAfter, DefaultProbeAfter)
	setDefault(&o.ProbeTimeout, DefaultProbeTimeout)
	setDefault(&o.ConcurrentLimit, DefaultConcurrentLimit)
	setDefault(&o.MaxMessageSize, DefaultMaxMessageSize)
	setDefault(&o.MaxTokenBytes, DefaultMaxTokenBytes)
	setDefault(&o.MaxPartialBytes, DefaultMaxPartialBytes)
	setDefault(&o.MaxOutboxMessages, DefaultMaxOutboxMessages)
	setDefault(&o.MaxOutboxBytes, DefaultMaxOutboxBytes)
	setDefault(&o.MaxHeldPerPair, DefaultMaxHeldPerPair)
	setDefault(&o.MaxHeldPerDestination, DefaultMaxHeldPerDestination)
	setDefault(&o.MaxHeldBytes, DefaultMaxHeldBytes)
	setDefault(&o.MaxRooms, DefaultMaxRooms)
	setDefault(&o.MaxRoomMembers, DefaultMaxRoomMembers)
	setDefault(&o.MaxRoomsPerClient, DefaultMaxRoomsPerClient)
	if o.GenerateClientID == nil {
		o.GenerateClientID = func(*http.Request) (string, error) { return newUUID(), nil }
	}
	if o.ValidID == nil {
		o.ValidID = validID
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.AllowedOrigins = append([]string(nil), o.AllowedOrigins...)
	o.TrustedProxies = append([]netip.Prefix(nil), o.TrustedProxies...)
	o.RelayTypes = append([]MessageType(nil), o.RelayTypes...)
	o.HoldTypes = append([]MessageType(nil), o.HoldTypes...)
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// newUUID returns a random UUID, version 4 (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
