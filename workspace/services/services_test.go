package services

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const valid = `
product: things
services:
  - {name: shop, description: sells, team: sales, port: 8081, user: 10001, calls: [bank, stock], database: true,
     public: true}
  - {name: stock, description: keeps, team: sales, port: 8083, user: 10004, calls: [bank]}
  - {name: bank, description: pays, team: money, port: 8082, user: 10002, authenticated: true, database: true}
`

func parse(t *testing.T, text string) List {
	t.Helper()
	list, err := Parse([]byte(text))
	require.NoError(t, err)
	return list
}

func TestList(t *testing.T) {
	list := parse(t, valid)
	assert.Equal(t, "things", list.Product)
	assert.Equal(t, []string{"shop", "stock", "bank"}, list.Names())
	assert.Equal(t, "shop", list.Public().Name)
	assert.Equal(t, []string{"bank"}, list.Authenticated())
	names := func(services []Service) (names []string) { return List{Services: services}.Names() }
	assert.Equal(t, []string{"bank", "stock", "shop"}, names(list.Ordered()))

	shop, found := list.Find("shop")
	require.True(t, found)
	bank, _ := list.Find("bank")
	_, found = list.Find("nobody")
	assert.False(t, found)
	assert.Equal(t, []string{"shop", "stock"}, names(list.Callers(bank)))
	assert.Equal(t, []string{"bank", "stock"}, names(list.Callees(shop)))
	assert.Equal(t, "SHOP_URL", shop.Variable("URL"))
	assert.Equal(t, "A_B_PORT", Service{Name: "a-b"}.Variable("PORT"))

	teams := list.Teams()
	require.Len(t, teams, 2)
	assert.Equal(t, "team-sales", teams[0].Group())
	assert.Equal(t, []string{"shop", "stock"}, names(teams[0].Services))
	withDatabase, found := teams[0].WithDatabase()
	assert.True(t, found)
	assert.Equal(t, "shop", withDatabase.Name)
	_, found = Team{Services: []Service{{}}}.WithDatabase()
	assert.False(t, found)
}

// Each case makes one change to the valid list.
func TestWhatIsInvalid(t *testing.T) {
	for name, test := range map[string]struct{ old, new, says string }{
		"an unknown key":          {"port: 8081", "ports: 8081", "field ports not found"},
		"not YAML":                {"product:", "\tproduct:", "found character that cannot start any token"},
		"a product with capitals": {"product: things", "product: Things", `product "Things" must be a DNS label`},
		"no product":              {"product: things", "", `product "" must be a DNS label`},
		"a name with a dot":       {"name: stock", "name: st.ock", `name "st.ock" must be a DNS label`},
		"a name twice":            {"name: stock", "name: shop", "name shop is used twice"},
		"the name of an image":    {"name: stock", "name: postgres", "name postgres is already used"},
		"no description":          {"description: keeps, ", "", "stock has no description"},
		"a team with a blank":     {"team: money", "team: m oney", `team "m oney" of bank must be a DNS label`},
		"a namespace of Kubernetes": {"team: money", "team: kube-system",
			"team kube-system of bank is the name of a system namespace"},
		"the platform's namespace": {"team: money", "team: platform",
			"team platform of bank is the name of a system namespace"},
		"a port twice":      {"port: 8083", "port: 8081", "port 8081 of stock is already used by shop"},
		"a port for root":   {"port: 8083", "port: 80", "port 80 of stock must be from 1024"},
		"a user twice":      {"user: 10004", "user: 10001", "user 10001 of stock is already used by shop"},
		"a low user":        {"user: 10004", "user: 1000", "user 1000 of stock must be from 10000"},
		"PostgreSQL's user": {"user: 10004", "user: 10003", "user 10003 of stock is already used by PostgreSQL"},
		"two databases of a team": {"calls: [bank]", "calls: [bank], database: true",
			"a team can have only one: move one service to a team other than sales"},
		"two public services": {"calls: [bank]", "calls: [bank], public: true",
			"exactly one service must be public, not 2 (shop, stock)"},
		"no public service": {"public: true", "public: false", "exactly one service must be public, not 0"},
		"an unknown callee": {"calls: [bank]", "calls: [bonk]", `stock calls "bonk", which is not a service in this file`},
		"itself":            {"calls: [bank]", "calls: [stock]", "some of shop, stock call each other in a cycle"},
		"a cycle":           {"authenticated: true", "calls: [shop]", "some of shop, stock, bank call each other in a cycle"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 1, strings.Count(valid, test.old))
			_, err := Parse([]byte(strings.Replace(valid, test.old, test.new, 1)))
			assert.ErrorContains(t, err, test.says)
			assert.ErrorContains(t, err, File)
		})
	}
}

func TestGenerate(t *testing.T) {
	root := t.TempDir()
	list := parse(t, valid)
	assert.ErrorContains(t, list.Check(root), "run make generate")
	changed, err := list.Generate(root)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{
		".github/CODEOWNERS", "k8s/base/kustomization.yaml", "k8s/entry/public-service.env", "k8s/entry/public-service.yaml",
		"k8s/overlays/production/network-policy.yaml", "k8s/overlays/development/node-port.yaml",
		"k8s/overlays/production/services.yaml", "k8s/overlays/production/autoscaling.yaml",
		"k8s/teams/money/kustomization.yaml", "k8s/teams/money/services.yaml",
		"k8s/teams/sales/kustomization.yaml", "k8s/teams/sales/services.yaml",
		"k8s/monitoring/base/services.yaml",
		"k8s/monitoring/development/audit.env", "k8s/monitoring/development/databases.yaml",
		"k8s/monitoring/development/scrape.yaml",
		"k8s/monitoring/production/audit.env", "k8s/monitoring/production/databases.yaml",
		"k8s/monitoring/production/scrape.yaml",
		"k8s/databases/kustomization.yaml",
		"k8s/databases/money/kustomization.yaml", "k8s/databases/money/network-policy.yaml",
		"k8s/databases/sales/kustomization.yaml", "k8s/databases/sales/network-policy.yaml",
		"k8s/overlays/development/databases/kustomization.yaml",
		"k8s/overlays/development/databases/money/kustomization.yaml",
		"k8s/overlays/development/databases/money/network-policy.yaml",
		"k8s/overlays/development/databases/sales/kustomization.yaml",
		"k8s/overlays/development/databases/sales/network-policy.yaml",
	}, changed)
	for _, path := range changed {
		content, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(string(content),
			"# Generated from services.yaml by make generate; do not edit.\n"), path)
	}
	require.NoError(t, list.Check(root))
	changed, err = list.Generate(root)
	require.NoError(t, err)
	assert.Empty(t, changed)

	t.Run("a file that was edited", func(t *testing.T) {
		file := filepath.Join(root, "k8s/teams/money/services.yaml")
		require.NoError(t, os.WriteFile(file, []byte("edited"), 0o644))
		assert.EqualError(t, list.Check(root),
			"these files do not match services.yaml, run make generate: k8s/teams/money/services.yaml")
		changed, err := list.Generate(root)
		require.NoError(t, err)
		assert.Equal(t, []string{"k8s/teams/money/services.yaml"}, changed)
	})
	t.Run("a team that is gone", func(t *testing.T) {
		list := List{Product: "things", Services: list.Services[:2]}
		list.Services[0].Calls, list.Services[1].Calls = nil, nil
		for _, folder := range []string{"k8s/teams", "k8s/databases", "k8s/overlays/development/databases"} {
			assert.ErrorContains(t, list.Check(root), folder+"/money/kustomization.yaml")
		}
		_, err := list.Generate(root)
		require.NoError(t, err)
		assert.NoDirExists(t, filepath.Join(root, "k8s/teams/money"))
		assert.NoDirExists(t, filepath.Join(root, "k8s/databases/money"))
		require.NoError(t, list.Check(root))
	})
}

func TestMonitoring(t *testing.T) {
	list := parse(t, strings.NewReplacer("shop", "invoice-app", "bank", "payment-provider").Replace(valid))
	files := list.monitoring()
	assert.Equal(t, header+`INVOICES_DATABASE_URL=postgres://audit@postgres.sales.svc:5432/sales`+
		"?passfile=/run/secrets/database/passfile&sslmode=disable\n"+
		`PAYMENTS_DATABASE_URL=postgres://audit@postgres.money.svc:5432/money`+
		"?passfile=/run/secrets/database/passfile&sslmode=disable\nINTERVAL=5s\n",
		files["k8s/monitoring/development/audit.env"])
	assert.Contains(t, files["k8s/monitoring/production/audit.env"], "postgres://audit@sales-rw.databases.svc:5432/sales?"+
		"passfile=/run/secrets/database/passfile&sslmode=verify-full&sslrootcert=/run/secrets/tls/ca.crt\n")
	const target = "{names: [stock-metrics.sales.svc.cluster.local], type: A, port: 8083}"
	for _, folder := range []string{"development", "production"} {
		assert.Contains(t, files["k8s/monitoring/"+folder+"/scrape.yaml"], target, "every service is scraped")
	}
	assert.NotContains(t, files["k8s/monitoring/development/scrape.yaml"], "https")
	assert.Contains(t, files["k8s/monitoring/production/scrape.yaml"], "server_name: stock.sales.svc\n")
}
