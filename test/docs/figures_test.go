package docs

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheREADMEIsShort(t *testing.T) {
	readme := read(t, "README.md")
	assert.LessOrEqual(t, strings.Count(readme, "\n"), 150, "lines: move details to docs/")
	assert.LessOrEqual(t, len(strings.Fields(readme)), 1200, "words: move details to docs/")
}

func TestDependabotKnowsEveryModule(t *testing.T) {
	var modules, known []string
	for _, file := range repositoryFiles(t) {
		if path.Base(file) == "go.mod" {
			modules = append(modules, path.Join("/", path.Dir(file)))
		}
	}
	directory := regexp.MustCompile(`(?m)^      - (/.*)$`)
	for _, line := range directory.FindAllStringSubmatch(read(t, ".github/dependabot.yml"), -1) {
		known = append(known, line[1])
	}
	assert.ElementsMatch(t, modules, known, ".github/dependabot.yml: the directories of gomod")
}

func TestActionsArePinned(t *testing.T) {
	pinned := regexp.MustCompile(`^\s*- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\n$`)
	for _, file := range repositoryFiles(t) {
		if path.Dir(file) != ".github/workflows" {
			continue
		}
		for line := range strings.Lines(read(t, file)) {
			if strings.Contains(line, "uses:") {
				assert.Regexp(t, pinned, line,
					"%s: pin actions by digest, as tags can move, and add the version as a comment", file)
			}
		}
	}
}

// results maps each tool to its sorted samples of the last make bench-loop, from bench/results.
type results map[string][]float64

func readResults(t *testing.T, product string) results {
	var report struct {
		Samples []struct {
			Way   string  `json:"way"`
			Total float64 `json:"total"`
		} `json:"samples"`
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "bench/results/loop-"+product+".json")), &report))
	r := results{}
	for _, s := range report.Samples {
		r[s.Way] = append(r[s.Way], s.Total)
	}
	for _, way := range []string{"go-build", "loop", "docker-build", "live-update", "skaffold"} {
		require.NotEmpty(t, r[way], "%s: samples of %s", product, way)
		slices.Sort(r[way])
	}
	return r
}

func (r results) median(way string) float64 {
	values := r[way]
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

func TestFigures(t *testing.T) {
	kind, minikube := readResults(t, "kind"), readResults(t, "minikube")
	readme, benchmarks, loop := read(t, "README.md"), read(t, "docs/benchmarks.md"), read(t, "docs/inner-loop.md")

	var table strings.Builder
	for _, row := range []struct{ title, way string }{
		{"this workspace (`tilt up`)", "loop"},
		{"`go build` of the same service, not deployed", "go-build"},
		{"Tilt `live_update`", "live-update"},
		{"Tilt `docker_build`", "docker-build"},
		{"skaffold", "skaffold"},
	} {
		fmt.Fprintf(&table, "| %s | %.2f s | %.2f s |\n", row.title, kind.median(row.way), minikube.median(row.way))
	}
	ratio := func(r results, of, to string) float64 { return r.median(of) / r.median(to) }
	fmt.Fprintf(&table, "| this workspace / `go build` | %.2f | %.2f |\n",
		ratio(kind, "loop", "go-build"), ratio(minikube, "loop", "go-build"))
	fmt.Fprintf(&table, "| `docker_build` / this workspace | %.2f | %.2f |\n",
		ratio(kind, "docker-build", "loop"), ratio(minikube, "docker-build", "loop"))
	mustContain(t, "docs/benchmarks.md", benchmarks, table.String())

	memory := regexp.MustCompile(`\| the node's memory[^|]*\| (\d+ MiB) \|`).FindStringSubmatch(benchmarks)
	require.NotNil(t, memory, "docs/benchmarks.md: the row of the node's memory")
	// Rounded down to tens, so that not every new mutant changes the README.
	mutants := countMutants(t) / 10 * 10

	mustContain(t, "README.md", readme, fmt.Sprintf("%.1f s later", kind.median("loop")))
	mustContain(t, "README.md", readme, strings.Join([]string{
		fmt.Sprintf("| **%.1f s** | from a save to the new response from all three replicas", kind.median("loop")),
		fmt.Sprintf("| **%.2f ×** | the time that `go build` of the same service takes", ratio(kind, "loop", "go-build")),
		fmt.Sprintf("| **%.1f ×** | faster than `docker_build` and a rollout", ratio(kind, "docker-build", "loop")),
		fmt.Sprintf("| **%d+** | deliberate defects, each caught by a named test", mutants),
		fmt.Sprintf("| **%s** | of memory", memory[1]),
	}, "\n"))
	for _, way := range []string{"live-update", "skaffold", "docker-build"} {
		mustContain(t, "README.md", readme, fmt.Sprintf("%.1f s", kind.median(way)))
	}
	mustContain(t, "docs/inner-loop.md", loop, fmt.Sprintf(
		"%.1f s, where `go build` of the same service alone takes %.1f s", kind.median("loop"), kind.median("go-build")))
}

// mustContain expects consecutive lines in content that begin with the lines of want.
func mustContain(t *testing.T, file, content, want string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(want, "\n"), "\n")
	all := strings.Split(content, "\n")
	for i := range all[:max(0, len(all)-len(lines)+1)] {
		matches := strings.Contains(all[i], lines[0])
		for j := 1; j < len(lines) && matches; j++ {
			matches = strings.HasPrefix(all[i+j], lines[j])
		}
		if matches {
			return
		}
	}
	assert.Fail(t, file+" must contain, in this order:\n"+want)
}

// countMutants counts the mutants of programs, of the cluster's objects and of the verifier.
func countMutants(t *testing.T) int {
	total := 0
	for file, variable := range map[string]string{
		"test/faults/mutants_test.go":           "mutants",
		"test/cluster/mutants/mutants_test.go":  "mutants",
		"test/cluster/mutants/verifier_test.go": "lapses",
	} {
		source, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, file), nil, 0)
		require.NoError(t, err)
		found := 0
		ast.Inspect(source, func(node ast.Node) bool {
			var names []*ast.Ident
			var values []ast.Expr
			switch node := node.(type) {
			case *ast.ValueSpec:
				names, values = node.Names, node.Values
			case *ast.AssignStmt:
				if name, isName := node.Lhs[0].(*ast.Ident); isName && node.Tok == token.DEFINE {
					names, values = []*ast.Ident{name}, node.Rhs
				}
			}
			if len(names) == 1 && len(values) == 1 && names[0].Name == variable {
				if table, isTable := values[0].(*ast.CompositeLit); isTable {
					found += len(table.Elts)
				}
			}
			return true
		})
		require.NotZero(t, found, "%s: the elements of %s", file, variable)
		total += found
	}
	return total
}
