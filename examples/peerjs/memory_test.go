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
		come(10*burst, interval/(2*few))
		require.Zero(t, freed.Load(), "it is not over")
		pass(2 * interval)
		require.EqualValues(t, 1, freed.Load())
		pass(time.Hour)
		require.EqualValues(t, 1, freed.Load())

		come(burst-1, 0)
		pass(time.Hour)
		require.EqualValues(t, 1, freed.Load(), "not enough for another one")
		come(1, 0)
		pass(interval)
		require.EqualValues(t, 2, freed.Load())

		come(burst, 0)
		come(10, 2*interval/few)
		require.EqualValues(t, 2, freed.Load())
		come(few, 2*interval/few)
		require.EqualValues(t, 3, freed.Load(), "it is over, though it is never quiet")

		come(burst, 0)
		trim.stop()
		pass(time.Hour)
		require.EqualValues(t, 3, freed.Load(), "the program has ended")
	})
}
