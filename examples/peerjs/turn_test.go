//lint:file-ignore SA1019 see client.go

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

func TestClientsGetTheTURNServersWithCredentials(t *testing.T) {
	ctx, quit := context.WithCancel(t.Context())
	p := &program{t: t, out: newLines(t), errs: newLines(t), quit: quit, code: make(chan int, 1), browser: newBrowser(t, nil)}
	go func() {
		p.code <- run(ctx, strings.Fields("--host 127.0.0.1 --port 0 --turn turn:t.test?transport=udp --turn turns:t.test"),
			env("TURN_SECRET", "north"), p.out, p.errs)
	}()
	p.url = p.out.want(`peerjs: listening on (http://.*)`)[0]
	a := p.dial("peerjs", "alice", "1")
	rctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, data, err := a.ws.Read(rctx)
	require.NoError(t, err)
	var m struct {
		Type    string
		Payload struct{ ICEServers []peer.ICEServer }
	}
	require.NoError(t, json.Unmarshal(data, &m))
	require.Equal(t, string(peer.TypeICEServers), m.Type)
	require.Len(t, m.Payload.ICEServers, 1)
	got := m.Payload.ICEServers[0]
	require.Equal(t, []string{"turn:t.test?transport=udp", "turns:t.test"}, got.URLs)
	require.True(t, strings.HasSuffix(got.Username, ":alice"), got.Username)
	require.NotEmpty(t, got.Credential)
	a.want(open)
	p.quit()
	p.wantEnd(0)
}

func TestATURNServerThatNobodyCouldUseIsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--turn turn:t.test":   "--turn needs the variable TURN_SECRET",
		"--turn t.test":        `invalid value "t.test" for flag -turn: it must be a URL such as turn:turn.example.com:3478`,
		"--turn turn://t.test": `invalid value "turn://t.test" for flag -turn: it must be a URL`,
		"--turn stun:t.test":   `invalid value "stun:t.test" for flag -turn: it must be a URL`,
		"--turn turns:":        `invalid value "turns:" for flag -turn: it must be a URL`,
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 2, run(t.Context(), strings.Fields(args), noEnv, &stdout, &stderr), args)
		require.True(t, strings.HasPrefix(stderr.String(), "peerjs: "+want), stderr.String())
	}
}
