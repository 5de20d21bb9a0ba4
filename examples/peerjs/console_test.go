package main

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheConsoleComesFromTheFlagOrTheVariable(t *testing.T) {
	for _, tc := range []struct {
		args string
		env  []string
		want string
	}{
		{"", nil, ""},
		{"--console op:secret", nil, "op:secret"},
		{"-console=op:a:b", nil, "op:a:b"},
		{"", []string{"PEER_CONSOLE", "op:secret"}, "op:secret"},
		{"--console op:flag", []string{"PEER_CONSOLE", "op:variable"}, "op:flag"},
		{"--console op:flag", []string{"PEER_CONSOLE", "nonsense"}, "op:flag"},
		{"--console op:secret --path /app/console --key console", nil, "op:secret"},
		{"--path /console --key console", nil, ""},
	} {
		cfg, err := parse(strings.Fields(tc.args), env(tc.env...))
		require.NoError(t, err, tc.args)
		require.Equal(t, tc.want, cfg.console, tc.args)
	}
}

func TestAConsoleThatNobodyCouldUseIsRefused(t *testing.T) {
	const form = "peerjs: --console and the variable PEER_CONSOLE must have the form user:password, and neither may be empty\n"
	const taken = "peerjs: --console takes the addresses below /console/, so --path and --key must be others\n"
	for _, tc := range []struct {
		args string
		env  []string
		want string
	}{
		{"--console hunter2", nil, form},
		{"--console :hunter2", nil, form},
		{"--console hunter2:", nil, form},
		{"", []string{"PEER_CONSOLE", "hunter2"}, form},
		{"--console op:hunter2 --path /console", nil, taken},
		{"--console op:hunter2 --path console/app", nil, taken},
		{"--console op:hunter2 --key console", nil, taken},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 2, run(t.Context(), strings.Fields(tc.args), env(tc.env...), &stdout, &stderr), tc.args)
		require.Empty(t, stdout.String())
		require.True(t, strings.HasPrefix(stderr.String(), tc.want), stderr.String())
		require.NotContains(t, stderr.String(), "hunter2") // it may be the password
	}
}

func TestTheConsoleIsServedToItsUser(t *testing.T) {
	p := start(t, "--console", "op:hunter2", "--path", "/app")
	address := p.out.want(`peerjs: the console is at (http://127\.0\.0\.1:\d+/console/)`)[0]
	get := func(user, password, file string) *http.Response {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
		t.Cleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, "GET", address+file, nil)
		require.NoError(t, err)
		req.SetBasicAuth(user, password)
		res, err := p.browser.Transport.RoundTrip(req)
		require.NoError(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	require.Equal(t, 401, get("op", "wrong", "").StatusCode)
	p.errs.want(`peerjs: time=\S+ level=WARN msg="the console refused a request" remote=127\.0\.0\.1:\d+ method=GET status=401 err=.*`)
	require.Equal(t, 200, get("op", "hunter2", "").StatusCode)

	p.dial("peerjs", "alice", "1").want(open)
	p.out.want(`peerjs: connected "alice" from "127\.0\.0\.1:\d+"`)
	stream := get("op", "hunter2", "stream")
	require.Equal(t, 200, stream.StatusCode)
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && !strings.Contains(lines.Text(), `"id":"alice"`) {
	}
	require.Contains(t, lines.Text(), `"id":"alice"`)

	// An open console does not delay the end.
	p.quit()
	for lines.Scan() && lines.Text() != "event: end" {
	}
	require.Equal(t, "event: end", lines.Text())
	p.wantEnd(0)
	p.errs.wantNothing()
}

func TestThereIsNoConsoleByDefault(t *testing.T) {
	p := start(t)
	status, _ := p.get("/console/")
	require.Equal(t, 404, status)
}
