// Package postgres tests k8s/base/postgres on a real server without a cluster.
package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/porttest"
	"example.com/invoices/internal/postgrestest"
)

const manifests = "../../k8s/base/postgres"

// loudest makes PostgreSQL log everything that it can log about a statement.
const loudest = `
log_statement = all
log_duration = on
log_min_duration_statement = 0
log_min_error_statement = debug5
log_min_messages = debug5
log_error_verbosity = verbose
debug_print_parse = on
debug_print_rewritten = on
debug_print_plan = on
shared_preload_libraries = 'auto_explain,pg_stat_statements'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
`

// pod has the folders of the database's pod, below a temporary one.
type pod struct {
	t      *testing.T
	folder string
	port   string
}

func newPod(t *testing.T, settings string) pod {
	t.Helper()
	p := pod{t, postgrestest.Folder(t), strconv.Itoa(porttest.Free(t))}
	for _, name := range []string{"postgresql.conf", "prepare.sh"} {
		content, err := os.ReadFile(filepath.Join(manifests, name))
		require.NoError(t, err)
		text := strings.NewReplacer("/etc/postgresql", p.path("etc"), "/run/postgresql", p.path("run"),
			"/run/secrets", p.path("secrets")).Replace(string(content))
		if name == "postgresql.conf" {
			text += settings
		}
		p.write("etc/"+name, text)
	}
	// The account is called postgres in the pod, and can have any name here.
	p.write("etc/pg_hba.conf", "local all postgres trust\nhost all owner,application all scram-sha-256\n")
	p.mkdir("run")
	p.mkdir("volume")
	return p
}

func (p pod) path(name string) string { return filepath.Join(p.folder, name) }

func (p pod) mkdir(name string) {
	p.t.Helper()
	if name == "." {
		return
	}
	p.mkdir(filepath.Dir(name))
	require.NoError(p.t, os.MkdirAll(p.path(name), 0o700))
	postgrestest.Give(p.t, p.path(name))
}

func (p pod) write(name, content string) {
	p.t.Helper()
	p.mkdir(filepath.Dir(name))
	require.NoError(p.t, os.WriteFile(p.path(name), []byte(content), 0o700))
	postgrestest.Give(p.t, p.path(name))
}

// secrets writes the passfiles of a team's Secrets.
func (p pod) secrets(owner, application string) {
	p.t.Helper()
	p.write("secrets/owner/passfile", "*:*:*:owner:"+owner+"\n")
	p.write("secrets/application/passfile", "*:*:*:application:"+application+"\n")
}

// prepare runs prepare.sh for a database, and returns everything that it and the server have
// written.
func (p pod) prepare(database string) (output string, err error) {
	p.t.Helper()
	command := postgrestest.Command(p.t, p.folder, "sh", "-c", `PATH="$PWD/bin:$PATH" exec sh etc/prepare.sh`)
	command.Env = append(os.Environ(), "PGDATA="+p.path("volume/pgdata"), "PGHOST="+p.path("run"),
		"PGUSER=postgres", "DATABASE="+database)
	// A file, since a server that is left behind keeps it open; a pipe would end only with the
	// server.
	log, err := os.Create(filepath.Join(p.t.TempDir(), "log"))
	require.NoError(p.t, err)
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Setsid = true // as in a container, there is no terminal
	p.t.Cleanup(p.stop)
	ended := command.Run()
	written, err := os.ReadFile(log.Name())
	require.NoError(p.t, err)
	return string(written), ended
}

// stop stops a server that prepare.sh has left behind.
func (p pod) stop() {
	_ = postgrestest.Command(p.t, p.folder, "pg_ctl", "stop",
		"--pgdata="+p.path("volume/pgdata"), "--mode=immediate").Run()
}

// serve runs the server like the kubelet, which restarts it whenever it has ended.
func (p pod) serve() (url func(role, password, database string) string) {
	p.t.Helper()
	log, err := os.Create(filepath.Join(p.t.TempDir(), "log"))
	require.NoError(p.t, err)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			server := postgrestest.Command(p.t, p.folder, "postgres", "--config-file="+p.path("etc/postgresql.conf"),
				"-D", p.path("volume/pgdata"), "--port="+p.port, "--listen-addresses=127.0.0.1")
			server.Stdout, server.Stderr = log, log
			exited := make(chan struct{})
			if server.Start() == nil {
				go func() {
					defer close(exited)
					_ = server.Wait()
				}()
				select {
				case <-exited:
				case <-stop:
					_ = server.Process.Signal(syscall.SIGQUIT) // immediate shutdown
					<-exited
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	p.t.Cleanup(func() {
		close(stop)
		<-stopped
		if written, err := os.ReadFile(log.Name()); p.t.Failed() && err == nil {
			p.t.Logf("the server's log ends with:\n%s", lastOf(string(written)))
		}
		log.Close()
	})
	return func(role, password, database string) string {
		return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%s/%s?sslmode=disable", role, password, p.port, database)
	}
}

// logsIn tries until the server responds in any way.
func logsIn(t *testing.T, url string) error {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var conn *pgx.Conn
		if conn, err = pgx.Connect(ctx, url); err == nil {
			return conn.Close(ctx) == nil
		}
		return strings.Contains(err.Error(), "SQLSTATE 28P01")
	}, time.Minute, 100*time.Millisecond, "the server answers")
	return err
}

// lastOf returns the end of a log of several megabytes.
func lastOf(output string) string { return output[max(0, len(output)-10_000):] }

func noSecret(t *testing.T, output string) {
	t.Helper()
	for line := range strings.Lines(output) {
		require.NotContains(t, line, "S3CRET")
	}
}

// Both teams can read the logs of the database's pod, so passwords must not appear in them.
func TestNoPasswordIsLogged(t *testing.T) {
	p := newPod(t, loudest)
	const owner, application, replaced = "S3CRET-of-the-owner", "S3CRET-of-the-application", "S3CRET-that-replaces-it"

	p.secrets(owner, application)
	output, err := p.prepare("invoicing")
	require.NoError(t, err, lastOf(output))
	for _, role := range []string{"owner", "application"} {
		assert.Regexp(t, "statement: ALTER USER "+role+" PASSWORD 'SCRAM-SHA-256[$]4096:", output, "what is logged")
	}
	noSecret(t, output)

	p.secrets(owner, replaced)
	output, err = p.prepare("invoicing")
	require.NoError(t, err, lastOf(output))
	noSecret(t, output)

	// A statement that fails is logged for that reason alone.
	p.secrets("S3CRET-too-late", "S3CRET-too-late")
	p.write("bin/psql", `#!/bin/sh
PATH=${PATH#*bin:}
case "$*" in *password*) export PGOPTIONS='-c default_transaction_read_only=on' ;; esac
exec psql "$@"
`)
	output, err = p.prepare("invoicing")
	require.Error(t, err)
	assert.Contains(t, lastOf(output), "cannot execute ALTER ROLE in a read-only transaction")
	noSecret(t, output)
	p.stop()

	url := p.serve()
	assert.NoError(t, logsIn(t, url("owner", owner, "invoicing")))
	assert.NoError(t, logsIn(t, url("application", replaced, "invoicing")))
	assert.Error(t, logsIn(t, url("application", application, "invoicing")), "it is replaced")
	assert.Error(t, logsIn(t, url("owner", "S3CRET-too-late", "invoicing")))
}

// Without a password nothing is changed: an empty one would leave the role without a password.
func TestEmptyPassfileIsRejected(t *testing.T) {
	p := newPod(t, "")
	p.secrets("", "something")
	output, err := p.prepare("invoicing")
	require.Error(t, err)
	assert.Contains(t, output, "secrets/owner/passfile holds no password: expected *:*:*:owner:PASSWORD")
}
