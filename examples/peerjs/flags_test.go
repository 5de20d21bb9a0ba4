package main

import (
	"bytes"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

// noEnv is an empty environment.
func noEnv(string) string { return "" }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFlagsSetWhatTheySay(t *testing.T) {
	for _, tc := range []struct {
		args string
		env  []string
		want config
	}{
		{args: "", want: config{port: 9000}},
		{args: "--port 80", want: config{port: 80}},
		{args: "-p 0", want: config{}},
		{args: "-port=65535", want: config{port: 65535}},
		{args: "", env: []string{"PORT", "81"}, want: config{port: 81}},
		{args: "--port 80", env: []string{"PORT", "no number"}, want: config{port: 80}},
		{args: "-p 0", env: []string{"PORT", "81"}, want: config{}},
		{args: "--host ::1", want: config{port: 9000, host: "::1"}},
		{args: "-H localhost", want: config{port: 9000, host: "localhost"}},
		{args: "--path /app", want: config{port: 9000, opts: peer.Options{Path: "/app"}}},
		{args: "", env: []string{"PEERSERVER_PATH", "/env"}, want: config{port: 9000, opts: peer.Options{Path: "/env"}}},
		{args: "--path /app", env: []string{"PEERSERVER_PATH", "/env"}, want: config{port: 9000, opts: peer.Options{Path: "/app"}}},
		{args: "--key open", want: config{port: 9000, opts: peer.Options{Key: "open"}}},
		{args: "-k open", want: config{port: 9000, opts: peer.Options{Key: "open"}}},
		{args: "--expire_timeout 1500", want: config{port: 9000, opts: peer.Options{ExpireTimeout: 1500 * time.Millisecond}}},
		{args: "-t -1", want: config{port: 9000, opts: peer.Options{ExpireTimeout: -time.Millisecond}}},
		{args: "--alive_timeout 90000", want: config{port: 9000, opts: peer.Options{AliveTimeout: 90 * time.Second}}},
		{args: "--concurrent_limit 7", want: config{port: 9000, opts: peer.Options{ConcurrentLimit: 7}}},
		{args: "-c -1", want: config{port: 9000, opts: peer.Options{ConcurrentLimit: -1}}},
		{args: "--allow_discovery", want: config{port: 9000, opts: peer.Options{AllowDiscovery: true}}},
		{args: "--allow_discovery=true", want: config{port: 9000, opts: peer.Options{AllowDiscovery: true}}},
		{args: "--allow_discovery=false", want: config{port: 9000}},
		{args: "--proxied", want: config{port: 9000, opts: peer.Options{TrustedProxies: privateNetworks(), TrustUnixProxy: true}}},
		{args: "--host unix:/run/peer.sock", want: config{port: 9000, host: "unix:/run/peer.sock"}},
		{args: "--proxied=false", want: config{port: 9000}},
		{args: "--cors https://a.example --cors *", want: config{port: 9000, opts: peer.Options{AllowedOrigins: []string{"https://a.example", "*"}}}},
		{args: "--cors http://localhost:3000/ --cors null --cors HTTPS://*.Example.com", want: config{port: 9000,
			opts: peer.Options{AllowedOrigins: []string{"http://localhost:3000/", "null", "HTTPS://*.Example.com"}}}},
		{args: "--sslkey k.pem --sslcert c.pem", want: config{port: 9000, sslkey: "k.pem", sslcert: "c.pem"}},
	} {
		t.Run(tc.args+strings.Join(tc.env, "="), func(t *testing.T) {
			got, err := parse(strings.Fields(tc.args), env(tc.env...))
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	for args, want := range map[string]bool{
		"":                               false,
		"--allow_override_connect":       true,
		"--allow_override_connect=true":  true,
		"--allow_override_connect=false": false,
	} {
		got, err := parse(strings.Fields(args), noEnv)
		require.NoError(t, err)
		require.Equal(t, want, got.opts.AllowOverride != nil, args)
	}
}

func TestMistakesAreTold(t *testing.T) {
	for _, tc := range []struct {
		args []string
		env  []string
		want string // on standard error, after "peerjs: "
	}{
		{args: []string{"--prot", "9000"}, want: "flag provided but not defined: -prot"},
		{args: []string{"--port"}, want: "flag needs an argument: -port"},
		{args: []string{"9000"}, want: `argument "9000" belongs to no flag`},
		{args: []string{"--port", "1", "\x1b[2J"}, want: `argument "\x1b[2J" belongs to no flag`},
		{args: []string{"--allow_discovery", "false", "-p", "1"}, want: `argument "false" belongs to no flag (a switch takes its value as in --allow_discovery=false)`},
		{args: []string{"--allow_discovery=maybe"}, want: `invalid boolean value "maybe" for -allow_discovery`},
		{args: []string{"--proxied=maybe"}, want: `invalid boolean value "maybe" for -proxied: it must be true or false`},
		{args: []string{"--port", "65536"}, want: `invalid value "65536" for flag -port: it must be a number from 0 to 65535`},
		{args: []string{"-p", "-1"}, want: `invalid value "-1" for flag -p: it must be a number from 0 to 65535`},
		{args: []string{"-p", "http"}, want: `invalid value "http" for flag -p: it must be a number from 0 to 65535`},
		{env: []string{"PORT", "70000"}, want: `invalid value "70000" for the variable PORT: it must be a number from 0 to 65535`},
		{args: []string{"-t", "5s"}, want: `invalid value "5s" for flag -t: it must be a number from 1 to 2147483647, or -1 for none`},
		{args: []string{"--alive_timeout", "0"}, want: `invalid value "0" for flag -alive_timeout: it must be a number from 1`},
		{args: []string{"--alive_timeout", "-2"}, want: `invalid value "-2" for flag -alive_timeout: it must be a number from 1`},
		{args: []string{"-c", "9999999999"}, want: `invalid value "9999999999" for flag -c: it must be a number from 1`},
		{args: []string{"--key", ""}, want: `invalid value "" for flag -key: it must not be empty`},
		{args: []string{"--cors", "example.com"}, want: `invalid value "example.com" for flag -cors: it must be an origin such as https://example.com`},
		{args: []string{"--cors", "https://example.com/page"}, want: `invalid value "https://example.com/page" for flag -cors`},
		{args: []string{"--cors", "https://a.example", "https://b.example"}, want: `argument "https://b.example" belongs to no flag`},
		{args: []string{"--sslkey", "k.pem"}, want: "--sslkey and --sslcert must be given together"},
		{args: []string{"--sslcert", "c.pem"}, want: "--sslkey and --sslcert must be given together"},
	} {
		t.Run(strings.Join(append(tc.args, tc.env...), " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 2, run(t.Context(), tc.args, env(tc.env...), &stdout, &stderr))
			require.Empty(t, stdout.String())
			require.True(t, strings.HasPrefix(stderr.String(), "peerjs: "+tc.want), stderr.String())
			require.True(t, strings.HasSuffix(stderr.String(), "\npeerjs: --help lists the flags\n"), stderr.String())
		})
	}
}

func TestHelpIsNoMistake(t *testing.T) {
	for _, arg := range []string{"--help", "-help", "-h"} {
		var stdout, stderr bytes.Buffer
		require.Zero(t, run(t.Context(), []string{arg}, noEnv, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
		require.Empty(t, stderr.String())
	}
}

func TestUsageAndFlagsAreTheSame(t *testing.T) {
	fs := newFlagSet(new(config))
	told := map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`(?m)^  (?:-(\w), |    )--(\w+)`).FindAllStringSubmatch(usage, -1) {
		for _, name := range m[1:] {
			told[name] = true
			require.True(t, name == "" || name == "help" || fs.Lookup(name) != nil, "there is no flag %s", name)
		}
	}
	for _, name := range []string{"port", "p", "host", "H", "path", "key", "k", "expire_timeout", "t", "alive_timeout",
		"concurrent_limit", "c", "allow_discovery", "allow_override_connect", "cors", "sslkey", "sslcert", "proxied", "console",
		"healthcheck", "version", "turn"} {
		require.NotNil(t, fs.Lookup(name), name)
		require.True(t, told[name], "usage does not tell of %s", name)
	}
	for _, line := range strings.Split(usage, "\n") {
		require.LessOrEqual(t, len(line), 88, line)
	}
	for _, network := range privateNetworks() {
		require.Contains(t, usage, strings.TrimSuffix(network.String(), "/128"))
	}
}

func TestWhatCannotBeDoneIsTold(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	key, _, _ := newCertificate(t)
	for _, tc := range []struct{ args, want string }{
		{"--host 127.0.0.1 --port " + port, "peerjs: listen tcp 127.0.0.1:" + port + ": "},
		{"--port 0 --sslkey no/key.pem --sslcert no/cert.pem", "peerjs: reading the TLS key and certificate: open no/cert.pem: "},
		{"--port 0 --sslkey " + key + " --sslcert " + key, "peerjs: reading the TLS key and certificate: tls: "},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 1, run(t.Context(), strings.Fields(tc.args), noEnv, &stdout, &stderr))
		require.Empty(t, stdout.String())
		require.True(t, strings.HasPrefix(stderr.String(), tc.want), stderr.String())
	}
}
