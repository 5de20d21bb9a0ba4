package peer

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheReadmeIsShort(t *testing.T) {
	readme := readText(t, "README.md")
	assert.LessOrEqual(t, strings.Count(readme, "\n"), 120, "lines")
	assert.LessOrEqual(t, len(strings.Fields(readme)), 800, "words")
}

// TestTheReadmeShowsTheFilesOfTheQuickstart has the compiler check what the README shows:
// examples/quickstart is a package of this module.
func TestTheReadmeShowsTheFilesOfTheQuickstart(t *testing.T) {
	for language, file := range map[string]string{"go": "main.go", "html": "index.html"} {
		block := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```$").FindStringSubmatch(readText(t, "README.md"))
		require.NotNil(t, block, "README.md has no block of %s", language)
		assert.Equal(t, readText(t, "examples/quickstart/"+file), block[1], file)
	}
}

func TestTheFiguresOfTheReadmeAreThoseOfTheCode(t *testing.T) {
	readme := oneSpaced(readText(t, "README.md"))
	opts := Options{}.withDefaults()
	probe := fmt.Sprintf("silent for %.0f s and does not answer a ping within %.0f s,",
		opts.ProbeAfter.Seconds(), opts.ProbeTimeout.Seconds())
	assert.Contains(t, readme, probe)
	version := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(readText(t, "go.mod"))
	require.NotNil(t, version)
	assert.Contains(t, readme, "Go "+version[1]+" or newer")
}

// TestTheReadmePinsTheClientOfTheTests compares the script element with the version that the
// tests use and with the file that package web serves, which is the one of npm and unpkg.com.
func TestTheReadmePinsTheClientOfTheTests(t *testing.T) {
	script := regexp.MustCompile(`<script src="([^"]+)"\s+integrity="(sha384-[^"]+)" crossorigin="anonymous">`)
	found := script.FindStringSubmatch(readText(t, "README.md"))
	require.NotNil(t, found, "README.md loads no script with an integrity")
	url, integrity := found[1], found[2]

	_, version, _ := strings.Cut(readText(t, "e2e/package.json"), `"peerjs": "`)
	version, _, _ = strings.Cut(version, `"`)
	assert.Equal(t, "https://unpkg.com/peerjs@"+version+"/dist/peerjs.min.js", url)

	client, err := os.ReadFile("web/peerjs.min.js")
	require.NoError(t, err)
	digest := sha512.Sum384(client)
	assert.Equal(t, "sha384-"+base64.StdEncoding.EncodeToString(digest[:]), integrity)
}
