package peer

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
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

// What the README says is checked against the code, so that neither changes
// without the other.

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// readmeTable returns the rows of the README's table whose first column has this
// heading, cell by cell.
func readmeTable(t *testing.T, heading string) [][]string {
	t.Helper()
	_, table, found := strings.Cut(readText(t, "README.md"), "\n| "+heading+" |")
	require.True(t, found, "no table begins with %q", heading)
	table, _, _ = strings.Cut(table, "\n\n")
	var rows [][]string
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	require.NotEmpty(t, rows)
	return rows
}

func TestTheReadmeIsShort(t *testing.T) {
	require.Less(t, strings.Count(readText(t, "README.md"), "\n"), 250)
}

func TestTheGoOfTheReadmeIsCompiled(t *testing.T) {
	sources, err := filepath.Glob("examples/*/main.go")
	require.NoError(t, err)
	var compiled []string
	for _, name := range append(sources, "example_test.go") {
		compiled = append(compiled, oneSpaced(readText(t, name)))
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readText(t, "README.md"), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		stands := slices.ContainsFunc(compiled, func(src string) bool { return strings.Contains(src, oneSpaced(block[1])) })
		assert.True(t, stands, "neither in example_test.go nor in an example:\n%s", block[1])
	}
}

func oneSpaced(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestLinksToFilesLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, name := range []string{"README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "docs/architecture.md", "examples/README.md"} {
		for _, found := range link.FindAllStringSubmatch(readText(t, name), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, section, _ := strings.Cut(found[1], "#")
			file = filepath.Join(filepath.Dir(name), file)
			if assert.FileExists(t, file, "in %s", name) && section != "" {
				heading := "\n#+ " + strings.ReplaceAll(section, "-", " ") + "\n"
				assert.Regexp(t, "(?i)"+heading, readText(t, file), "in %s", name)
			}
		}
	}
}

func TestTheReadmeListsAllOptionsWithTheirDefaults(t *testing.T) {
	listed := make(map[string]string) // option -> its default
	for _, row := range append(readmeTable(t, "option"), readmeTable(t, "bound")...) {
		require.Len(t, row, 3)
		assert.NotEmpty(t, row[2])
		if name, isOption := strings.CutPrefix(row[0], "`"); isOption {
			name = strings.TrimSuffix(name, "`")
			assert.NotContains(t, listed, name, "listed twice")
			listed[name] = row[1]
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

// shown returns how the README shows the default of an option.
func shown(option string, value any) string {
	inWords := map[string]string{
		"Path": "`/`", "AllowedOrigins": "any", "Logger": "silent",
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

func TestTheFixedBoundsOfTheReadmeAreThoseOfTheCode(t *testing.T) {
	fixed := make(map[string]string)
	for _, row := range readmeTable(t, "bound") {
		if !strings.HasPrefix(row[0], "`") {
			fixed[row[0]] = row[1]
		}
	}
	require.Equal(t, map[string]string{
		"messages waiting in all":             grouped(maxHeldParcels),
		"name of a room":                      grouped(maxIDBytes) + " bytes",
		"nesting of JSON":                     grouped(maxDepth) + " levels",
		"taken ids from `GenerateClientID`":   "10",
		"overridden tokens kept out of an id": grouped(maxBlocked),
	}, fixed)
}

func TestTheReadmeListsAllFlags(t *testing.T) {
	_, usage, found := strings.Cut(readText(t, "examples/peerjs/main.go"), "const usage = `")
	require.True(t, found)
	usage, _, _ = strings.Cut(usage, "`")
	var listed []string
	for _, row := range readmeTable(t, "npm `peer`") {
		require.Len(t, row, 3)
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

func TestTheCloseCodesOfTheReadmeAreThoseOfTheCode(t *testing.T) {
	byName := map[string]DisconnectReason{
		"ReasonReplaced": ReasonReplaced, "ReasonOverridden": ReasonOverridden, "ReasonAliveTimeout": ReasonAliveTimeout,
		"ReasonMessageTooBig": ReasonMessageTooBig, "ReasonSlowConsumer": ReasonSlowConsumer, "ReasonOverloaded": ReasonOverloaded,
	}
	pairs := regexp.MustCompile("\\((\\d{4}), `(Reason\\w+)`\\)").FindAllStringSubmatch(oneSpaced(readText(t, "README.md")), -1)
	require.Len(t, pairs, len(byName))
	for _, pair := range pairs {
		code, _ := byName[pair[2]].closeCode()
		assert.Equal(t, fmt.Sprint(code), pair[1], pair[2])
	}
}

// TestTheMountsOfTheReadme asks for the addresses that an unmodified client makes
// of its path option.
func TestTheMountsOfTheReadme(t *testing.T) {
	mounts := []struct {
		mounted, client string // as in the README
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
	require.Equal(t, rows, readmeTable(t, "mounted with"))
}
