package peer

import (
	"context"
	"time"
)

// A question is an ask that has been sent to another node.
type question struct {
	node    *node
	number  uint64
	link    *link
	granted bool
	done    chan reply // has room for one
}

// A reply is the answer to a question. The zero reply is none.
type reply struct {
	answered bool
	yes      bool
	control  *control // nil: the node is dead
}

// keepOut keeps the tokens from overriding c that could not override its predecessor.
func (a reply) keepOut(c *Client) {
	if a.control == nil {
		return
	}
	for _, b := range a.control.Blocked {
		if len(b) == len(tokenHash{}) {
			c.block(tokenHash(b))
		}
	}
}

// question asks another node to give up its claim of an id, if it has one.
func (n *node) question(l *link, h *ownClaim, epoch uint64, c *Client, granted bool) *question {
	q := &question{node: n, link: l, granted: granted, done: make(chan reply, 1)}
	n.mu.Lock()
	n.asked++
	q.number = n.asked
	n.questions[q.number] = q
	n.mu.Unlock()
	l.control(control{
		What: "ask", Number: q.number, ID: []byte(c.id), Epoch: epoch, Token: []byte(c.token),
		Granted: granted, HasUser: c.user != nil, Addr: c.remote,
	})
	if l.isDead() {
		n.mu.Lock()
		q.resolveLocked(reply{answered: true, yes: true})
		n.mu.Unlock()
	}
	return q
}

// resolveLocked passes a reply on, the first one of several. It needs the lock of the node.
func (q *question) resolveLocked(a reply) {
	delete(q.node.questions, q.number)
	select {
	case q.done <- a:
	default:
	}
}

// await waits for the reply. Nobody may wait for it afterwards.
func (q *question) await(ctx context.Context, d time.Duration) (a reply) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case a = <-q.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	q.node.mu.Lock()
	delete(q.node.questions, q.number)
	q.node.mu.Unlock()
	return a
}
