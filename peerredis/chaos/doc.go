// Package chaos has a test that runs several servers as processes, lets clients that behave like PeerJS
// call each other and reconnect, does to servers and Redis what happens in production, and judges the
// servers by what the clients sent and got:
//
//	go test -run TestChaos -v . -args -store sentinel -seed 7 -duration 5m
//
// A run prints its seed. The same seed makes the same faults at about the same moments, not the same
// run. See the flags in chaos_test.go.
//
// # What is judged
//
//   - Each OFFER, ANSWER and CANDIDATE comes once, or its pair gets one EXPIRE in time, unless the
//     connection of its sender has ended. How an EXPIRE is attributed to messages is said in pairs_test.go.
//   - Messages of one connection to one destination come in order.
//   - A message to a destination that is connected comes, soon. Between clients of one server it does
//     whatever happens to Redis.
//   - A socket ends, or is refused, only for a reason that the judge knows: a successor, a shutdown, a
//     killed process. Nobody gets the id of somebody who is connected.
//   - When all has been quiet for ten seconds, each id has one socket, its server lists it, its claim
//     names this server, and all members of a room have the same list, which is true.
//   - Servers end in time, with no goroutine, and leave no key that lives for ever, and no claim.
//
// What a fault excuses is said in history_test.go, and each exception is counted by the fault that excused
// it. Times allow for moments in which the judge's process, or that of a server, did not get its turn.
package chaos
