//lint:file-ignore SA1019 See upgrade.go of the root package.

package console

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"

	"github.com/gopeerjs/peer"
)

const evil = `<img src=x onerror="alert(1)">`

func TestThePageIsToldWhatHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, peer.Options{ConcurrentLimit: 3, AllowJoin: mayJoin}, Options{Authorize: everybody}, nil)
		page := r.open("")
		page.want("start", nil)
		v := page.wantView()
		require.Empty(t, v.ids())
		require.EqualValues(t, 3, v.Totals["maxClients"])

		ws := r.connect(evil, "the token of the client")
		require.NoError(t, r.srv.Realm().Join("lobby", r.srv.Realm().Client(evil)))
		readText(t, ws) // the list of members
		write(t, ws, `{"type":"OFFER","dst":"absent","payload":{}}`)
		v = page.wantView()
		require.Equal(t, []string{evil}, v.ids())
		c := v.Clients[0]
		require.Equal(t, []string{"lobby"}, c.Rooms)
		require.EqualValues(t, 1, c.In)
		require.EqualValues(t, 2, c.Out)
		require.Equal(t, "pipe", c.Address)
		require.LessOrEqual(t, c.Silent, int64(1000))
		require.Equal(t, []room{{"lobby", 1}}, v.Rooms)
		require.Len(t, v.Held, 1)
		require.Equal(t, heldRow{"absent", 1, 1, v.Held[0].Bytes, v.Held[0].Since}, v.Held[0])
		require.Positive(t, v.Held[0].Bytes)
		require.EqualValues(t, 1, v.Totals["heldMessages"])
		require.Nil(t, v.Left)

		readText(t, r.dial(evil, "another token")) // ID-TAKEN
		v = page.wantView()
		require.Len(t, v.Refused, 1)
		require.Equal(t, refusal{evil, "pipe", "id taken", v.Refused[0].At}, v.Refused[0])
		require.Equal(t, map[string]uint64{"id taken": 1}, v.RefusedBy)

		ws.Close(websocket.StatusNormalClosure, "")
		synctest.Wait()
		v = page.wantView()
		require.Empty(t, v.ids())
		require.Len(t, v.Left, 1)
		require.Equal(t, departure{evil, "pipe", "client closed", c.Since, v.Left[0].At}, v.Left[0])
		require.Equal(t, map[string]uint64{"client closed": 1}, v.LeftBecause)
		require.Nil(t, v.Refused) // no news

		require.NotContains(t, page.raw.String(), "token of the client")
		require.NotContains(t, page.raw.String(), "another token")
		require.NotContains(t, page.raw.String(), "<img") // JSON escapes it
	})
}

func TestAPageOpenedLaterReadsTheLastEndsAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody, Recent: 2})
		for _, id := range []string{"a", "b", "c"} {
			r.connect(id, "t").Close(websocket.StatusNormalClosure, "")
			synctest.Wait()
		}
		page := r.open("")
		page.want("start", nil)
		left := page.wantView().Left
		require.Len(t, left, 2)
		require.Equal(t, "c", left[0].ID) // the newest first
		require.Equal(t, "b", left[1].ID)
	})
}

func TestANegativeRecentKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody, Recent: -1})
		r.srv.OnError(func(_ *peer.Client, err error) { t.Error(err) })
		r.connect("a", "t").Close(websocket.StatusNormalClosure, "")
		synctest.Wait()
		page := r.open("")
		page.want("start", nil)
		v := page.wantView()
		require.Empty(t, v.Left)
		require.EqualValues(t, 1, v.LeftBecause["client closed"]) // the server itself counts
	})
}

func TestAllPagesShareOneSnapshotASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		first, second := r.open(""), r.open("sort=since")
		first.want("start", nil)
		second.want("start", nil)
		for range 5 {
			a, b := first.wantView(), second.wantView()
			require.Equal(t, a.At, b.At)
			require.Equal(t, a.Tick, b.Tick)
		}
		before := r.console.feed.now()
		require.Same(t, before, r.console.feed.now())
		time.Sleep(interval)
		require.NotSame(t, before, r.console.feed.now())
	})
}

func TestNothingIsKeptOrRunsWhileNoPageIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		first, second := r.open(""), r.open("")
		first.want("start", nil)
		first.wantView()
		second.want("start", nil)
		second.wantView()
		first.close()
		synctest.Wait()
		require.NotNil(t, r.console.feed.last)
		second.close()
		synctest.Wait()
		require.Zero(t, r.console.viewers.n)
		require.Nil(t, r.console.feed.last) // it would keep 10,000 rows
		_, tick := r.console.feed.history()
		time.Sleep(time.Minute)
		_, later := r.console.feed.history()
		require.Equal(t, tick, later)
		// A goroutine that were left would now fail the bubble.
	})
}

func TestAuthorizationThatIsWithdrawnEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired atomic.Bool
		r := newRig(t, Options{Authorize: func(*http.Request) error {
			if fired.Load() {
				return errors.New("not an operator any more")
			}
			return nil
		}})
		r.connect("alice", "t")
		page := r.open("")
		page.want("start", nil)
		page.wantView()
		page.wantView()
		fired.Store(true)
		var end struct{ Why string }
		page.want("end", &end)
		require.Equal(t, "denied", end.Why)
		name, _ := page.next()
		require.Empty(t, name)
		require.Contains(t, r.log.String(), "not an operator any more")
	})
}

// The stream lives longer than the timeouts of the http.Server, which would end it.
func TestTheTimeoutsOfTheHostDoNotEndTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := &http.Server{ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second}
		r := newRigWith(t, peer.Options{}, Options{Authorize: everybody}, hs)
		page := r.open("")
		page.want("start", nil)
		begin := time.Now()
		for range 30 {
			page.wantView()
		}
		require.Greater(t, time.Since(begin), 25*time.Second)
	})
}

func TestAPageThatReadsNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		r.open("")
		time.Sleep(writeTimeout + 2*interval)
		synctest.Wait()
		require.Zero(t, r.console.viewers.n)
	})
}

func TestTheNumberOfPagesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		var last *stream
		for range maxViewers {
			last = r.open("")
		}
		res, err := r.client.Do(r.request("GET", "stream", ""))
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, 503, res.StatusCode)
		last.close()
		synctest.Wait()
		r.open("")
	})
}

func TestShutdownOfTheHostEndsTheStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Authorize: everybody})
		page := r.open("")
		page.want("start", nil)
		page.wantView()
		time.Sleep(interval / 2)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.hs.RegisterOnShutdown(func() { r.srv.Shutdown(ctx) })
		begin, ended := time.Now(), make(chan error)
		go func() { ended <- errors.Join(r.hs.Shutdown(ctx), r.srv.Shutdown(ctx)) }()
		var end struct{ Why string }
		page.want("end", &end)
		require.Equal(t, "shutdown", end.Why)
		name, _ := page.next()
		require.Empty(t, name)
		require.NoError(t, <-ended)
		require.Less(t, time.Since(begin), time.Second) // of the bubble's clock
	})
}

func TestNoStreamBeginsAfterShutdown(t *testing.T) {
	r := newRig(t, Options{Authorize: everybody})
	require.NoError(t, r.srv.Close())
	res, body := r.do("GET", "stream", "")
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "The server is shutting down.\n", body)
	res, _ = r.do("GET", "", "")
	require.Equal(t, 200, res.StatusCode)
}

// A ResponseWriter that cannot flush would keep the events back. One that knows no deadline could
// hold up the Shutdown of the host.
func TestAResponseWriterWithoutFlushOrDeadlineEndsTheStream(t *testing.T) {
	for name, wrap := range map[string]func(w *plainWriter) http.ResponseWriter{
		"no flush":    func(w *plainWriter) http.ResponseWriter { return timedWriter{w} },
		"no deadline": func(w *plainWriter) http.ResponseWriter { return flushWriter{w} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(peer.NewServer(peer.Options{}), Options{Authorize: everybody})
				w := &plainWriter{header: make(http.Header)}
				c.ServeHTTP(wrap(w), newRequest(t, "/stream")) // returns
				require.LessOrEqual(t, strings.Count(w.body.String(), "event: "), 1)
			})
		})
	}
}

// A timedWriter knows deadlines, and cannot flush.
type timedWriter struct{ *plainWriter }

func (timedWriter) SetWriteDeadline(time.Time) error { return nil }

// A flushWriter can flush, and knows no deadlines.
type flushWriter struct{ *plainWriter }

func (flushWriter) Flush() {}

type plainWriter struct {
	header http.Header
	body   strings.Builder
}

func (w *plainWriter) Header() http.Header         { return w.header }
func (w *plainWriter) WriteHeader(int)             {}
func (w *plainWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

func newRequest(t *testing.T, address string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
	require.NoError(t, err)
	return r
}

func write(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, ws.Write(ctx, websocket.MessageText, []byte(text)))
	synctest.Wait()
}
