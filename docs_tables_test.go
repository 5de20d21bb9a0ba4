package peer

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tables of the pages in docs, each compared with the code that it is about.

func TestTheOptionsAreListedWithTheirDefaults(t *testing.T) {
	const page = "docs/options.md"
	listed := make(map[string]string) // option -> its default
	for _, row := range append(docTable(t, page, "option"), docTable(t, page, "bound")...) {
		if name, isOption := strings.CutPrefix(row[0], "`"); isOption {
			name = strings.TrimSuffix(name, "`")
			assert.NotContains(t, listed, name, "listed twice")
			listed[name] = row[1]
		}
		for _, cell := range row[2:] {
			assert.True(t, strings.HasSuffix(cell, "."), "%s: not a whole sentence: %s", row[0], cell)
		}
	}
	defaults := reflect.ValueOf(Options{}.withDefaults())
	for _, field := range reflect.VisibleFields(defaults.Type()) {
		assert.Contains(t, listed, field.Name)
		assert.Equal(t, shown(field.Name, defaults.FieldByIndex(field.Index).Interface()), listed[field.Name], field.Name)
		delete(listed, field.Name)
	}
	assert.Empty(t, listed, "listed, but not an option")
}

// shown returns how the tables show the default of an option.
func shown(option string, value any) string {
	inWords := map[string]string{
		"Path": "`/`", "AllowedOrigins": "any", "Logger": "silent", "Cluster": "alone",
		"GenerateClientID": "UUIDv4", "ValidID": grouped(maxIDBytes) + " bytes",
		"Authenticate": "everybody", "Authorize": "everybody", "AllowOverride": "never", "AllowJoin": "never",
	}
	if words := inWords[option]; words != "" {
		return words
	}
	v := reflect.ValueOf(value)
	if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
		return map[bool]string{true: "off", false: "none"}[v.Kind() == reflect.Bool]
	}
	switch value := value.(type) {
	case string:
		return "`" + value + "`"
	case time.Duration:
		if value%time.Hour == 0 {
			return fmt.Sprint(int(value.Hours()), " h")
		}
		return strconv.FormatFloat(value.Seconds(), 'f', -1, 64) + " s"
	case int:
		if value%(1<<20) == 0 {
			return fmt.Sprint(value>>20, " MiB")
		}
		if strings.HasSuffix(option, "Bytes") {
			return fmt.Sprint(value>>10, " KiB")
		}
		return grouped(value)
	}
	return fmt.Sprint(value)
}

// grouped returns 5000 as "5,000".
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

func TestTheFixedBoundsAreThoseOfTheCode(t *testing.T) {
	fixed := make(map[string]string)
	for _, row := range docTable(t, "docs/options.md", "bound") {
		if !strings.HasPrefix(row[0], "`") {
			fixed[row[0]] = row[1]
		}
	}
	require.Equal(t, map[string]string{
		"held messages in all":                grouped(maxHeldParcels),
		"name of a room":                      grouped(maxIDBytes) + " bytes",
		"data of a member":                    grouped(maxRoomData) + " bytes",
		"text of `Client.CloseWith`":          grouped(maxCloseText) + " bytes",
		"nesting of JSON":                     grouped(maxDepth) + " levels",
		"taken ids from `GenerateClientID`":   "10",
		"overridden tokens kept out of an id": grouped(maxBlocked),
	}, fixed)
}

func TestAllFlagsAreListed(t *testing.T) {
	_, usage, found := strings.Cut(readText(t, "examples/peerjs/main.go"), "const usage = `")
	require.True(t, found)
	usage, _, _ = strings.Cut(usage, "`")
	var listed []string
	for _, row := range docTable(t, "docs/moving.md", "npm `peer`") {
		for _, flag := range regexp.MustCompile("`(-[^`]+)`").FindAllStringSubmatch(row[1], -1) {
			listed = append(listed, flag[1])
		}
	}
	flags := []string{}
	for _, line := range regexp.MustCompile(`(?m)^ +(?:(-\w), )?(--\w+)( |$)`).FindAllStringSubmatch(usage, -1) {
		flags = append(flags, slices.DeleteFunc(line[1:3], func(s string) bool { return s == "" || s == "--help" })...)
	}
	require.NotEmpty(t, flags)
	require.ElementsMatch(t, flags, listed)
}

func TestTheCommentOfStatsNamesAllCauses(t *testing.T) {
	_, text, found := strings.Cut(readText(t, "stats.go"), "type Stats struct {")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "\n}")
	text = oneSpaced(strings.ReplaceAll(text, "//", ""))
	st := NewServer(Options{}).Stats()
	for cause := range maps.Keys(st.Refused) {
		assert.Contains(t, text, `"`+cause+`"`)
	}
	for cause := range maps.Keys(st.Dropped) {
		assert.Contains(t, text, `"`+cause+`"`)
	}
}

// declared returns the names of the package's exported constants of a type, in the order of
// their declaration. Of the type "error", these are its exported errors.
func declared(t *testing.T, typ string) (names []string) {
	t.Helper()
	for _, f := range readSource(t).parse(t).files {
		for _, decl := range f.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST && group.Tok != token.VAR {
				continue
			}
			last := "" // a constant without a type and a value has those of the constant before it
			for _, spec := range group.Specs {
				spec := spec.(*ast.ValueSpec)
				if spec.Type != nil || spec.Values != nil {
					last = fmt.Sprint(spec.Type)
				}
				for _, name := range spec.Names {
					isError := group.Tok == token.VAR && strings.HasPrefix(name.Name, "Err")
					if name.IsExported() && (last == typ || isError && typ == "error") {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	require.NotEmpty(t, names)
	return names
}

// reasonsByName returns all reasons by the names of their constants.
func reasonsByName(t *testing.T) map[string]DisconnectReason {
	t.Helper()
	byName := make(map[string]DisconnectReason)
	for i, name := range declared(t, "DisconnectReason") {
		byName[name] = ReasonClientClosed + DisconnectReason(i)
	}
	require.Len(t, byName, int(reasonRefused-ReasonClientClosed))
	require.Equal(t, ReasonOverloaded, byName["ReasonOverloaded"])
	return byName
}

func TestAllReasonsAreListedWithTheirCloseCodes(t *testing.T) {
	withoutCode := map[DisconnectReason]string{ReasonClientClosed: "the client's own", ReasonConnectionLost: "none"}
	var want, listed [][]string
	for name, why := range reasonsByName(t) {
		code, text := why.closeCode()
		shown := strconv.Itoa(int(code))
		if code == 0 {
			shown = withoutCode[why]
		}
		want = append(want, []string{"`" + name + "`", text, shown})
	}
	for _, row := range docTable(t, "docs/events.md", "reason") {
		listed = append(listed, row[:3])
	}
	require.ElementsMatch(t, want, listed)
}

func TestTheCloseCodesInThePagesAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	byName := reasonsByName(t)
	pair := regexp.MustCompile("\\((\\d{4}), `(Reason\\w+)`\\)")
	found := 0
	for _, page := range docPages(t) {
		for _, pair := range pair.FindAllStringSubmatch(oneSpaced(readText(t, page)), -1) {
			found++
			if assert.Contains(t, byName, pair[2], "in %s", page) {
				code, _ := byName[pair[2]].closeCode()
				assert.Equal(t, fmt.Sprint(code), pair[1], "%s in %s", pair[2], page)
			}
		}
	}
	require.NotZero(t, found)
}

func TestAllErrorsAreListed(t *testing.T) {
	var listed []string
	for _, row := range docTable(t, "docs/events.md", "error") {
		for _, name := range regexp.MustCompile("`(Err\\w+)`").FindAllStringSubmatch(row[0], -1) {
			listed = append(listed, name[1])
		}
	}
	require.ElementsMatch(t, declared(t, "error"), listed)
}

func TestAllCountersAreNamed(t *testing.T) {
	for section, of := range map[string]reflect.Type{
		"Counters of the server": reflect.TypeFor[Stats](), "Counters of a client": reflect.TypeFor[ClientStats](),
		"Held messages": reflect.TypeFor[Held](),
	} {
		_, text, found := strings.Cut(readText(t, "docs/facts.md"), "\n## "+section+"\n")
		require.True(t, found, section)
		text, _, _ = strings.Cut(text, "\n## ")
		for _, field := range reflect.VisibleFields(of) {
			assert.Contains(t, text, "`"+field.Name+"`", section)
		}
	}
}

func TestAllMethodsOfAClientAreNamed(t *testing.T) {
	var named, methods []string
	for _, row := range docTable(t, "docs/facts.md", "method of `Client`") {
		for _, name := range regexp.MustCompile("`(\\w+)").FindAllStringSubmatch(row[0], -1) {
			named = append(named, name[1])
		}
	}
	for method := range reflect.TypeFor[*Client]().Methods() {
		if !slices.Contains([]string{"Send", "Close", "CloseWith"}, method.Name) { // these ask nothing
			methods = append(methods, method.Name)
		}
	}
	require.ElementsMatch(t, methods, named)
}

func TestAllEventsAreListed(t *testing.T) {
	var listed, events []string
	for _, row := range docTable(t, "docs/events.md", "event") {
		listed = append(listed, strings.Trim(row[0], "`"))
	}
	for method := range reflect.TypeFor[*Server]().Methods() {
		if strings.HasPrefix(method.Name, "On") {
			events = append(events, method.Name)
		}
	}
	require.ElementsMatch(t, events, listed)
}

func TestTheCausesOfRefusalsAreListed(t *testing.T) {
	var listed []string
	for _, row := range docTable(t, "docs/facts.md", "cause of a refusal") {
		listed = append(listed, row[0])
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(NewServer(Options{}).Stats().Refused)), listed)
}

func TestAllMessagesAboutRoomsAreListedWithTheirPayloads(t *testing.T) {
	t.Parallel()
	values := map[string]MessageType{
		"TypeRoomJoin": TypeRoomJoin, "TypeRoomLeave": TypeRoomLeave, "TypeRoomMembers": TypeRoomMembers,
		"TypeRoomRefused": TypeRoomRefused, "TypeRoomJoined": TypeRoomJoined, "TypeRoomLeft": TypeRoomLeft,
	}
	var names, listed []string
	for _, name := range declared(t, "MessageType") {
		if strings.HasPrefix(name, "TypeRoom") {
			names = append(names, name)
		}
	}
	require.ElementsMatch(t, names, slices.Collect(maps.Keys(values)))
	for _, row := range docTable(t, "docs/rooms.md", "message") {
		name, shown := strings.Trim(row[1], "`"), strings.Trim(row[3], "`")
		listed = append(listed, name)
		assert.Equal(t, "`"+string(values[name])+"`", row[0], name)

		var payload struct { // in the order in which the server writes the fields
			Room    string   `json:"room"`
			Members []string `json:"members,omitempty"`
			ID      string   `json:"id,omitempty"`
			Reason  string   `json:"reason,omitempty"`
			Data    any      `json:"data,omitempty"`
			Msg     string   `json:"msg,omitempty"`
		}
		require.NoError(t, json.Unmarshal([]byte(shown), &payload), name)
		sent, err := json.Marshal(payload)
		require.NoError(t, err)
		assert.Equal(t, string(sent), strings.NewReplacer(": ", ":", ", ", ",").Replace(shown), name)
	}
	require.ElementsMatch(t, names, listed)
}

func TestTheRefusalsOfRoomsAreThoseOfTheCode(t *testing.T) {
	errs := map[string]error{"`ErrRoomFull`": ErrRoomFull, "`ErrTooManyRooms`": ErrTooManyRooms, "`ErrRoomName`": ErrRoomName,
		"`ErrRoomData`": ErrRoomData}
	serve, found := readText(t, "serve.go"), 0
	for _, row := range docTable(t, "docs/rooms.md", "what happens") {
		msg, isText := strings.CutPrefix(row[2], "`")
		if !isText {
			continue
		}
		found++
		msg = strings.TrimSuffix(msg, "`")
		if err := errs[row[1]]; err != nil {
			assert.Equal(t, err.Error(), "peer: "+msg)
		} else {
			assert.True(t, strings.Contains(serve, msg), "not in serve.go: %s", msg)
		}
	}
	require.Equal(t, 7, found)
}

// TestTheListedMounts asks for the addresses that an unmodified client makes of its path
// option.
func TestTheListedMounts(t *testing.T) {
	mounts := []struct {
		mounted, client string // as in docs/mounting.md
		opts            Options
		mount           func(mux *http.ServeMux, srv *Server)
		paths           []string
		socketOnly      bool
	}{
		{
			mounted: "`mux.Handle(\"/peerjs/\", srv)`", client: "`path: \"/peerjs\"`",
			mount: func(mux *http.ServeMux, srv *Server) { mux.Handle("/peerjs/", srv) },
			paths: []string{"/peerjs"},
		}, {
			mounted:    "`mux.Handle(\"/peerjs\", srv)` alone",
			client:     "`path: \"/\"` and an id of its own (only the socket is reachable)",
			mount:      func(mux *http.ServeMux, srv *Server) { mux.Handle("/peerjs", srv) },
			paths:      []string{"/"},
			socketOnly: true,
		}, {
			mounted: "both lines above", client: "`path: \"/\"` or `path: \"/peerjs\"`",
			mount: func(mux *http.ServeMux, srv *Server) {
				mux.Handle("/peerjs/", srv)
				mux.Handle("/peerjs", srv)
			},
			paths: []string{"/", "/peerjs"},
		}, {
			mounted: "`mux.Handle(\"/\", srv)`", client: "`path: \"/\"`",
			mount: func(mux *http.ServeMux, srv *Server) { mux.Handle("/", srv) },
			paths: []string{"/"},
		}, {
			mounted: "`mux.Handle(\"/a/b/\", http.StripPrefix(\"/a/b\", srv))`", client: "`path: \"/a/b\"`",
			mount: func(mux *http.ServeMux, srv *Server) { mux.Handle("/a/b/", http.StripPrefix("/a/b", srv)) },
			paths: []string{"/a/b"},
		}, {
			mounted: "`Options{Path: \"/myapp\"}` at `/peerjs/` (as under Express)", client: "`path: \"/peerjs/myapp\"`",
			opts:  Options{Path: "/myapp"},
			mount: func(mux *http.ServeMux, srv *Server) { mux.Handle("/peerjs/", srv) },
			paths: []string{"/peerjs/myapp"},
		},
	}
	var rows [][]string
	for _, m := range mounts {
		rows = append(rows, []string{m.mounted, m.client})
		t.Run(m.mounted, func(t *testing.T) {
			srv, mux := NewServer(m.opts), http.NewServeMux()
			m.mount(mux, srv)
			r := serveRig(t, srv, mux)
			for i, path := range m.paths {
				base := strings.TrimSuffix(path, "/") + "/" // as the client does
				p := r.dialURL(r.socketURL(base, fmt.Sprint("p", i), "t"), nil)
				p.wantOpen()
				res, body := r.get("GET", base+"peerjs/id?ts=1")
				if m.socketOnly {
					require.Equal(t, http.StatusNotFound, res.StatusCode)
					continue
				}
				require.Equal(t, http.StatusOK, res.StatusCode)
				require.Len(t, body, len(newUUID()))
			}
		})
	}
	require.Equal(t, rows, docTable(t, "docs/mounting.md", "mounted with"))
}
