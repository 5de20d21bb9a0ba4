package clustertest

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/gopeerjs/peer/cluster"
)

var claimFaults = []fault{
	{"a claim is there on its node only", "ClaimOfAFreeID", func(b *broken) {
		b.find = func(ctx context.Context, ids ...string) (map[string]cluster.Place, error) {
			all, err := b.Engine.Find(ctx, ids...)
			for id, place := range all {
				if place.Node != b.node {
					all[id] = nowhere
				}
			}
			return all, err
		}
	}},
	{"a lower epoch is granted", "ClaimNeedsAGreaterEpoch", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if p := b.place(ctx, c.ID); c.Own == 0 && c.Epoch < p.Epoch && p.Node == c.Node {
				c.Own = p.Epoch
			}
		})
	}},
	{"an equal epoch is granted", "ClaimNeedsAGreaterEpoch", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if p := b.place(ctx, c.ID); c.Own == 0 && c.Epoch == p.Epoch && c.Over == p.Epoch {
				c.Own = p.Epoch
			}
		})
	}},
	{"epochs are compared as strings", "EpochsAreNumbers", func(b *broken) {
		b.eachAnswer(func(c cluster.Claim, answer *cluster.Claimed) {
			if fmt.Sprint(c.Epoch) <= fmt.Sprint(answer.Previous.Epoch) {
				answer.Granted = false
			}
		})
	}},
	{"epochs are floats of 32 bits", "EpochsAreNumbers", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Epoch = uint64(float32(c.Epoch)) })
	}},
	{"another token of the same node is refused", "ClaimOfTheSameNode", func(b *broken) {
		tokens := map[string][16]byte{}
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if t, known := tokens[cs[0].ID]; known && t != cs[0].Token {
				return []cluster.Claimed{{Previous: b.place(ctx, cs[0].ID)}}, nil
			}
			tokens[cs[0].ID] = cs[0].Token
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"the first token stays", "ClaimOfTheSameNode", firstToken},
	{"tokens do not count", "ClaimWithTheSameToken", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Token = [16]byte{b.node[0]} })
	}},
	{"all tokens are the same", "ClaimWithAnotherTokenIsRefused", sameToken},
	{"only the start of the token counts", "ClaimWithAnotherTokenIsRefused", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { clear(c.Token[2:]) })
	}},
	{"a greater Over is enough", "ClaimWithAnotherTokenIsRefused", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if p := b.place(ctx, c.ID); c.Over > p.Epoch {
				c.Over = p.Epoch
			}
		})
	}},
	{"claims are never too late", "ClaimThatComesTooLate", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Before = time.Time{} })
	}},
	{"the claim of a free id is never too late", "ClaimThatComesTooLate", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if b.place(ctx, c.ID) == nowhere {
				c.Before = time.Time{}
			}
		})
	}},
	{"the claim of an id that is taken is never too late", "ClaimThatComesTooLate", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if b.place(ctx, c.ID) != nowhere {
				c.Before = time.Time{}
			}
		})
	}},
	{"all claims with a time are too late", "ClaimThatComesTooLate", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) {
			if !c.Before.IsZero() {
				c.Before = b.Now().Add(-time.Hour)
			}
		})
	}},
	{"a claim that is there is refused when it is late", "ClaimThatComesTooLate", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if c := cs[0]; !c.Before.IsZero() && c.Before.Before(b.Now()) {
				return []cluster.Claimed{{}}, nil
			}
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"a refused claim sets its token", "RefusedClaimChangesNothing", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			all, err := b.Engine.Claim(ctx, cs...)
			if err == nil && !all[0].Granted {
				p := all[0].Previous
				b.Engine.Claim(ctx, cluster.Claim{ID: cs[0].ID, Node: p.Node, Token: cs[0].Token, Epoch: p.Epoch, Own: p.Epoch})
			}
			return all, err
		}
	}},
	{"Over does not count", "ClaimOverAnEpoch", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Over = 0 })
	}},
	{"the answer to a refused claim is empty", "ClaimWithAnotherTokenIsRefused", func(b *broken) {
		b.eachAnswer(func(_ cluster.Claim, answer *cluster.Claimed) {
			if !answer.Granted {
				answer.Previous = nowhere
			}
		})
	}},
	{"the same claim is refused", "SameClaimIsGrantedAgain", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if p := b.place(ctx, cs[0].ID); cs[0].Own == 0 && p.Epoch == cs[0].Epoch {
				return []cluster.Claimed{{Previous: p}}, nil
			}
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"the same claim by another node is granted", "SameClaimIsGrantedAgain", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if p := b.place(ctx, c.ID); p.Epoch == c.Epoch && c.Token == ann {
				c.Own = c.Epoch
			}
		})
	}},
	{"Previous of the same claim is itself", "SameClaimIsGrantedAgain", func(b *broken) {
		places := map[string]cluster.Place{}
		b.eachAnswer(func(c cluster.Claim, answer *cluster.Claimed) {
			if p := (cluster.Place{Node: c.Node, Epoch: c.Epoch}); answer.Granted && places[c.ID] == p {
				answer.Previous = p
			}
			places[c.ID] = cluster.Place{Node: c.Node, Epoch: c.Epoch}
		})
	}},
	{"a renewal needs a greater epoch", "RenewalMayKeepTheEpoch", func(b *broken) {
		b.eachAnswer(func(c cluster.Claim, answer *cluster.Claimed) { answer.Granted = answer.Granted && c.Epoch != c.Own })
	}},
	{"a renewal keeps the epoch", "RenewalMayRaiseTheEpoch", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) {
			if c.Own != 0 {
				c.Epoch = c.Own
			}
		})
	}},
	{"a renewal keeps the token", "RenewalSetsTheToken", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) {
			if c.Own != 0 {
				c.Token = ann
			}
		})
	}},
	{"a renewal needs the claim", "RenewalOfALostClaim", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if cs[0].Own != 0 && b.place(ctx, cs[0].ID) == nowhere {
				return make([]cluster.Claimed, len(cs)), nil
			}
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"a renewal is always granted", "RenewalIsRefusedAfterAGreaterEpochElsewhere", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) {
			if c.Own != 0 {
				c.Own = math.MaxUint64
			}
		})
	}},
	{"a renewal is a claim, too", "RenewalIsRefusedAfterAGreaterEpochElsewhere", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			all, err := b.Engine.Claim(ctx, cs...)
			if err == nil && !all[0].Granted && cs[0].Own != 0 {
				cs[0].Own = 0
				return b.Engine.Claim(ctx, cs...)
			}
			return all, err
		}
	}},
	{"a renewal is nothing but a claim", "RenewalIsGrantedAfterALowerEpochElsewhere", func(b *broken) {
		b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Own = 0 })
	}},
	{"Previous is the place of the same node", "PreviousOutlivesClaimsOfTheSameNode", func(b *broken) {
		b.eachClaim(func(ctx context.Context, c *cluster.Claim) {
			if p := b.place(ctx, c.ID); p.Node == c.Node && c.Own == 0 { // a renewal forgets it
				b.Engine.Claim(ctx, cluster.Claim{ID: c.ID, Node: p.Node, Token: c.Token, Epoch: p.Epoch, Own: p.Epoch})
			}
		})
	}},
	{"Previous outlives a renewal", "PreviousIsForgottenByARenewal", func(b *broken) {
		first := map[string]cluster.Place{}
		b.eachAnswer(func(c cluster.Claim, answer *cluster.Claimed) {
			if p := answer.Previous; p.Node == c.Node {
				answer.Previous = first[c.ID]
			} else {
				first[c.ID] = p
			}
		})
	}},
	{"Previous is forgotten", "PreviousOutlivesClaimsOfTheSameNode", func(b *broken) {
		b.eachAnswer(func(_ cluster.Claim, answer *cluster.Claimed) {
			if answer.Granted {
				answer.Previous = nowhere
			}
		})
	}},
	{"claims are answered in another order", "ClaimsAreAnsweredInOrder", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			all, err := b.Engine.Claim(ctx, cs...)
			if len(all) > 2 {
				all[0], all[1] = all[1], all[0]
			}
			return all, err
		}
	}},
	{"a claim is two steps", "ClaimIsAtomic", func(b *broken) {
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if b.place(ctx, cs[0].ID) != nowhere {
				return b.Engine.Claim(ctx, cs...)
			}
			time.Sleep(time.Millisecond)
			cs[0].Own = math.MaxUint64
			return b.Engine.Claim(ctx, cs...)
		}
	}},
	{"claims live for four minutes", "ClaimsLiveFiveMinutes", func(b *broken) {
		made := expires(4*time.Minute, func(id string) {
			p := b.place(bg, id)
			b.Engine.Release(bg, cluster.Claim{ID: id, Node: p.Node, Epoch: p.Epoch})
		})
		b.eachAnswer(func(c cluster.Claim, answer *cluster.Claimed) { made(c.ID) })
	}},
	{"a renewal does not make the claim again", "ClaimsLiveFiveMinutes", livesOnce(func(c cluster.Claim) bool { return c.Own != 0 })},
	{"the same claim does not make it again", "ClaimsLiveFiveMinutes", livesOnce(func(c cluster.Claim) bool { return c.Epoch == base })},
}

func sameToken(b *broken) {
	b.eachClaim(func(_ context.Context, c *cluster.Claim) { c.Token = ann })
}

// firstToken makes all claims with the token of the first one, if they are of the same node.
func firstToken(b *broken) {
	tokens := map[string][16]byte{}
	b.eachClaim(func(_ context.Context, c *cluster.Claim) {
		if first, known := tokens[c.ID]; known {
			c.Token = first
		}
		tokens[c.ID] = c.Token
	})
}

// livesOnce lets claims end five minutes after the first one, if they are made again by
// a claim such as this.
func livesOnce(again func(c cluster.Claim) bool) func(b *broken) {
	return func(b *broken) {
		seen := map[string]bool{}
		b.claim = func(ctx context.Context, cs ...cluster.Claim) ([]cluster.Claimed, error) {
			if seen[cs[0].ID] && again(cs[0]) {
				return []cluster.Claimed{{Granted: true}}, nil
			}
			seen[cs[0].ID] = true
			return b.Engine.Claim(ctx, cs...)
		}
	}
}
