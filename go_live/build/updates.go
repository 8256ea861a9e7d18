package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// update is what became of a save in one program. Durations are in seconds.
type update struct {
	Service string    `json:"service"`
	Saved   time.Time `json:"saved"`
	Wait    float64   `json:"wait"`    // from the save until the build started
	Build   float64   `json:"build"`   // copying, compiling and linking
	Deliver float64   `json:"deliver"` // until the last pod served with the program
	Total   float64   `json:"total"`   // from the save until then, or 0
	Pods    int       `json:"pods"`
	SHA256  string    `json:"sha256,omitempty"`
	Error   string    `json:"error,omitempty"`
}

func (u update) String() string {
	return fmt.Sprintf("%s is live in %s %.2f s after the save (build %.2f s, pods %.2f s)",
		u.Service, u.pods(), u.Total, u.Build, u.Deliver)
}

func (u update) pods() string {
	if u.Pods == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", u.Pods)
}

// keepUpdates is how many updates are kept.
const keepUpdates = 100

func updatesFile(folder string) string { return filepath.Join(folder, "updates") }

// keep appends an update to the file with the last ones.
func (e *engine) keep(u update) {
	if u.Total == 0 && u.Error == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	updates, err := readUpdates(e.folder)
	if err == nil {
		updates = append(updates, u)
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		for _, u := range updates[max(0, len(updates)-keepUpdates):] {
			_ = encoder.Encode(u) // an update can always be encoded
		}
		err = os.WriteFile(updatesFile(e.folder), text.Bytes(), 0o600)
	}
	if err != nil {
		fmt.Fprintln(e.log, err)
	}
}

// readUpdates returns the last updates, the newest last.
func readUpdates(folder string) (updates []update, err error) {
	content, err := os.ReadFile(updatesFile(folder))
	if os.IsNotExist(err) {
		return nil, nil
	}
	for line := range bytes.Lines(content) {
		var u update
		if json.Unmarshal(line, &u) == nil { // a full disk may have cut one
			updates = append(updates, u)
		}
	}
	return updates, err
}

// stages are the parts of an update.
var stages = []struct {
	name, color string
	of          func(update) float64
}{
	{"wait", "#9aa0a6", func(u update) float64 { return u.Wait }},
	{"build", "#1a73e8", func(u update) float64 { return u.Build }},
	{"deliver", "#188038", func(u update) float64 { return u.Deliver }},
}

// live returns the updates that reached the pods.
func live(updates []update) []update {
	return slices.DeleteFunc(slices.Clone(updates), func(u update) bool { return u.Error != "" })
}

// percentile returns the smallest of the values that at least this part of them do not exceed.
func percentile(updates []update, part float64, of func(update) float64) float64 {
	values := make([]float64, len(updates))
	for i, u := range updates {
		values[i] = of(u)
	}
	slices.Sort(values)
	return values[max(0, int(math.Ceil(part*float64(len(values))))-1)]
}

func printUpdates(out io.Writer, updates []update) {
	done := live(updates)
	fmt.Fprintf(out, "%d updates, %d of them failed\n", len(updates), len(updates)-len(done))
	if len(done) == 0 {
		return
	}
	fmt.Fprintf(out, "%-10s%10s%10s\n", "seconds", "p50", "p95")
	row := func(name string, of func(update) float64) {
		fmt.Fprintf(out, "%-10s%10.2f%10.2f\n", name, percentile(done, 0.5, of), percentile(done, 0.95, of))
	}
	for _, stage := range stages {
		row(stage.name, stage.of)
	}
	row("total", total)
}

// drawUpdates draws a bar for each update, as an SVG file.
func drawUpdates(updates []update) []byte {
	const width, height, bar = 640.0, 240.0, 6.0
	done := live(updates)
	most := 1.0
	for _, u := range done {
		most = max(most, u.Total)
	}
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" `, width, height)
	svg.WriteString(`font-family="sans-serif" font-size="12">`)
	fmt.Fprintf(&svg, "<title>Seconds from a save to the last pod</title>")
	for i, u := range done {
		y := height - 20
		for _, stage := range stages {
			part := stage.of(u) / most * (height - 50)
			y -= part
			fmt.Fprintf(&svg, `<rect x="%g" y="%.1f" width="%g" height="%.1f" fill="%s"/>`,
				20+float64(i)*bar, y, bar-1, part, stage.color)
		}
	}
	x := 20.0
	for _, stage := range stages {
		fmt.Fprintf(&svg, `<rect x="%g" y="8" width="10" height="10" fill="%s"/><text x="%g" y="17">%s</text>`,
			x, stage.color, x+14, stage.name)
		x += 80
	}
	if len(done) > 0 {
		fmt.Fprintf(&svg, `<text x="%g" y="17">p50 %.2f s, p95 %.2f s, highest %.2f s</text>`, x,
			percentile(done, 0.5, total), percentile(done, 0.95, total), most)
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

func total(u update) float64 { return u.Total }
