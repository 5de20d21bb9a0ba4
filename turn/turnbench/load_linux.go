package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/pion/stun/v4"
)

const (
	channel     = 0x4000
	header      = 4 // bytes of ChannelData before the payload
	readTimeout = 10 * time.Second
	stallAfter  = 100 * time.Millisecond // without a packet, what was on its way is lost
)

// load is all clients and peers of one measurement.
type load struct {
	server, secret  string
	clients         []net.Conn
	peers           []*net.UDPConn
	packets, stalls atomic.Int64
}

// add makes a client with a relay and a channel to a peer.
func (l *load) add() error {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(peerIP)})
	if err != nil {
		return err
	}
	l.peers = append(l.peers, pc)
	conn, err := net.Dial(*transport, l.server)
	if err != nil {
		return err
	}
	l.clients = append(l.clients, conn)
	c := &client{conn: conn}
	c.username, c.credential = peer.TURNCredentials([]byte(l.secret), fmt.Sprint("client", len(l.clients)), time.Hour)
	udp := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
	if err := c.ask(stun.MethodAllocate, udp); err != nil {
		return err
	}
	far := pc.LocalAddr().(*net.UDPAddr)
	return c.ask(stun.MethodChannelBind,
		stun.RawAttribute{Type: stun.AttrChannelNumber, Value: binary.BigEndian.AppendUint32(nil, channel<<16)},
		peerAddress{stun.XORMappedAddress{IP: far.IP, Port: far.Port}})
}

type peerAddress struct{ stun.XORMappedAddress }

func (a peerAddress) AddTo(m *stun.Message) error { return a.AddToAs(m, stun.AttrXORPeerAddress) }

// A client can ask the server for something.
type client struct {
	conn                 net.Conn
	username, credential string
	realm                stun.Realm
	nonce                stun.Nonce
}

// ask sends a request. If the server wants the client to authenticate, ask sends it again.
func (c *client) ask(method stun.Method, attrs ...stun.Setter) error {
	for {
		setters := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
		if c.nonce != nil {
			setters = append(setters, stun.NewUsername(c.username), c.realm, c.nonce,
				stun.NewLongTermIntegrity(c.username, c.realm.String(), c.credential))
		}
		m, err := stun.Build(setters...)
		if err != nil {
			return err
		}
		if _, err := c.conn.Write(m.Raw); err != nil {
			return err
		}
		buf := make([]byte, 2000)
		c.conn.SetReadDeadline(time.Now().Add(readTimeout))
		n, err := c.conn.Read(buf)
		if err != nil {
			return fmt.Errorf("asking for %v: %w", method, err)
		}
		answer := &stun.Message{Raw: buf[:n]}
		if err := answer.Decode(); err != nil {
			return err
		}
		if answer.Type.Class == stun.ClassSuccessResponse {
			return nil
		}
		if c.nonce != nil {
			return fmt.Errorf("asking for %v: %v", method, answer)
		}
		if err := answer.Parse(&c.realm, &c.nonce); err != nil {
			return err
		}
	}
}

// run lets all clients send, until close.
func (l *load) run(all *sync.WaitGroup) {
	for _, p := range l.peers {
		all.Go(func() { l.echo(p) })
	}
	for _, c := range l.clients {
		all.Go(func() { l.send(c) })
	}
}

// echo sends back what comes from a relay.
func (l *load) echo(pc *net.UDPConn) {
	buf := make([]byte, 2000)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		l.packets.Add(1)
		if _, err := pc.WriteToUDPAddrPort(buf[:n], from); err != nil {
			return
		}
	}
}

// send sends a window of packets, and then one for each that has come back.
func (l *load) send(conn net.Conn) {
	frame := make([]byte, header+*size)
	binary.BigEndian.PutUint16(frame, channel)
	binary.BigEndian.PutUint16(frame[2:], uint16(*size))
	var in io.Reader = conn
	if *transport == "tcp" {
		in = bufio.NewReaderSize(conn, 1<<16)
	}
	buf := make([]byte, header+*size)
	for due := *window; ; due = 1 {
		for range due {
			if _, err := conn.Write(frame); err != nil {
				return
			}
		}
		for {
			conn.SetReadDeadline(time.Now().Add(stallAfter))
			if _, err := io.ReadFull(in, buf); err == nil {
				break
			} else if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
				return
			}
			l.stalls.Add(1)
			if *transport == "udp" {
				for range *window {
					conn.Write(frame)
				}
			}
		}
		l.packets.Add(1)
	}
}

func (l *load) close() {
	for _, c := range l.clients {
		c.Close()
	}
	for _, p := range l.peers {
		p.Close()
	}
}
