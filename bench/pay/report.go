package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"example.com/invoices/bench/stats"
)

// report writes the results to FILE.json, FILE.md and FILE.svg, and prints the table and the ratios.
func (b *bench) report(file string) {
	var files syscall.Rlimit
	require.NoError(b, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	facts := fmt.Sprintf("%s, %s; load %s at the end. %s\n"+
		"%d rounds, %d invoices in a pay-all, %d and %d when measuring growth; "+
		"three replicas of each service with 10 connections each; pgbench with %d clients; "+
		"River with %d workers in each of three processes; at most %d open files. Settings of invoice-app: %v.",
		stats.Machine(), time.Now().UTC().Format(time.DateOnly), load(), b.facts,
		b.sizes.rounds, b.sizes.invoices, b.sizes.few, b.sizes.many, b.clients, b.riverWorkers, files.Cur, b.appEnv)

	var table strings.Builder
	table.WriteString(facts + "\n\n| | median | quartiles | least | most | |\n|---|---|---|---|---|---|\n")
	for _, s := range append(slices.Clone(b.samples), b.ratios...) {
		fmt.Fprintf(&table, "| %s | %s | %s–%s | %s | %s | %s |\n", s.Name, number(s.median()),
			number(stats.Quantile(s.Values, 0.25)), number(stats.Quantile(s.Values, 0.75)),
			number(slices.Min(s.Values)), number(slices.Max(s.Values)), s.Unit)
	}
	for _, note := range b.notes {
		fmt.Fprintf(&table, "\n- %s", note)
	}
	table.WriteString("\n")

	machineReadable, err := json.MarshalIndent(map[string]any{
		"facts": facts, "samples": b.samples, "ratios": b.ratios, "notes": b.notes,
	}, "", " ")
	require.NoError(b, err)
	require.NoError(b, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(b, os.WriteFile(file+".json", append(machineReadable, '\n'), 0o644))
	require.NoError(b, os.WriteFile(file+".md", []byte("# Paying\n\n"+table.String()+
		"\n![Invoices a second]("+filepath.Base(file)+".svg)\n"), 0o644))
	b.draw(file + ".svg")
	fmt.Println(table.String())
	for _, r := range b.ratios {
		fmt.Printf("%s %.3f\n", r.Name, r.median())
	}
}

func (s *series) median() float64 { return stats.Quantile(s.Values, 0.5) }

// number formats a number with about three significant digits.
func number(value float64) string {
	switch {
	case value >= 100:
		return strconv.FormatFloat(value, 'f', 0, 64)
	case value >= 10:
		return strconv.FormatFloat(value, 'f', 1, 64)
	}
	return strconv.FormatFloat(value, 'f', 3, 64)
}

// load returns the load averages of the last 1, 5 and 15 minutes.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// draw draws a bar for each rate.
func (b *bench) draw(file string) {
	p := plot.New()
	p.Title.Text = "Invoices or rows a second (median)"
	p.X.Min = 0
	var names []string
	var values plotter.Values
	for _, s := range slices.Backward(b.samples) {
		if s.Unit == "invoices/s" || s.Unit == "rows/s" {
			names, values = append(names, s.Name), append(values, s.median())
		}
	}
	if len(values) == 0 {
		return
	}
	p.NominalY(names...)
	bars, err := plotter.NewBarChart(values, vg.Points(14))
	require.NoError(b, err)
	bars.Horizontal = true
	bars.LineStyle.Width = 0
	p.Add(bars)
	require.NoError(b, p.Save(18*vg.Centimeter, 9*vg.Centimeter, file))
}

// check compares the ratios with the bounds in bounds.txt, which has lines of the form NAME at-least|at-most BOUND.
func (b *bench) check() {
	file, err := os.Open(filepath.Join(b.root, "bench/pay/bounds.txt"))
	require.NoError(b, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		require.Len(b, fields, 3, line)
		bound, err := strconv.ParseFloat(fields[2], 64)
		require.NoError(b, err, line)
		at := slices.IndexFunc(b.ratios, func(r *series) bool { return r.Name == fields[0] })
		require.NotEqual(b, -1, at, "%s was not measured", fields[0])
		value := b.ratios[at].median()
		if fields[1] == "at-least" && value < bound || fields[1] == "at-most" && value > bound {
			b.Errorf("%s is %.3f, and must be %s %s", fields[0], value, fields[1], fields[2])
		}
	}
}
