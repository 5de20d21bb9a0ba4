package chaos

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// The judge sees nothing but a History: what clients sent and got, how their sockets ended, and which
// faults were made. All times are since the start of the run, on one clock.

// never is the time of what has not happened.
const never = time.Duration(1<<62 - 1)

// A Conn is one socket of one id. Its number is its index in [History.Conns].
type Conn struct {
	ID    string
	Node  int
	Thief bool // dialed with another token than that of the id's owner

	Dialed time.Duration
	Opened time.Duration // OPEN was read; never: it was not
	// Ended is when the client stopped using the socket, or when it saw its end: from then on the
	// client may have another socket. EOF is when nothing more could be read from it.
	Ended, EOF time.Duration

	Quiet time.Duration // from then on the client does not answer, as without network; never: it does
	Reset time.Duration // the client reset the connection: what was on its way is lost; never: no
	Gave  bool          // the client ended the socket itself
	Code  int           // of the close frame of the server; 0: none
	Word  string        // type of the message that refused the socket: ID-TAKEN or ERROR
}

// open reports whether a server may think that the socket is connected at a time.
func (c *Conn) open(at time.Duration) bool { return c.Opened <= at && at < c.EOF && !c.Gave }

// A Send is a message that a client has written.
type Send struct {
	Conn int // of the sender
	Dst  string
	Seq  int // of this connection to this destination, from 1
	Kind string
	At   time.Duration // before the write
}

// must reports whether the message has to arrive or to expire.
func (s *Send) must() bool { return s.Kind != "LEAVE" }

// A Recv is a message that was read from a socket.
type Recv struct {
	Conn int // that read it
	From int // connection of the sender
	Seq  int
	Kind string
	At   time.Duration
}

// An Expire is an EXPIRE that was read.
type Expire struct {
	Conn int
	Dst  string // the destination that was not reached
	At   time.Duration
}

// A Lag is a moment in which the judge's own process ran late.
type Lag struct{ At, By time.Duration }

// A History is a run.
type History struct {
	Conns   []*Conn
	Sends   []Send
	Recvs   []Recv
	Expires []Expire
	Faults  []Fault
	Lags    []Lag
	End     time.Duration // what was sent less than maxLife before may still be under way

	byID map[string][]int // connections of an id
}

// index fills byID.
func (h *History) index() {
	h.byID = make(map[string][]int)
	for i, c := range h.Conns {
		h.byID[c.ID] = append(h.byID[c.ID], i)
	}
	sort.Slice(h.Lags, func(i, j int) bool { return h.Lags[i].At < h.Lags[j].At })
}

// slack is by how much the judge itself may be wrong about times between two moments.
func (h *History) slack(from, to time.Duration) (most time.Duration) {
	const around = time.Second
	i := sort.Search(len(h.Lags), func(i int) bool { return h.Lags[i].At >= from-around })
	for ; i < len(h.Lags) && h.Lags[i].At-h.Lags[i].By <= to+around; i++ {
		most = max(most, h.Lags[i].By)
	}
	return 2 * most
}

// A Finding is something that must not be, or that only a fault excuses.
type Finding struct {
	Rule  string // what is broken
	Class string // the fault that excuses it; "": nothing does
	Src   string // ids that are concerned
	Dst   string
	At    time.Duration
	Text  string
}

func (f Finding) String() string {
	kind := "VIOLATION"
	if f.Class != "" {
		kind = "exception (" + f.Class + ")"
	}
	return fmt.Sprintf("%s at %s: %s: %s", kind, seconds(f.At), f.Rule, f.Text)
}

// violations are the findings that nothing excuses.
func violations(fs []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return f.Class != "" })
}

func seconds(d time.Duration) string {
	if d == never {
		return "never"
	}
	return fmt.Sprintf("%.3f", d.Seconds())
}

// A Trouble is what may happen to a message because of a fault.
type Trouble uint8

const (
	Late    Trouble = 1 << iota // it may take twice as long
	Lost                        // it may neither come nor expire
	Twice                       // it may come twice
	Both                        // it may come and expire
	Order                       // it may come after a later one
	Refused                     // sockets may be refused with an ERROR
	Stolen                      // another token may get the id, and the holder be ended
)

// A Fault is one thing that was done to the system.
type Fault struct {
	Kind     string
	Node     int // that it happened to; everywhere: the engine
	From, To time.Duration
}

const everywhere = -1

// deadAfter is how long a node has to be silent until others may think it dead; expireTimeout is how
// long a message waits.
const (
	deadAfter     = 2500 * time.Millisecond
	expireTimeout = 5 * time.Second
	settle        = 6 * time.Second // from the end of a fault until nothing of it is left
)

// trouble is what the fault may do to the messages that it concerns.
func (f *Fault) trouble() Trouble {
	lasted := f.To - f.From
	switch f.Kind {
	case "kill": // its process begins again, after "down"
		return Late | Lost | Twice | Stolen | Refused
	case "term":
		return Refused
	case "stop", "blackhole", "stall":
		t := Refused
		if lasted > deadAfter-100*time.Millisecond {
			t |= Late | Twice | Both | Order | Stolen
		}
		return t
	case "redis-kill", "failover":
		return Late | Lost | Both | Refused | Stolen
	case "redis-stop":
		t := Refused
		if lasted > expireTimeout-500*time.Millisecond {
			t |= Late | Both
		}
		return t
	}
	return Refused // connections that are cut or slow
}

// ofEngine reports whether the fault is between nodes and the engine, so that a node by itself works on.
func (f *Fault) ofEngine() bool {
	return f.Kind != "kill" && f.Kind != "down" && f.Kind != "term" && f.Kind != "stop" && f.Kind != "stall"
}

// covers reports whether traces of the fault may be there between two moments.
func (f *Fault) covers(from, to time.Duration) bool {
	return f.From-100*time.Millisecond <= to && from <= f.To+settle
}

func (f *Fault) String() string {
	where := "everywhere"
	if f.Node != everywhere {
		where = fmt.Sprintf("node %d", f.Node)
	}
	return fmt.Sprintf("%s to %s: %s, %s", seconds(f.From), seconds(f.To), f.Kind, where)
}
