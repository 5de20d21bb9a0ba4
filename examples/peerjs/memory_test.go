package main

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMemoryIsGivenBackWhenABurstIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var freed atomic.Int64
		trim := newTrimmer(func() { freed.Add(1) })
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		come := func(n int, every time.Duration) {
			for range n {
				trim.connected()
				pass(every)
			}
		}
		come(burst-1, time.Minute)
		require.Zero(t, freed.Load(), "that was no burst")
		come(2*burst, quiet/2)
		require.Zero(t, freed.Load(), "it is not over")
		pass(quiet / 2)
		require.EqualValues(t, 1, freed.Load())
		pass(time.Hour)
		require.EqualValues(t, 1, freed.Load())

		come(burst-1, 0)
		pass(time.Hour)
		require.EqualValues(t, 1, freed.Load(), "not enough for another one")
		come(1, 0)
		pass(quiet)
		require.EqualValues(t, 2, freed.Load())

		come(burst, 0)
		trim.stop()
		pass(time.Hour)
		require.EqualValues(t, 2, freed.Load(), "the program has ended")
	})
}
