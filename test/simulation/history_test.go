package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// event is a line of a history.
type event struct {
	at        time.Duration // since the start
	who, what string
	seqs      []int64
	result    string
}

// history is the sequence of events in a schedule.
type history []event

// sorted puts events that were recorded at the same instant in a defined order.
func (h history) sorted() history {
	slices.SortStableFunc(h, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.who, b.who), cmp.Compare(a.what, b.what),
			slices.Compare(a.seqs, b.seqs), cmp.Compare(a.result, b.result))
	})
	return h
}

// String is a table.
func (h history) String() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SECONDS\tWHO\tEVENT\tINVOICES\tRESULT")
	for _, e := range h {
		fmt.Fprintf(table, "%.9f\t%s\t%s\t%s\t%s\n", e.at.Seconds(), e.who, e.what,
			list(e.seqs, func(seq int64) string { return fmt.Sprint("I", seq) }), e.result)
	}
	_ = table.Flush()
	return text.String()
}

func list[T any](items []T, text func(T) string) string {
	texts := make([]string, len(items))
	for n, item := range items {
		texts[n] = text(item)
	}
	return strings.Join(texts, " ")
}
