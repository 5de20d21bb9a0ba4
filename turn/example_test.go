package turn_test

import (
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
