package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

const (
	prompt     = "$ "
	columns    = 110
	fontSize   = 13
	cellWidth  = 8
	lineHeight = 19
	margin     = 16
	longest    = 2 * time.Second // longer waits are shortened to this
	blank      = 1               // lines between the two terminals
)

// draw returns an SVG in which each line appears at its time. Without animations all lines are visible
// from the start.
func draw(lines []line, when time.Time) string {
	rows := [2]int{}
	for _, l := range lines {
		rows[l.terminal]++
	}
	var body strings.Builder
	next := [2]int{0, rows[0] + blank}
	var shown, last time.Duration
	for _, l := range lines {
		shown += min(l.at-last, longest)
		last = l.at
		text, class := l.text, "out"
		if strings.HasPrefix(text, prompt) {
			class = "in"
		}
		if cells := []rune(text); len(cells) > columns {
			text = string(cells[:columns-1]) + "…"
		}
		fmt.Fprintf(&body, "<text class=%q x=\"%d\" y=\"%d\" style=\"animation-delay:%dms\">%s</text>\n",
			class, margin, margin+lineHeight*(next[l.terminal]+1), shown.Milliseconds(), html.EscapeString(text))
		next[l.terminal]++
	}
	height := 2*margin + lineHeight*(rows[0]+rows[1]+blank+2)
	const width = 2*margin + columns*cellWidth
	divider := margin + lineHeight*rows[0] + lineHeight*3/4
	caption := fmt.Sprintf("Real output, %.0f s in all; waits over %.0f s are shortened. Recorded on %s by make record.",
		last.Seconds(), longest.Seconds(), when.UTC().Format(time.DateOnly))
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" role="img"
  viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d">
<title>The first minute in two terminals</title>
<style>
text { font: %[3]dpx ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; fill: #c9d1d9 }
.in { fill: #7ee787; font-weight: bold }
.caption { fill: #8b949e }
.in, .out { animation: appear 1ms both }
@keyframes appear { from { opacity: 0 } to { opacity: 1 } }
@media (prefers-reduced-motion: reduce) { .in, .out { animation: none } }
</style>
<rect width="100%%" height="100%%" rx="8" fill="#0d1117"/>
<path d="M0 %[4]d H%[1]d" stroke="#30363d"/>
%[5]s<text class="caption" x="%[6]d" y="%[7]d">%[8]s</text>
</svg>
`, width, height, fontSize, divider, body.String(), margin, height-margin, html.EscapeString(caption))
}
