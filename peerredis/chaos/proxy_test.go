//go:build linux

package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A proxy stands between one node and all Redis servers. The node says first where it wants to go, so it does
// not matter that it learns addresses from Sentinels or from a Redis Cluster.
type proxy struct {
	l net.Listener

	mu     sync.Mutex // guards the following
	links  map[*link]bool
	refuse bool          // new connections
	delay  time.Duration // of each direction
	hole   chan struct{} // closed when data goes through again; nil: it does
}

type link struct{ near, far net.Conn }

func (l *link) close() {
	for _, c := range []net.Conn{l.near, l.far} {
		if c, ok := c.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
}

func newProxy(t *testing.T) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, links: make(map[*link]bool)}
	t.Cleanup(func() { _ = l.Close(); p.heal(); p.cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// through is a dialer of the node.
func through(proxy string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, proxy)
		if err == nil {
			_, err = fmt.Fprintln(c, addr)
		}
		return c, err
	}
}

func (p *proxy) serve(near net.Conn) {
	l := &link{near: near}
	p.mu.Lock()
	p.links[l] = true
	refuse := p.refuse
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
		l.close()
	}()
	if refuse {
		return
	}
	r := bufio.NewReaderSize(near, 64)
	addr, err := r.ReadString('\n')
	p.pass()
	if err != nil {
		return
	}
	far, err := net.DialTimeout("tcp", strings.TrimSpace(addr), time.Second)
	if err != nil {
		return
	}
	p.mu.Lock()
	l.far = far
	p.mu.Unlock()
	ended := make(chan struct{}, 2)
	go func() { p.copy(far, r); ended <- struct{}{} }()
	go func() { p.copy(near, far); ended <- struct{}{} }()
	<-ended
}

// pass waits while nothing goes through, and returns the delay.
func (p *proxy) pass() time.Duration {
	p.mu.Lock()
	hole, delay := p.hole, p.delay
	p.mu.Unlock()
	if hole != nil {
		<-hole
	}
	return delay
}

type chunk struct {
	at time.Time
	b  []byte
}

// copy moves data. What was read waits for its time without holding up what follows.
func (p *proxy) copy(to io.Writer, from io.Reader) {
	chunks := make(chan chunk, 256)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for c := range chunks {
			if wait := time.Until(c.at); wait > 0 {
				time.Sleep(wait)
			}
			p.pass()
			if _, err := to.Write(c.b); err != nil {
				break
			}
		}
		for range chunks { // let the reader end
		}
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			delay := p.pass()
			chunks <- chunk{time.Now().Add(delay), append([]byte(nil), b[:n]...)}
		}
		if err != nil {
			break
		}
	}
	close(chunks)
	<-written
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

func (p *proxy) set(refuse bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.delay = refuse, delay
}

// swallow lets nothing through until heal. What was sent meanwhile comes then, as TCP sends it again.
func (p *proxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = make(chan struct{})
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole != nil {
		close(p.hole)
		p.hole = nil
	}
}
