package privileged

import (
	"bytes"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

const runtimeName = "things-oci-runtime"

func TestMain(m *testing.M) { processtest.Main(m) }

// machine has a fake Docker that rereads its configuration on SIGHUP.
type machine struct {
	engine
	lock       sync.Mutex // protects the fields that the fake Docker reads
	out        *bytes.Buffer
	program    *processtest.Program
	runtime    string // Docker's default
	refuses    string // the error of privileged containers
	containers string // the runtimes of existing containers
	image      bool
}

func newMachine(t *testing.T) *machine {
	folder := filepath.Join(t.TempDir(), "späte & |Rechnungen|")
	m := &machine{out: &bytes.Buffer{}, runtime: "runc", image: true}
	p := paths.Paths{Root: folder + "/clone", Cache: folder + "/cache", Services: services.List{Product: "things"}}
	m.engine = engine{
		console: &process.Console{Out: m.out, Logs: p.Logs(), Every: time.Hour},
		paths:   p, program: folder + "/libexec/" + runtimeName, config: folder + "/etc/daemon.json",
		pid: folder + "/docker.pid",
	}
	// This process acts as Docker.
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(reloads) })
	require.NoError(t, os.MkdirAll(filepath.Dir(m.config), 0o755))
	require.NoError(t, os.WriteFile(m.pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))

	processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
		args := strings.Join(call.Args, " ")
		if _, rest, isBuild := strings.Cut(args, " -o "); isBuild {
			to, _, _ := strings.Cut(rest, "/ ./oci-runtime")
			assert.NoError(t, os.WriteFile(to+"/oci-runtime", []byte("compiled for "+variable(call.Env, "GOARCH")), 0o755))
		}
		return processtest.Answer{}
	})
	m.program = processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
		m.lock.Lock()
		defer m.lock.Unlock()
		switch call.Args[0] {
		case "info":
			select {
			case <-reloads:
				content, err := os.ReadFile(m.config)
				assert.NoError(t, err)
				for _, runtime := range []string{"runc", runtimeName} {
					if strings.Contains(string(content), `"default-runtime": "`+runtime+`"`) {
						m.runtime = runtime
					}
				}
			default:
			}
			return processtest.Answer{Stdout: m.runtime + "\n"}
		case "version":
			return processtest.Answer{Stdout: "s390x\n"}
		case "image":
			if !m.image {
				return processtest.Answer{Stderr: "No such image", Code: 1}
			}
		case "run":
			if m.refuses != "" {
				return processtest.Answer{Stderr: m.refuses + "\n", Code: 126}
			}
		case "ps":
			return processtest.Answer{Stdout: strings.Repeat("id\n", len(strings.Fields(m.containers)))}
		case "inspect":
			return processtest.Answer{Stdout: m.containers}
		}
		return processtest.Answer{}
	})
	return m
}

// set changes the machine.
func (m *machine) set(change func(*machine)) {
	m.lock.Lock()
	defer m.lock.Unlock()
	change(m)
}

func variable(environment []string, name string) (value string) {
	for _, entry := range environment {
		if found, isIt := strings.CutPrefix(entry, name+"="); isIt {
			value = found
		}
	}
	return value
}

func (m *machine) configured(t *testing.T) string {
	content, err := os.ReadFile(m.config)
	require.NoError(t, err)
	return string(content)
}

const refused = "docker: Error response from daemon: runc create failed: unable to apply caps: operation not permitted"

// asRoot reports whether the test runs as root. Otherwise it checks that the error asks for root.
func asRoot(t *testing.T, err error) bool {
	if os.Geteuid() == 0 {
		return true
	}
	assert.ErrorContains(t, err, "changing Docker's configuration needs root:\n  sudo env ")
	return false
}

func TestInstallAndRemove(t *testing.T) {
	for name, before := range map[string]string{
		"no configuration": "", "an empty one": "\n",
		"one with settings": `{"log-level": "warn", "runtimes": {"other": {"path": "/other"}}, "big": 18446744073709551615}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.set(func(m *machine) { m.refuses = refused })
			if before != "" {
				require.NoError(t, os.WriteFile(m.config, []byte(before), 0o600))
			}
			err := m.install(t.Context())
			if !asRoot(t, err) {
				return
			}
			require.NoError(t, err)
			program, err := os.ReadFile(m.engine.program)
			require.NoError(t, err)
			assert.Equal(t, "compiled for s390x", string(program))
			assert.Contains(t, m.out.String(), "To undo both: workspace/run privileged remove")
			var settings struct{ Runtimes map[string]map[string]string }
			require.NoError(t, json.Unmarshal([]byte(m.configured(t)), &settings))
			assert.Equal(t, map[string]string{"path": m.engine.program}, settings.Runtimes[runtimeName])

			calls := len(m.program.Calls())
			require.NoError(t, m.install(t.Context()))
			assert.Len(t, m.program.Calls(), calls+1, "nothing is checked again once it is installed")

			m.set(func(m *machine) { m.containers = "runc\n" + runtimeName + "\n" })
			assert.ErrorContains(t, m.remove(t.Context()), "some containers use the workaround")
			assert.FileExists(t, m.engine.program)
			m.set(func(m *machine) { m.containers = "runc\n" })
			require.NoError(t, m.remove(t.Context()))
			assert.NoFileExists(t, m.engine.program)
			want := before
			if strings.TrimSpace(before) == "" {
				want = "{}"
			} else {
				info, err := os.Stat(m.config)
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
			}
			assert.JSONEq(t, want, m.configured(t))
			require.NoError(t, m.remove(t.Context()), "removing twice")
		})
	}
}

func TestInstallChangesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		set  func(*machine)
		want string
	}{
		"if privileged containers work": {func(*machine) {}, ""},
		"without an image":              {func(m *machine) { m.image = false }, "run workspace/run images first"},
		"if they fail for another reason": {func(m *machine) { m.refuses = "no space left" },
			"failed for an unknown reason"},
		"if Docker has another runtime": {func(m *machine) { m.refuses, m.runtime = refused, "crun" },
			"the default runtime of Docker is crun: the workaround supports only runc"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.set(test.set)
			if err := m.install(t.Context()); test.want == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, test.want)
			}
			assert.NoFileExists(t, m.config)
			assert.NoFileExists(t, m.engine.program)
		})
	}
}

func TestInvalidConfiguration(t *testing.T) {
	m := newMachine(t)
	m.set(func(m *machine) { m.refuses = refused })
	require.NoError(t, os.WriteFile(m.config, []byte("{ // mine\n}"), 0o644))
	err := m.install(t.Context())
	if !asRoot(t, err) {
		return
	}
	assert.ErrorContains(t, err, m.config)
	assert.Equal(t, "{ // mine\n}", m.configured(t))
}

func TestDockerIsOnAnotherMachine(t *testing.T) {
	m := newMachine(t)
	m.set(func(m *machine) { m.refuses = refused })
	require.NoError(t, os.Remove(m.pid))
	err := m.install(t.Context())
	if !asRoot(t, err) {
		return
	}
	assert.ErrorContains(t, err, "cannot reload Docker without its pid file")
	assert.NoFileExists(t, m.config)
}

func TestMissingProgramIsRestored(t *testing.T) {
	m := newMachine(t)
	m.set(func(m *machine) { m.runtime = runtimeName })
	require.NoError(t, os.WriteFile(m.config, []byte(`{"default-runtime": "things-oci-runtime"}`), 0o644))
	err := m.install(t.Context())
	if !asRoot(t, err) {
		return
	}
	require.NoError(t, err)
	assert.FileExists(t, m.engine.program)
}

func TestStatus(t *testing.T) {
	m := newMachine(t)
	said := func() string {
		m.out.Reset()
		require.NoError(t, m.status(t.Context()))
		return m.out.String()
	}
	assert.Equal(t, "not needed: privileged containers work\n", said())
	m.set(func(m *machine) { m.refuses = refused })
	assert.Contains(t, said(), "needed: privileged containers fail")
	m.set(func(m *machine) { m.runtime = runtimeName })
	require.NoError(t, replace(m.engine.program, nil, 0o755))
	assert.Contains(t, said(), "installed: "+m.engine.program)
	m.set(func(m *machine) { m.refuses = "" })
	assert.Contains(t, said(), "installed, but not needed")

	t.Setenv("PATH", t.TempDir())
	assert.EqualError(t, m.status(t.Context()), "no response from Docker: docker is not on PATH")
}
