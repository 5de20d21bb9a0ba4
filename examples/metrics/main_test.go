package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

func TestAScrapeHasTheExactCounts(t *testing.T) {
	r := newRig(t, peer.Options{MaxHeldPerPair: 2})
	fresh := r.scrape()
	require.Empty(t, fresh.ours())

	a, b := r.dial("peerjs", "a", "1"), r.dial("peerjs", "b", "2")
	a.want(open)
	b.want(open)
	for range 3 {
		a.send(`{"type":"OFFER","dst":"b","payload":{"sdp":"v=0"}}`)
		b.want(`{"type":"OFFER","src":"a","dst":"b","payload":{"sdp":"v=0"}}`)
		b.send(`{"type":"ANSWER","dst":"a"}`)
		a.want(`{"type":"ANSWER","src":"b","dst":"a"}`)
	}
	a.send(`{"type":"HEARTBEAT"}`)

	for range 4 { // nobody is there
		a.send(`{"type":"LEAVE","dst":"absent"}`)
	}
	for range 3 { // the third is one too many
		a.send(`{"type":"OFFER","dst":"absent"}`)
	}
	a.want(`{"type":"EXPIRE","src":"absent","dst":"a"}`)
	a.send(`{"type":"ROAR","dst":"b"}`)
	a.send(`no message`)
	for range 2 {
		b.send(`{"type":"OFFER","dst":"late"}`)
	}
	b.send(`{"type":"LEAVE","dst":"b"}`) // messages are handled in their order
	b.want(`{"type":"LEAVE","src":"b","dst":"b"}`)
	held := r.srv.Stats().HeldBytes
	require.NotZero(t, held)
	require.EqualValues(t, held, r.scrape()["peer_held_bytes"])
	late := r.dial("peerjs", "late", "3")
	late.want(open)
	late.want(`{"type":"OFFER","src":"b","dst":"late"}`)
	late.want(`{"type":"OFFER","src":"b","dst":"late"}`)

	all := []*client{a, b, late}
	for range 2 {
		c := r.dial("wrong", "c", "4")
		c.want(`{"type":"ERROR","payload":{"msg":"Invalid key provided"}}`)
		c.wantEnd(1008)
		all = append(all, c)
	}
	taken := r.dial("peerjs", "a", "5")
	taken.want(`{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}`)
	taken.wantEnd(1008)

	live := r.scrape()
	require.EqualValues(t, 3, live["peer_clients"])
	require.EqualValues(t, 3, live["peer_clients_peak"])
	late.send(`{"type":"LEAVE"}`)
	late.wantEnd(1000)
	r.wantLeft("late: left")
	require.True(t, r.srv.Realm().RemoveClient("b"))
	b.wantEnd(peer.CloseRemoved)
	r.wantLeft("b: removed")
	live = r.scrape()
	require.EqualValues(t, 1, live["peer_clients"])
	require.EqualValues(t, 3, live["peer_clients_peak"])

	closed := make(chan error, 1)
	go func() { closed <- r.srv.Close() }()
	a.wantEnd(1001)
	require.NoError(t, <-closed) // from here on, all that was written is counted
	r.wantLeft("a: server shutdown")
	want := scrape{
		`peer_clients_peak`:                                   3,
		`peer_connections_accepted_total`:                     3,
		`peer_handshake_duration_seconds_count`:               3,
		`peer_connections_refused_total{cause="invalid key"}`: 2,
		`peer_connections_refused_total{cause="id taken"}`:    1,
		`peer_messages_relayed_total`:                         3 + 3 + 1 + 1, // with EXPIRE and b's to itself; what was held does not count again
		`peer_messages_held_total`:                            2 + 2,
		`peer_expires_total`:                                  1,
		`peer_messages_dropped_total{cause="absent"}`:         4,
		`peer_messages_dropped_total{cause="over a bound"}`:   3,
		`peer_messages_dropped_total{cause="unknown type"}`:   1,
		`peer_messages_dropped_total{cause="bad message"}`:    1,
		`peer_disconnects_total{reason="left"}`:               1,
		`peer_disconnects_total{reason="removed"}`:            1,
		`peer_disconnects_total{reason="server shutdown"}`:    1,
	}
	for _, c := range append(all, taken) {
		want["peer_received_bytes_total"] += float64(c.sent)
		want["peer_sent_bytes_total"] += float64(c.got)
	}
	last := r.scrape()
	require.Equal(t, want, last.ours())
	require.Len(t, last.names(), len(fresh.names()))
}

func TestEveryCauseIsThereFromTheStart(t *testing.T) {
	r := newRig(t, bounded)
	got := r.scrape()
	st := r.srv.Stats()
	n := len(metrics)
	for cause := range st.Refused {
		require.Contains(t, got, `peer_connections_refused_total{cause="`+cause+`"}`)
		n++
	}
	for cause := range st.Dropped {
		require.Contains(t, got, `peer_messages_dropped_total{cause="`+cause+`"}`)
		n++
	}
	for why := range st.Disconnects {
		require.Contains(t, got, `peer_disconnects_total{reason="`+why.String()+`"}`)
		n++
	}
	require.Equal(t, n, testutil.CollectAndCount(collector{r.srv.Stats}))
}

func TestEachNumberGoesToTheSeriesOfItsName(t *testing.T) {
	// No two are the same, and no field is left out, also none that Stats may get one day.
	n := 0
	next := func() int { n++; return n }
	st := peer.NewServer(peer.Options{}).Stats()
	want := make(scrape)
	for field, name := range map[string]string{
		"Clients": "peer_clients", "PeakClients": "peer_clients_peak", "HeldBytes": "peer_held_bytes",
		"Accepted": "peer_connections_accepted_total", "Relayed": "peer_messages_relayed_total",
		"Held": "peer_messages_held_total", "Returned": "peer_messages_returned_total", "Expires": "peer_expires_total",
		"BytesIn": "peer_received_bytes_total", "BytesOut": "peer_sent_bytes_total",
		"HeldMessages": "peer_held_messages", "PartialBytes": "peer_partial_bytes",
		"Rooms": "peer_rooms", "Members": "peer_room_members",
		"ConcurrentLimit": "peer_clients_limit", "MaxRooms": "peer_rooms_limit",
		"MaxHeldBytes": "peer_held_limit_bytes", "MaxPartialBytes": "peer_partial_limit_bytes",
	} {
		f := reflect.ValueOf(&st).Elem().FieldByName(field)
		f.Set(reflect.ValueOf(next()).Convert(f.Type()))
		want[name] = float64(n)
	}
	st.Cluster = new(peer.ClusterStats)
	for field, name := range map[string]string{
		"Nodes": "peer_cluster_nodes", "QueuedBytes": "peer_cluster_queued_bytes",
		"Batches":  "peer_cluster_batches_total",
		"Repeated": "peer_cluster_repeated_total",
		"Gaps":     "peer_cluster_gaps_total",
		"Refused":  "peer_cluster_refused_total",
		"Returned": "peer_cluster_returned_total",
		"Finds":    "peer_cluster_finds_total",
		"Claims":   "peer_cluster_claims_total",
		"Lost":     "peer_cluster_lost_total",
		"Errors":   "peer_cluster_errors_total",
	} {
		f := reflect.ValueOf(st.Cluster).Elem().FieldByName(field)
		f.Set(reflect.ValueOf(next()).Convert(f.Type()))
		want[name] = float64(n)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[peer.ClusterStats]()) {
		require.False(t, reflect.ValueOf(*st.Cluster).FieldByIndex(f.Index).IsZero(), "there is no metric for %s", f.Name)
	}
	st.Since = time.Unix(int64(next()), 0)
	want["peer_start_time_seconds"] = float64(n)
	for cause := range st.Refused {
		st.Refused[cause] = uint64(next())
		want[`peer_connections_refused_total{cause="`+cause+`"}`] = float64(n)
	}
	for cause := range st.Dropped {
		st.Dropped[cause] = uint64(next())
		want[`peer_messages_dropped_total{cause="`+cause+`"}`] = float64(n)
	}
	for why := range st.Disconnects {
		st.Disconnects[why] = uint64(next())
		want[`peer_disconnects_total{reason="`+why.String()+`"}`] = float64(n)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[peer.Stats]()) {
		require.False(t, reflect.ValueOf(st).FieldByIndex(f.Index).IsZero(), "there is no metric for %s", f.Name)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(collector{func() peer.Stats { return st }})
	res := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(res, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, want, parse(t, res.Body.String()))
}

func TestPrometheusFindsNothingToBlame(t *testing.T) {
	reg := prometheus.NewPedanticRegistry() // checks what is collected against Describe
	reg.MustRegister(collector{peer.NewServer(peer.Options{}).Stats})
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	n, err := testutil.GatherAndCount(reg)
	require.NoError(t, err)
	require.Greater(t, n, len(metrics))
}

func TestSeveralServersShareARegistry(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"one", "two"} {
		labels := prometheus.Labels{"server": name}
		prometheus.WrapRegistererWith(labels, reg).MustRegister(collector{peer.NewServer(peer.Options{}).Stats})
	}
	n, err := testutil.GatherAndCount(reg, "peer_clients")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestScrapesInACrowdNeverGoBack(t *testing.T) {
	const clients, rounds, scrapes = 8, 10, 20
	r := newRig(t, peer.Options{})
	var crowd sync.WaitGroup
	for i := range clients {
		crowd.Go(func() {
			id := strconv.Itoa(i)
			for range rounds {
				c := r.dial("peerjs", id, "token")
				c.want(open)
				c.send(`{"type":"OFFER","dst":"` + id + `"}`)
				c.want(`{"type":"OFFER","src":"` + id + `","dst":"` + id + `"}`)
				c.send(`{"type":"LEAVE"}`)
				c.wantEnd(1000)
			}
		})
	}
	before := r.scrape()
	for range scrapes {
		now := r.scrape()
		for series, v := range now.ours() {
			if strings.Contains(series, "_total") {
				require.GreaterOrEqual(t, v, before[series], series)
			}
		}
		require.LessOrEqual(t, now["peer_clients"], now["peer_clients_peak"])
		before = now
	}
	crowd.Wait()
	require.NoError(t, r.srv.Close())
	last := r.scrape()
	require.EqualValues(t, clients*rounds, last["peer_connections_accepted_total"])
	require.EqualValues(t, clients*rounds, last["peer_messages_relayed_total"])
	require.EqualValues(t, clients*rounds, last[`peer_disconnects_total{reason="left"}`])
	require.Zero(t, last["peer_clients"])
}

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

func (l lines) want(t *testing.T, pattern string) []string {
	t.Helper()
	select {
	case line := <-l:
		parts := regexp.MustCompile(pattern).FindStringSubmatch(line)
		require.NotNil(t, parts, "want %s, have %s", pattern, line)
		return parts[1:]
	case <-time.After(waitLimit):
		t.Fatalf("no line came; want %s", pattern)
		return nil
	}
}

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	ctx, quit := context.WithCancel(t.Context())
	log := make(lines, 100)
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", slog.New(slog.NewTextHandler(log, nil))) }()
	r := &rig{t: t, url: log.want(t, `msg=listening url=(http://127\.0\.0\.1:[1-9][0-9]*)/$`)[0]}
	for path, text := range map[string]string{"/": `href="/metrics"`, "/look.css": ":root", "/peerjs/web/peerjs.min.js": "window.Peer="} {
		res, err := http.Get(r.url + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		require.Contains(t, string(body), text, path)
	}
	a := r.dial("peerjs", "alice", "1")
	a.want(open)
	log.want(t, `connected.*id=alice`)
	got := r.scrape()
	require.EqualValues(t, 1, got["peer_clients"])
	require.NotZero(t, got["go_goroutines"])
	quit()
	a.wantEnd(1001)
	log.want(t, `disconnected.*id=alice`)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(waitLimit):
		t.Fatal("the program did not end")
	}
	require.Error(t, run(t.Context(), "127.0.0.1:-1", slog.New(slog.DiscardHandler)))
}
