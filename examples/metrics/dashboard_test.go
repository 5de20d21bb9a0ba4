package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A dashboard is what the test needs to know of dashboard.json.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
			Definition string
			Datasource *source
		}
	}
	Panels []struct {
		ID         int
		Title      string
		Datasource *source
		GridPos    struct{ H, W, X, Y int }
		Targets    []struct {
			Datasource *source
			Expr       string
		}
	}
}

// counts matches the names of counters and of the series of histograms.
var counts = regexp.MustCompile(`_(total|bucket|sum|count)$`)

type source struct{ Type, UID string }

func readDashboard(t *testing.T) (d dashboard) {
	data, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &d))
	return d
}

func TestTheDashboardAsksForWhatThereIs(t *testing.T) {
	d := readDashboard(t)
	queries := []string{}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			queries = append(queries, v.Definition)
		}
	}
	for _, p := range d.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	got := newRig(t, bounded).scrape()
	there := got.names()
	asked := make(map[string]bool)
	for _, query := range queries {
		names := regexp.MustCompile(`\bpeer_\w+`).FindAllString(query, -1)
		require.NotEmpty(t, names, query)
		for _, name := range names {
			require.True(t, there[name], "%s: there is no %s", query, name)
			asked[name] = true
			// Only counters have a rate, and nothing else of them is worth showing.
			require.Equal(t, counts.MatchString(name), strings.Contains(query, "rate("+name), query)
		}
		// What it groups by must be a label.
		if by := regexp.MustCompile(`by \((\w+)\)`).FindStringSubmatch(query); by != nil {
			require.Regexp(t, `(?m)^`+names[0]+`\{`+by[1]+`="`, strings.Join(seriesOf(got), "\n"), query)
		}
	}
	for name := range there {
		require.True(t, asked[name] || !strings.HasPrefix(name, "peer_"), "the dashboard does not show %s", name)
	}
}

func seriesOf(s scrape) []string {
	all := make([]string, 0, len(s))
	for series := range s {
		all = append(all, series)
	}
	return all
}

func TestTheDashboardCanBeImportedAnywhere(t *testing.T) {
	d := readDashboard(t)
	require.NotEmpty(t, d.Title)
	wanted := &source{"prometheus", "${datasource}"}
	variables := make(map[string]string)
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
		if v.Type == "query" {
			require.Equal(t, wanted, v.Datasource)
		} else {
			require.Equal(t, "prometheus", v.Query)
		}
	}
	require.Equal(t, map[string]string{"datasource": "datasource", "instance": "query"}, variables)
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels have the id %d", p.ID)
		ids[p.ID] = true
		require.Equal(t, wanted, p.Datasource, p.Title)
		for _, target := range p.Targets {
			require.Equal(t, wanted, target.Datasource, p.Title)
			require.Contains(t, target.Expr, `{instance=~"$instance"}`)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			require.Less(t, x, 24, p.Title)
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s covers it", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}
