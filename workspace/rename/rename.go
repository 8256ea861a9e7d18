// Package rename changes the Go module path, the product's name and the teams' names in all files.
//
// Go code contains only the module path: it reads the other names from services.yaml. In all other files, a name is
// replaced only in certain contexts, because "invoices" and "payments" are also words of the domain.
package rename

import (
	"bytes"
	"context"
	"fmt"
	"go/format"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Names are the new names. Empty ones do not change.
type Names struct {
	Module  string
	Product string
	Teams   map[string]string // new by old name
}

// Contexts of the module path, of the product's name and of a team's name, as regular expressions. %s is the name.
var (
	modulePlaces  = []string{`(^|[^\w.-])%s\b`}
	productPlaces = []string{
		`^product: %s$`,
		`\b(kind|minikube)-%s\b`,
		`\b%s-(registry|oci-runtime)\b`,
		`\b%s/[a-z-]+:(local|root-file-system)\b`,
		`\bregistry(\.|\[\.\])example(\.|\[\.\])com/%s\b`,
		`(\.cache|XDG_CACHE_HOME)/%s\b`,
		`\.(build/(live|kubeconfig|images)|evidence)/%s\b`,
		`\bCLUSTER_NAME=%s\b`,
		`"name": "%s"`,
		`\bname='%s'`,
		`/path/to/%s\b`,
	}
	teamPlaces = []string{
		`\bteam:? %s\b`,
		`\bteam-%s\b`,
		`\bteams/%s\b`,
		`\bnamespaces?[:=/\s]\s*["` + "`]?" + `%s\b`,
		`\B-n %s\b`,
		"`%s` (namespace|database)",
		"` in `%s`",
		`\b%s \(database\)`,
		`\b%s-postgres\b`,
		`\.%s\.svc\b`,
		`\bserviceaccount:%s:`,
		`:5432/%s\b`,
		`\bpsql (?:.*? )??%s\b`,
	}
)

var modulePath = regexp.MustCompile(`^[a-z0-9.-]+(/[A-Za-z0-9._~-]+)+$`)

// Rename changes the names in the files in the folder root that git tracks or would add, and runs the generator. It
// returns the paths of the changed files.
func Rename(ctx context.Context, root string, names Names) ([]string, error) {
	everywhere, outsideGo, err := names.replacements(root)
	if err != nil {
		return nil, err
	}
	said, err := process.Output(process.Command(ctx, "git", "-C", root, "ls-files", "-z",
		"--cached", "--others", "--exclude-standard"))
	if err != nil {
		return nil, err
	}
	changed := map[string][]byte{}
	for path := range strings.SplitSeq(strings.TrimSuffix(said, "\x00"), "\x00") {
		before, err := os.ReadFile(filepath.Join(root, path))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			return nil, err
		}
		after := before
		switch {
		case bytes.ContainsRune(before, 0): // binary
		case filepath.Ext(path) == ".go":
			after = replaceAll(before, everywhere)
			if formatted, err := format.Source(after); err == nil { // sorts the imports
				after = formatted
			}
		default:
			after = replaceAll(before, slices.Concat(everywhere, outsideGo))
		}
		if !bytes.Equal(before, after) {
			changed[path] = after
		}
	}
	list, err := services.Read(root)
	if text, is := changed[services.File]; is {
		list, err = services.Parse(text)
	}
	if err != nil {
		return nil, err
	}
	for path, text := range changed {
		if err := os.WriteFile(filepath.Join(root, path), text, 0o644); err != nil {
			return nil, err
		}
	}
	generated, err := list.Generate(root)
	paths := slices.AppendSeq(generated, maps.Keys(changed))
	slices.Sort(paths)
	return slices.Compact(paths), err
}

// replacement replaces a name in one context.
type replacement struct {
	place *regexp.Regexp // the group "name" is replaced
	by    string
}

func (n Names) replacements(root string) (everywhere, outsideGo []replacement, err error) {
	list, err := services.Read(root)
	if err != nil {
		return nil, nil, err
	}
	if n.Module != "" {
		if !modulePath.MatchString(n.Module) {
			return nil, nil, fmt.Errorf("module %q is invalid: it must be a path such as github.com/acme/billing", n.Module)
		}
		text, err := os.ReadFile(filepath.Join(root, "go.mod"))
		if err != nil {
			return nil, nil, err
		}
		line, _, _ := strings.Cut(string(text), "\n")
		everywhere = places(modulePlaces, strings.TrimPrefix(line, "module "), n.Module)
	}
	if n.Product != "" {
		outsideGo = places(productPlaces, list.Product, n.Product)
	}
	for old, name := range n.Teams {
		if !slices.ContainsFunc(list.Teams(), func(team services.Team) bool { return team.Name == old }) {
			return nil, nil, fmt.Errorf("there is no team %s in %s", old, services.File)
		}
		outsideGo = append(outsideGo, places(teamPlaces, old, name)...)
	}
	return everywhere, outsideGo, nil
}

func places(all []string, old, by string) (found []replacement) {
	for _, place := range all {
		place = strings.ReplaceAll(place, "%s", "(?P<name>"+regexp.QuoteMeta(old)+")")
		found = append(found, replacement{regexp.MustCompile("(?m)" + place), by})
	}
	return found
}

// replaceAll makes all replacements at once: a new name that is also an old one is not replaced again.
func replaceAll(text []byte, replacements []replacement) []byte {
	type change struct {
		start, end int
		by         string
	}
	var changes []change
	for _, r := range replacements {
		group := 2 * r.place.SubexpIndex("name")
		for _, match := range r.place.FindAllSubmatchIndex(text, -1) {
			changes = append(changes, change{match[group], match[group+1], r.by})
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return a.start - b.start })
	var after []byte
	end := 0
	for _, c := range changes {
		if c.start >= end { // else another context has matched the same name
			after = append(append(after, text[end:c.start]...), c.by...)
			end = c.end
		}
	}
	return append(after, text[end:]...)
}
