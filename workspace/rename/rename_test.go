package rename

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const list = `product: things
services:
  - {name: shop, description: sells, team: sales, port: 8081, user: 10001, calls: [bank], public: true}
  - {name: bank, description: pays, team: money, port: 8082, user: 10002}
`

// clone creates a repository with the files.
func clone(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	require.NoError(t, exec.Command("git", "-C", root, "init", "--quiet").Run())
	return root
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(text)
}

func TestRename(t *testing.T) {
	files := map[string]string{
		"services.yaml": list,
		"go.mod":        "module example.com/things\n\ngo 1.26\n",
		"main.go": "package main\n\nimport (\n\t_ \"example.com/things/b\"\n\t_ \"golang.org/x/a\"\n)\n\n" +
			"const Things = \"kind-things of team-money\"\n",
		"page.md": "`kind-things`, minikube-things-registry, things/node:local, ~/.cache/things/logs, CLUSTER_NAME=things\n" +
			"registry.example.com/things, registry[.]example[.]com/things/(shop), " +
			"example.com/things/x, other.example.com/things\n" +
			"GET /things, some things, things-to-do\n" +
			"team money, team-money, --namespace money, -n money, `money` namespace, bank.money.svc:8082\n" +
			"postgres:5432/money?x, k8s/teams/money/services.yaml, money-postgres, money talks, /money\n" +
			"psql money \"SELECT FROM money\", psql --context kind-x money \"SELECT FROM money\"\n",
		"picture": "\x00kind-things",
	}
	root := clone(t, files)
	changed, err := Rename(t.Context(), root, Names{
		Module: "github.com/acme/billing", Product: "bills", Teams: map[string]string{"money": "treasury"},
	})
	require.NoError(t, err)

	assert.Equal(t, "module github.com/acme/billing\n\ngo 1.26\n", read(t, root, "go.mod"))
	assert.Equal(t, "package main\n\nimport (\n\t_ \"github.com/acme/billing/b\"\n\t_ \"golang.org/x/a\"\n)\n\n"+
		"const Things = \"kind-things of team-money\"\n", read(t, root, "main.go"))
	assert.Equal(t, "`kind-bills`, minikube-bills-registry, bills/node:local, ~/.cache/bills/logs, CLUSTER_NAME=bills\n"+
		"registry.example.com/bills, registry[.]example[.]com/bills/(shop), "+
		"github.com/acme/billing/x, other.example.com/things\n"+
		"GET /things, some things, things-to-do\n"+
		"team treasury, team-treasury, --namespace treasury, -n treasury, `treasury` namespace, bank.treasury.svc:8082\n"+
		"postgres:5432/treasury?x, k8s/teams/treasury/services.yaml, treasury-postgres, money talks, /money\n"+
		"psql treasury \"SELECT FROM money\", psql --context kind-x treasury \"SELECT FROM money\"\n",
		read(t, root, "page.md"))
	assert.Contains(t, read(t, root, "services.yaml"), "product: bills\n")
	assert.Contains(t, read(t, root, "k8s/teams/treasury/kustomization.yaml"), "namespace: treasury\n")
	assert.Equal(t, "\x00kind-things", read(t, root, "picture"))
	assert.Subset(t, changed,
		[]string{"go.mod", "k8s/teams/treasury/services.yaml", "main.go", "page.md", "services.yaml"})
	assert.NotContains(t, changed, "picture")
}

// The new name of a team may be the old one of another.
func TestTeamsSwapNames(t *testing.T) {
	root := clone(t, map[string]string{"services.yaml": list, "go.mod": "module example.com/things\n",
		"page.md": "team-sales and team-money, namespace sales, money-postgres\n"})
	_, err := Rename(t.Context(), root, Names{Teams: map[string]string{"money": "sales", "sales": "money"}})
	require.NoError(t, err)
	assert.Equal(t, "team-money and team-sales, namespace money, sales-postgres\n", read(t, root, "page.md"))
	assert.Contains(t, read(t, root, "k8s/teams/money/services.yaml"), "name: shop\n")
	assert.Contains(t, read(t, root, "k8s/teams/sales/services.yaml"), "name: bank\n")
}

// If there is an error, nothing is changed.
func TestWhatCannotBeRenamed(t *testing.T) {
	for name, test := range map[string]struct {
		names Names
		says  string
	}{
		"no module path": {Names{Module: "Billing App"}, `module "Billing App" is invalid`},
		"no name":        {Names{Product: "Bills"}, `product "Bills" must be a DNS label`},
		"no such team":   {Names{Teams: map[string]string{"nobody": "sales"}}, "there is no team nobody"},
		"a team of platform": {Names{Teams: map[string]string{"money": "platform"}},
			"team platform of bank is the name of a system namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			root := clone(t, map[string]string{"services.yaml": list, "go.mod": "module example.com/things\n"})
			_, err := Rename(t.Context(), root, test.names)
			assert.ErrorContains(t, err, test.says)
			assert.Equal(t, list, read(t, root, "services.yaml"))
			assert.NoDirExists(t, filepath.Join(root, "k8s"))
		})
	}
}
