package access

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"example.com/invoices/internal/checkouttest"
)

const repository = "../../../"

func TestTheDocumentationShowsTheTable(t *testing.T) {
	security, err := os.ReadFile(repository + "docs/security.md")
	require.NoError(t, err)
	assert.True(t, strings.Contains(string(security), Markdown()), "docs/security.md: the table of who may do what must read:\n%s", Markdown())
}

func TestEveryCellMeansSomething(t *testing.T) {
	known := slices.Clone(verbs)
	for word := range abbreviations {
		known = append(known, word)
	}
	rows := read()
	asked := map[[2]string]int{}
	for i, title := range rows[0][1:] {
		who, namespaces := column(title)
		require.NotEmpty(t, namespaces, title)
		for _, namespace := range namespaces {
			asked[[2]string{who, namespace}]++
		}
		for _, row := range rows[1:] {
			assert.Subset(t, known, strings.Fields(row[i+1]), "%s, %s", row[0], title)
		}
	}
	for _, who := range []string{"team-invoicing", "team-payments", "platform", "stranger"} {
		for _, namespace := range Namespaces {
			assert.Equal(t, 1, asked[[2]string{who, namespace}], "columns for %s in %s", who, namespace)
		}
	}
}

const (
	platform  = "@example/platform"
	invoicing = "@example/team-invoicing"
	payments  = "@example/team-payments"
)

func TestEveryFileHasItsOwner(t *testing.T) {
	files, err := checkouttest.Files(repository)
	require.NoError(t, err)
	owners := readOwners(t)
	for _, file := range files {
		assert.NotEmpty(t, owners.of("/"+file), "nobody owns %s", file)
	}
	for _, line := range owners {
		if name, isFolder := strings.CutSuffix(line.pattern, "/"); isFolder {
			assert.DirExists(t, repository+name)
		} else {
			assert.FileExists(t, repository+name)
		}
	}

	for file, want := range map[string][]string{
		"/.ci/run": {platform}, "/.github/CODEOWNERS": {platform}, "/Tiltfile": {platform}, "/deploy.sh": {platform},
		"/ctlptl.yaml": {platform}, "/workspace/run": {platform}, "/tools/cluster/go.mod": {platform},
		"/k8s/platform/access.yaml": {platform}, "/k8s/base/postgres/stateful-set.yaml": {platform},
		"/k8s/overlays/production/kustomization.yaml": {platform}, "/k8s/overlays/development/kustomization.yaml": {platform},
		"/test/cluster/access/access.csv": {platform},
		"/invoice-app/main.go":            {invoicing}, "/k8s/base/invoice-app/deployment.yaml": {invoicing},
		"/payment-provider/main.go": {payments}, "/k8s/base/payment-provider/deployment.yaml": {payments},
		"/internal/money/money.go": {invoicing, payments},
	} {
		require.FileExists(t, repository+file)
		assert.Equal(t, want, owners.of(file), file)
	}
}

// The two Roles are one list of rights, in two namespaces.
func TestBothTeamsHaveTheSameRights(t *testing.T) {
	content, err := os.ReadFile(repository + "k8s/platform/access.yaml")
	require.NoError(t, err)
	rules := map[string][]rbacv1.PolicyRule{}
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		var role rbacv1.Role
		require.NoError(t, yaml.Unmarshal([]byte(document), &role))
		if role.Kind == "Role" {
			rules[role.Namespace] = role.Rules
		}
	}
	require.Len(t, rules, 2)
	assert.NotEmpty(t, rules["invoicing"])
	assert.Equal(t, rules["invoicing"], rules["payments"])
}

type owner struct {
	pattern string
	names   []string
}

type owners []owner

// readOwners knows the two kinds of line that we use: /file and /folder/.
func readOwners(t *testing.T) owners {
	content, err := os.ReadFile(repository + ".github/CODEOWNERS")
	require.NoError(t, err)
	var all owners
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		require.Regexp(t, `^/[^*?\[]+$`, words[0])
		require.NotEmpty(t, words[1:], "%s has no owner", words[0])
		require.Subset(t, []string{platform, invoicing, payments}, words[1:])
		all = append(all, owner{words[0], words[1:]})
	}
	return all
}

// of is the last line that matches.
func (o owners) of(file string) []string {
	for _, line := range slices.Backward(o) {
		if file == line.pattern || strings.HasSuffix(line.pattern, "/") && strings.HasPrefix(file, line.pattern) {
			return line.names
		}
	}
	return nil
}
