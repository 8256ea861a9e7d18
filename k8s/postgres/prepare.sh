#!/bin/sh
# Runs before every start of PostgreSQL. Makes what is not there yet (the data directory, the
# database and its two roles), and gives both roles the passwords of their Secrets, which therefore
# may be replaced at any time.
set -eu

start() {
	pg_ctl start --wait --silent --options="--config-file=/etc/postgresql/postgresql.conf --listen-addresses=''"
}

if [ ! -d "$PGDATA" ]; then
	# Made beside its place and renamed: a run that was interrupted leaves nothing half made.
	rm -rf "$PGDATA.new"
	initdb --no-instructions --pgdata="$PGDATA.new" --username=postgres --auth=peer --encoding=UTF8 --locale=C --data-checksums
	mv "$PGDATA.new" "$PGDATA"
fi

start
psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --set=database="$DATABASE" postgres <<'SQL'
-- A passfile's last field is the password.
\set owner_password `cut -d: -f5 /run/secrets/owner/passfile`
\set application_password `cut -d: -f5 /run/secrets/application/passfile`

SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['owner', 'application']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE owner LOGIN PASSWORD :'owner_password';
ALTER ROLE application LOGIN PASSWORD :'application_password';

SELECT format('CREATE DATABASE %I OWNER owner', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO application;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
SQL
pg_ctl stop --wait --silent --mode=fast
