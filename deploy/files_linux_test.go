package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnArchiveHasTheProgramAndItsLicense(t *testing.T) {
	file := binary(t, "peerjs")
	out, err := exec.Command(file, "--version").Output()
	require.NoError(t, err)
	require.Equal(t, "peerjs "+testVersion+" ("+runtime.Version()+" linux/"+runtime.GOARCH+")\n", string(out))
	require.Equal(t, readText(t, "../LICENSE"), readText(t, filepath.Join(filepath.Dir(file), "LICENSE")))
	require.Contains(t, readText(t, filepath.Join(filepath.Dir(file), "THIRD-PARTY-LICENSES")), "== nhooyr.io/websocket ")
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = programs
	out, err = check.CombinedOutput()
	require.NoError(t, err, "%s", out)

	again := t.TempDir()
	out, err = exec.Command("./archives", testVersion, again, "linux/"+runtime.GOARCH).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, readText(t, filepath.Join(programs, "SHA256SUMS")), readText(t, filepath.Join(again, "SHA256SUMS")))
}

// A service is one of a compose file, as far as these tests ask about it.
type service struct {
	Image       string
	Command     []string
	Environment map[string]string
	Healthcheck struct{ Test []string }
	Volumes     []string
	Configs     []struct{ Source, Target string }
}

func TestTheComposeFile(t *testing.T) {
	for _, private := range []string{"", "10.1.2.3"} {
		testCompose(t, map[string]string{
			"DOMAIN": "peer.test", "TURN_SECRET": "north", "PEER_CONSOLE": "",
			"PUBLIC_IP": strings.ReplaceAll(private, "10.1.2.3", "203.0.113.7"), "PRIVATE_IP": private,
		})
	}
}

// interpolate puts values in the place of variables, as compose does.
func interpolate(t *testing.T, text string, values map[string]string) string {
	value := func(name string) string {
		assert.Contains(t, values, name)
		return values[name]
	}
	either := regexp.MustCompile(`\$\{(\w+):([?+-])([^}]*)\}`)
	text = either.ReplaceAllStringFunc(text, func(s string) string {
		parts := either.FindStringSubmatch(s)
		if parts[2] != "+" {
			return value(parts[1])
		} else if value(parts[1]) == "" {
			return ""
		}
		return regexp.MustCompile(`\$\w+`).ReplaceAllStringFunc(parts[3], func(s string) string { return value(s[1:]) })
	})
	require.NotContains(t, text, "$")
	return text
}

func testCompose(t *testing.T, values map[string]string) {
	text := interpolate(t, readText(t, "compose.yml"), values)
	file := decode[struct {
		Services map[string]service
		Volumes  map[string]any
		Configs  map[string]struct{ Content string }
	}](t, text)

	peer := file.Services["peer"]
	var env []string
	for name, value := range peer.Environment {
		env = append(env, name+"="+value)
	}
	requireFlags(t, "peerjs", peer.Command, env)
	test := peer.Healthcheck.Test
	require.Equal(t, []string{"CMD", "/peerjs"}, test[:2])
	require.Contains(t, test, "--healthcheck")
	requireFlags(t, "peerjs", test[2:], nil)
	// The check has the defaults of the server, which listens on the port of the Caddyfile.
	require.NotContains(t, strings.Join(peer.Command, " "), "--port")
	require.Contains(t, readText(t, "Caddyfile"), " peer:9000\n")

	for name, s := range file.Services {
		for _, volume := range s.Volumes {
			from, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(from, ".") {
				require.FileExists(t, from, name)
			} else {
				require.Contains(t, file.Volumes, from, name)
			}
		}
		for _, c := range s.Configs {
			require.Contains(t, file.Configs, c.Source, name)
			require.Contains(t, s.Command, c.Target)
		}
	}

	// The TURN server is that of docs/turn.md, and no address is missing in the list.
	_, want, found := strings.Cut(readText(t, "../docs/turn.md"), "```\n")
	require.True(t, found)
	want, _, _ = strings.Cut(want, "```")
	own := regexp.MustCompile(`(?m)^((realm|static-auth-secret|min-port|max-port|external-ip|allowed-peer-ip)=.*)?\n`)
	require.Equal(t, own.ReplaceAllString(want, ""), own.ReplaceAllString(file.Configs["turn"].Content, ""))
	content := file.Configs["turn"].Content
	require.Contains(t, content, "\nstatic-auth-secret="+values["TURN_SECRET"]+"\n")
	if private := values["PRIVATE_IP"]; private != "" {
		require.Contains(t, content, "\nexternal-ip="+values["PUBLIC_IP"]+"/"+private+"\nallowed-peer-ip="+private+"\n")
	}
	// A page makes two relays for each URL and each other page, of which a call of twelve has eleven.
	quota, err := strconv.Atoi(regexp.MustCompile(`(?m)^user-quota=(\d+)$`).FindStringSubmatch(content)[1])
	require.NoError(t, err)
	require.GreaterOrEqual(t, quota, 2*strings.Count(strings.Join(peer.Command, " "), "--turn=")*11)
}

// The time that a server needs to tell its clients, as its source has it.
func drainTimeout(t *testing.T, program string) time.Duration {
	t.Helper()
	source := readText(t, "../examples/"+program+"/main.go")
	found := regexp.MustCompile(`const drainTimeout = (\d+) \* time\.Second`).FindStringSubmatch(source)
	require.NotNil(t, found)
	seconds, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return time.Duration(seconds) * time.Second
}

func TestTheUnitOfSystemd(t *testing.T) {
	unit := readText(t, "systemd/peerjs.service")
	command := strings.Fields(regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(unit)[1])
	requireFlags(t, "peerjs", command[1:], nil)
	stop, err := strconv.Atoi(regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(unit)[1])
	require.NoError(t, err)
	require.Greater(t, time.Duration(stop)*time.Second, drainTimeout(t, "peerjs"))

	// Without a limit of starts, systemd gives up after five within 10 s. A mistake in the flags does not mend itself.
	require.Contains(t, unit, "\nStartLimitIntervalSec=0\n")
	var exit *exec.ExitError
	require.ErrorAs(t, exec.Command(binary(t, "peerjs"), "--concurrent_limit", "0").Run(), &exit)
	require.Contains(t, unit, "\nRestartPreventExitStatus="+strconv.Itoa(exit.ExitCode())+"\n")

	skipIfAbsent(t, "systemd-analyze")
	file := filepath.Join(t.TempDir(), "peerjs.service")
	verify := func(unit string) (string, error) {
		// The program must exist for this check.
		unit = strings.ReplaceAll(unit, command[0]+" ", binary(t, "peerjs")+" ")
		require.NoError(t, os.WriteFile(file, []byte(unit), 0o600))
		out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput()
		return string(out), err
	}
	out, err := verify(unit)
	require.NoError(t, err, out)
	require.NotContains(t, out, filepath.Base(file), "systemd finds fault with the unit")
	out, _ = verify(strings.ReplaceAll(unit, "ProtectHome=", "ProtectHouse="))
	require.Contains(t, out, "ProtectHouse", "this test finds no mistake")
}
