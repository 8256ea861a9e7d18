package access

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/workspace/services"
)

const repository = "../../../"

func TestTheDocumentationShowsTheTable(t *testing.T) {
	security, err := os.ReadFile(repository + "docs/security.md")
	require.NoError(t, err)
	assert.True(t, strings.Contains(string(security), Markdown()),
		"docs/security.md: the table of permissions must read:\n%s", Markdown())
}

func TestEveryCellMeansSomething(t *testing.T) {
	known := slices.Clone(verbs)
	for word := range abbreviations {
		known = append(known, word)
	}
	rows := read()
	asked := map[place]int{}
	list := readList(t)
	for i, title := range rows[0][1:] {
		for _, place := range column(title, list) {
			asked[place]++
		}
		for _, row := range rows[1:] {
			assert.Subset(t, known, strings.Fields(row[i+1]), "%s, %s", row[0], title)
		}
	}
	everybody := []string{"platform", "stranger"}
	for _, team := range list.Teams() {
		everybody = append(everybody, team.Group())
	}
	for _, who := range everybody {
		for _, namespace := range Namespaces(list) {
			assert.Equal(t, 1, asked[place{who, namespace}], "columns for %s in %s", who, namespace)
		}
	}
}

func readList(t *testing.T) services.List {
	t.Helper()
	list, err := services.Read(repository)
	require.NoError(t, err)
	return list
}

const platform = "@example/platform"

func TestEveryFileHasItsOwner(t *testing.T) {
	files, err := checkouttest.Files(repository)
	require.NoError(t, err)
	owners := readOwners(t)
	for _, file := range files {
		assert.NotEmpty(t, owners.of("/"+file), "%s has no owner", file)
	}
	for _, line := range owners {
		if name, isFolder := strings.CutSuffix(line.pattern, "/"); isFolder {
			assert.DirExists(t, repository+name)
		} else {
			assert.FileExists(t, repository+name)
		}
	}

	for _, file := range []string{
		"/.ci/run", "/.github/CODEOWNERS", "/Tiltfile", "/deploy.sh", "/ctlptl.yaml", "/workspace/run", "/services.yaml",
		"/tools/cluster/go.mod", "/k8s/platform/access.yaml", "/k8s/team/access.yaml", "/k8s/base/kustomization.yaml",
		"/k8s/base/postgres/stateful-set.yaml", "/k8s/overlays/production/kustomization.yaml",
		"/k8s/overlays/development/kustomization.yaml", "/test/cluster/access/access.csv",
	} {
		require.FileExists(t, repository+file)
		assert.Equal(t, []string{platform}, owners.of(file), file)
	}
	var teams []string
	for _, team := range readList(t).Teams() {
		teams = append(teams, "@example/"+team.Group())
	}
	assert.Equal(t, teams, owners.of("/internal/money/money.go"))
	for _, service := range readList(t).Services {
		for _, file := range []string{"/" + service.Name + "/main.go", "/k8s/base/" + service.Name + "/deployment.yaml"} {
			require.FileExists(t, repository+file)
			assert.Equal(t, []string{"@example/team-" + service.Team}, owners.of(file), file)
		}
		generated := "/k8s/teams/" + service.Team + "/services.yaml"
		require.FileExists(t, repository+generated)
		assert.Equal(t, []string{platform}, owners.of(generated), generated)
	}
}

type owner struct {
	pattern string
	names   []string
}

type owners []owner

// readOwners reads CODEOWNERS, in which each pattern is /file or /folder/.
func readOwners(t *testing.T) owners {
	content, err := os.ReadFile(repository + ".github/CODEOWNERS")
	require.NoError(t, err)
	known := []string{platform}
	for _, team := range readList(t).Teams() {
		known = append(known, "@example/"+team.Group())
	}
	var all owners
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		require.Regexp(t, `^/[^*?\[]+$`, words[0])
		require.NotEmpty(t, words[1:], "%s has no owner", words[0])
		require.Subset(t, known, words[1:])
		all = append(all, owner{words[0], words[1:]})
	}
	return all
}

// of returns the owners of a file: those of the last matching line.
func (o owners) of(file string) []string {
	for _, line := range slices.Backward(o) {
		if file == line.pattern || strings.HasSuffix(line.pattern, "/") && strings.HasPrefix(file, line.pattern) {
			return line.names
		}
	}
	return nil
}
