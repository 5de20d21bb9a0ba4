// Command turnbench measures how much module turn relays, and what CPU time it takes, beside coturn. Both are
// processes on loopback with the same clients, one after the other, in several rounds:
//
//	go run ./turnbench                    # by UDP
//	go run ./turnbench -transport tcp     # clients connect by TCP
//	go run ./turnbench -only turn         # without coturn
//
// A client sends ChannelData through its relay to a peer, which sends each packet back. So each packet is relayed
// twice. A client sends the next packet when one has come back: the load is what the server, the clients and the
// peers manage together on one machine. The figure that tells servers apart is therefore the CPU time per Mbit.
//
// coturn is the program turnserver of Debian's package coturn, with its default number of threads.
package main
