//lint:file-ignore SA1019 See upgrade.go.

package peer

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These tests hold the files of the package to the plan in docs/architecture.md.

// floors are the floors of the plan. A file uses what is declared on its own floor and below.
var floors = []string{"leaf", "socket", "client", "realm", "server"}

// A planRow says what must not be in its files.
type planRow struct {
	floor   string
	files   string // names without ".go"
	imports string // paths that must not be imported; "/..." at the end: what is below the path too
	names   string // identifiers, or selectors like time.Now, that must not be used; "go" is the statement
}

// Names that several rows ban.
const (
	aboveLeaf = "go Client Server Realm Options session socket "
	anyLock   = "sync.Mutex sync.RWMutex sync.Cond sync.WaitGroup sync.Once sync.Map "
	anyClock  = "time.Now time.Since time.Until time.Sleep time.After time.AfterFunc time.Tick time.NewTimer time.NewTicker "
	noNet     = "net os syscall log/slog "
	network   = noNet + "net/http/... "
)

// plan has a row for each file of the package that is not a test.
var plan = []planRow{
	{"leaf", "frame", network + "sync/... time context", aboveLeaf},
	{"leaf", "json", network + "sync/... time context", aboveLeaf + "Message MessageType envelope parcel"},
	{"leaf", "message", network + "sync/... time context", aboveLeaf + "parcel header frameError newFrame textFrame appendHead"},
	{"leaf", "queue", network + "sync/atomic context", aboveLeaf + anyLock + anyClock + "outbox"},
	{"leaf", "marks", network + "sync/... context", aboveLeaf + anyLock + anyClock + "outbox"},
	{"leaf", "batch", network + "sync/... context", aboveLeaf + anyLock + anyClock + "outbox queue"},
	{"leaf", "outbox", network + "sync/... time context", aboveLeaf},
	{"leaf", "options", "net os syscall sync/... context", "go Server Realm session socket " + anyClock},
	{"leaf", "ice", network + "sync/... context", aboveLeaf + "time.Since time.Sleep time.After time.AfterFunc time.NewTimer parcel"},
	{"leaf", "traffic", network + "time context", aboveLeaf + anyLock},
	{"leaf", "events", noNet + "time context", "go http.Handler http.ResponseWriter Realm session socket sync.RWMutex sync.Cond sync.WaitGroup sync.Once sync.Map"},
	{"socket", "socket reading socket_linux socket_other peek_unix peek_other", "net/http/... log/slog context",
		"Client Options Message Realm Server envelope session parcel outbox"},
	{"client", "client", "net log/slog", "http.Handler http.ResponseWriter Realm Server session events shard rooms guard"},
	{"client", "liveness writer ending", "net net/http/... log/slog", "Realm Server session events shard rooms guard"},
	{"realm", "realm slots", network + "time", "go Server session events socket conn guard"},
	{"realm", "route", network, "go Server session events socket conn guard"},
	{"realm", "far backs holding farrooms room", network, "go Server session events socket conn guard"},
	{"realm", "node link watch finder claims work ticks question roomwork everywhere", network, "Server session events socket conn guard"},
	{"server", "newcomer", "net syscall", "go conn envelope decode hasMessage next read"},
	{"server", "joined", "net syscall", "conn envelope decode hasMessage next read"},
	{"server", "asks", "net/http/... syscall", "conn envelope decode hasMessage next read"},
	{"server", "peer", "net net/http/...", "go socket conn envelope newParcel time.Since time.Sleep time.AfterFunc time.NewTimer"},
	{"server", "http", "net", "socket conn"},
	{"server", "handshake claim upgrade", "", "envelope decode hasMessage next await read"},
	{"server", "vacancy", "net net/http/...", "conn envelope decode hasMessage await read guard"},
	{"server", "serve", "net net/http/... syscall", "conn raw unread tryWrite"},
	{"server", "host", "net syscall", "socket conn"},
	{"server", "address", "net", "socket conn Client guard ask refuse refusal"},
	{"server", "stats", "net net/http/...", "socket conn Client guard ask refuse refusal"},
}

// pointUp are the uses of something that is declared on a higher floor, and why they are allowed.
var pointUp = map[string]string{
	"options.go: Client": "functions of the host that decide are given clients",
	"events.go: Client":  "functions of the host that are told something are given clients",
	"events.go: Server":  "a registration is a method of the server",
	"events.go: events":  "the field of the server that keeps registrations",
}

const (
	maxFileLines     = 400
	maxFunctionLines = 60
	wsLibrary        = "nhooyr.io/websocket"
	wsFile           = "upgrade.go"
)

// A source is the code of the package that is no test: file name -> text.
type source map[string]string

func readSource(t *testing.T) source {
	t.Helper()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	src := make(source)
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			src[name] = readText(t, name)
		}
	}
	return src
}

// A program is a source that has been parsed.
type program struct {
	fset  *token.FileSet
	files map[string]*ast.File
	uses  map[*ast.Ident]types.Object // of what the package itself declares
}

func (src source) parse(t *testing.T) *program {
	t.Helper()
	p := &program{fset: token.NewFileSet(), files: make(map[string]*ast.File), uses: make(map[*ast.Ident]types.Object)}
	for name, text := range src {
		f, err := parser.ParseFile(p.fset, name, text, parser.SkipObjectResolution)
		require.NoError(t, err)
		p.files[name] = f
	}
	return p
}

// noImporter imports nothing, which is enough to find out what an identifier of the package is.
type noImporter struct{}

func (noImporter) Import(path string) (*types.Package, error) {
	return nil, errors.New("not imported: " + path)
}

// resolve fills uses.
func (p *program) resolve() *program {
	info := &types.Info{Uses: p.uses}
	conf := types.Config{Importer: noImporter{}, Error: func(error) {}} // what is imported is not known
	files := slices.SortedFunc(maps.Values(p.files), func(a, b *ast.File) int { return int(a.Pos() - b.Pos()) })
	pkg, _ := conf.Check("peer", p.fset, files, info)
	maps.DeleteFunc(p.uses, func(_ *ast.Ident, o types.Object) bool {
		_, isImport := o.(*types.PkgName)
		return o.Pkg() != pkg || isImport || !o.Pos().IsValid()
	})
	return p
}

func (p *program) file(pos token.Pos) string { return p.fset.Position(pos).Filename }

// breach describes what is wrong at pos.
func (p *program) breach(pos token.Pos, format string, args ...any) string {
	at := p.fset.Position(pos)
	return fmt.Sprintf("%s:%d: ", at.Filename, at.Line) + fmt.Sprintf(format, args...)
}

// rowsOf returns the rows that a file is in, which should be one.
func rowsOf(file string) (rows []planRow) {
	for _, row := range plan {
		if slices.Contains(strings.Fields(row.files), strings.TrimSuffix(file, ".go")) {
			rows = append(rows, row)
		}
	}
	return rows
}

// breaches returns what the plan does not allow in one file.
func (p *program) breaches(file string) (bad []string) {
	f := p.files[file]
	rows := rowsOf(file)
	if len(rows) != 1 {
		return []string{p.breach(f.Package, "the file is in %d rows of the plan in arch_test.go; it needs one row, "+
			"and a place in docs/architecture.md", len(rows))}
	}
	row := rows[0]
	for _, spec := range f.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		for ban := range strings.FieldsSeq(row.imports) {
			below, wild := strings.CutSuffix(ban, "/...")
			if path == below || wild && strings.HasPrefix(path, below+"/") {
				bad = append(bad, p.breach(spec.Pos(), "%s must not be imported by %s (%s)", path, row.floor, row.files))
			}
		}
		if path == wsLibrary && file != wsFile {
			bad = append(bad, p.breach(spec.Pos(), "only %s imports %s", wsFile, path))
		}
	}
	bans := strings.Fields(row.names)
	ast.Inspect(f, func(n ast.Node) bool {
		name := ""
		switch n := n.(type) {
		case *ast.Ident:
			name = n.Name
		case *ast.GoStmt:
			name = "go"
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				name = x.Name + "." + n.Sel.Name
			}
		}
		if slices.Contains(bans, name) {
			bad = append(bad, p.breach(n.Pos(), "%q must not be in %s (%s)", name, row.floor, row.files))
		}
		return true
	})
	return append(bad, p.tooLong(f)...)
}

// tooLong returns the bounds on lines that a file does not keep.
func (p *program) tooLong(f *ast.File) (bad []string) {
	if n := p.fset.File(f.Pos()).LineCount(); n > maxFileLines {
		bad = append(bad, p.breach(f.Package, "the file has %d lines; at most %d are allowed", n, maxFileLines))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.FuncDecl, *ast.FuncLit:
			if lines := p.fset.Position(n.End()).Line - p.fset.Position(n.Pos()).Line + 1; lines > maxFunctionLines {
				bad = append(bad, p.breach(n.Pos(), "the function has %d lines; at most %d are allowed", lines, maxFunctionLines))
			}
		}
		return true
	})
	return bad
}

// arrowsUp returns what a file uses of a higher floor, beside pointUp, and what of pointUp is
// not used.
func (p *program) arrowsUp() (bad []string) {
	height := func(pos token.Pos) int {
		if rows := rowsOf(p.file(pos)); len(rows) == 1 {
			return slices.Index(floors, rows[0].floor)
		}
		return -1
	}
	unused := maps.Clone(pointUp)
	for id, declared := range p.uses {
		from, to := height(id.Pos()), height(declared.Pos())
		if from < 0 || to <= from {
			continue
		}
		use := p.file(id.Pos()) + ": " + id.Name
		if pointUp[use] == "" {
			bad = append(bad, p.breach(id.Pos(), "%q is declared in %s, but a file of floor %q uses nothing of floor %q",
				id.Name, p.file(declared.Pos()), floors[from], floors[to]))
		}
		delete(unused, use)
	}
	for use := range unused {
		bad = append(bad, use+" no longer points up; take it out of pointUp in arch_test.go")
	}
	slices.Sort(bad)
	return bad
}

func TestTheFilesKeepToThePlan(t *testing.T) {
	t.Parallel()
	p := readSource(t).parse(t).resolve()
	for _, file := range slices.Sorted(maps.Keys(p.files)) {
		for _, bad := range p.breaches(file) {
			t.Error(bad)
		}
	}
	for _, bad := range p.arrowsUp() {
		t.Error(bad)
	}
	for _, row := range plan {
		assert.Contains(t, floors, row.floor)
		for name := range strings.FieldsSeq(row.files) {
			assert.Contains(t, p.files, name+".go", "the plan has a row for it")
		}
	}
}

// Each ban of the plan is broken once, and so is each of the other rules.
func TestEveryBreachOfThePlanIsNoticed(t *testing.T) {
	t.Parallel()
	src := readSource(t)
	place := regexp.MustCompile(`^(\w+\.go):\d+: `)
	notices := func(file, text string, wants ...string) { // each want begins a breach
		t.Helper()
		found := source{file: text}.parse(t).breaches(file)
		for _, want := range wants {
			assert.True(t, slices.ContainsFunc(found, func(bad string) bool {
				at := place.FindStringSubmatch(bad)
				return at != nil && at[1] == file && strings.HasPrefix(bad[len(at[0]):], want)
			}), "%s: want a breach with %q, got %q", file, want, found)
		}
	}
	clause := regexp.MustCompile(`(?m)^package peer$`)
	for _, row := range plan {
		for name := range strings.FieldsSeq(row.files) {
			// All bans of a file are broken at once: each breach has a text of its own.
			file, imports, body, wants := name+".go", "package peer\n", "", []string(nil)
			importing := func(path, want string) {
				imports += "import _ \"" + path + "\"\n"
				wants = append(wants, want)
			}
			for ban := range strings.FieldsSeq(row.imports) {
				path, wild := strings.CutSuffix(ban, "/...")
				importing(path, path+" must not be imported")
				if wild {
					importing(path+"/x", path+"/x must not be imported")
				}
			}
			for ban := range strings.FieldsSeq(row.names) {
				if wants = append(wants, fmt.Sprintf("%q must not be in", ban)); ban == "go" {
					body += "go f()\n"
				} else {
					body += "_ = " + ban + "\n"
				}
			}
			if file != wsFile {
				importing(wsLibrary, "only upgrade.go imports")
			}
			notices(file, clause.ReplaceAllString(src[file], imports)+"\nfunc _() {\n"+body+"}\n", wants...)
		}
	}
	notices("new.go", "package peer\n", "the file is in 0 rows of the plan")
	function := "package peer\nfunc f() {\n" + strings.Repeat("f()\n", maxFunctionLines-2)
	require.Empty(t, source{"json.go": function + "}\n"}.parse(t).breaches("json.go"))
	notices("json.go", function+"f()\n}\n", "the function has 61 lines")
	file := "package peer\n" + strings.Repeat("//\n", maxFileLines-1)
	require.Empty(t, source{"json.go": file}.parse(t).breaches("json.go"))
	notices("json.go", file+"//\n", "the file has 401 lines")

	src = readSource(t)
	src["frame.go"] += "\nfunc upwards(c *Client) { c.flush() }\n"
	src["options.go"] = strings.ReplaceAll(src["options.go"], "*Client", "any")
	found := strings.Join(src.parse(t).resolve().arrowsUp(), "\n")
	assert.Contains(t, found, `"Client" is declared in client.go, but a file of floor "leaf" uses nothing of floor "client"`)
	assert.Contains(t, found, `"flush" is declared in writer.go`)
	assert.Contains(t, found, "options.go: Client no longer points up")
}

const maxArchitectureLines = 120

func TestThePageOnTheArchitectureNamesWhatExists(t *testing.T) {
	t.Parallel()
	page := readText(t, "docs/architecture.md")
	assert.LessOrEqual(t, strings.Count(page, "\n"), maxArchitectureLines)
	tests, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	declared := make(map[string]bool)
	for _, name := range tests {
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`).FindAllStringSubmatch(readText(t, name), -1) {
			declared[f[1]] = true
		}
	}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`).FindAllString(page, -1) {
		assert.True(t, declared[name], "docs/architecture.md names %s, and no such test exists", name)
	}
	named := regexp.MustCompile(`[\w/]+\.go\b`).FindAllString(page, -1)
	for _, name := range named {
		_, err := os.Stat(name)
		assert.NoError(t, err, "docs/architecture.md names %s", name)
	}
	p := readSource(t).parse(t)
	identifiers := make(map[string]bool)
	for name, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				identifiers[id.Name] = true
			}
			return true
		})
		assert.True(t, slices.Contains(named, name), "docs/architecture.md has no row for %s", name)
	}
	for _, code := range regexp.MustCompile("`(?:\\w+\\.)?(\\w+)`").FindAllStringSubmatch(page, -1) {
		isWord := code[1] == strings.ToUpper(code[1]) || token.IsKeyword(code[1]) || declared[code[1]] // of the protocol, or a test
		assert.True(t, isWord || code[1] == "go" || identifiers[code[1]] || strings.HasSuffix(code[0], ".go`"),
			"docs/architecture.md names %s, which is nowhere in the code", code[0])
	}
}
