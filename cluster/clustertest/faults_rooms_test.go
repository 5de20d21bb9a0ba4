package clustertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

var placeFaults = []fault{
	{"Release does nothing", "ReleaseRemovesTheClaim", func(b *broken) {
		b.release = func(context.Context, ...cluster.Claim) error { return nil }
	}},
	{"Release stops at a claim that is not there", "ReleaseRemovesTheClaim", func(b *broken) {
		b.release = func(ctx context.Context, cs ...cluster.Claim) error {
			for _, c := range cs {
				if b.place(ctx, c.ID) == nowhere {
					return nil
				}
				b.Engine.Release(ctx, c)
			}
			return nil
		}
	}},
	{"Release removes any epoch", "ReleaseNeedsTheEpoch", func(b *broken) {
		b.release = func(ctx context.Context, cs ...cluster.Claim) error {
			cs[0].Epoch = b.place(ctx, cs[0].ID).Epoch
			return b.Engine.Release(ctx, cs...)
		}
	}},
	{"Release removes claims of any node", "ReleaseNeedsTheNode", func(b *broken) {
		b.release = func(ctx context.Context, cs ...cluster.Claim) error {
			cs[0].Node = b.place(ctx, cs[0].ID).Node
			return b.Engine.Release(ctx, cs...)
		}
	}},
	{"Find leaves out ids without claims", "FindAnswersForEachID", func(b *broken) {
		b.find = func(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
			all, err := b.Engine.Find(ctx, ids...)
			maps.DeleteFunc(all, func(_ string, p cluster.Place) bool { return p == nowhere })
			return all, err
		}
	}},
	{"IDs has those of nodes that are missing", "IDsAreOfNodesThatAreThere", func(b *broken) {
		made := map[string]bool{}
		b.eachAnswer(func(c cluster.Claim, _ *cluster.Claimed) { made[c.ID] = true })
		b.ids = func(context.Context) ([]string, error) {
			return slices.Collect(maps.Keys(made)), nil
		}
	}},
	{"IDs has those of the own node", "IDsAreOfNodesThatAreThere", func(b *broken) {
		b.ids = func(ctx context.Context) ([]string, error) {
			all, err := b.Engine.IDs(ctx)
			return slices.DeleteFunc(all, func(id string) bool { return b.place(ctx, id).Node != b.node }), err
		}
	}},
	{"IDs has those of nodes that are silent", "IDsAreOfNodesThatBeat", func(b *broken) {
		b.eachAnswer(func(c cluster.Claim, _ *cluster.Claimed) { b.shared.Store("id:"+c.ID, true) })
		b.ids = func(context.Context) (all []string, err error) {
			b.shared.Range(func(key, _ any) bool {
				if id, is := strings.CutPrefix(key.(string), "id:"); is {
					all = append(all, id)
				}
				return true
			})
			return all, nil
		}
	}},
	{"IDs has a thousand at most", "ManyClaimsInOneCall", func(b *broken) {
		b.ids = func(ctx context.Context) ([]string, error) {
			all, err := b.Engine.IDs(ctx)
			return all[:min(len(all), 1000)], err
		}
	}},
	{"Find has a hundred at most", "ManyClaimsInOneCall", func(b *broken) {
		b.find = func(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
			return b.Engine.Find(ctx, ids[:min(len(ids), 100)]...)
		}
	}},
	{"ids are text", "IDsAndRoomsAreAnyBytes", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.ID = strings.ToValidUTF8(c.ID, "?") })
	}},
	{"rooms have names without slashes", "IDsAndRoomsAreAnyBytes", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			return b.Engine.Room(ctx, room[strings.LastIndex(room, "/")+1:], e)
		}
	}},
}

var roomFaults = []fault{
	{"a renewal moves members", "RenewalLeavesMembersElsewhere", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			if len(e.Renew) > 0 && len(e.Join) == 0 {
				e.Join, e.Renew, e.Max = e.Renew, nil, -1
			}
		})
	}},
	{"a renewal does nothing", "RenewalLeavesMembersElsewhere", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) { e.Renew = nil })
	}},
	{"a renewal is bounded", "RenewalNeedsNoRoom", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			if all, err := b.Engine.Room(ctx, room, cluster.Edit{}); err == nil && len(all) >= e.Max && e.Max >= 0 {
				e.Renew = nil
			}
			return b.Engine.Room(ctx, room, e)
		}
	}},
	{"a renewal that changes nothing does nothing", "RenewedRoomsLive", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			all, _ := b.Engine.Room(ctx, room, cluster.Edit{})
			maps.DeleteFunc(e.Renew, func(id string, data []byte) bool {
				return all[id].Node == e.Node && string(all[id].Data) == string(data)
			})
			return b.Engine.Room(ctx, room, e)
		}
	}},
	{"edits are never too late", "EditThatComesTooLate", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) { e.Before = time.Time{} })
	}},
	{"all edits with a time are too late", "EditThatComesTooLate", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			if !e.Before.IsZero() {
				e.Before = b.Now().Add(-time.Hour)
			}
		})
	}},
	{"a room that is read has a member", "RoomOfNobody", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			if e.Join == nil {
				e.Join, e.Max = map[string][]byte{"": nil}, -1
			}
		})
	}},
	{"there is one room", "RoomHasWhoJoined", func(b *broken) {
		b.room = func(ctx context.Context, _ string, e cluster.Edit) (map[string]cluster.Member, error) {
			return b.Engine.Room(ctx, "room", e)
		}
	}},
	{"Room returns who joined", "RoomHasWhoJoined", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			all, err := b.Engine.Room(ctx, room, e)
			if e.Join != nil {
				maps.DeleteFunc(all, func(id string, _ cluster.Member) bool { _, in := e.Join[id]; return !in })
			}
			return all, err
		}
	}},
	{"data is of 256 bytes at most", "RoomHasTheData", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			for id, data := range e.Join {
				e.Join[id] = data[:min(len(data), 256)]
			}
		})
	}},
	{"data stays", "RoomHasTheData", func(b *broken) {
		b.eachEdit(func(ctx context.Context, room string, e *cluster.Edit) {
			there, _ := b.Engine.Room(ctx, room, cluster.Edit{})
			e.Join = maps.Clone(e.Join)
			maps.DeleteFunc(e.Join, func(id string, _ []byte) bool { return there[id].Node == e.Node })
		})
	}},
	{"nobody leaves a room", "RoomWithoutWhoLeft", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) { e.Leave = nil })
	}},
	{"any node makes a member leave", "LeaveOnlyThroughTheNode", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			there, _ := b.Engine.Room(ctx, room, cluster.Edit{})
			for _, id := range e.Leave {
				b.Engine.Room(ctx, room, cluster.Edit{Node: there[id].Node, Leave: []string{id}})
			}
			return b.Engine.Room(ctx, room, e)
		}
	}},
	{"members elsewhere do not move", "MemberMovesToTheNode", func(b *broken) {
		b.eachEdit(func(ctx context.Context, room string, e *cluster.Edit) {
			there, _ := b.Engine.Room(ctx, room, cluster.Edit{})
			e.Join = maps.Clone(e.Join)
			maps.DeleteFunc(e.Join, func(id string, _ []byte) bool {
				member, in := there[id]
				return in && member.Node != e.Node
			})
		})
	}},
	{"members through the node gone stay", "MembersThroughTheNodeGoneLeave", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) { e.Gone = "" })
	}},
	{"one more than Max", "RoomIsBounded", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) { e.Max++ })
	}},
	{"Max 0 is no bound", "RoomIsBounded", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			if e.Max == 0 {
				e.Max = -1
			}
		})
	}},
	{"all or nothing", "RoomIsBounded", func(b *broken) {
		b.eachEdit(func(_ context.Context, _ string, e *cluster.Edit) {
			if e.Max >= 0 && len(e.Join) > e.Max {
				e.Join = nil
			}
		})
	}},
	{"members of a full room do not move", "MembersOfAFullRoomStay", func(b *broken) {
		b.eachEdit(func(ctx context.Context, room string, e *cluster.Edit) {
			if there, _ := b.Engine.Room(ctx, room, cluster.Edit{}); e.Max >= 0 && len(there) >= e.Max {
				e.Join = nil
			}
		})
	}},
	{"an edit joins before it leaves", "EditLeavesBeforeItJoins", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			leave := e.Leave
			e.Leave = nil
			all, err := b.Engine.Room(ctx, room, e)
			if leave == nil {
				return all, err
			}
			return b.Engine.Room(ctx, room, cluster.Edit{Node: e.Node, Leave: leave})
		}
	}},
	{"the node gone leaves last", "EditTakesOutTheNodeGoneFirst", func(b *broken) {
		b.room = func(ctx context.Context, room string, e cluster.Edit) (map[string]cluster.Member, error) {
			gone := e.Gone
			e.Gone = ""
			all, err := b.Engine.Room(ctx, room, e)
			if gone == "" {
				return all, err
			}
			return b.Engine.Room(ctx, room, cluster.Edit{Gone: gone})
		}
	}},
	{"an edit is two steps", "RoomIsAtomic", func(b *broken) {
		b.eachEdit(func(ctx context.Context, room string, e *cluster.Edit) {
			there, _ := b.Engine.Room(ctx, room, cluster.Edit{})
			time.Sleep(time.Millisecond)
			if len(there) < e.Max {
				e.Max = -1
			}
		})
	}},
	{"rooms live for four minutes", "RoomsLiveFiveMinutes", func(b *broken) {
		joined := expires(4*time.Minute, func(room string) {
			there, _ := b.Engine.Room(bg, room, cluster.Edit{})
			for _, member := range there {
				b.Engine.Room(bg, room, cluster.Edit{Gone: member.Node})
			}
		})
		b.eachEdit(func(_ context.Context, room string, e *cluster.Edit) {
			if e.Join != nil {
				joined(room)
			}
		})
	}},
	{"members live five minutes each", "RoomsLiveFiveMinutes", func(b *broken) {
		joined := expires(cluster.ClaimTTL, func(room string) {
			b.Engine.Room(bg, room, cluster.Edit{Node: b.node, Leave: []string{"x"}})
		})
		b.eachEdit(func(_ context.Context, room string, e *cluster.Edit) {
			if _, in := e.Join["x"]; in {
				joined(room)
			}
		})
	}},
}

var callFaults = []fault{
	{"Claim outlives its context", "CallsReturnWithTheirContextWhenCutOff", func(b *broken) {
		b.claim = func(_ context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			defer cancel()
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"Release hides its error", "CallsReturnWithTheirContextWhenCutOff", func(b *broken) {
		b.release = func(ctx context.Context, cs ...cluster.Claim) error {
			b.Engine.Release(ctx, cs...)
			return nil
		}
	}},
	{"Find says nowhere if it cannot find out", "CallsReturnWithTheirContextWhenCutOff", func(b *broken) {
		b.find = func(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
			all, err := b.Engine.Find(ctx, ids...)
			if err != nil {
				return map[string]cluster.Place{ids[0]: nowhere}, nil
			}
			return all, nil
		}
	}},
	{"Missing waits for ever after its context", "CallsReturnWithTheirContext", func(b *broken) {
		b.missing = func(ctx context.Context, nodes ...string) (map[string]bool, error) {
			if ctx.Err() != nil {
				time.Sleep(time.Minute)
			}
			return b.Engine.Missing(ctx, nodes...)
		}
	}},
	{"one call at a time, the others fail", "CallsAtTheSameTime", func(b *broken) {
		var mu sync.Mutex
		b.ids = func(ctx context.Context) ([]string, error) {
			if !mu.TryLock() {
				return nil, fmt.Errorf("busy")
			}
			defer mu.Unlock()
			time.Sleep(time.Millisecond)
			return b.Engine.IDs(ctx)
		}
	}},
	{"Now is two seconds late on one node", "NowIsTheSameOnAllNodes", func(b *broken) {
		b.now = func() time.Time {
			if b.node[0] == 'b' {
				return time.Now().Add(-2 * time.Second)
			}
			return time.Now()
		}
	}},
	{"Now stands still", "NowIsTheSameOnAllNodes", func(b *broken) {
		start := time.Now()
		b.now = func() time.Time { return start }
	}},
}
