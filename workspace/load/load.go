// Package load sends requests at a steady rate and reports how they were answered.
package load

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// timeout is how long a request waits for its response. It is longer than a service may take.
const timeout = time.Minute

// Load is a steady load.
type Load struct {
	URL  string
	Rate int           // requests per second
	For  time.Duration // until it ends by itself
	Out  io.Writer
}

// Run sends the requests until the time is over or ctx is done, and writes the report. No request waits for the
// response to another one: if the service stalls, the requests still start on time, and their latencies show it. An
// error says which requests failed.
func (l Load) Run(ctx context.Context) error {
	attacker := vegeta.NewAttacker(vegeta.Timeout(timeout))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	get := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: l.URL})
	fmt.Fprintf(l.Out, "GET %s, %d/s for %s\n", l.URL, l.Rate, l.For)

	var seen vegeta.Metrics
	answers := map[string]int{}
	failed := 0
	for result := range attacker.Attack(get, vegeta.Rate{Freq: l.Rate, Per: time.Second}, l.For, "") {
		seen.Add(result)
		answer := result.Error
		if result.Code != 0 {
			answer = fmt.Sprintf("%d %s", result.Code, http.StatusText(int(result.Code)))
		}
		answers[answer]++
		if result.Code != http.StatusOK {
			failed++
		}
	}
	seen.Close()
	l.report(&seen, answers)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, seen.Requests)
	}
	return nil
}

func (l Load) report(seen *vegeta.Metrics, answers map[string]int) {
	fmt.Fprintf(l.Out, "%d requests in %s, %.0f/s\n", seen.Requests, seen.Duration.Round(time.Second), seen.Rate)
	for _, answer := range slices.Sorted(maps.Keys(answers)) {
		fmt.Fprintf(l.Out, "%8d × %s\n", answers[answer], answer)
	}
	var latencies []string
	for _, latency := range []struct {
		name string
		took time.Duration
	}{
		{"p50", seen.Latencies.P50}, {"p95", seen.Latencies.P95}, {"p99", seen.Latencies.P99}, {"max", seen.Latencies.Max},
	} {
		latencies = append(latencies, fmt.Sprintf("%s %.1f ms", latency.name, latency.took.Seconds()*1000))
	}
	fmt.Fprintln(l.Out, "latency:", strings.Join(latencies, ", "))
}
