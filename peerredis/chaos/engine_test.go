//go:build linux

package chaos

import (
	"context"
	"reflect"

	"github.com/gopeerjs/peer"
)

// clustered reports whether servers can have an engine.
var clustered = func() bool {
	_, yes := reflect.TypeFor[peer.Options]().FieldByName("Cluster")
	return yes
}()

// withEngine gives a server its engine; nil: it has none.
func withEngine(opts *peer.Options, cfg engineConfig) engineCloser {
	if len(cfg.Addrs) == 0 {
		return nil
	}
	e := cfg.engine()
	reflect.ValueOf(opts).Elem().FieldByName("Cluster").Set(reflect.ValueOf(e))
	return e
}

func ready(ctx context.Context, srv *peer.Server) error {
	if s, ok := any(srv).(interface{ Ready(context.Context) error }); ok {
		return s.Ready(ctx)
	}
	return nil
}

// roomsOf returns the members of the rooms that a node knows of, in the whole cluster.
func roomsOf(ctx context.Context, srv *peer.Server) map[string][]string {
	all, _ := any(srv.Realm()).(interface {
		RoomMembers(ctx context.Context, room string) ([]string, error)
	})
	rooms := make(map[string][]string)
	for _, room := range srv.Realm().Rooms() {
		rooms[room] = []string{}
		if clustered && all == nil {
			delete(rooms, room)
		} else if all != nil {
			rooms[room], _ = all.RoomMembers(ctx, room)
		} else {
			for _, c := range srv.Realm().Members(room) {
				rooms[room] = append(rooms[room], c.ID())
			}
		}
	}
	return rooms
}
