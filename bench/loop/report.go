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

// report writes the results to FILE.json, FILE.md and FILE.svg, and prints the table and the ratios.
func report(file string, ways []*way, samples []sample,
	splits map[string][]float64, watcherCPU string, cost supervisorCost,
) error {
	of := func(name string, part func(sample) float64) (values []float64) {
		for _, s := range samples {
			if s.Way == name {
				values = append(values, part(s))
			}
		}
		return values
	}
	total := func(s sample) float64 { return s.Total }
	median := func(name string) float64 { return stats.Quantile(of(name, total), 0.5) }

	type ratio struct {
		Name  string  `json:"name"`
		Value float64 `json:"value"`
	}
	ratios := []ratio{
		{"loop/go-build", median("loop") / median("go-build")},
		{"docker-build/loop", median("docker-build") / median("loop")},
		{"live-update/loop", median("live-update") / median("loop")},
		{"skaffold/loop", median("skaffold") / median("loop")},
	}

	var table strings.Builder
	fmt.Fprintf(&table, "Seconds from a save until all three replicas of invoice-app serve the new version "+
		"(for go-build: until it\nexits). %s, %s. The watcher used %s of a core.\n\n",
		stats.Machine(), time.Now().UTC().Format(time.DateOnly), watcherCPU)
	table.WriteString("| way | edits | median | quartiles | least | most | notice | compile | rest |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	parts := []func(sample) float64{
		func(s sample) float64 { return s.Notice },
		func(s sample) float64 { return s.Compile },
		func(s sample) float64 { return s.Rest },
	}
	for _, w := range ways {
		all := of(w.name, total)
		fmt.Fprintf(&table, "| %s | %d | %.2f | %.2f–%.2f | %.2f | %.2f |", w.name, len(all), stats.Quantile(all, 0.5),
			stats.Quantile(all, 0.25), stats.Quantile(all, 0.75), slices.Min(all), slices.Max(all))
		for _, part := range parts {
			fmt.Fprintf(&table, " %.2f |", stats.Quantile(of(w.name, part), 0.5))
		}
		table.WriteString("\n")
	}
	table.WriteString("\nAs logged by the loop itself, medians of all replicas:")
	for _, part := range []string{"compile", "delivery", "swap"} {
		fmt.Fprintf(&table, " %s %.3f s.", part, stats.Quantile(splits[part], 0.5))
	}
	fmt.Fprintf(&table, "\n\nThe loop's additional PID 1: an image of %.1f MB, "+
		"and %.1f to %.1f MB of memory in each of %d pods.",
		float64(cost.Image)/1e6, float64(slices.Min(cost.Resident))/1e6, float64(slices.Max(cost.Resident))/1e6,
		len(cost.Resident))
	table.WriteString("\n\n![where the time goes](" + filepath.Base(file) + ".svg)\n\n| ratio of medians | |\n|---|---|\n")
	for _, r := range ratios {
		fmt.Fprintf(&table, "| %s | %.2f |\n", r.Name, r.Value)
	}

	machineReadable, err := json.MarshalIndent(map[string]any{
		"machine": stats.Machine(), "date": time.Now().UTC().Format(time.DateOnly), "unit": "seconds",
		"samples": samples, "loop_splits": splits, "supervisor_bytes": cost, "ratios": ratios,
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
	if err := draw(file+".svg", ways, func(w *way, part int) float64 {
		return stats.Quantile(of(w.name, parts[part]), 0.5)
	}); err != nil {
		return err
	}
	fmt.Println(table.String())
	for _, r := range ratios {
		fmt.Printf("%s %.2f\n", r.Name, r.Value)
	}
	return nil
}

// draw draws a bar for each way, stacked from the three parts.
func draw(file string, ways []*way, median func(w *way, part int) float64) error {
	p := plot.New()
	p.Title.Text = "From save to live in every replica (median)"
	p.X.Label.Text = "seconds"
	p.X.Min = 0
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.XOffs = vg.Points(170)
	p.Legend.Padding = vg.Points(6)
	var names []string
	for _, w := range slices.Backward(ways) {
		names = append(names, w.name)
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
		for _, w := range slices.Backward(ways) {
			values = append(values, median(w, part))
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
	return p.Save(18*vg.Centimeter, 8*vg.Centimeter, file)
}
