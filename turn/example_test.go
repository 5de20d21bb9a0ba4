package turn_test

import (
	"crypto/tls"
	"expvar"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"

	"github.com/gopeerjs/peer"
	"github.com/gopeerjs/peer/turn"
)

// A program serves pages, signalling and TURN. On a machine at the internet, the sockets are at ":3478", and the
// address is that of the machine.
func Example() {
	ip := netip.MustParseAddr("127.0.0.1")
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}

	ts, err := turn.New(turn.Options{PublicIP: ip, UDP: []net.PacketConn{pc}, TCP: []net.Listener{ln}})
	if err != nil {
		log.Fatal(err)
	}
	srv := peer.NewServer(peer.Options{ICEServers: ts.ICEServers})
	ts.Bind(srv) // ends the relays of clients that are removed or overridden

	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	// http.ListenAndServe(":9000", mux)

	fmt.Println("relays:", ts.Stats().Relays)
	srv.Close()
	ts.Close()
	// Output: relays: 0
}

// One route shows how much each user who is online lets the server relay.
func ExampleServer_Usage() {
	var srv *peer.Server
	var ts *turn.Server
	http.HandleFunc("GET /usage", func(w http.ResponseWriter, r *http.Request) {
		for c := range srv.Realm().Clients() {
			u := ts.Usage(c.ID())
			fmt.Fprintf(w, "%s: %d relays, %d bytes\n", c.ID(), u.Relays, u.BytesToPeers+u.BytesFromPeers)
		}
	})
}

// Some networks let only TLS at port 443 pass. A proxy there may pass connections for turn.example.com on to port 5349.
func ExampleOptions_tls() {
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem") // of turn.example.com
	if err != nil {
		log.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ":3478")
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", ":3478")
	if err != nil {
		log.Fatal(err)
	}
	secure, err := tls.Listen("tcp", ":5349", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		log.Fatal(err)
	}
	ts, err := turn.New(turn.Options{
		PublicIP: netip.MustParseAddr("203.0.113.7"),
		UDP:      []net.PacketConn{pc},
		TCP:      []net.Listener{ln, secure},
		URLs: []string{
			"turn:203.0.113.7:3478?transport=udp",
			"turn:203.0.113.7:3478?transport=tcp",
			"turns:turn.example.com:443?transport=tcp",
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ts.Close()
}

// The counters are a variable of /debug/vars.
func ExampleServer_Stats() {
	var ts *turn.Server
	expvar.Publish("turn", expvar.Func(func() any { return ts.Stats() }))
}
