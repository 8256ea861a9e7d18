package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"example.com/invoices/bench/stats"
)

// summary is a row of the table, in seconds.
type summary struct {
	Way       string     `json:"way"`
	Edits     int        `json:"edits"`
	Median    float64    `json:"median"`
	Quartiles [2]float64 `json:"quartiles"`
	P95       float64    `json:"p95"`
	Least     float64    `json:"least"`
	Most      float64    `json:"most"`
	parts     [3]float64 // medians of notice, compile and rest
}

type ratio struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// parts are what a sample consists of.
var parts = [3]func(sample) float64{
	func(s sample) float64 { return s.Notice },
	func(s sample) float64 { return s.Compile },
	func(s sample) float64 { return s.Rest },
}

// valuesOf returns a value of each sample of a row.
func valuesOf(way string, samples []sample, value func(sample) float64) (values []float64) {
	for _, s := range samples {
		if s.Way == way {
			values = append(values, value(s))
		}
	}
	return values
}

func summarize(way string, samples []sample) summary {
	totals := valuesOf(way, samples, func(s sample) float64 { return s.Total })
	at := func(q float64) float64 { return stats.Quantile(totals, q) }
	all := summary{
		Way: way, Edits: len(totals), Median: at(0.5), Quartiles: [2]float64{at(0.25), at(0.75)}, P95: at(0.95),
		Least: at(0), Most: at(1),
	}
	for i, part := range parts {
		all.parts[i] = stats.Quantile(valuesOf(way, samples, part), 0.5)
	}
	return all
}

// ratiosOf returns the ratios of the medians that were measured.
func ratiosOf(rows []summary) (ratios []ratio) {
	medians := map[string]float64{}
	for _, r := range rows {
		medians[r.Way] = r.Median
	}
	for _, r := range []struct{ name, of, to string }{
		{"loop/go-build", "loop", "go-build"},
		{"domain/handler", "loop-domain", "loop"},
		{"embedded/handler", "loop-embedded", "loop"},
		{"internal/handler", "loop-internal", "loop"},
		{"busy/rest", "loop-busy", "loop"},
		{"air/loop", "air", "loop"},
		{"docker-build/loop", "docker-build", "loop"},
		{"live-update/loop", "live-update", "loop"},
		{"skaffold/loop", "skaffold", "loop"},
	} {
		if medians[r.of] > 0 && medians[r.to] > 0 {
			ratios = append(ratios, ratio{r.name, medians[r.of] / medians[r.to]})
		}
	}
	return ratios
}

// report writes the results to FILE.json, FILE.md and FILE.svg, and prints the table and the ratios.
func report(
	file string, rows []*row, samples []sample, testsTook float64, watcherCPU string, cost supervisorCost,
) error {
	var summaries []summary
	for _, r := range rows {
		summaries = append(summaries, summarize(r.name, samples))
	}
	ratios := ratiosOf(summaries)

	var table strings.Builder
	fmt.Fprintf(&table, "Seconds from a save until all three replicas of invoice-app serve the new version "+
		"(for go-build: until it\nexits; for air: one process on this machine). %s, %s.\n"+
		"The watcher used %s of a core.\n\n", stats.Machine(), time.Now().UTC().Format(time.DateOnly), watcherCPU)
	table.WriteString("| way | edits | median | quartiles | p95 | least | most | notice | compile | rest |\n" +
		"|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range summaries {
		fmt.Fprintf(&table, "| %s | %d | %.2f | %.2f–%.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", s.Way, s.Edits,
			s.Median, s.Quartiles[0], s.Quartiles[1], s.P95, s.Least, s.Most, s.parts[0], s.parts[1], s.parts[2])
	}
	if cost.Resident != nil {
		table.WriteString("\n" + aboutLoop(samples, testsTook, cost))
	}
	table.WriteString("\n![where the time goes](" + filepath.Base(file) + ".svg)\n\n| ratio of medians | |\n|---|---|\n")
	for _, r := range ratios {
		fmt.Fprintf(&table, "| %s | %.2f |\n", r.Name, r.Value)
	}

	machineReadable, err := json.MarshalIndent(map[string]any{
		"machine": stats.Machine(), "date": time.Now().UTC().Format(time.DateOnly), "unit": "seconds",
		"rows": summaries, "samples": samples, "busy_tests": testsTook, "supervisor_bytes": cost, "ratios": ratios,
	}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".json", append(machineReadable, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(file+".md", []byte("# From save to live\n\n"+table.String()), 0o644); err != nil {
		return err
	}
	if err := draw(file+".svg", summaries); err != nil {
		return err
	}
	fmt.Println(table.String())
	for _, r := range ratios {
		fmt.Printf("%s %.2f\n", r.Name, r.Value)
	}
	return nil
}

// aboutLoop explains the loop's rows.
func aboutLoop(samples []sample, testsTook float64, cost supervisorCost) string {
	var text strings.Builder
	fmt.Fprintf(&text, "The loop's rows: an edit of a handler (loop), of the domain's package, of an embedded file, "+
		"and of a package of\nboth services, which is live when all six replicas serve it; and of a handler while the "+
		"tests of the edit before\nstill run, which take at least %.1f s.\n\n", testsTook)
	text.WriteString("As go_live itself reports, medians of the edits of a handler:")
	for _, stage := range []struct {
		name string
		of   func(sample) float64
	}{
		{"wait", func(s sample) float64 { return s.Reported.Wait }},
		{"build", func(s sample) float64 { return s.Reported.Build }},
		{"deliver", func(s sample) float64 { return s.Reported.Deliver }},
		{"total", func(s sample) float64 { return s.Reported.Total }},
	} {
		fmt.Fprintf(&text, " %s %.3f s.", stage.name, stats.Quantile(valuesOf("loop", samples, stage.of), 0.5))
	}
	fmt.Fprintf(&text, "\n\nThe loop's additional PID 1: an image of %.1f MB, "+
		"and %.1f to %.1f MB of memory in each of %d pods.\n",
		float64(cost.Image)/1e6, float64(slices.Min(cost.Resident))/1e6, float64(slices.Max(cost.Resident))/1e6,
		len(cost.Resident))
	return text.String()
}

// draw draws a bar for each row, stacked from the three parts.
func draw(file string, rows []summary) error {
	p := plot.New()
	p.Title.Text = "From save to live in every replica (median)"
	p.X.Label.Text = "seconds"
	p.X.Min = 0
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.XOffs = vg.Points(170)
	p.Legend.Padding = vg.Points(6)
	var names []string
	for _, r := range slices.Backward(rows) {
		names = append(names, r.Way)
	}
	p.NominalY(names...)
	var below *plotter.BarChart
	for part, look := range []struct {
		name  string
		color color.Color
	}{
		{"the save is noticed", color.RGBA{R: 0xb0, G: 0xb0, B: 0xb0, A: 0xff}},
		{"compile", color.RGBA{R: 0x4c, G: 0x78, B: 0xa8, A: 0xff}},
		{"delivery, swap or rollout", color.RGBA{R: 0xf5, G: 0x85, B: 0x18, A: 0xff}},
	} {
		var values plotter.Values
		for _, r := range slices.Backward(rows) {
			values = append(values, r.parts[part])
		}
		bars, err := plotter.NewBarChart(values, vg.Points(22))
		if err != nil {
			return err
		}
		bars.Horizontal = true
		bars.LineStyle.Width = 0
		bars.Color = look.color
		if below != nil {
			bars.StackOn(below)
		}
		p.Add(bars)
		p.Legend.Add(look.name, bars)
		below = bars
	}
	return p.Save(18*vg.Centimeter, vg.Length(2+len(rows))*1.2*vg.Centimeter, file)
}
