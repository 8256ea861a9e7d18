package credentials

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
)

// Monitoring is the namespace of the metrics and of the audit.
const Monitoring = "monitoring"

// auditRole is the SQL that creates the role of the audit in a team's database, or leaves it as it is. It may read
// everything, which is more than it needs, but also covers tables that a migration has yet to create.
const auditRole = `SELECT 'CREATE ROLE audit LOGIN IN ROLE pg_read_all_data'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'audit') \gexec
ALTER ROLE audit SET default_transaction_read_only = on;
SELECT format('GRANT CONNECT ON DATABASE %I TO audit', current_database()) \gexec
`

// Audit lets the audit read the databases of a development cluster: it creates the Secret postgres-audit with a random
// password, and a role with that password in the database of each team.
func Audit(ctx context.Context, out io.Writer, cluster kubectl.Context, product string, teams []string) error {
	if err := password(ctx, out, cluster, product, Monitoring, "audit"); err != nil {
		return err
	}
	encoded, err := process.Output(cluster.Command(ctx, "--namespace="+Monitoring,
		"get", "secret", "postgres-audit", "--output=jsonpath={.data.passfile}"))
	if err != nil {
		return err
	}
	passfile, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return err
	}
	secret := strings.TrimSpace(string(passfile[strings.LastIndexByte(string(passfile), ':')+1:]))
	for _, team := range teams {
		psql := func(input string, args ...string) error {
			command := cluster.Command(ctx, append([]string{"--namespace=" + team, "exec", "--stdin", "postgres-0",
				"--container=postgres", "--", "psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"}, args...)...)
			command.Stdin = strings.NewReader(input)
			return process.Run(command)
		}
		if err := psql(auditRole, team); err != nil {
			return err
		}
		// What a statement contains may end up in the server's log. \password sends a verifier in place of the password.
		if err := psql(secret+"\n"+secret+"\n", `--command=\password audit`, team); err != nil {
			return err
		}
		fmt.Fprintf(out, "the audit can read the database of %s\n", team)
	}
	return nil
}
