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
	"github.com/pressly/goose/v3/lock"
)

// migrationSettings bound a migration's session. Its statements may take long,
// but what waits for a lock makes all others wait behind it, so that is tried
// again instead. A migration that stands still loses its session, and its lock.
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

// migratePostgres is safe to run several times at once: an advisory lock lets
// one work while others wait, and a grant can be repeated.
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
		return errors.New("migrate needs a direct connection to PostgreSQL, and DATABASE_URL leads through a connection " +
			"pooler: the lock that keeps two migrations apart does not hold there; give it the server's own address")
	}
	bound(config.ConnConfig, migrationSettings)
	locker, err := lock.NewPostgresSessionLocker(retries)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config.ConnConfig)
	defer db.Close()
	err = await(ctx, migratePatience, func() error {
		err := migrate(ctx, db, goose.DialectPostgres, s.migrations("postgres"), goose.WithSessionLocker(locker))
		var refused *pgconn.PgError
		var unreachable *pgconn.ConnectError
		if errors.As(err, &refused) || errors.As(err, &unreachable) {
			return ClassifyPostgres(err)
		}
		return err // what goose itself finds wrong stays wrong
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

// Grant is a privilege on a table or sequence; with Columns, on these only.
type Grant struct {
	Privilege string // SELECT, INSERT, …
	On        string
	Columns   []string
}

// all returns what the service's role needs, for every service.
func (s Schema) all() []Grant {
	return append([]Grant{{Privilege: "SELECT", On: "goose_db_version"}}, s.Grants...)
}

// grantLock is an arbitrary key, ours in this database. PostgreSQL refuses two
// grants on one table at the same instant ("tuple concurrently updated").
const grantLock = 7_301_984

// grant gives role what the service needs, and takes everything else away that
// it had on what is ours, whatever an older release or a person gave it.
func (s Schema) grant(ctx context.Context, conn *pgx.Conn, role string) error {
	name := pgx.Identifier{role}.Sanitize()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, grantLock); err != nil {
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

// Excess returns what the pool's role can do beyond s.Grants: by a grant, by
// being a member of another role, by what PUBLIC has, or as an owner or
// superuser. Each is a privilege as in a GRANT, or an attribute of the role.
func (s Schema) Excess(ctx context.Context, pool *Pool) ([]string, error) {
	needed := map[string]bool{}
	for _, g := range s.all() {
		if g.Columns == nil {
			needed[g.Privilege+" ON "+g.On] = true
		}
		for _, column := range g.Columns {
			needed[g.Privilege+" ("+column+") ON "+g.On] = true
		}
	}
	var can []string
	err := pool.Do(ctx, func(conn *pgx.Conn) (err error) {
		rows, _ := conn.Query(ctx, privileges)
		can, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask what the database role can do: %w", ClassifyPostgres(err))
	}
	var excess []string
	for _, privilege := range can {
		if !needed[privilege] {
			excess = append(excess, privilege)
		}
	}
	return excess, nil
}

// privileges lists what the current role can do, in what way it ever came to it.
const privileges = `
	WITH ours AS (
		SELECT oid, relname, relkind FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
	), whole AS (
		SELECT oid, relname, relkind, privilege,
			CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, privilege) ELSE has_table_privilege(oid, privilege) END AS granted
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
