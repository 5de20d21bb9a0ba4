package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func readFile(t *testing.T, name string) string {
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

func TestTheAlertsFireAsTheirTestsSay(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: the rules of alerts.yml are not tested")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts.test.yml"}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func TestEachAlertIsExpectedByATest(t *testing.T) {
	tests := readFile(t, "alerts.test.yml")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(readFile(t, "alerts.yml"), -1)
	require.NotEmpty(t, alerts)
	for _, alert := range alerts {
		require.Regexp(t, `alertname: `+alert[1]+`\n +exp_alerts:\n +- exp_labels`, tests)
	}
}

func TestTheAlertsAskForWhatThereIs(t *testing.T) {
	rules := readFile(t, "alerts.yml")
	got := newRig(t, bounded).scrape()
	there := got.names()
	names := regexp.MustCompile(`\bpeer_\w+`).FindAllString(rules, -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.True(t, there[name], "there is no %s", name)
	}
	selectors := regexp.MustCompile(`(peer_\w+)\{(\w+)[!=~]+"([^"]+)"\}`).FindAllStringSubmatch(rules, -1)
	require.NotEmpty(t, selectors)
	for _, s := range selectors {
		for value := range strings.SplitSeq(s[3], "|") {
			require.Contains(t, got, s[1]+`{`+s[2]+`="`+value+`"}`)
		}
	}
}
