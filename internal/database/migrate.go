package database

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	goosedb "github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// migrationSettings limit a migration's session. Its statements may take long, but a statement
// that waits for a lock blocks everyone behind it, so it fails early and is retried. An idle
// transaction loses its session, and with it its lock.
var migrationSettings = map[string]string{
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "1min",
	"idle_session_timeout":                "1min",
	"tcp_keepalives_idle":                 "10s",
	"tcp_keepalives_interval":             "5s",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "15s",
	"client_connection_check_interval":    "2s",
}

// migratePostgres can run several times at once: an advisory lock lets one process migrate while
// the others wait, and a grant can be repeated.
func (s Schema) migratePostgres(ctx context.Context, url, role string) error {
	config, err := parseURL(url)
	if err != nil {
		return err
	}
	var pooled bool
	err = await(ctx, migratePatience, func() (err error) {
		pooled, err = throughPooler(ctx, config.ConnConfig)
		return ClassifyPostgres(err)
	})
	if err != nil {
		return err
	}
	if pooled {
		return errors.New("migrate needs a direct connection to PostgreSQL, but DATABASE_URL points to a connection " +
			"pooler: the advisory lock does not work there; use the address of the server")
	}
	bound(config.ConnConfig, migrationSettings)
	locker, err := lock.NewPostgresSessionLocker(retries)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config.ConnConfig)
	defer db.Close()
	err = await(ctx, migratePatience, func() error {
		err := migrate(ctx, db, goosedb.DialectPostgres, s.migrations("postgres"), goose.WithSessionLocker(locker))
		var refused *pgconn.PgError
		var unreachable *pgconn.ConnectError
		if errors.As(err, &refused) || errors.As(err, &unreachable) {
			return ClassifyPostgres(err)
		}
		return err // an error of goose itself is permanent
	})
	if err != nil || role == "" {
		return err
	}
	err = await(ctx, migratePatience, func() error {
		conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
		if err != nil {
			return ClassifyPostgres(err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return ClassifyPostgres(s.grant(ctx, conn, role))
	})
	if err != nil {
		return fmt.Errorf("grant to %s: %w", role, err)
	}
	return nil
}

// Grant is a privilege on a table or a sequence; with Columns, on these columns only.
type Grant struct {
	Privilege string // SELECT, INSERT, …
	On        string
	Columns   []string
}

// all returns the privileges that the service's role needs, with those that every service's role
// needs.
func (s Schema) all() []Grant {
	return append([]Grant{{Privilege: "SELECT", On: "goose_db_version"}}, s.Grants...)
}

// grantLock is an arbitrary key. PostgreSQL rejects two simultaneous grants on one table ("tuple
// concurrently updated").
const grantLock = 7_301_984

// grant gives role the privileges that the service needs, and revokes all others that it has on
// our objects, no matter who granted them. If the schema is newer than s, it changes nothing: the
// release that migrated it may run beside this one, and needs what it granted.
func (s Schema) grant(ctx context.Context, conn *pgx.Conn, role string) error {
	name := pgx.Identifier{role}.Sanitize()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, grantLock); err != nil {
			return err
		}
		if newer, err := s.isOlderThan(ctx, tx); err != nil || newer {
			return err
		}
		rows, _ := tx.Query(ctx, `
			SELECT oid::regclass::text FROM pg_class
			WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
			  AND pg_has_role(relowner, 'USAGE')`)
		ours, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		var schema string
		if err := tx.QueryRow(ctx, `SELECT current_schema()::regnamespace::text`).Scan(&schema); err != nil {
			return err
		}
		statements := []string{
			"REVOKE ALL ON " + strings.Join(ours, ", ") + " FROM " + name,
			"REVOKE ALL ON SCHEMA " + schema + " FROM " + name,
			"GRANT USAGE ON SCHEMA " + schema + " TO " + name,
		}
		for _, g := range s.all() {
			columns := ""
			if g.Columns != nil {
				columns = " (" + strings.Join(g.Columns, ", ") + ")"
			}
			statements = append(statements, "GRANT "+g.Privilege+columns+" ON "+g.On+" TO "+name)
		}
		for _, statement := range statements {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

// querier is a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// isOlderThan reports whether a newer release has migrated the schema in db.
func (s Schema) isOlderThan(ctx context.Context, db querier) (bool, error) {
	own, err := readMigrations(s.migrations("postgres"))
	if err != nil {
		return false, err
	}
	var version int64
	err = db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version`).Scan(&version)
	return version > newest(own), err
}

// Excess returns the privileges of the pool's role beyond s.Grants, whether they come from a
// grant, from membership in another role, from PUBLIC, from ownership or from being a superuser.
// Each is a privilege as in a GRANT, or an attribute of the role. If the schema is newer than s,
// privileges on tables and columns that are not in s.Grants are what the newer release needs.
func (s Schema) Excess(ctx context.Context, pool *Pool) ([]string, error) {
	needed, known := map[string]bool{}, map[string]bool{}
	for _, g := range s.all() {
		known[g.On] = true
		if g.Columns == nil {
			needed[g.Privilege+" ON "+g.On] = true
		}
		for _, column := range g.Columns {
			known["("+column+") ON "+g.On] = true
			needed[g.Privilege+" ("+column+") ON "+g.On] = true
		}
	}
	var can []string
	var newer bool
	err := pool.Do(ctx, func(conn *pgx.Conn) (err error) {
		if newer, err = s.isOlderThan(ctx, conn); err != nil {
			return err
		}
		rows, _ := conn.Query(ctx, privileges)
		can, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("query the privileges of the database role: %w", ClassifyPostgres(err))
	}
	var excess []string
	for _, privilege := range can {
		_, on, onTable := strings.Cut(privilege, " ON ")
		_, column, onColumn := strings.Cut(privilege, " (")
		unknown := onColumn && !known["("+column] ||
			!onColumn && onTable && !known[on] && !strings.HasPrefix(privilege, "CREATE ")
		if !needed[privilege] && (!newer || !unknown) {
			excess = append(excess, privilege)
		}
	}
	return excess, nil
}

// privileges lists all privileges of the current role, wherever they come from.
const privileges = `
	WITH ours AS (
		SELECT oid, relname, relkind FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
	), whole AS (
		SELECT oid, relname, relkind, privilege,
			CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, privilege)
				ELSE has_table_privilege(oid, privilege) END AS granted
		FROM ours, unnest(CASE relkind WHEN 'S' THEN ARRAY['SELECT', 'UPDATE', 'USAGE']
			ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'] END) AS privilege
	)
	SELECT privilege || ' ON ' || relname FROM whole WHERE granted
	UNION ALL
	SELECT privilege || ' (' || attname || ') ON ' || relname
	FROM whole JOIN pg_attribute ON attrelid = oid AND attnum > 0 AND NOT attisdropped
	WHERE NOT granted AND relkind <> 'S' AND privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
	  AND has_column_privilege(oid, attnum, privilege)
	UNION ALL
	SELECT 'CREATE ON SCHEMA ' || current_schema() WHERE has_schema_privilege(current_schema(), 'CREATE')
	UNION ALL
	SELECT 'CREATE ON DATABASE ' || current_database() WHERE has_database_privilege(current_database(), 'CREATE')
	UNION ALL
	SELECT attribute FROM pg_roles, LATERAL (VALUES
		('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole), ('CREATEDB', rolcreatedb),
		('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls)) AS has (attribute, held)
	WHERE rolname = current_user AND held
	ORDER BY 1`
