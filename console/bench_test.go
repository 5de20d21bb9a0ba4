package console

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/gopeerjs/peer"
)

// BenchmarkSnapshot is what the console does each second with 10,000 clients, a third of which
// are in two rooms each: "take" once for all pages, "view" for each page.
func BenchmarkSnapshot(b *testing.B) {
	const clients = 10_000
	r := newRigWith(b, peer.Options{ConcurrentLimit: -1}, Options{Authorize: everybody}, nil)
	for i := range clients {
		id := fmt.Sprintf("client-%05d", i*7919%clients)
		r.connect(id, "t")
		if i%3 == 0 {
			for j := range 2 {
				if err := r.srv.Realm().Join(fmt.Sprint("room-", i/90+j), r.srv.Realm().Client(id)); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s := takeSnapshot(r.srv, time.Now(), 1); len(s.rows) != clients {
				b.Fatal(len(s.rows))
			}
		}
	})
	for _, query := range []string{"", "sort=silent&desc=1", "find=room-7", "find=nothing"} {
		q, err := url.ParseQuery(query)
		if err != nil {
			b.Fatal(err)
		}
		// "view" is the page that asks first in a second. Pages with the same column share its order: "view-again".
		for _, name := range []string{"view", "view-again"} {
			b.Run(name+"?"+query, func(b *testing.B) {
				b.ReportAllocs()
				s := takeSnapshot(r.srv, time.Now(), 1)
				for b.Loop() {
					if name == "view" {
						clear(s.orders)
					}
					if _, err := json.Marshal(s.view(parseQuery(q))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
