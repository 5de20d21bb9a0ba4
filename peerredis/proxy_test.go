package peerredis

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// proxy stands before a server and makes connections half open: they stay, but nothing goes through.
type proxy struct {
	net.Listener
	to string

	mu    sync.Mutex // guards the following
	conns []*proxied
	hole  string // new connections that say this are half open; "": none
}

type proxied struct {
	client, server net.Conn
	said           string // "xread" or "multi", once the client has said it
	silent         bool
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{Listener: l, to: to}
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			c.client.Close()
			c.server.Close()
		}
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			c := &proxied{client: client, server: server}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
			go p.copy(c, server, client, true)
			go p.copy(c, client, server, false)
		}
	}()
	return p
}

func (p *proxy) options() redis.UniversalOptions {
	return redis.UniversalOptions{Addrs: []string{p.Addr().String()}}
}

func (p *proxy) copy(c *proxied, to io.WriteCloser, from io.Reader, listen bool) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		for _, s := range []string{"xread", "multi"} {
			if listen && c.said == "" && bytes.Contains(b[:n], []byte(s)) {
				c.said = s
				c.silent = c.silent || s == p.hole
			}
		}
		silent := c.silent
		p.mu.Unlock()
		if silent {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// silence makes the connections half open that have said a command, and with later those to come.
func (p *proxy) silence(said string, later bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.silent = c.silent || c.said == said
	}
	if later {
		p.hole = said
	}
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = ""
}
