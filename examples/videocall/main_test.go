package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	//lint:file-ignore SA1019 see client.go
	"nhooyr.io/websocket"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

func TestICEServersOfTheFlag(t *testing.T) {
	none, err := parseICE("")
	require.NoError(t, err)
	require.Nil(t, none, "the pages use the servers of PeerJS")
	for given, want := range map[string]string{
		`[]`: `[]`,
		`[{"urls":"turn:a","username":"u","credential":"c"}]`: `[{"urls":["turn:a"],"username":"u","credential":"c"}]`,
		`[{"urls":["stun:a","stun:b"]}]`:                      `[{"urls":["stun:a","stun:b"]}]`,
	} {
		servers, err := parseICE(given)
		require.NoError(t, err, given)
		b, err := json.Marshal(servers(nil))
		require.NoError(t, err)
		require.JSONEq(t, want, string(b))
	}
	for _, wrong := range []string{`x`, `{}`, `[{}]`, `[1]`, `[{"urls":[]}]`, `[{"urls":[1]}]`} {
		_, err := parseICE(wrong)
		require.ErrorContains(t, err, "-ice", wrong)
	}
}

// lines takes what is logged, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), nil
}

func TestTheWholeLifeOfTheProgram(t *testing.T) {
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	for _, secure := range []bool{false, true} {
		log := make(lines, 100)
		ctx, quit := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx, "127.0.0.1:0", "", secure, slog.New(slog.NewTextHandler(log, nil))) }()
		url := regexp.MustCompile(`https?://127\.0\.0\.1:[1-9][0-9]*`).FindString(<-log)
		require.Equal(t, secure, strings.HasPrefix(url, "https:"), url)
		res, err := insecure.Get(url + "/room/x")
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
		limited, cancel := context.WithTimeout(t.Context(), waitLimit)
		defer cancel()
		ada, _, err := websocket.Dial(limited, url+"/peerjs/peerjs?key=peerjs&id=ada&token=1",
			&websocket.DialOptions{HTTPClient: insecure})
		require.NoError(t, err)
		defer ada.CloseNow()
		_, data, err := ada.Read(limited)
		require.NoError(t, err)
		require.JSONEq(t, `{"type":"OPEN"}`, string(data))
		quit()
		_, data, err = ada.Read(limited)
		require.NoError(t, err)
		require.Contains(t, string(data), "The server restarts.")
		_, _, err = ada.Read(limited)
		require.Error(t, err)
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(waitLimit):
			t.Fatal("the program did not end")
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	require.Error(t, run(t.Context(), "127.0.0.1:-1", "", false, quiet))
	require.Error(t, run(t.Context(), "127.0.0.1:0", "{", false, quiet))
}
