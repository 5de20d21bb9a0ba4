package main

import (
	"time"
)

// settings say how much of everything is done. Every number is a bound: no scenario
// goes on until something is stable.
type settings struct {
	sizes           []int // numbers of idle connections
	settle          time.Duration
	idle            time.Duration
	heartbeatRounds int
	heartbeatEvery  time.Duration

	pairs   int
	rate    int // messages per second of the open loop
	warm    time.Duration
	measure time.Duration

	churnWarm, churnCycles int

	fanIn int

	flooders, bystanders     int
	floodRate, bystanderRate int

	absent, absentSenders, held int
	absentWaves                 int           // all but the last warm up
	expireTimeout               time.Duration // of the server

	ending int // clients of a server that is asked to end

	cluster clusterSettings
}

// clusterSettings are those of the scenario cluster.
type clusterSettings struct {
	warm, measure time.Duration // of each rate
	loads         []load
	cycles        int           // connects and disconnects
	quiet         time.Duration // with nobody connected, and then with the crowd
	crowd         int
	calls         []callLoad
}

// load is messages at a fixed rate. Few pairs keep a rate from being the first word of each pair: a
// node forgets where an id is when it has not sent to it for a while.
type load struct{ rate, pairs int }

// callLoad is calls at a fixed rate, each between clients that have not called before.
type callLoad struct{ rate, calls int }

func fullSettings() settings {
	return settings{
		sizes:           []int{1000, 5000, 10000},
		settle:          8 * time.Second,
		idle:            3 * time.Second,
		heartbeatRounds: 3,
		heartbeatEvery:  5 * time.Second,
		pairs:           500,
		rate:            10000,
		warm:            2 * time.Second,
		measure:         6 * time.Second,
		churnWarm:       2000,
		churnCycles:     8000,
		fanIn:           200,
		flooders:        200,
		bystanders:      50,
		floodRate:       2000,
		bystanderRate:   1000,
		absent:          1000,
		absentSenders:   100,
		held:            4,
		absentWaves:     2,
		expireTimeout:   5 * time.Second,
		ending:          10000,
		cluster: clusterSettings{
			warm:    time.Second,
			measure: 4 * time.Second,
			loads:   []load{{50, 20}, {2000, 500}, {10000, 500}},
			cycles:  3000,
			quiet:   5 * time.Second,
			crowd:   10000,
			calls:   []callLoad{{50, 200}, {400, 1000}},
		},
	}
}

func quickSettings() settings {
	s := fullSettings()
	s.settle = 3 * time.Second
	s.idle = time.Second
	s.heartbeatRounds = 1
	s.warm = time.Second
	s.measure = 2 * time.Second
	s.churnWarm, s.churnCycles = 1000, 2000
	s.absentWaves = 1
	s.cluster.measure, s.cluster.quiet = 2*time.Second, 3*time.Second
	s.cluster.cycles, s.cluster.calls = 1000, []callLoad{{50, 100}, {400, 400}}
	return s
}
