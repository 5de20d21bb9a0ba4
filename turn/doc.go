// Package turn is a TURN server (RFC 8656) that a program starts beside its signalling server, for browsers that
// find no direct way to each other. It needs no configuration file, no users and no other process. The protocol
// is that of github.com/pion/turn; this package adds what a server on the internet needs.
//
//	pc, err := net.ListenPacket("udp4", ":3478")
//	ln, err := net.Listen("tcp4", ":3478")
//	ts, err := turn.New(turn.Options{PublicIP: ip, UDP: []net.PacketConn{pc}, TCP: []net.Listener{ln}})
//	srv := peer.NewServer(peer.Options{ICEServers: ts.ICEServers})
//	ts.Bind(srv) // ends the relays of clients that are removed or overridden
//
// Clients then read the server's URLs and credentials of their own before OPEN. peer.TypeICEServers has the
// statement with which a page gives them to PeerJS.
//
// # What must be open
//
// UDP and TCP 3478, or the ports of the sockets, for clients; UDP from Options.MinPort to Options.MaxPort for
// what is relayed. Some networks let only TLS at port 443 pass. For them, put a [crypto/tls] listener at port 443
// into Options.TCP, and name its URL in Options.URLs ("turns:turn.example.com:443?transport=tcp").
//
// # Users
//
// A user is the id of a client. Credentials are those of peer.TURNCredentials, so servers with the same
// Options.Secret accept each other's, and so does coturn. They expire, but a relay that exists goes on: a long
// call is not cut. Bind says what happens when a client ends, and Revoke ends the relays of an id.
// Options.MaxPerUser and Options.UserBytesPerSecond bound what one user can take.
//
// # Peers
//
// A relay must not be a way into the network of the server. It talks to no special-purpose address of IANA
// (loopback, private, link-local with the metadata services of clouds, NAT64, 6to4, multicast and so on), however
// the address is written; Options.AllowPeer opens some, but none that an interface of the machine has. Of the
// server's own public address, it talks to the ports that are relays at this moment, and to no other. It relays UDP
// only. The addresses of both ends are checked for each packet.
//
// Services of the machine's neighbours that are reachable at public addresses stay reachable through relays, with
// the address of this machine as the source. Do not trust that address.
//
// # NAT
//
// Behind a NAT that maps a public address to the machine, set Options.PublicIP to the public address. Packets
// between two relays do not leave the machine, so the NAT need not send them back in.
//
// # Hostile clients
//
// A connection has ten seconds to get a relay, TLS handshake included. Connections, relays, permissions, channels
// and what is remembered are bounded. An address that floods the server with wrong credentials is not heard any
// more until it stops; its clients that have relays are. As the address of a UDP packet may be forged, a flood over
// UDP leaves TCP open. Answers to forged addresses are bounded. Stats counts what was refused, by cause.
//
// # Concurrency
//
// pion reads each socket of Options.UDP, each TCP connection and each relay on a goroutine of its own, and takes one
// read lock for each socket of Options to find the relay of a packet. This package adds no lock that packets
// share: its counters, buckets and the table of ports are atomic.
package turn
