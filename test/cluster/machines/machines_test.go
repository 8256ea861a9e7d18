// Package machines tests that the workspace works on unusual machines: as an unprivileged user, in a folder with an odd
// name, without GNU tools, behind a proxy. Each test uses a separate clone. The tests must run as root, because they
// create users.
package machines

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
)

const (
	repository = "../../.."
	invoiceApp = "38081" // ports that no other test uses
	registry   = "35005"
)

// machine is a clone, with the user and environment for running its scripts.
type machine struct {
	*testing.T
	clone   string
	home    string
	user    *syscall.Credential // nil for the user who runs the test
	env     []string
	bin     string // the only folder on PATH, if set
	workdir string
}

// clusterName is the name of the cluster that the tests create.
const clusterName = "machine-test"

// newMachine creates a machine with a new user in some groups, or with the current user if the name is empty.
func newMachine(t *testing.T, folder, name string, groups ...string) *machine {
	t.Helper()
	base := t.TempDir()
	m := &machine{T: t, clone: filepath.Join(base, folder, "checkout"), home: filepath.Join(base, "home")}
	require.NoError(t, os.Mkdir(m.home, 0o700))
	// A fresh clone with CRLF, as on Windows.
	require.NoError(t, checkouttest.Clone(repository, filepath.Join(base, "origin"), m.clone))
	m.env = []string{"HOME=" + m.home, "LANG=C.UTF-8", "TERM=dumb"}
	if name != "" {
		m.user = ordinaryUser(t, name, groups...)
		m.own(base)
	}
	// Download Go modules from where this machine does.
	variables := []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY"}
	if name == "" {
		variables = append(variables, "GOCACHE", "GOMODCACHE")
	}
	for _, variable := range variables {
		value, err := exec.Command("go", "env", variable).Output()
		require.NoError(t, err)
		m.set(variable, strings.TrimSpace(string(value)))
	}
	m.set("PATH", os.Getenv("PATH"))
	return m
}

// set sets a variable for commands run from now on.
func (m *machine) set(name, value string) { m.env = append(m.env, name+"="+value) }

// ordinaryUser creates an unprivileged user on this machine, who is removed after the test.
func ordinaryUser(t *testing.T, name string, groups ...string) *syscall.Credential {
	t.Helper()
	require.Zero(t, os.Getuid(), "this test creates users: run it as root")
	sh := func(args ...string) {
		said, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, said)
	}
	if _, err := user.Lookup(name); err == nil { // left behind by an interrupted run
		sh("userdel", name)
	}
	sh("useradd", "--no-create-home", "--shell", "/bin/sh", "--groups", strings.Join(groups, ","), name)
	t.Cleanup(func() { _ = exec.Command("userdel", name).Run() })
	found, err := user.Lookup(name)
	require.NoError(t, err)
	number := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		require.NoError(t, err)
		return uint32(n)
	}
	credential := &syscall.Credential{Uid: number(found.Uid), Gid: number(found.Gid)}
	ids, err := found.GroupIds()
	require.NoError(t, err)
	for _, id := range ids {
		credential.Groups = append(credential.Groups, number(id))
	}
	return credential
}

// own changes the owner of a folder and its contents to the machine's user.
func (m *machine) own(folder string) {
	require.NoError(m, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(m.user.Uid), int(m.user.Gid))
	}))
	// The parent folders belong to the test. Let everyone traverse them.
	for parent := filepath.Dir(folder); parent != filepath.Dir(os.TempDir()) &&
		parent != "/"; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		require.NoError(m, err)
		require.NoError(m, os.Chmod(parent, info.Mode()|0o011))
	}
}

// command returns a command that runs a shell command line in the clone.
func (m *machine) command(ctx context.Context, line string) *exec.Cmd {
	command := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	command.Dir = filepath.Join(m.clone, m.workdir)
	command.Env = m.env
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: m.user}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
	command.WaitDelay = time.Minute
	return command
}

// says runs a command line that must succeed, and returns its output.
func (m *machine) says(line string) string {
	m.Helper()
	said, err := m.command(m.Context(), line).CombinedOutput()
	require.NoError(m, err, "%s:\n%s", line, said)
	return string(said)
}

// refuses runs a command line that must fail, and returns its output.
func (m *machine) refuses(line string) string {
	m.Helper()
	said, err := m.command(m.Context(), line).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(m, err, &exit, "%s:\n%s", line, said)
	return string(said)
}

// onlyWith restricts PATH to busybox's applets, git, docker, make, go and the given programs.
func (m *machine) onlyWith(programs ...string) {
	m.Helper()
	said, err := exec.Command("go", "-C", repository, "env", "GOROOT").Output()
	require.NoError(m, err)
	m.bin = filepath.Join(m.TempDir(), "bin")
	require.NoError(m, os.Mkdir(m.bin, 0o755))
	busybox, err := exec.LookPath("busybox")
	require.NoError(m, err, "make test-machines installs it")
	applets, err := exec.Command(busybox, "--list").Output()
	require.NoError(m, err)
	for applet := range strings.FieldsSeq(string(applets)) {
		require.NoError(m, os.Symlink(busybox, filepath.Join(m.bin, applet)))
	}
	for _, program := range append([]string{"git", "docker", "make"}, programs...) {
		path, err := exec.LookPath(program)
		require.NoError(m, err)
		m.copy(path, program)
	}
	require.NoError(m, os.Symlink(filepath.Join(strings.TrimSpace(string(said)), "bin/go"), filepath.Join(m.bin, "go")))
	m.own(filepath.Dir(m.bin))
	m.set("PATH", m.bin)
}

// copy copies a program to the folder on PATH, because the user may have no access to the original.
func (m *machine) copy(from, name string) {
	data, err := os.ReadFile(from)
	require.NoError(m, err)
	to := filepath.Join(m.bin, name)
	_ = os.Remove(to) // busybox may have an applet of that name
	require.NoError(m, os.WriteFile(to, data, 0o755))
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(data)
}

// TestUnusualMachine follows the README as an unprivileged user in group docker, with umask 077, a clone with CRLF
// whose path needs quoting, a cache elsewhere, no GNU tools, a go.work above the clone, an old kustomize first on PATH,
// a proxy that must not be used, and a missing credential helper.
func TestUnusualMachine(t *testing.T) {
	m := newMachine(t, "Zoë's R&D | a b", "workspace-user", "docker")
	m.onlyWith("tilt", "ctlptl", "kind", "kubectl")
	m.copy("/bin/false", "kustomize")
	odd := filepath.Dir(m.clone)
	require.NoError(t, os.WriteFile(filepath.Join(odd, "go.work"), []byte("go 1.26\n\nuse ./no-such-folder\n"), 0o644))
	docker := filepath.Join(odd, "docker config")
	require.NoError(t, os.Mkdir(docker, 0o755))
	const nobody = "http://127.0.0.1:9" // nothing listens there
	require.NoError(t, os.WriteFile(filepath.Join(docker, "config.json"), fmt.Appendf(nil,
		`{"credsStore": "not-there", "proxies": {"default": {"httpProxy": %q, "httpsProxy": %[1]q}}}`, nobody), 0o644))
	cache := filepath.Join(odd, "a cache")
	for name, value := range map[string]string{
		"XDG_CACHE_HOME": cache, "DOCKER_CONFIG": docker, "GOFLAGS": "-buildvcs=auto",
		"HTTP_PROXY": nobody, "HTTPS_PROXY": nobody, "NO_PROXY": strings.Join(moduleHosts(m), ","),
		"CLUSTER_NAME": clusterName, "INVOICE_APP_PORT": invoiceApp, "REGISTRY_PORT": registry,
	} {
		m.set(name, value)
	}
	m.own(filepath.Dir(odd))
	destroy := func() {
		command := m.command(context.Background(), "./deploy.sh --destroy")
		said, err := command.CombinedOutput()
		assert.NoError(t, err, "%s", said)
	}
	t.Cleanup(destroy)

	said := m.says("umask 077; ./deploy.sh")
	assert.Contains(t, said, "refers to docker-credential-not-there, which is not on PATH")
	status, list := get(t, "http://localhost:"+invoiceApp+"/invoices")
	require.Equal(t, http.StatusOK, status)
	var invoices []struct{ IsPaid bool }
	require.NoError(t, json.Unmarshal([]byte(list), &invoices))
	require.NotEmpty(t, invoices)
	for _, invoice := range invoices {
		assert.True(t, invoice.IsPaid, "deploying ends with test.sh")
	}

	t.Run("kubeconfigs are private", func(t *testing.T) {
		kubeconfigs, err := filepath.Glob(filepath.Join(m.clone, ".build/kubeconfig", clusterName, "*"))
		require.NoError(t, err)
		require.Len(t, kubeconfigs, 2)
		for _, kubeconfig := range kubeconfigs {
			info, err := os.Stat(kubeconfig)
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
		}
	})
	t.Run("all files belong to the user", func(t *testing.T) {
		require.NoError(t, filepath.WalkDir(odd, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				assert.Equal(t, m.user.Uid, info.Sys().(*syscall.Stat_t).Uid, path)
			}
			return err
		}))
	})
	t.Run("test.sh", func(t *testing.T) {
		assert.Contains(t, m.says("INVOICE_APP_URL=http://localhost:"+invoiceApp+" ./test.sh"), "passed: ")
	})
	t.Run("the node bypasses the proxy inside the cluster", func(t *testing.T) {
		said, err := exec.Command("docker", "exec", clusterName+"-control-plane", "printenv", "NO_PROXY").Output()
		require.NoError(t, err)
		for _, name := range []string{clusterName + "-registry", clusterName + "-control-plane", "localhost"} {
			assert.Contains(t, strings.Split(strings.TrimSpace(string(said)), ","), name)
		}
	})
	t.Run("tilt up's folder was removed", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(m.clone, ".build/live")))
		assert.Contains(t, m.refuses("workspace/run describe --live"), "./deploy.sh to fix this, no data is lost")
		assert.Contains(t, m.says("./deploy.sh"), "restarting the node")
		m.says("workspace/run describe --live")
		_, after := get(t, "http://localhost:"+invoiceApp+"/invoices")
		assert.GreaterOrEqual(t, strings.Count(after, `"IsPaid":true`), len(invoices), "data was lost")
	})
	t.Run("make run", func(t *testing.T) { makeRun(m) })
	t.Run("by hand", func(t *testing.T) {
		// As a user would who prefers ctlptl to deploy.sh: paste doctor's commands and apply the definition.
		m.says("./deploy.sh --destroy")
		var exports []string
		for line := range strings.Lines(m.says("workspace/run doctor")) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "export ") {
				exports = append(exports, line)
			}
		}
		apply := strings.Join(append(exports, "workspace/run describe --ctlptl | ctlptl apply -f -"), "; ")
		m.says(apply)
		made := node(t)
		m.says("./deploy.sh")
		status, _ := get(t, "http://localhost:"+invoiceApp+"/invoices")
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, made, node(t), "deploy.sh must keep the node")
		m.says(apply)
		assert.Equal(t, made, node(t), "ctlptl must keep the node")
	})
}

// node returns the ID of the node's container.
func node(t *testing.T) string {
	t.Helper()
	id, err := exec.Command("docker", "container", "inspect", "--format", "{{.Id}}", clusterName+"-control-plane").Output()
	require.NoError(t, err)
	return string(id)
}

// moduleHosts returns the hosts from which Go downloads modules, which this test's proxy cannot reach.
func moduleHosts(m *machine) (hosts []string) {
	said, err := exec.Command("go", "env", "GOPROXY").Output()
	require.NoError(m, err)
	for address := range strings.FieldsFuncSeq(string(said), func(r rune) bool {
		return strings.ContainsRune(",| \n", r)
	}) {
		_, host, found := strings.Cut(address, "://")
		if found {
			host, _, _ = strings.Cut(host, "/")
			hosts = append(hosts, host)
		}
	}
	return append(hosts, "sum.golang.org", "storage.googleapis.com")
}

// makeRun starts both services with make run, runs test.sh, and stops them.
func makeRun(m *machine) {
	m.Helper()
	ctx, stop := context.WithCancel(m.Context())
	defer stop()
	command := m.command(ctx, "INVOICE_APP_PORT=38083 PAYMENT_PROVIDER_PORT=38084 exec make run")
	var said strings.Builder
	command.Stdout, command.Stderr = &said, &said
	require.NoError(m, command.Start())
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	require.Eventually(m, func() bool {
		response, err := http.Get("http://localhost:38083/invoices")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, 10*time.Minute, 200*time.Millisecond)
	assert.Contains(m, m.says("INVOICE_APP_URL=http://localhost:38083 ./test.sh"), "passed: ")
	stop()
	<-done
	assert.Contains(m, said.String(), "all services are stopped; data/ is kept")
}

func TestUserWithoutAccessToDocker(t *testing.T) {
	m := newMachine(t, "clone", "workspace-nobody")
	for _, line := range []string{"./deploy.sh", "workspace/run doctor"} {
		assert.Contains(t, m.refuses(line), `sudo usermod --append --groups docker "$USER"`)
	}
}

// Help works with a read-only home directory, and with busybox's sh.
func TestHelpWithReadOnlyHome(t *testing.T) {
	m := newMachine(t, "clone", "workspace-reader")
	require.NoError(t, os.Chown(m.home, 0, 0))
	require.NoError(t, os.Chmod(m.home, 0o555))
	for _, line := range []string{
		"./deploy.sh --help", "./test.sh --help", "workspace/run --help", "make help",
		"busybox sh ./deploy.sh --help", "busybox sh ./test.sh --help",
	} {
		assert.Regexp(t, `(?i)usage|make run`, m.says(line), line)
	}
}

// In a clone owned by another user, as in a dev container, git fails, so Go must not need git.
func TestCloneOfAnotherUser(t *testing.T) {
	m := newMachine(t, "clone", "")
	require.NoError(t, filepath.WalkDir(m.clone, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 65534, 65534)
	}))
	m.set("GOFLAGS", "-buildvcs=auto")
	require.Contains(t, m.refuses("git status"), "dubious ownership")
	makeRun(m)
}

func TestOutdatedGo(t *testing.T) {
	m := newMachine(t, "clone", "")
	module := filepath.Join(m.clone, "workspace/go.mod")
	data, err := os.ReadFile(module)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(module, []byte(strings.Replace(string(data), "\ngo 1.", "\ngo 1.9", 1)), 0o644))
	m.set("GOTOOLCHAIN", "local")
	said := m.refuses("./deploy.sh")
	assert.Regexp(t, `requires go >= 1\.9\S+ \(running go 1\.\S+; GOTOOLCHAIN=local\)`, said)
	assert.LessOrEqual(t, strings.Count(said, "\n"), 2, said)
}

func TestDockerIsUnreachable(t *testing.T) {
	m := newMachine(t, "clone", "")
	m.set("DOCKER_HOST", "tcp://127.0.0.1:9")
	assert.Contains(t, m.refuses("./deploy.sh"), "Docker is not responding: ")
}

// A Docker that is reached over TCP works if it can see the clone.
func TestDockerOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				engine, err := net.Dial("unix", "/var/run/docker.sock")
				if err != nil {
					return
				}
				defer engine.Close()
				go func() { _, _ = io.Copy(engine, client) }()
				_, _ = io.Copy(client, engine)
			}()
		}
	}()
	m := newMachine(t, "clone", "")
	m.set("DOCKER_HOST", "tcp://"+listener.Addr().String())
	assert.Regexp(t, `ok +containers +can see the clone`, m.says("workspace/run doctor"))
}
