package peer

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A spy is a middleware that keeps what a handler has hijacked.
type spy struct {
	http.ResponseWriter
	rw *bufio.ReadWriter
}

func (s *spy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	s.rw = rw
	return conn, rw, err
}

// What came with the request lies in a buffer of the HTTP server, which may use it again for
// something else, as the adaptors of some frameworks do.
func TestWhatCameWithTheRequestIsKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		srv := NewServer(Options{Authenticate: func(_ *http.Request, id, _ string) (any, error) {
			if s != nil {
				early, _ := s.rw.Reader.Peek(s.rw.Reader.Buffered())
				require.NotEmpty(t, early)
				clear(early)
			}
			return nil, nil
		}})
		r := serveBubbleRig(t, srv, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s = nil; r.FormValue("id") == "early" {
				s = &spy{ResponseWriter: w}
				w = s
			}
			srv.ServeHTTP(w, r)
		}))
		receiver := r.connect("receiver")
		p := r.dialRaw(r.socketURL("/", "early", "t"), rawTextFrame(`{"type":"OFFER","dst":"receiver","payload":1}`))
		p.want(`{"type":"OPEN"}`)
		receiver.wantOffer("early", `1`)
	})
}

// A hesitator returns nothing and no error so many times before it reads, as an io.Reader may.
type hesitator struct {
	net.Conn
	pause int
	left  int
}

func (h *hesitator) Read(p []byte) (int, error) {
	if h.left > 0 {
		h.left--
		return 0, nil
	}
	h.left = h.pause
	return h.Conn.Read(p)
}

func TestAReadThatReturnsNothingIsNotTheEnd(t *testing.T) {
	for _, pause := range []int{1, 99} {
		near, far := net.Pipe()
		s := newSocket(&hesitator{near, pause, pause}, nil, &budget{limit: -1})
		go far.Write(append(rawTextFrame("one"), rawTextFrame("two")...))
		for _, want := range []string{"one", "two"} {
			_, payload, err := s.next(-1)
			require.NoError(t, err)
			require.Equal(t, want, string(payload))
		}
		far.Close()
	}
	h := &hesitator{nil, 0, 100}
	_, _, err := newSocket(h, nil, &budget{limit: -1}).next(-1)
	require.ErrorIs(t, err, io.ErrNoProgress, "a connection that returns nothing for so long is given up")
	require.Zero(t, h.left)
}
