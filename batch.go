package peer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A batch is what one node of a cluster sends to another at once: a head and records. All numbers are
// varints, but for those of the head, which are written last and in place.
//
//	head:    version, length of the sender's name, the name, number of the batch, number of the last one received (8 bytes each)
//	record:  kind, length, and then
//	message: number, dst, epoch, src, fate, deadline, payload
//	receipt: three lists of numbers: accepted, over, late
//	back:    dst, epoch, 1 if more follows, then messages: number, src, fate, deadline, length and payload
//	control: JSON
const batchVersion = 1

// What one node sends to another at once, in bytes.
const (
	maxBatch    = 256 << 10     // a batch, unless it has only one record
	maxBatchOne = 2<<20 - 1<<10 // one record; with its head it is less than the engine takes
)

// errBadBatch is the error of a batch that no node of this version has written.
var errBadBatch = errors.New("bad batch")

type recordKind byte

const (
	recordMessage recordKind = iota + 1
	recordReceipt
	recordBack
	recordControl
)

// A fate is a retention as it travels, and whether the message continues a negotiation.
type fate byte

const fateContinues fate = 0x80

func fateOf(p *parcel) fate {
	f := fate(p.keep)
	if p.continues {
		f |= fateContinues
	}
	return f
}

// A farMessage is a message that travels between two nodes.
type farMessage struct {
	number   uint32
	src      string
	fate     fate
	deadline int64  // in microseconds since 1970, by the clock of the engine
	payload  []byte // of the frame; a part of the batch
}

func (m *farMessage) keep() retention { return retention(m.fate &^ fateContinues) }

// parcel returns the message as it waits for its destination. It keeps nothing of the batch.
func (m *farMessage) parcel(deadline time.Time) parcel {
	frame, buf := frameBuffer(len(m.payload))
	return parcel{
		frame: append(frame, m.payload...), buf: buf, src: m.src, deadline: deadline,
		keep: m.keep(), continues: m.fate&fateContinues != 0,
	}
}

// A farRecord is one record of a batch; which fields are set depends on the kind.
type farRecord struct {
	kind    recordKind
	message farMessage   // of a message
	dst     string       // of a message, of a back
	epoch   uint64       // of dst
	receipt receipt      // of a receipt
	backs   []farMessage // of a back
	more    bool         // of a back
	control control      // of a control
}

// A receipt says what became of messages, by their numbers.
type receipt struct{ accepted, over, late []uint32 }

func (r *receipt) empty() bool { return len(r.accepted)+len(r.over)+len(r.late) == 0 }

// A control is a question of one node to another, or an answer. Nodes ignore what they do not know.
type control struct {
	What    string            `json:"what"` // ask, answer, room, kick, tick
	Number  uint64            `json:"n,omitempty"`
	ID      []byte            `json:"id,omitempty"`
	Epoch   uint64            `json:"epoch,omitempty"`
	Token   []byte            `json:"token,omitempty"`
	Granted bool              `json:"granted,omitempty"`
	HasUser bool              `json:"user,omitempty"`
	Addr    string            `json:"addr,omitempty"`
	Yes     bool              `json:"yes,omitempty"`
	Blocked [][]byte          `json:"blocked,omitempty"`
	Rooms   map[string][]byte `json:"rooms,omitempty"` // base64 of the name -> data
	Room    []byte            `json:"room,omitempty"`
	Reason  int               `json:"reason,omitempty"`
	Code    int               `json:"code,omitempty"`
	Text    string            `json:"text,omitempty"`
}

// batchHeadSize is the size of the head of a batch, with a name as nodes choose them.
const batchHeadSize = 2 + 22 + 16

// appendBatchHead appends the head of a batch, with the numbers left out.
func appendBatchHead(b []byte, sender string) []byte {
	b = append(b, batchVersion, byte(len(sender)))
	return append(append(b, sender...), make([]byte, 16)...)
}

// setBatchHead writes the numbers into the head of a batch.
func setBatchHead(b []byte, sender string, number, received uint64) {
	at := 2 + len(sender)
	binary.BigEndian.PutUint64(b[at:], number)
	binary.BigEndian.PutUint64(b[at+8:], received)
}

// appendRecord appends a record whose body write appends.
func appendRecord(b []byte, kind recordKind, write func([]byte) []byte) []byte {
	const room = 4 // for the length, a varint of fixed size
	b = append(b, byte(kind), 0, 0, 0, 0)
	at := len(b)
	b = write(b)
	n := len(b) - at
	for i := range room {
		c := byte(n>>(7*i)) & 0x7f
		if i < room-1 {
			c |= 0x80
		}
		b[at-room+i] = c
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendFar appends what a message and a part of a back have in common.
func appendFar(b []byte, p *parcel, deadline int64) []byte {
	b = append(appendText(b, p.src), byte(fateOf(p)))
	return binary.AppendVarint(b, deadline)
}

func appendMessage(b []byte, number uint32, dst string, epoch uint64, p *parcel, deadline int64) []byte {
	return appendRecord(b, recordMessage, func(b []byte) []byte {
		b = appendText(binary.AppendUvarint(b, uint64(number)), dst)
		b = appendFar(binary.AppendUvarint(b, epoch), p, deadline)
		return append(b, p.payload()...)
	})
}

func appendReceipt(b []byte, r *receipt) []byte {
	return appendRecord(b, recordReceipt, func(b []byte) []byte {
		for _, list := range [][]uint32{r.accepted, r.over, r.late} {
			b = binary.AppendUvarint(b, uint64(len(list)))
			last := uint32(0)
			for _, n := range list {
				b = binary.AppendVarint(b, int64(int32(n-last)))
				last = n
			}
		}
		return b
	})
}

// appendBack appends as many of ps as fit into a batch, at least one, and returns how many.
func appendBack(b []byte, dst string, epoch uint64, ps []parcel, deadline func(time.Time) int64) ([]byte, int) {
	n, size := 0, 0
	for n < len(ps) && (n == 0 || size+len(ps[n].frame)+len(ps[n].src)+64 <= maxBatch/2) {
		size += len(ps[n].frame) + len(ps[n].src) + 64
		n++
	}
	return appendRecord(b, recordBack, func(b []byte) []byte {
		b = binary.AppendUvarint(appendText(b, dst), epoch)
		if n < len(ps) {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		for i := range ps[:n] {
			p := &ps[i]
			b = appendFar(binary.AppendUvarint(b, uint64(p.mark)), p, deadline(p.deadline))
			b = append(binary.AppendUvarint(b, uint64(len(p.payload()))), p.payload()...)
		}
		return b
	}), n
}

func appendControl(b []byte, c *control) []byte {
	return appendRecord(b, recordControl, func(b []byte) []byte {
		j, _ := json.Marshal(c) // has nothing that cannot be marshalled
		return append(b, j...)
	})
}

// A batchReader reads a batch. After an error it returns zero values.
type batchReader struct {
	b   []byte
	bad bool
}

func (r *batchReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *batchReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *batchReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad = true
	}
	r.take(uint64(max(size, 0)))
	return n
}

func (r *batchReader) signed() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad = true
	}
	r.take(uint64(max(size, 0)))
	return n
}

func (r *batchReader) text() string { return string(r.take(r.number())) }

// A batchHead is what a batch begins with.
type batchHead struct {
	sender           string
	number, received uint64
}

// head reads the head of a batch.
func (r *batchReader) head() (h batchHead, err error) {
	if v := r.byte(); v != batchVersion {
		return h, fmt.Errorf("%w: version %d", errBadBatch, v)
	}
	h.sender = string(r.take(uint64(r.byte())))
	if numbers := r.take(16); numbers != nil {
		h.number, h.received = binary.BigEndian.Uint64(numbers), binary.BigEndian.Uint64(numbers[8:])
	}
	if r.bad || !isNodeName(h.sender) || h.number == 0 {
		return h, fmt.Errorf("%w: no head", errBadBatch)
	}
	return h, nil
}

// isNodeName reports whether a name is of the kind that nodes have.
func isNodeName(s string) bool {
	for _, c := range []byte(s) {
		if c-'0' > 9 && c|0x20-'a' > 'z'-'a' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// records reads all records that are left. An unknown kind is skipped.
func (r *batchReader) records() (rs []farRecord, err error) {
	for len(r.b) > 0 && !r.bad {
		kind := recordKind(r.byte())
		body := batchReader{b: r.take(r.number()), bad: r.bad}
		rec := farRecord{kind: kind}
		switch kind {
		case recordMessage:
			body.message(&rec)
		case recordReceipt:
			rec.receipt = receipt{body.numbers(), body.numbers(), body.numbers()}
		case recordBack:
			body.back(&rec)
		case recordControl:
			if json.Unmarshal(body.b, &rec.control) != nil {
				body.bad = true
			}
		default:
			continue
		}
		if r.bad = r.bad || body.bad; !r.bad {
			rs = append(rs, rec)
		}
	}
	if r.bad {
		return rs, fmt.Errorf("%w: after %d records", errBadBatch, len(rs))
	}
	return rs, nil
}

func (r *batchReader) message(rec *farRecord) {
	m := &rec.message
	m.number = uint32(r.number())
	rec.dst, rec.epoch = r.text(), r.number()
	r.far(m)
	m.payload = r.b
}

func (r *batchReader) far(m *farMessage) {
	m.src, m.fate, m.deadline = r.text(), fate(r.byte()), r.signed()
	r.bad = r.bad || m.keep() < keepForSamePeer || m.keep() > keepUntilExpiry
}

func (r *batchReader) back(rec *farRecord) {
	rec.dst, rec.epoch, rec.more = r.text(), r.number(), r.byte() == 1
	for len(r.b) > 0 && !r.bad {
		m := farMessage{number: uint32(r.number())}
		r.far(&m)
		m.payload = r.take(r.number())
		rec.backs = append(rec.backs, m)
	}
}

func (r *batchReader) numbers() (ns []uint32) {
	n := r.number()
	if n > uint64(len(r.b)) { // each takes a byte at least
		r.bad = true
		return nil
	}
	ns = make([]uint32, 0, n)
	last := uint32(0)
	for range n {
		last += uint32(r.signed())
		ns = append(ns, last)
	}
	return ns
}
