package peer

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the README and the pages in docs say is checked against the code, so that neither
// changes without the other.

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// docTable returns the rows of the tables of a page whose first column has this heading, cell
// by cell. A row has a cell for each column, and none is empty.
func docTable(t *testing.T, file, heading string) (rows [][]string) {
	t.Helper()
	for _, table := range strings.Split(readText(t, file), "\n| "+heading+" |")[1:] {
		table, _, _ = strings.Cut(table, "\n\n")
		lines := strings.Split(strings.TrimSpace(table), "\n")
		columns := 2 + strings.Count(strings.Trim(lines[0], "|"), "|")
		for _, line := range lines[2:] {
			cells := strings.Split(strings.Trim(line, "|"), " | ")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			require.Len(t, cells, columns, "in %s: %s", file, line)
			require.NotContains(t, cells, "", "in %s: %s", file, line)
			rows = append(rows, cells)
		}
	}
	require.NotEmpty(t, rows, "no table of %s begins with %q", file, heading)
	return rows
}

// docPages returns the README and all pages in docs.
func docPages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	return append(pages, "README.md")
}

// Each page answers one question and can be read at once. Its lines fit on a screen.
func TestThePagesInDocsAreShort(t *testing.T) {
	const maxLines, maxColumns = 149, 120
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range pages {
		lines := strings.Split(strings.TrimSuffix(readText(t, page), "\n"), "\n")
		assert.True(t, len(lines) <= maxLines, "%s has %d lines", page, len(lines))
		for i, line := range lines {
			n := utf8.RuneCountInString(line)
			isTable := strings.HasPrefix(line, "|") // a row of a table cannot be broken
			assert.True(t, n <= maxColumns || isTable, "%s:%d has %d columns", page, i+1, n)
		}
	}
}

// A reader copies what stands in a page, so a compiler must have seen it.
func TestTheGoOfThePagesIsCompiled(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("example_*test.go")
	require.NoError(t, err)
	sources = append(sources, "console/example_test.go", "turn/example_test.go")
	err = filepath.WalkDir("examples", func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".go") {
			sources = append(sources, name)
		}
		return err
	})
	require.NoError(t, err)
	var compiled []string
	for _, name := range sources {
		compiled = append(compiled, codeOf(readText(t, name)))
	}
	found := 0
	for _, page := range docPages(t) {
		for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readText(t, page), -1) {
			found++
			stands := slices.ContainsFunc(compiled, func(src string) bool { return strings.Contains(src, codeOf(block[1])) })
			assert.True(t, stands, "in %s, but neither in an Example nor in a program of examples:\n%s", page, block[1])
		}
	}
	require.NotZero(t, found)
}

// codeOf returns Go source with one space between words, and without what a page may leave out:
// comments, and lines that put middleware into a router.
func codeOf(s string) string {
	return oneSpaced(regexp.MustCompile(`(?m)(^|\s)//.*$|^\s*\w+\.Use\(.*\)$`).ReplaceAllString(s, ""))
}

func oneSpaced(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestLinksToFilesLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, name := range append(docPages(t), "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "examples/README.md") {
		for _, found := range link.FindAllStringSubmatch(readText(t, name), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, section, _ := strings.Cut(found[1], "#")
			if file = filepath.Join(filepath.Dir(name), file); strings.HasPrefix(found[1], "#") {
				file = name
			}
			_, err := os.Stat(file)
			if assert.NoError(t, err, "in %s", name) && section != "" {
				assert.Contains(t, sections(readText(t, file)), section, "in %s", name)
			}
		}
	}
}

// sections returns the headings of a page as a link names them.
func sections(page string) (names []string) {
	for _, heading := range regexp.MustCompile("(?m)^#+ (.+)$").FindAllStringSubmatch(page, -1) {
		plain := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(plain, " ", "-"))
	}
	return names
}

// The end-to-end tests run page.js in browsers.
func TestThePagesOfTheTestsTakeICEServersAsTheDocumentationSays(t *testing.T) {
	statement := regexp.MustCompile(`(?s)peer\.socket\.on\("message", m => \{\s*if \(m\.type === "ICE-SERVERS"\).*?\n\s*\}\)`)
	plain := func(file string) string {
		t.Helper()
		found := statement.FindString(strings.ReplaceAll(readText(t, file), "\n//", "\n"))
		require.NotEmpty(t, found, file)
		return strings.Join(strings.Fields(found), "")
	}
	want := plain("docs/turn.md")
	assert.Equal(t, want, plain("e2e/page.js"))
	assert.Equal(t, want, plain("ice.go"))
}
