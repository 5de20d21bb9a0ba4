package peer

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These tests read the code and find out what may happen while a lock is held, in the function that takes the lock
// and in all that it calls. A function that is handed over, to a timer or a goroutine, runs later and without the lock.

// A deed is something that a function may do, at once or through what it calls.
type deed string

// Deeds that take time. The others are the locks that are taken, by name.
const (
	useConn  deed = "a call on a connection"
	writeLog deed = "a log line"
	callHost deed = "a function of the host"
	wait     deed = "waiting"
	waitCond deed = "waiting for a change of a client"
)

// A lockReader reads the functions of a program one by one.
type lockReader struct {
	*program
	bodies map[types.Object]*ast.FuncDecl
	locks  map[token.Pos]deed // where a lock is declared -> its name, as Client.mu
	deeds  map[types.Object]map[deed]bool
	found  func(pos token.Pos, held []deed, does deed) // is told of each deed under a lock
}

func newLockReader(p *program) *lockReader {
	l := &lockReader{
		program: p, bodies: make(map[types.Object]*ast.FuncDecl),
		locks: make(map[token.Pos]deed), deeds: make(map[types.Object]map[deed]bool),
	}
	declared := make(map[token.Pos]*ast.FuncDecl)
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				declared[n.Name.Pos()] = n
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						if types.ExprString(field.Type) == "sync.Mutex" {
							l.locks[field.Names[0].Pos()] = deed(n.Name.Name + "." + field.Names[0].Name)
						}
					}
				}
			}
			return true
		})
	}
	for _, o := range p.uses {
		if f := declared[o.Pos()]; f != nil {
			l.bodies[o] = f
		}
	}
	return l
}

// learn reads all functions until nothing new is found out about any of them.
func (l *lockReader) learn() {
	for grown := true; grown; {
		grown = false
		for f, decl := range l.bodies {
			if l.deeds[f] == nil {
				l.deeds[f] = make(map[deed]bool)
			}
			before := len(l.deeds[f])
			l.block(decl.Body.List, nil, l.deeds[f])
			grown = grown || len(l.deeds[f]) > before
		}
	}
}

// block reads statements one after the other. It returns the locks that are held behind them, and adds to all what
// they do.
func (l *lockReader) block(list []ast.Stmt, held []deed, all map[deed]bool) []deed {
	for _, s := range list {
		held = l.statement(s, held, all)
	}
	return held
}

func (l *lockReader) statement(s ast.Stmt, held []deed, all map[deed]bool) []deed {
	inner := func(list []ast.Stmt) {
		after := l.block(list, slices.Clone(held), all)
		if len(list) > 0 {
			switch list[len(list)-1].(type) {
			case *ast.ReturnStmt, *ast.BranchStmt: // what follows s runs without this block
			default:
				held = after
			}
		}
	}
	switch s := s.(type) {
	case *ast.ExprStmt:
		if call, ok := s.X.(*ast.CallExpr); ok {
			if lock, method := l.lockOf(call); method == "Lock" {
				l.note(call.Pos(), held, lock, all)
				return append(slices.Clone(held), lock)
			} else if method == "Unlock" {
				return slices.DeleteFunc(slices.Clone(held), func(h deed) bool { return h == lock })
			}
		}
		l.expressions(s, held, all)
	case *ast.DeferStmt:
		if _, method := l.lockOf(s.Call); method != "Unlock" {
			l.expressions(s, held, all)
		}
	case *ast.BlockStmt:
		inner(s.List)
	case *ast.IfStmt:
		l.expressions(s.Init, held, all)
		l.expressions(s.Cond, held, all)
		inner(s.Body.List)
		if s.Else != nil {
			inner([]ast.Stmt{s.Else})
		}
	case *ast.ForStmt:
		l.expressions(s.Init, held, all)
		l.expressions(s.Cond, held, all)
		l.expressions(s.Post, held, all)
		inner(s.Body.List)
	case *ast.RangeStmt:
		l.expressions(s.X, held, all)
		inner(s.Body.List)
	case *ast.SwitchStmt:
		l.expressions(s.Init, held, all)
		l.expressions(s.Tag, held, all)
		for _, c := range s.Body.List {
			for _, e := range c.(*ast.CaseClause).List {
				l.expressions(e, held, all)
			}
			inner(c.(*ast.CaseClause).Body)
		}
	case *ast.GoStmt:
	case *ast.ReturnStmt:
		for _, e := range s.Results {
			if f, ok := e.(*ast.FuncLit); ok { // runs later
				l.block(f.Body.List, nil, make(map[deed]bool))
				continue
			}
			l.expressions(e, held, all)
		}
	default:
		l.expressions(s, held, all)
	}
	return held
}

// expressions reads the calls in n.
func (l *lockReader) expressions(n ast.Node, held []deed, all map[deed]bool) {
	if n == nil {
		return
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			l.block(n.Body.List, slices.Clone(held), all)
			return false
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				l.note(n.Pos(), held, wait, all)
			}
		case *ast.SelectStmt:
			if l.hasDefault(n, held, all) { // it does not wait
				return false
			}
			l.note(n.Pos(), held, wait, all)
		case *ast.SendStmt:
			l.note(n.Pos(), held, wait, all)
		case *ast.CallExpr:
			if strings.HasSuffix(types.ExprString(n.Fun), ".AfterFunc") {
				return false
			}
			l.call(n, held, all)
		}
		return true
	})
}

// hasDefault reports whether a select has a default case, and reads its cases then.
func (l *lockReader) hasDefault(s *ast.SelectStmt, held []deed, all map[deed]bool) (yes bool) {
	for _, c := range s.Body.List {
		yes = yes || c.(*ast.CommClause).Comm == nil
	}
	for _, c := range s.Body.List {
		if yes {
			l.block(c.(*ast.CommClause).Body, slices.Clone(held), all)
		}
	}
	return yes
}

// isConn matches the expression of a connection.
var isConn = regexp.MustCompile(`(^|\.)(conn|raw)$|NetConn\(\)$|^half$`)

// call notes what a call does.
func (l *lockReader) call(call *ast.CallExpr, held []deed, all map[deed]bool) {
	id, on := l.callee(call)
	if id == nil {
		return
	}
	switch receiver := types.ExprString(on); {
	case isConn.MatchString(receiver):
		l.note(call.Pos(), held, useConn, all)
	case strings.HasSuffix(receiver, ".Logger"):
		l.note(call.Pos(), held, writeLog, all)
	case id.Name == "guard", strings.HasSuffix(receiver, "opts"):
		l.note(call.Pos(), held, callHost, all)
	case strings.HasSuffix(receiver, ".changed") && id.Name == "Wait":
		l.note(call.Pos(), held, waitCond, all)
	case id.Name == "Wait", receiver == "time" && id.Name == "Sleep":
		l.note(call.Pos(), held, wait, all)
	}
	if f := l.uses[id]; f != nil {
		for does := range l.deeds[f] {
			l.note(call.Pos(), held, does, all)
		}
	}
}

// callee returns the name of what is called, and the expression before the dot.
func (l *lockReader) callee(call *ast.CallExpr) (id *ast.Ident, on ast.Expr) {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f, ast.NewIdent("")
	case *ast.SelectorExpr:
		return f.Sel, f.X
	}
	return nil, nil
}

// lockOf returns the lock that is locked or unlocked by a call.
func (l *lockReader) lockOf(call *ast.CallExpr) (lock deed, method string) {
	id, on := l.callee(call)
	if mu, ok := on.(*ast.SelectorExpr); ok && (id.Name == "Lock" || id.Name == "Unlock") {
		if field := l.uses[mu.Sel]; field != nil {
			return l.locks[field.Pos()], id.Name
		}
	}
	return "", ""
}

func (l *lockReader) note(pos token.Pos, held []deed, does deed, all map[deed]bool) {
	all[does] = true
	if len(held) > 0 && l.found != nil {
		l.found(pos, held, does)
	}
}

// underLocks returns what of a source is done under a lock and should not be, and which part of the order of the locks
// is not in use.
func underLocks(t *testing.T, src source) (bad []string) {
	t.Helper()
	l := newLockReader(src.parse(t).resolve())
	allowed := lockOrder(t, src)
	l.learn()
	seen, unused := make(map[string]bool), maps.Clone(allowed)
	l.found = func(pos token.Pos, held []deed, does deed) {
		for _, h := range held {
			delete(unused, [2]deed{h, does})
			if allowed[[2]deed{h, does}] || does == waitCond && h == "Client.mu" { // it gives this lock back
				continue
			}
			if text := l.breach(pos, "under %s: %s", h, does); !seen[text] {
				seen[text] = true
				bad = append(bad, text)
			}
		}
	}
	for _, f := range l.files {
		for _, decl := range f.Decls {
			if decl, ok := decl.(*ast.FuncDecl); ok {
				l.block(decl.Body.List, nil, make(map[deed]bool))
			}
		}
	}
	for pair := range unused {
		bad = append(bad, fmt.Sprintf("realm.go: nothing takes %s under %s", pair[1], pair[0]))
	}
	slices.Sort(bad)
	return bad
}

// lockOrder reads the order of the locks at the head of realm.go: which lock may be taken while which is held.
func lockOrder(t *testing.T, src source) map[[2]deed]bool {
	t.Helper()
	order := make(map[[2]deed]bool)
	for _, line := range regexp.MustCompile(`(?m)^//\t(.* → .*)$`).FindAllStringSubmatch(src["realm.go"], -1) {
		locks := strings.Split(line[1], " → ")
		for i, first := range locks {
			for _, second := range locks[i+1:] {
				order[[2]deed{deed(first), deed(second)}] = true
			}
		}
	}
	require.NotEmpty(t, order)
	return order
}

func TestUnderALockNothingBlocksAndLocksKeepTheirOrder(t *testing.T) {
	t.Parallel()
	for _, bad := range underLocks(t, readSource(t)) {
		t.Error(bad)
	}
}

func TestEveryBreachUnderALockIsNoticed(t *testing.T) {
	t.Parallel()
	cases := []struct{ body, want string }{
		{"c.mu.Lock(); c.socket.conn.SetReadDeadline(past); c.mu.Unlock()", "under Client.mu: a call on a connection"},
		{"c.mu.Lock(); defer c.mu.Unlock(); c.interrupt()", "under Client.mu: a call on a connection"},
		{"sh := s.realm.shard(c.id); sh.mu.Lock(); s.log(0, ``); sh.mu.Unlock()", "under shard.mu: a log line"},
		{"sh := s.realm.shard(c.id); sh.mu.Lock(); s.mayOverride(c, c)", "under shard.mu: a function of the host"},
		{"sh := s.realm.shard(c.id); sh.mu.Lock(); c.awaitFinish()", "under shard.mu: waiting for a change of a client"},
		{"c.mu.Lock(); for range 3 { <-c.ctx.Done() }", "under Client.mu: waiting"},
		{"c.mu.Lock(); defer c.writers.Wait()", "under Client.mu: waiting"},
		{"s.work.mu.Lock(); select {}", "under work.mu: waiting"},
		{"c.mu.Lock(); select { case <-s.ctx.Done(): }", "under Client.mu: waiting"},
		{"c.mu.Lock(); select { case <-s.ctx.Done(): default: }", ""},
		{"c.mu.Lock(); select { case <-s.ctx.Done(): default: c.interrupt() }", "under Client.mu: a call on a connection"},
		{"s.realm.rooms.mu.Lock(); if c == nil { return }; s.realm.Client(c.id)", "under rooms.mu: shard.mu"},
		{"c.mu.Lock(); func() { s.realm.addrMu.Lock() }()", "under Client.mu: Realm.addrMu"},
		{"s.work.mu.Lock(); c.connected()", "under work.mu: Client.mu"},
		{"c.mu.Lock(); if c == nil { c.mu.Unlock(); return }; c.Reason()", "under Client.mu: Client.mu"},
		{"s.realm.addrMu.Lock(); switch { case true: s.realm.addrMu.Lock() }", "under Realm.addrMu: Realm.addrMu"},
		{"c.mu.Lock(); time.AfterFunc(0, c.checkAlive); go c.write(); c.mu.Unlock()", ""},
		{"c.mu.Lock(); c.mu.Unlock(); c.interrupt()", ""},
		{"if c == nil { c.mu.Lock(); c.mu.Unlock() } else { c.interrupt() }; c.end(0, nil, nil)", ""},
	}
	src := readSource(t)
	first := strings.Count(src["host.go"], "\n") + 1
	for i, c := range cases {
		src["host.go"] += fmt.Sprintf("func (s *Server) case%d(c *Client) { %s }\n", i, c.body)
	}
	found := underLocks(t, src)
	for i, c := range cases {
		at := fmt.Sprintf("host.go:%d: ", first+i)
		here := slices.DeleteFunc(slices.Clone(found), func(bad string) bool { return !strings.HasPrefix(bad, at) })
		if c.want == "" {
			assert.Empty(t, here, c.body)
		} else {
			assert.Contains(t, here, at+c.want, c.body)
		}
	}
}
