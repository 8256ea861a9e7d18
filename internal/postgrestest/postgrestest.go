// Package postgrestest starts real PostgreSQL servers for tests and benchmarks:
// each on a free port of 127.0.0.1, with its data in a temporary folder.
package postgrestest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/porttest"
)

// T is what a server needs from its test. A *testing.T implements it, and a benchmark that is a
// separate program can do so.
type T interface {
	require.TestingT
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
}

// Server is a PostgreSQL server for one test.
type Server struct {
	t        T
	bin      string // folder of initdb and postgres
	folder   string
	settings []string
	port     int
	account  *syscall.Credential // nil: the test's
	process  *exec.Cmd
	log      *os.File // what the server and its pooler write
}

// Superuser is the role that every server has, without a password.
const Superuser = "postgres"

// Start initializes and starts a server, and stops it when the test ends. Settings (name=value)
// are added to the defaults for tests, or override them. If PostgreSQL is not installed, the test
// fails: it never passes by skipping.
func Start(t T, settings ...string) *Server {
	t.Helper()
	s := &Server{t: t, bin: binaries(t), folder: folder(t), settings: settings}
	if os.Getuid() == 0 {
		s.account = unprivileged(t)
		require.NoError(t, os.Chown(s.folder, int(s.account.Uid), int(s.account.Gid)))
	}
	s.openLog()
	initdb := s.command("initdb", "--pgdata", s.data(), "--username", Superuser,
		"--auth", "trust", "--encoding", "UTF8", "--no-sync", "--locale", "C.UTF-8")
	out, err := initdb.CombinedOutput()
	require.NoError(t, err, "initdb: %s", out)
	s.port = porttest.Free(t)
	s.Run()
	return s
}

// openLog makes the server write a log, and end with the test.
func (s *Server) openLog() {
	var err error
	s.log, err = os.Create(filepath.Join(s.folder, "log"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		s.end(syscall.SIGINT) // fast shutdown
		s.log.Close()
	})
	s.t.Cleanup(func() { // before that, which says much
		if log, err := os.ReadFile(s.log.Name()); err == nil && s.t.Failed() {
			s.t.Logf("the end of PostgreSQL's log:\n%s", log[max(0, len(log)-1500):])
		}
	})
}

// Standby starts a streaming standby of the server. From then on, each commit of the server waits until it is on the
// standby.
func (s *Server) Standby() *Server {
	s.t.Helper()
	standby := &Server{t: s.t, bin: s.bin, folder: folder(s.t), settings: s.settings, account: s.account}
	Give(s.t, standby.folder)
	standby.openLog()
	copying := s.command("pg_basebackup", "--pgdata", standby.data(), "--dbname", s.URL(Superuser, "postgres"),
		"--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	out, err := copying.CombinedOutput()
	require.NoError(s.t, err, "pg_basebackup: %s", out)
	standby.port = porttest.Free(s.t)
	standby.Run()
	s.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
	s.Exec("postgres", "SELECT pg_reload_conf()")
	return standby
}

// Promote makes a standby a primary.
func (s *Server) Promote() {
	s.t.Helper()
	s.Exec("postgres", "SELECT pg_promote()")
}

// Stop shuts the server down in the way that ends all sessions.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Run starts the server again after a Kill, and returns when it accepts connections.
func (s *Server) Run() {
	s.t.Helper()
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=300",
		// The kernel keeps what a killed server has written; fsync is only for a power failure,
		// which no test simulates.
		"-c", "fsync=off"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	s.process = s.command("postgres", args...)
	s.process.Stdout, s.process.Stderr = s.log, s.log
	require.NoError(s.t, s.process.Start())
	require.Eventually(s.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, s.URL(Superuser, "postgres"))
		if err != nil {
			return false
		}
		return conn.Close(ctx) == nil
	}, time.Minute, 100*time.Millisecond, "PostgreSQL did not start")
}

// Kill kills all processes of the server at once, so that nothing more is written.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) {
	if s.process == nil {
		return
	}
	pid := s.process.Process.Pid
	var killed []int
	if signal == syscall.SIGKILL {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // so that it starts no new children
		killed = s.signalChildren(signal)
	}
	_ = syscall.Kill(pid, signal)
	_ = s.process.Wait() // ended by the signal
	s.process = nil
	// A server does not start while a process still uses the shared memory of the last one.
	require.Eventually(s.t, func() bool { return !slices.ContainsFunc(killed, runs) },
		time.Minute, time.Millisecond, "PostgreSQL's processes are still running")
}

// runs reports whether a process with that ID is running.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// Freeze stops all processes of the server until Thaw. The kernel still accepts connections and
// data for them.
func (s *Server) Freeze() {
	_ = syscall.Kill(s.process.Process.Pid, syscall.SIGSTOP)
	s.signalChildren(syscall.SIGSTOP)
}

// Thaw lets the server continue after a Freeze.
func (s *Server) Thaw() {
	s.signalChildren(syscall.SIGCONT)
	_ = syscall.Kill(s.process.Process.Pid, syscall.SIGCONT)
}

// signalChildren signals the children that have left the server's process group, which all of them
// do, and returns their IDs.
func (s *Server) signalChildren(signal syscall.Signal) (ids []int) {
	pid := s.process.Process.Pid
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(id, signal)
			ids = append(ids, id)
		}
	}
	return ids
}

// Address returns the address that the server listens on, as host:port.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// PID returns the process that is the parent of all others of the server.
func (s *Server) PID() int { return s.process.Process.Pid }

// URL returns the DATABASE_URL of a database, for role.
func (s *Server) URL(role, database string) string {
	return URL(s.Address(), role, database)
}

// URL returns the DATABASE_URL of a database at address.
func URL(address, role, database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", role, address, database)
}

// Pooler starts PgBouncer in front of the server, in transaction mode, and returns a function for
// the DATABASE_URL of a database through it.
func (s *Server) Pooler(roles ...string) (url func(role, database string) string) {
	s.t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // where Debian puts it; not on every PATH
	}
	var users strings.Builder
	for _, role := range append(roles, Superuser) {
		fmt.Fprintf(&users, "%q \"\"\n", role)
	}
	port := porttest.Free(s.t)
	settings := filepath.Join(s.folder, "pgbouncer.ini")
	for name, text := range map[string]string{
		settings: fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%d\n"+
			"unix_socket_dir=\nauth_type=trust\nauth_file=%s/users\npool_mode=transaction\n", s.port, port, s.folder),
		filepath.Join(s.folder, "users"): users.String(),
	} {
		require.NoError(s.t, os.WriteFile(name, []byte(text), 0o644))
	}
	pooler := s.command(path, settings)
	pooler.Stderr = s.log
	require.NoError(s.t, pooler.Start(), "PgBouncer is not installed: apt-get install pgbouncer")
	s.t.Cleanup(func() {
		_ = pooler.Process.Kill()
		_ = pooler.Wait() // ended by the signal
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	url = func(role, database string) string { return URL(address, role, database) }
	require.Eventually(s.t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, time.Minute, 50*time.Millisecond, "PgBouncer did not start")
	return url
}

// RequirePassword makes role use its password. (The others need none.)
func (s *Server) RequirePassword(role string) {
	s.t.Helper()
	path := filepath.Join(s.data(), "pg_hba.conf")
	rules, err := os.ReadFile(path)
	require.NoError(s.t, err)
	rule := fmt.Sprintf("host all %s 127.0.0.1/32 scram-sha-256\n", role)
	require.NoError(s.t, os.WriteFile(path, append([]byte(rule), rules...), 0o600))
	s.Exec("postgres", "SELECT pg_reload_conf()")
	require.Eventually(s.t, func() bool {
		conn, err := pgx.Connect(context.Background(), s.URL(role, "postgres"))
		if err != nil {
			return true
		}
		_ = conn.Close(context.Background())
		return false
	}, time.Minute, 10*time.Millisecond, "the rule has no effect")
}

// CreateDatabase creates an empty database that belongs to the superuser.
func (s *Server) CreateDatabase(name string) {
	s.t.Helper()
	s.Exec("postgres", "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
}

// Exec runs one statement as the superuser.
func (s *Server) Exec(database, statement string) {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.URL(Superuser, database))
	require.NoError(s.t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), statement)
	require.NoError(s.t, err)
}

func (s *Server) data() string { return filepath.Join(s.folder, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	if !filepath.IsAbs(name) {
		name = filepath.Join(s.bin, name)
	}
	c := exec.Command(name, args...)
	c.Dir = s.folder
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	return c
}

// binaries returns the folder of the server's programs: from PATH, or where Debian keeps them.
func binaries(t T) string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil { // the others may have no link
			path = real
		}
		return filepath.Dir(path)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	require.NotEmpty(t, found, "PostgreSQL is not installed: apt-get install postgresql (or put initdb on PATH)")
	return filepath.Dir(slices.Max(found))
}

// folder is not t.TempDir, whose parents other accounts cannot enter.
func folder(t T) string {
	dir, err := os.MkdirTemp("", "postgrestest-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// unprivileged returns the account that the server runs as if the test runs as root, which
// PostgreSQL refuses.
func unprivileged(t T) *syscall.Credential {
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	require.NoError(t, err)
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	require.NoError(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
