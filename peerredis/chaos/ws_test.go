//go:build linux

package chaos

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// A wire is a WebSocket of a client, by hand: a library would not let the judge read on when the client
// has sent its close frame, or let it play dead.
type wire struct {
	*net.TCPConn
	br *bufio.Reader

	mu sync.Mutex // one frame after the other
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

var errNoUpgrade = errors.New("no upgrade")

// dialWire opens a socket as PeerJS does. The status is that of the answer; 0: there was none.
func dialWire(addr, id, token string, within time.Duration) (w *wire, status int, err error) {
	d := net.Dialer{Timeout: within, Control: smallBuffers}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, 0, err
	}
	w = &wire{TCPConn: nc.(*net.TCPConn), br: bufio.NewReaderSize(nc, 2048)}
	_ = w.SetDeadline(time.Now().Add(within))
	_, err = fmt.Fprintf(w, "GET /peerjs?key=peerjs&id=%s&token=%s&version=1.5.5 HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		url.QueryEscape(id), url.QueryEscape(token), addr)
	if err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(w.br, nil); err == nil {
			if status = res.StatusCode; status != http.StatusSwitchingProtocols {
				err = errNoUpgrade
			}
		}
	}
	if err != nil {
		w.Close()
		return nil, status, err
	}
	_ = w.SetDeadline(time.Time{})
	return w, status, nil
}

// smallBuffer is the size of the buffers between a server and a client, in bytes: they are full soon when
// a client does not read.
const smallBuffer = 4096

func smallBuffers(_, _ string, c syscall.RawConn) (err error) {
	err2 := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, smallBuffer)
	})
	return errors.Join(err, err2)
}

// write sends a frame. A server that stands still has room in the buffers of the system.
func (w *wire) write(op byte, payload []byte) error {
	const masked = 0x80
	b := make([]byte, 0, len(payload)+14)
	b = append(b, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0) // a mask of zeros leaves the payload as it is
	b = append(b, payload...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_, err := w.Write(b)
	return err
}

// read returns the next frame. The server sends whole messages.
func (w *wire) read() (op byte, payload []byte, err error) {
	head, err := w.br.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op, n := head[0]&15, int64(head[1]&127)
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("unexpected header % x", head)
	}
	long := map[int64]int{126: 2, 127: 8}[n]
	if head, err = w.br.Peek(2 + long); err != nil {
		return 0, nil, err
	}
	switch long {
	case 2:
		n = int64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		n = int64(binary.BigEndian.Uint64(head[2:]))
	}
	if n > 16<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	_, _ = w.br.Discard(2 + long)
	payload = make([]byte, n)
	_, err = io.ReadFull(w.br, payload)
	return op, payload, err
}

// reset ends the connection at once: what is on its way is lost.
func (w *wire) reset() {
	_ = w.SetLinger(0)
	_ = w.Close()
}

func closeCode(payload []byte) int {
	if len(payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(payload))
}
