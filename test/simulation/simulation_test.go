// Package simulation runs several real invoice.Payers, as several replicas, on models of the
// ledger and of the provider, with testing/synctest: in one process and in fake time. A seed
// determines every order, delay, crash and fault, so that a schedule that violates a rule can be
// repeated.
//
// SIMULATE sets how many seeds run; SIMULATE_SEED runs a single one, and prints what happened.
package simulation

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// number returns the value of an environment variable, or otherwise.
func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text, is := os.LookupEnv(variable)
	if !is {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, variable)
	return n
}

func TestSchedules(t *testing.T) {
	if _, is := os.LookupEnv("SIMULATE_SEED"); is {
		o := simulate(t, number(t, "SIMULATE_SEED", 0), true)
		t.Logf("\n%s", o.history)
		require.Empty(t, o.violated, o.violation)
		return
	}
	seeds := number(t, "SIMULATE", 100_000)
	var next, failed atomic.Uint64
	var mu sync.Mutex
	var longest time.Duration
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := next.Add(1); seed <= seeds && failed.Load() == 0; seed = next.Add(1) {
				o := simulate(t, seed, false)
				mu.Lock()
				longest = max(longest, o.quiet)
				mu.Unlock()
				if o.violated != "" && failed.CompareAndSwap(0, seed) {
					t.Errorf("seed %d breaks a rule: %s\n%s\n%s", seed, o.violated, o.violation, simulate(t, seed, true).history)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d schedules; all was settled %s after the last fault at the latest", seeds, longest)
}

// TestReplay checks that a seed always gives the same history.
func TestReplay(t *testing.T) {
	for seed := range number(t, "SIMULATE", 100_000) / 50 {
		first, second := simulate(t, seed, true), simulate(t, seed, true)
		require.Equal(t, first.history.String(), second.history.String(), "seed %d", seed)
	}
}
