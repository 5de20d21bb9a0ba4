package main

import (
	"runtime/debug"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/gopeerjs/peer"
)

func TestBuildInfoNamesTheVersionOfPeer(t *testing.T) {
	released := &debug.Module{Path: peerModule, Version: "v1.2.3"}
	forked, local := *released, *released
	forked.Replace = &debug.Module{Path: "example.org/fork", Version: "v1.2.4"}
	local.Replace = &debug.Module{Path: "../.."}
	other := &debug.Module{Path: "example.org/other", Version: "v9.9.9"}
	for name, c := range map[string]struct {
		peer *debug.Module
		want string
	}{
		"a released version":      {released, "v1.2.3"},
		"replaced by a fork":      {&forked, "v1.2.4"},
		"replaced by a directory": {&local, "(devel)"},
		"another module":          {&debug.Module{Path: peerModule + "js", Version: "v1.2.3"}, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, peerVersion(&debug.BuildInfo{Deps: []*debug.Module{other, c.peer}}))
		})
	}
}

func TestBuildInfoIsOneGauge(t *testing.T) {
	require.EqualValues(t, 1, testutil.ToFloat64(buildInfo(&debug.BuildInfo{GoVersion: "go1.26"}, true)))
	require.EqualValues(t, 1, testutil.ToFloat64(buildInfo(nil, false)))
	reg := prometheus.NewPedanticRegistry()
	_, seconds := timeHandshakes(peer.NewServer(peer.Options{}))
	reg.MustRegister(buildInfo(debug.ReadBuildInfo()), seconds)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestABoundThatIsSwitchedOffHasNoSeries(t *testing.T) {
	limits := []string{"peer_clients_limit", "peer_rooms_limit", "peer_held_limit_bytes", "peer_partial_limit_bytes"}
	with := newRig(t, bounded).scrape()
	without := newRig(t, peer.Options{ConcurrentLimit: -1, MaxRooms: -1, MaxHeldBytes: -1, MaxPartialBytes: -1}).scrape()
	for i, name := range limits {
		require.EqualValues(t, []int{10, 20, 30_000, 40_000}[i], with[name], name)
		require.NotContains(t, without, name)
	}
}
