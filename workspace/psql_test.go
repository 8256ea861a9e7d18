package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"example.com/invoices/workspace/services"
)

func TestPsql(t *testing.T) {
	const in = "--context=kind-shop --namespace=sales exec postgres-0 --container=postgres "
	const script = "psql --no-psqlrc --pset=pager=off --set=ON_ERROR_STOP=1 "
	for want, test := range map[string]struct {
		args     []string
		terminal bool
	}{
		"--stdin --tty -- psql --no-psqlrc --pset=pager=off sales": {[]string{"sales"}, true},
		"--stdin -- " + script + "sales":                           {[]string{"sales"}, false},
		"-- " + script + "--command=SELECT 1 sales":                {[]string{"sales", "SELECT 1"}, true},
	} {
		assert.Equal(t, in+want, strings.Join(psqlIn("kind-shop", test.args, test.terminal), " "))
	}
}

func TestPsqlWithoutADatabase(t *testing.T) {
	w := newWorkspace(t)
	w.Services = services.List{Services: []services.Service{
		{Name: "shop", Team: "sales", Database: true},
		{Name: "page", Team: "web"},
		{Name: "bank", Team: "money", Database: true},
	}}
	for _, team := range []string{"web", "nobody"} {
		command := w.psqlCommand()
		command.SilenceErrors, command.SilenceUsage = true, true
		command.SetArgs([]string{team})
		var usage usageError
		err := command.ExecuteContext(t.Context())
		assert.ErrorAs(t, err, &usage)
		assert.EqualError(t, err, team+" has no database: must be one of sales, money")
	}
}

func TestLoadIsBounded(t *testing.T) {
	for _, args := range [][]string{{"--rate=0"}, {"--for=0s"}, {"--for=61m"}, {"http://localhost:1", "two"}} {
		command := newWorkspace(t).loadCommand()
		command.SilenceErrors, command.SilenceUsage = true, true
		command.SetArgs(args)
		var usage usageError
		assert.ErrorAs(t, command.ExecuteContext(t.Context()), &usage, "%v", args)
	}
}
