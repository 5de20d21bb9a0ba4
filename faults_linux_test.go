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
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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

// rawOpenFrom is rawOpen from an address of one's own.
func (r *rig) rawOpenFrom(ip net.IP) *rawPeer {
	r.t.Helper()
	return r.rawOpenWith((&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).DialContext)
}

// TestAStormOfConnectsAndDropsLeavesNothingBehind lets clients come and go in
// every way and in random order, for few ids, so that they meet.
func TestAStormOfConnectsAndDropsLeavesNothingBehind(t *testing.T) {
	const connects, workers, ids = 20_000, 8, 64
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
