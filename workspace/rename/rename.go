// Package rename renames the Go module, the product and the teams of a clone.
//
// Go code reads the product and the teams from services.yaml, so it contains only the module path. In other files,
// names are recognized by their context: "invoices" and "payments" are also words of the domain, and are not renamed
// there.
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

// Names are the new names. An empty name means no change.
type Names struct {
	Module  string
	Product string
	Teams   map[string]string // by the old name
}

// Regular expressions for the places where a name refers to the module, the product or a team; %s is the name.
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
	}
)

var modulePath = regexp.MustCompile(`^[a-z0-9.-]+(/[A-Za-z0-9._~-]+)+$`)

// Rename changes all files that git does not ignore in the clone at root, and generates the files that depend on
// services.yaml. It returns the paths of the files that have changed.
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
		case bytes.ContainsRune(before, 0): // binary, such as a picture
		case filepath.Ext(path) == ".go":
			after = replaceAll(before, everywhere)
			if formatted, err := format.Source(after); err == nil { // sorts the imports again
				after = formatted
			}
		default:
			after = replaceAll(replaceAll(before, everywhere), outsideGo)
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

// replacement replaces a name in one kind of place.
type replacement struct {
	place *regexp.Regexp // its group "name" matches the old name
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

func replaceAll(text []byte, replacements []replacement) []byte {
	for _, r := range replacements {
		var after []byte
		group, end := 2*r.place.SubexpIndex("name"), 0
		for _, match := range r.place.FindAllSubmatchIndex(text, -1) {
			after = append(append(after, text[end:match[group]]...), r.by...)
			end = match[group+1]
		}
		text = append(after, text[end:]...)
	}
	return text
}
