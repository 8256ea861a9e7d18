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
	initdb --no-instructions --pgdata="$PGDATA.new" --username=postgres --auth=peer --encoding=UTF8 --locale=C \
		--data-checksums
	mv "$PGDATA.new" "$PGDATA"
fi

start
psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --set=database="$DATABASE" postgres <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['owner', 'application']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

SELECT format('CREATE DATABASE %I OWNER owner', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO application;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
SQL

# What a statement contains may end up in the server's log, which both teams can read. psql's \password
# sends a SCRAM verifier in place of the password. It reads from standard input because a container has
# no terminal.
for role in owner application; do
	password=$(cut -d: -f5 "/run/secrets/$role/passfile") # a passfile's last field
	if [ -z "$password" ]; then
		echo "/run/secrets/$role/passfile holds no password: expected *:*:*:$role:PASSWORD" >&2
		exit 1
	fi
	printf '%s\n%s\n' "$password" "$password" |
		psql --quiet --no-psqlrc --command="\\password $role" postgres
done
pg_ctl stop --wait --silent --mode=fast
