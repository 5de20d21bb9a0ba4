package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// maxViewers bounds the open streams of one console. Over it a page reads 503.
	maxViewers = 64

	// writeTimeout is how long a page may take to accept one event. It stands in the place of
	// the WriteTimeout of the http.Server, which would end a stream that is well.
	writeTimeout = 10 * time.Second

	// retryAfter is how many milliseconds a page waits before it opens a stream that broke again.
	retryAfter = "2000"
)

// viewers counts the open streams.
type viewers struct {
	mu sync.Mutex // guards the following
	n  int
}

// serveStream serves the events of one page: "start" once, "snapshot" each second, and "end"
// with the cause if the console itself ends the stream.
func (c *console) serveStream(w http.ResponseWriter, r *http.Request) {
	if !allowMethod(w, r, http.MethodGet) {
		return
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		c.refuse(w, r, http.StatusForbidden, "The request comes from a page of another site.", nil)
		return
	}
	select {
	case <-c.srv.Done():
		http.Error(w, "The server is shutting down.", http.StatusServiceUnavailable)
		return
	default:
	}
	if !c.comes() {
		http.Error(w, "Too many pages of this console are open.", http.StatusServiceUnavailable)
		return
	}
	defer c.goes()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no") // nginx would keep the events back
	c.follow(newEvents(w), r)
}

// comes counts a stream, unless there are too many.
func (c *console) comes() bool {
	c.viewers.mu.Lock()
	defer c.viewers.mu.Unlock()
	if c.viewers.n >= maxViewers {
		return false
	}
	c.viewers.n++
	return true
}

// goes counts a stream that has ended. After the last one the newest snapshot is dropped.
func (c *console) goes() {
	c.viewers.mu.Lock()
	defer c.viewers.mu.Unlock()
	if c.viewers.n--; c.viewers.n == 0 {
		c.feed.rest()
	}
}

// follow writes events until the page goes, the server ends, or Authorize says no.
func (c *console) follow(events *events, r *http.Request) {
	q := parseQuery(r.URL.Query())
	s := c.feed.now()
	points, tick := c.feed.history()
	err := events.write("start", map[string]any{"points": points, "tick": tick, "size": chartPoints})
	left, refused := 0, 0 // how many of them the page has seen
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		if err != nil {
			c.log.Debug("a stream of the console ended", "err", err)
			return
		}
		v := s.view(q)
		v.Left, left = c.left.news(left)
		v.Refused, refused = c.refused.news(refused)
		if err = events.write("snapshot", v); err != nil {
			continue
		}
		next.Reset(c.feed.untilNext(time.Now()))
		select {
		case <-r.Context().Done():
			return
		case <-c.srv.Done():
			events.write("end", map[string]string{"why": "shutdown"})
			return
		case <-next.C:
		}
		if no := c.authorize(r); no != nil {
			c.log.Warn("the console ended a stream that is not allowed any more", "remote", r.RemoteAddr, "err", no)
			events.write("end", map[string]string{"why": "denied"})
			return
		}
		s = c.feed.now()
	}
}

// events writes server-sent events.
type events struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func newEvents(w http.ResponseWriter) *events { return &events{w, http.NewResponseController(w)} }

// write writes an event. A ResponseWriter that knows no deadlines takes none: a page that does not
// read could hold up the Shutdown of the host. The ReadTimeout of the http.Server needs no care: it
// is over when the handler begins.
func (e *events) write(name string, data any) error {
	b, err := json.Marshal(data) // it has no line breaks, and escapes < and >
	if err != nil {
		return err
	}
	if err := e.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("middleware around the console hides the write deadline: %w", err)
	}
	event := append([]byte("retry: "+retryAfter+"\nevent: "+name+"\ndata: "), b...)
	if _, err := e.w.Write(append(event, "\n\n"...)); err != nil {
		return err
	}
	return e.rc.Flush()
}
