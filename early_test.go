package peer

import (
	"bufio"
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
