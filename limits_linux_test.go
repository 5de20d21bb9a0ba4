package peer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSoManyMayBeConnectedFromOneAddress(t *testing.T) {
	r := newRig(t, Options{ConcurrentLimitPerAddr: 2})
	rec := watch(r.srv)
	one, two := net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)
	refused := func(ip net.IP, id string) {
		p := r.rawOpen(fromAddr(ip))
		p.upgrade(id)
		p.want(`{"type":"ERROR","payload":{"msg":"` + limitText + `"}}`)
		p.wantClose(1008)
		p.conn.Close()
	}
	a := r.rawOpen(fromAddr(one)).open("a")
	b := r.rawOpen(fromAddr(one)).open("b")
	refused(one, "c")
	r.rawOpen(fromAddr(two)).open("c")
	refused(one, "d")
	r.rawOpen(fromAddr(two)).open("d")
	refused(two, "e")
	r.connect("e") // from 127.0.0.1
	rec.wait(t, 5)

	// Who takes an id over at the same address needs no more room there.
	again := r.rawOpen(fromAddr(one))
	again.write([]byte(handshakeFor(socketTarget("a", a.token))))
	require.Equal(t, 101, again.response().StatusCode)
	again.want(`{"type":"OPEN"}`)
	a.wantClose(CloseReplaced)
	a.conn.Close()
	refused(one, "f")

	b.write(rawCloseFrame(1000, ""))
	b.wantClose(1000)
	b.conn.Close()
	rec.wait(t, 8) // five came, one twice; "a" and "b" went
	r.rawOpen(fromAddr(one)).open("f")
	for c := range r.srv.Realm().Clients() {
		c.socket.conn.Close() // or Close would wait for these peers, who do not hang up
	}
	closeServer(t, r.srv)
	require.EqualValues(t, 4, r.srv.Stats().Refused["limit"])
	require.Empty(t, r.srv.realm.addrs)
}

// libraryGoroutines returns how many connections the WebSocket library has. No
// test runs beside this one, and a rawPeer does without the library.
func libraryGoroutines() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "created by nhooyr.io/websocket.newConn")
}

// A plain socket that is silent costs nothing of the library, whatever had to be
// read with it before.
func TestTheLibraryHoldsNothingOfASilentClient(t *testing.T) {
	waitFor(t, func() bool { return libraryGoroutines() == 0 }) // of tests before
	r := newRig(t, Options{})
	p := r.rawOpen().open("a")
	waitFor(t, func() bool { return libraryGoroutines() == 0 })
	long := `{"type":"OFFER","src":"a","dst":"a","payload":"` + strings.Repeat("x", 2*readBuffer) + `"}`
	ping := rawFrame(rawFin|rawPing, "?")
	for _, frames := range [][]byte{
		rawFrame(rawFin|rawPong, ""),
		rawTextFrame(long),
		append(rawFrame(rawText, long[:9]), rawFrame(rawFin|rawCont, long[9:])...),
	} {
		p.write(slices.Concat(frames, ping))
		if len(frames) > len(long) {
			p.want(long)
		}
		first, _ := p.next()
		require.Equal(t, byte(rawFin|rawPong), first)
		waitFor(t, func() bool { return libraryGoroutines() == 0 })
	}
}

// fewFiles is what tells a child process of the test that it is the server. On
// Linux the whole of 127.0.0.0/8 can be dialled from.
const fewFiles = "PEER_TEST_FEW_FILES"

// TestConnectedClientsOutliveTheEndOfFileDescriptors runs a server in a process
// of its own that may open no more than a few files, and takes all of them.
func TestConnectedClientsOutliveTheEndOfFileDescriptors(t *testing.T) {
	if os.Getenv(fewFiles) != "" {
		serveWithFewFiles(t)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), fewFiles+"=1")
	stdin, err := child.StdinPipe()
	require.NoError(t, err)
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	said := bufio.NewReader(stdout)
	line, err := said.ReadString('\n')
	require.NoError(t, err)

	r := &rig{t: t, url: strings.TrimSpace(line), dialer: new(net.Dialer).DialContext}
	by := r.bystanders()
	var flood []*rawPeer
	for range 100 {
		flood = append(flood, r.rawOpen())
	}
	for !strings.Contains(line, "too many open files") {
		line, err = said.ReadString('\n')
		require.NoError(t, err)
	}
	for range 100 {
		by.talk()
	}
	for _, p := range flood {
		p.conn.Close()
	}
	r.connect("late").offer("bob", `1`) // as soon as net/http tries again
	by.b.wantOffer("late", `1`)
	stdin.Close()
	rest, err := io.ReadAll(said)
	require.NoError(t, err)
	require.NoError(t, child.Wait(), "%s", rest)
}

// serveWithFewFiles is the child process. It ends when its input does.
func serveWithFewFiles(t *testing.T) {
	srv := NewServer(Options{})
	ts := httptest.NewUnstartedServer(srv)
	ts.Config.ErrorLog = log.New(os.Stdout, "", 0)
	ts.Start()
	defer ts.Close()
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 40, Max: 40}))
	fmt.Println(ts.URL)
	io.Copy(io.Discard, os.Stdin)
	require.NoError(t, srv.realm.check())
	closeServer(t, srv)
	require.Zero(t, srv.Realm().Len())
}

// loopback returns an address of this host for client i.
func loopback(i int) net.IP { return net.IPv4(127, 0, byte(1+i/250%250), byte(1+i%250)) }

// TestAStormOfConnectsAndDropsLeavesNothingBehind lets clients come and go in
// every way and in random order, for few ids, so that they meet.
func TestAStormOfConnectsAndDropsLeavesNothingBehind(t *testing.T) {
	slow(t)
	const connects, workers, ids = 3000, 8, 64
	srv := NewServer(Options{AllowOverride: OverrideAlways, ConcurrentLimitPerAddr: connects, ProbeAfter: -1})
	tl := followEvents(srv)
	r := serveRig(t, srv, nil)
	by := r.bystanders()
	var opened atomic.Int64
	parallel(workers, func(i int) {
		rnd := rand.New(rand.NewPCG(2, uint64(i)))
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: loopback(i)}}
		buf := make([]byte, 4096)
		for range connects / workers {
			conn, err := d.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
			if !assert.NoError(t, err) {
				return
			}
			id := fmt.Sprint("id", rnd.IntN(ids))
			io.WriteString(conn, handshakeFor(socketTarget(id, fmt.Sprint(rnd.IntN(3)))))
			if rnd.IntN(10) > 0 { // else it is gone before the answer
				n, err := conn.Read(buf)
				if err == nil && strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101") {
					opened.Add(1)
				}
			}
			switch rnd.IntN(4) {
			case 0:
				conn.Write(rawCloseFrame(1000, ""))
			case 1:
				conn.Write(rawTextFrame(`{"type":"LEAVE"}`))
			case 2:
				conn.Write(rawTextFrame(fmt.Sprintf(`{"type":"OFFER","dst":"id%d"}`, rnd.IntN(ids))))
			}
			conn.(*net.TCPConn).SetLinger(0) // leaves no port in TIME_WAIT
			conn.Close()
		}
	})
	by.talk()
	closeServer(t, srv)
	tl.check(t)
	require.NoError(t, srv.realm.check())
	require.Zero(t, srv.Realm().Len())
	require.Empty(t, srv.realm.addrs)
	wantNoGoroutines(t)
	st := srv.Stats()
	require.EqualValues(t, tl.ups, st.Accepted)
	require.Greater(t, st.Accepted, uint64(connects/2))
	require.LessOrEqual(t, uint64(opened.Load()), st.Accepted+total(st.Refused)-2, "bystanders")
	require.Equal(t, st.Accepted, total(st.Disconnects))
}
