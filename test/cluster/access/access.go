// Package access reads access.csv, the table of permissions in the cluster. docs/security.md shows the table, and the
// tests in test/cluster/e2e check every cell with real certificates.
package access

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strings"

	"example.com/invoices/workspace/services"
)

//go:embed access.csv
var source string

// Namespaces returns the namespaces that the cells are for: the teams', the platform's, Kubernetes' own, and one that
// nobody owns.
func Namespaces(list services.List) (names []string) {
	for _, team := range list.Teams() {
		names = append(names, team.Name)
	}
	return append(names, "platform", "kube-system", "default")
}

var verbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}

var abbreviations = map[string][]string{
	"read":  {"get", "list", "watch"},
	"write": {"create", "update", "patch", "delete"},
	"all":   verbs,
}

// A Cell is the permission of one user for one verb, granted or not.
type Cell struct {
	Who                          string // the user, a member of the group of the same name; a stranger is in no group
	Namespace                    string
	Group, Resource, Subresource string
	Verb                         string
	Allowed                      bool
}

// Cells returns the table for the teams of a list, with one Cell for each verb in each namespace, allowed or not.
func Cells(list services.List) []Cell {
	rows := read()
	var cells []Cell
	for _, row := range rows[1:] {
		for i, text := range row[1:] {
			var allowed []string
			for _, word := range strings.Fields(text) {
				if verbs, ok := abbreviations[word]; ok {
					allowed = append(allowed, verbs...)
				} else {
					allowed = append(allowed, word)
				}
			}
			for _, place := range column(rows[0][i+1], list) {
				for _, resource := range strings.Fields(row[0]) {
					resource, subresource, _ := strings.Cut(resource, "/")
					resource, group, _ := strings.Cut(resource, ".")
					for _, verb := range verbs {
						cells = append(cells, Cell{place.who, place.namespace, group, resource, subresource, verb,
							slices.Contains(allowed, verb)})
					}
				}
			}
		}
	}
	return cells
}

// Markdown returns the table as docs/security.md shows it.
func Markdown() string {
	rows := read()
	var text strings.Builder
	line := func(cells []string) { text.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(rows[0])
	text.WriteString(strings.Repeat("|---", len(rows[0])) + "|\n")
	for _, row := range rows[1:] {
		var names []string
		for _, resource := range strings.Fields(row[0]) {
			resource, subresource, isSubresource := strings.Cut(resource, "/")
			resource, _, _ = strings.Cut(resource, ".")
			if isSubresource {
				resource += "/" + subresource
			}
			names = append(names, resource)
		}
		row[0] = strings.Join(slices.Compact(names), ", ")
		for i, cell := range row {
			if cell == "" {
				row[i] = "–"
			}
		}
		line(row)
	}
	return text.String()
}

func read() [][]string {
	rows, err := csv.NewReader(strings.NewReader(source)).ReadAll()
	if err != nil {
		panic(err) // the file is embedded
	}
	return rows
}

// place is a user in a namespace.
type place struct{ who, namespace string }

// column returns the users and namespaces that the cells below a title are for.
func column(title string, list services.List) (places []place) {
	for _, namespace := range Namespaces(list) {
		switch title {
		case "a team in its own namespace", "a team elsewhere":
			for _, team := range list.Teams() {
				if own := team.Name == namespace; own == (title == "a team in its own namespace") {
					places = append(places, place{team.Group(), namespace})
				}
			}
		case "platform anywhere", "stranger anywhere":
			who, _, _ := strings.Cut(title, " ")
			places = append(places, place{who, namespace})
		default:
			panic(fmt.Sprintf("access.csv: unknown title %q", title)) // the file is embedded
		}
	}
	return places
}
