package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A rawPeer is the client side of a connection of which the test says every
// byte. Nothing is read unless the test asks for it, and no ping is answered.
type rawPeer struct {
	t     testing.TB
	id    string
	token string
	conn  net.Conn
	br    *bufio.Reader

	sent uint64 // bytes of the payload of whole data frames that were written
	got  uint64 // bytes of the frames that were read
}

// The first byte of a frame: flags and opcode (RFC 6455, section 5.2).
const (
	rawFin    = 0x80
	rawCont   = 0x0
	rawText   = 0x1
	rawBinary = 0x2
	rawClose  = 0x8
	rawPing   = 0x9
	rawPong   = 0xa
)

// rawMask is the masking key of every frame. It has no byte that leaves another
// one as it is.
var rawMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// rawMasks is rawMask many times.
var rawMasks = bytes.Repeat(rawMask[:], 1024)

// rawHeader returns the header of a masked frame.
func rawHeader(first byte, n uint64) []byte {
	b := []byte{first}
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), n)
	}
	return append(b, rawMask[:]...)
}

// rawFrame returns a masked frame. Without rawFin in first it is a fragment.
func rawFrame(first byte, payload string) []byte {
	b := append(rawHeader(first, uint64(len(payload))), payload...)
	masked := b[len(b)-len(payload):]
	for len(masked) > 0 { // in large steps: one by one takes long under the race detector
		n := subtle.XORBytes(masked, masked, rawMasks)
		masked = masked[n:]
	}
	return b
}

func rawTextFrame(s string) []byte { return rawFrame(rawFin|rawText, s) }

// rawCloseFrame returns the close frame of a client.
func rawCloseFrame(code uint16, reason string) []byte {
	return rawFrame(rawFin|rawClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// socketTarget is what the handshake for an id asks for.
func socketTarget(id, token string) string {
	return "/peerjs?key=peerjs&id=" + url.QueryEscape(id) + "&token=" + url.QueryEscape(token)
}

// handshakeFor returns a handshake as a browser sends it, with more lines in its
// header, each without its end.
func handshakeFor(target string, lines ...string) string {
	h := "GET " + target + " HTTP/1.1\r\nHost: peer.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, l := range lines {
		h += l + "\r\n"
	}
	return h + "\r\n"
}

// A rawOption is a peculiarity of a connection that is made by hand.
type rawOption func(r *rawRoute)

// A rawRoute is how a connection is made.
type rawRoute struct {
	dial                    dialer
	readBuffer, writeBuffer int // of a socket; 0: as the system has it
}

// fromAddr lets the connection come from an address of this host.
func fromAddr(ip net.IP) rawOption {
	return func(r *rawRoute) { r.dial = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).DialContext }
}

// smallReads lets little wait for a peer that does not read.
func smallReads(r *rawRoute) { r.readBuffer = 4 << 10 }

// smallWrites lets little wait for a server that does not read.
func smallWrites(r *rawRoute) { r.writeBuffer = 4 << 10 }

// rawOpen opens a connection and writes nothing.
func (r *rig) rawOpen(opts ...rawOption) *rawPeer {
	r.t.Helper()
	r = r.turn()
	route := rawRoute{dial: r.dialer}
	for _, o := range opts {
		o(&route)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	conn, err := route.dial(ctx, "tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	if tcp, ok := conn.(*net.TCPConn); ok && route.readBuffer > 0 {
		require.NoError(r.t, tcp.SetReadBuffer(route.readBuffer))
	}
	if tcp, ok := conn.(*net.TCPConn); ok && route.writeBuffer > 0 {
		require.NoError(r.t, tcp.SetWriteBuffer(route.writeBuffer))
	}
	return &rawPeer{t: r.t, conn: conn, br: bufio.NewReader(conn)}
}

// begin makes the handshake at a URL, with frames sent in the same breath, and reads its answer and
// nothing more.
func (p *rawPeer) begin(u string, behind ...[]byte) *rawPeer {
	p.t.Helper()
	_, target, _ := strings.Cut(strings.TrimPrefix(u, "http://"), "/")
	p.write([]byte(handshakeFor("/"+target) + string(bytes.Join(behind, nil))))
	require.Equal(p.t, http.StatusSwitchingProtocols, p.response().StatusCode)
	return p
}

// openAs is open with a token.
func (p *rawPeer) openAs(id, token string) *rawPeer {
	p.t.Helper()
	p.id, p.token = id, token
	p.begin(socketTarget(id, token)).want(`{"type":"OPEN"}`)
	return p
}

// bare returns the connection, without a deadline, for a test that reads bytes.
func (p *rawPeer) bare() net.Conn {
	p.conn.SetDeadline(time.Time{})
	return p.conn
}

// deaf drops what comes from now on, and answers nothing.
func (p *rawPeer) deaf() *rawPeer {
	go func() {
		for {
			if _, _, err := p.read(); err != nil {
				return
			}
		}
	}()
	return p
}

// open makes the handshake and waits for OPEN.
func (p *rawPeer) open(id string) *rawPeer {
	p.t.Helper()
	p.upgrade(id)
	p.want(`{"type":"OPEN"}`)
	return p
}

// upgrade makes the handshake and reads its answer.
func (p *rawPeer) upgrade(id string) *rawPeer {
	p.t.Helper()
	res := p.handshake(id)
	require.Equal(p.t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(p.t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", res.Header.Get("Sec-WebSocket-Accept"))
	return p
}

// handshake is upgrade with any answer. Every connection has a token of its own.
func (p *rawPeer) handshake(id string) *http.Response {
	p.t.Helper()
	p.id, p.token = id, rand.Text()
	p.write([]byte(handshakeFor(socketTarget(id, p.token))))
	return p.response()
}

// response reads the head of an HTTP answer.
func (p *rawPeer) response() *http.Response {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(waitLimit))
	res, err := http.ReadResponse(p.br, nil)
	require.NoError(p.t, err)
	return res
}

// write writes bytes as they are.
func (p *rawPeer) write(b []byte) {
	p.t.Helper()
	require.NoError(p.t, p.tryWrite(b))
}

// tryWrite is write for a server that may have hung up already.
func (p *rawPeer) tryWrite(b []byte) error {
	p.conn.SetWriteDeadline(time.Now().Add(waitLimit))
	_, err := p.conn.Write(b)
	return err
}

// text sends a whole text frame.
func (p *rawPeer) text(s string) {
	p.t.Helper()
	p.write(rawTextFrame(s))
	p.sent += uint64(len(s))
}

// read reads one frame.
func (p *rawPeer) read() (first byte, payload []byte, err error) { return p.readWithin(waitLimit) }

func (p *rawPeer) readWithin(limit time.Duration) (first byte, payload []byte, err error) {
	p.conn.SetReadDeadline(time.Now().Add(limit))
	var head [10]byte
	if _, err = io.ReadFull(p.br, head[:2]); err != nil {
		return 0, nil, err
	}
	n, size := uint64(head[1]), 2
	switch n {
	case 126:
		size = 4
		_, err = io.ReadFull(p.br, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		size = 10
		_, err = io.ReadFull(p.br, head[2:10])
		n = binary.BigEndian.Uint64(head[2:])
	}
	if err == nil {
		payload = make([]byte, n)
		_, err = io.ReadFull(p.br, payload)
	}
	if err == nil {
		p.got += uint64(size) + n
	}
	return head[0], payload, err
}

// next returns the next frame.
func (p *rawPeer) next() (first byte, payload []byte) {
	p.t.Helper()
	first, payload, err := p.read()
	require.NoError(p.t, err, "frame for %s", p.id)
	return first, payload
}

// want wants this text frame.
func (p *rawPeer) want(text string) {
	p.t.Helper()
	first, payload := p.next()
	require.Equal(p.t, text, string(payload), "frame for %s", p.id)
	require.Equal(p.t, byte(rawFin|rawText), first)
}

// wantClose wants a close frame with this code, and then the end.
func (p *rawPeer) wantClose(code int) {
	p.t.Helper()
	first, payload := p.next()
	require.Equal(p.t, byte(rawFin|rawClose), first, "%q", payload)
	require.GreaterOrEqual(p.t, len(payload), 2)
	require.Equal(p.t, code, int(binary.BigEndian.Uint16(payload)), "%q", payload)
	p.answerClose()
	p.wantGone()
}

// answerClose sends the close frame that answers the server's, as a browser does. The server may
// have ended the stream already, if it has answered one of the client's.
func (p *rawPeer) answerClose() { p.tryWrite(rawCloseFrame(1000, "")) }

// wantGone wants the connection to have ended, in whatever way, with nothing
// before.
func (p *rawPeer) wantGone() {
	p.t.Helper()
	first, payload, err := p.read()
	require.Error(p.t, err, "%x %q", first, payload)
	require.NotErrorIs(p.t, err, os.ErrDeadlineExceeded)
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.ECONNRESET)
	require.True(p.t, ended, "%v", err)
}

// skipToEnd reads to the end and returns the close code of the last frame, or 0.
func (p *rawPeer) skipToEnd() (code int) {
	p.t.Helper()
	for {
		first, payload, err := p.read()
		if err != nil {
			require.NotErrorIs(p.t, err, os.ErrDeadlineExceeded)
			return code
		}
		if first == rawFin|rawClose {
			p.answerClose()
			if len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
		}
	}
}

// halfClose sends FIN and can read on.
func (p *rawPeer) halfClose() {
	p.t.Helper()
	require.NoError(p.t, p.conn.(*net.TCPConn).CloseWrite())
}

// reset ends the connection with RST.
func (p *rawPeer) reset() {
	if tcp, ok := p.conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	p.conn.Close()
}

// victims is a rig with two bystanders and a client that is up to something, all
// of whom have had their OnConnection: the first three lines of the record.
func victims(t *testing.T, opts Options) (r *rig, rec *record, by bystanders, mallory *rawPeer) {
	t.Helper()
	r = newRig(t, opts)
	rec = watch(r.srv)
	by = r.bystanders()
	mallory = r.rawOpen().open("mallory")
	rec.wait(t, 3)
	return r, rec, by, mallory
}

func TestARawPeerSpeaksTheProtocol(t *testing.T) {
	r := newRig(t, Options{})
	by := r.bystanders()
	p := r.rawOpen().open("raw")
	long := `"` + strings.Repeat("x", 300) + `"`
	p.text(`{"type":"OFFER","dst":"alice","payload":` + long + `}`)
	by.a.wantOffer("raw", long)
	by.a.offer("raw", long)
	p.want(`{"type":"OFFER","src":"alice","dst":"raw","payload":` + long + `}`)
	p.write(rawFrame(rawFin|rawPing, "hello"))
	first, payload := p.next()
	require.Equal(t, byte(rawFin|rawPong), first)
	require.Equal(t, "hello", string(payload))
	p.write(rawCloseFrame(3333, "bye"))
	p.wantClose(3333)
	by.talk()
}

// wantTurnedAway wants a message for people of this type, to the byte, then the
// close frame, then the end of the stream in good order: a reset could have cost
// a client what came before.
func (p *rawPeer) wantTurnedAway(t MessageType, msg string) {
	p.t.Helper()
	p.want(fmt.Sprintf(`{"type":%q,"payload":{"msg":%q}}`, t, msg))
	first, payload := p.next()
	require.Equal(p.t, byte(rawFin|rawClose), first)
	require.GreaterOrEqual(p.t, len(payload), 2)
	require.EqualValues(p.t, 1008, binary.BigEndian.Uint16(payload))
	p.answerClose()
	_, err := p.br.ReadByte()
	require.Equal(p.t, io.EOF, err, "the end of the stream")
	p.conn.Close()
}

// pings counts the pings that come until the stream ends. With answer, each gets
// its pong.
func (p *rawPeer) pings(answer bool) (count func() int) {
	pings := make(chan int, 1)
	pings <- 0
	go func() {
		for {
			first, payload, err := p.read()
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
			case err != nil:
				return
			case first == rawFin|rawPing:
				pings <- <-pings + 1
				if answer {
					p.tryWrite(rawFrame(rawFin|rawPong, string(payload)))
				}
			}
		}
	}()
	return func() int {
		n := <-pings
		pings <- n
		return n
	}
}
