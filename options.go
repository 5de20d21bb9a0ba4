package peer

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gopeerjs/peer/cluster"
)

// The defaults of [Options]. An option that PeerServer has too has the default of its
// command.
const (
	DefaultKey              = "peerjs"
	DefaultExpireTimeout    = 5 * time.Second
	DefaultAliveTimeout     = 60 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultProbeAfter       = 10 * time.Second
	DefaultProbeTimeout     = 2 * time.Second
	DefaultICERefresh       = time.Hour

	DefaultConcurrentLimit       = 5000     // clients
	DefaultMaxMessageSize        = 1 << 20  // bytes
	DefaultMaxTokenBytes         = 8 << 10  // bytes
	DefaultMaxPartialBytes       = 32 << 20 // bytes
	DefaultMaxOutboxMessages     = 1024     // messages
	DefaultMaxOutboxBytes        = 2 << 20  // bytes
	DefaultMaxHeldPerPair        = 100      // messages
	DefaultMaxHeldPerDestination = 500      // messages
	DefaultMaxHeldBytes          = 64 << 20 // bytes
	DefaultMaxRooms              = 10000    // rooms
	DefaultMaxRoomMembers        = 100      // members
	DefaultMaxRoomsPerClient     = 20       // rooms
)

// Options configure a [Server]. They are copied by [NewServer], so changing them afterwards has
// no effect. The zero value of a field means its default, which the field's comment states. A
// negative limit or timeout means that there is none.
//
// A field that is a function makes a decision. The server may call it on several
// goroutines at once, and holds no lock meanwhile. The function may block: only the
// client in question waits. A panic in it counts as a refusal, and ends the connection
// of a client that is already admitted.
type Options struct {
	// Path is a prefix of the server's addresses below the place where it is
	// mounted (PeerServer "path"). For a server that is mounted at "/peerjs/" with
	// Path "/myapp", the clients' option path is "/peerjs/myapp". Default "/": no
	// prefix.
	Path string

	// Key is the API key that clients send (PeerServer "key", client "key"). It is
	// public: it separates applications and protects nothing. Default [DefaultKey].
	Key string

	// ExpireTimeout is how long a message waits for a destination that is not connected
	// (PeerServer "expire_timeout"). Then the server drops all messages of this sender that are
	// held for this destination, and sends the sender one EXPIRE. Default
	// [DefaultExpireTimeout]; negative means that messages wait for ever.
	ExpireTimeout time.Duration

	// AliveTimeout is how long a client may be silent (PeerServer
	// "alive_timeout"). The server pings a client that has been silent for half of
	// this time, and closes one that has been silent for all of it
	// ([ReasonAliveTimeout]). Any frame is a sign of life. Default
	// [DefaultAliveTimeout]; negative means that no silent client is closed.
	AliveTimeout time.Duration

	// HandshakeTimeout bounds the time from the upgrade to OPEN. When it is over, the context
	// of the request that Authenticate got ends. If Authenticate ignores this context, the
	// server still waits for it. If the functions of OnConnection take longer, the client reads
	// OPEN before they return. Default [DefaultHandshakeTimeout]; negative means no limit.
	HandshakeTimeout time.Duration

	// WriteTimeout bounds the time in which a client accepts no data. If a client accepts no
	// data for this long, the server closes it ([ReasonSlowConsumer]). Over TLS, the client
	// must accept a whole message in this time. Default [DefaultWriteTimeout]; negative means
	// no limit.
	WriteTimeout time.Duration

	// ConcurrentLimit is how many clients may be connected at once (PeerServer
	// "concurrent_limit"). A client over the limit reads an ERROR and is closed.
	// Default [DefaultConcurrentLimit]; negative means no limit.
	ConcurrentLimit int

	// ConcurrentLimitPerAddr is how many clients of one remote address (see
	// TrustedProxies) may be connected at once. All addresses of one IPv6 /64 count as
	// one, because one household or host usually has all of them. A client over the
	// limit reads an ERROR and is closed. Default (0) and negative mean no limit.
	ConcurrentLimitPerAddr int

	// TrustedProxies are the networks of the reverse proxies in front of the
	// server. Only for connections from these networks the server reads the client's
	// address from X-Forwarded-For, or from Forwarded (RFC 7239) if there is no
	// X-Forwarded-For. It reads from right to left, up to the first address that is
	// not a trusted proxy. A proxy that writes only Forwarded must remove
	// X-Forwarded-For. Default none.
	TrustedProxies []netip.Prefix

	// TrustUnixProxy trusts a reverse proxy that connects to a Unix socket, like one of
	// TrustedProxies. Such a connection has no address, so TrustedProxies cannot name it. Every
	// process that may open the socket file is then trusted. Default false: the addresses of
	// clients behind a Unix socket are unknown, and ConcurrentLimitPerAddr does not count these
	// clients.
	TrustUnixProxy bool

	// AllowDiscovery lets anybody with the key list the connected ids by GET {key}/peers
	// (PeerServer "allow_discovery"): those of all servers with Cluster, or 503 if its engine
	// does not answer. Default false: the answer is 401.
	AllowDiscovery bool

	// AllowedOrigins are the web origins whose pages may use the server (PeerServer
	// "corsOptions"), by HTTP (CORS) and by WebSocket. A page of another origin that opens a
	// WebSocket gets 403. Each has its scheme: "https://example.com", "https://*.example.com"
	// for the subdomains, or "*" for all. Pages of the server's own host are always allowed.
	// Clients that send no Origin are always allowed too; a browser always sends one. Default
	// (empty): any origin, like PeerServer.
	AllowedOrigins []string

	// GenerateClientID makes the ids for GET {key}/id (PeerServer
	// "generateClientId"). The server asks again if the id is connected, ten times at
	// most, and then answers 503. If the error is a [Reject], the client reads 403 with
	// its text; any other error is reported to OnError, and the client reads 500.
	// Default: a random UUID, version 4 (RFC 9562).
	GenerateClientID func(r *http.Request) (string, error)

	// ValidID reports whether an id is well-formed. A client whose id is not well-formed reads
	// an ERROR and is closed. A rule of your own should bound the length. [StrictID] is the
	// stricter rule of the PeerJS client. Default: at most 1,024 bytes of valid UTF-8, not
	// empty, no control characters.
	ValidID func(id string) bool

	// Authenticate decides whether the client of request r may connect as id. It
	// runs after the upgrade, so that the page can read the answer, and before the
	// server decides about the id. The context of r ends when the client disconnects,
	// when HandshakeTimeout is over, when the server shuts down, and when
	// Authenticate returns. [Client.User] returns user for the life of the connection.
	// If the error is a [Reject], the client reads its text; any other error is
	// reported to OnError, and the client reads "Authentication failed". Compare
	// secrets in constant time (crypto/subtle). Default: everybody may connect.
	Authenticate func(r *http.Request, id, token string) (user any, err error)

	// RejectBeforeUpgrade checks key, id, token and Authenticate before the upgrade, and
	// answers a refused request with a plain 400, 401 or 403. It is for clients that are
	// not browsers: the page of a browser cannot read why an upgrade failed. Default
	// false.
	RejectBeforeUpgrade bool

	// AllowOverride decides whether newcomer, a client with another token, may take over the id
	// of holder. It can compare [Client.User] of both; newcomer is not connected yet.
	// [OverrideAlways] always says yes. Default (nil): never.
	AllowOverride func(holder, newcomer *Client) bool

	// ProbeAfter is how long the holder of an id must have been silent before the
	// server pings it because a newcomer asks for the id. A holder that answers keeps
	// its id. Default [DefaultProbeAfter], two heartbeats of a PeerJS client; negative
	// means that no holder is pinged.
	ProbeAfter time.Duration

	// ProbeTimeout is how long the holder has to answer the ping of ProbeAfter. If it does not
	// answer, the server closes it ([ReasonUnresponsive]), and the newcomer gets the id.
	// Default [DefaultProbeTimeout]; negative means that no holder is pinged.
	ProbeTimeout time.Duration

	// Authorize decides whether a message may go from a client to its destination. m
	// has type, source, destination and raw payload. If Authorize returns an error, the
	// server drops the message and reports the error to [Server.OnError]; the sender of
	// an OFFER gets EXPIRE at once, as if the destination were absent. Authorize is
	// called when the message arrives. The destination may connect only later, so
	// decide by its id, not by [Realm.Client]. Default: everybody may send to everybody.
	Authorize func(from *Client, m Message) error

	// ICEServers returns the STUN and TURN servers that a client is to use, for example with
	// credentials of [TURNCredentials]. It is called for each client that is admitted, when the
	// functions of OnConnection have returned. The client reads the servers in a
	// [TypeICEServers] right before OPEN, so a page that listens to this message has the
	// servers before its first call. If HandshakeTimeout is over earlier, the client reads the
	// servers after OPEN. If the result is empty, the client reads nothing. Default (nil): the
	// page names its servers itself.
	ICEServers func(c *Client) []ICEServer

	// ICERefresh is how long the credentials of ICEServers live. When half of it is over,
	// ICEServers is called again, and the client reads the new servers; [Client.Request] is nil
	// then. Default [DefaultICERefresh]; negative means that the client reads the servers once.
	ICERefresh time.Duration

	// RelayTypes are message types of the application. The server relays a message of such a
	// type to a connected destination. For an absent destination it drops the message, and
	// OnError gets [ErrNotConnected]. Types of the protocol have no effect here. Default none.
	RelayTypes []MessageType

	// HoldTypes are message types of the application. The server relays a message of such a
	// type, and holds it for an absent destination, as it does with OFFER. Types of the
	// protocol have no effect here. Default none.
	HoldTypes []MessageType

	// AllowJoin decides whether a client may join a room that it asks for with
	// [TypeRoomJoin]; data is what it wants the other members to know of it, or nil. If
	// the error is a [Reject], the client reads its text; any other error is reported to
	// OnError, and the client reads a neutral text. Default (nil): clients cannot join by
	// themselves; only the host adds them, with [Realm.Join].
	AllowJoin func(c *Client, room string, data json.RawMessage) error

	// KeepRoomsOnOverride puts a newcomer that takes an id over by AllowOverride into the rooms
	// of its predecessor. The other members are not told. A newcomer with the token of its
	// predecessor always gets the rooms. Default false: the predecessor leaves its rooms.
	KeepRoomsOnOverride bool

	// MaxRooms bounds how many rooms have members. At the bound, no client can join a room that
	// has no members ([ErrTooManyRooms]). Default [DefaultMaxRooms]; negative means no bound.
	MaxRooms int

	// MaxRoomMembers bounds the members of one room. No other client can join a full room
	// ([ErrRoomFull]). All members are told of each member that joins or leaves, so the traffic
	// grows with the square of the members. Default [DefaultMaxRoomMembers]; negative means no
	// bound.
	MaxRoomMembers int

	// MaxRoomsPerClient bounds the rooms that one client is in. At the bound, the client cannot
	// join another room ([ErrTooManyRooms]). Default [DefaultMaxRoomsPerClient]; negative means
	// no bound.
	MaxRoomsPerClient int

	// MaxTokenBytes bounds the token of a client, in bytes. The default has room for a
	// signed token (JWT) of an identity provider. A client with a longer token reads an
	// ERROR and is closed. The token is a part of the request's URL, for which proxies
	// and [http.Server] have bounds of their own. Default [DefaultMaxTokenBytes];
	// negative means no bound.
	MaxTokenBytes int

	// MaxMessageSize bounds one message, in bytes. A client that sends a larger one is
	// closed with 1009 ([ReasonMessageTooBig]). MaxOutboxBytes should be at least twice
	// as large: while a message that is larger than MaxOutboxBytes waits to be written,
	// no other message fits. Default [DefaultMaxMessageSize]; negative means no bound.
	MaxMessageSize int

	// MessageRate is how many messages per second a client may send on average, with
	// bursts of twice as many. If a client sends more, the server reads from it more
	// slowly; no message is dropped. Default (0) and negative mean no limit.
	MessageRate float64

	// MaxOutboxMessages bounds the messages that wait to be written to one client. The server
	// closes a client whose outbox overflows ([ReasonSlowConsumer]); the other clients are not
	// affected. Two kinds of messages do not count: messages that were held for the id before
	// the client connected, and at most MaxOutboxMessages messages that its predecessor had not
	// received. Default [DefaultMaxOutboxMessages]; negative means no bound.
	MaxOutboxMessages int

	// MaxOutboxBytes bounds the bytes that wait to be written to one client, as
	// MaxOutboxMessages does for messages. It also bounds the bytes that are held for
	// one absent destination. One message may always wait, however large it is. Default
	// [DefaultMaxOutboxBytes]; negative means no bound.
	MaxOutboxBytes int

	// MaxHeldPerPair bounds the messages of one sender that are held for one absent
	// destination. If one more comes, all of them are dropped, and the sender gets one
	// EXPIRE at once. Default [DefaultMaxHeldPerPair]; negative means no bound.
	MaxHeldPerPair int

	// MaxHeldPerDestination bounds the messages that are held for one absent
	// destination. If one more comes, all messages of its sender to that destination are
	// dropped, and the sender gets one EXPIRE at once. Default
	// [DefaultMaxHeldPerDestination]; negative means no bound.
	MaxHeldPerDestination int

	// MaxHeldBytes bounds the bytes that are held for all absent destinations together.
	// If a message would exceed it, all messages of its sender to that destination are
	// dropped, and the sender gets one EXPIRE at once. Default [DefaultMaxHeldBytes];
	// negative means no bound.
	MaxHeldBytes int

	// MaxPartialBytes bounds the memory for messages of which only a part has arrived,
	// in bytes, for all clients together. The first 8 KiB of each client do not count.
	// A client that would exceed the bound is closed with 1013 ([ReasonOverloaded]).
	// Default [DefaultMaxPartialBytes]; negative means no bound.
	MaxPartialBytes int

	// Cluster joins the server to servers on other machines: together they have one set of ids and of
	// rooms, and relay messages to each other. Module peerredis has the engine for Redis and Valkey. One engine
	// serves one server. Default (nil): the server is alone.
	Cluster cluster.Engine

	// Logger gets one line for each connection, each disconnect and each refusal (level
	// Info), for each error of a function of the host (Warn), and for each mistake of a
	// client (Debug). A line never contains a token, a key or a payload. Default (nil):
	// nothing is logged.
	Logger *slog.Logger
}

// OverrideAlways is an [Options.AllowOverride] that lets every newcomer take over an id.
func OverrideAlways(holder, newcomer *Client) bool { return true }

// StrictID is an [Options.ValidID] with the rule of the PeerJS browser client: ASCII
// letters and digits, with single spaces, dashes or underscores between them. Like the
// default rule, it allows at most 1,024 bytes.
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
	setDefault(&o.ICERefresh, DefaultICERefresh)
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

// keepsRooms reports whether the successor of a client that ended for a reason is in its rooms.
func (o *Options) keepsRooms(why DisconnectReason) bool {
	return why == ReasonReplaced || why == ReasonOverridden && o.KeepRoomsOnOverride
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
