package debian

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
)

func TestMain(m *testing.M) { processtest.Main(m) }

func machine(t *testing.T, root bool) (system, *process.Console, *bytes.Buffer) {
	folder := t.TempDir()
	out := &bytes.Buffer{}
	return system{root: root, policy: filepath.Join(folder, "policy-rc.d"), lock: filepath.Join(folder, "lock")},
		&process.Console{Out: out, Logs: t.TempDir(), Every: time.Hour}, out
}

func apt(args ...string) string { return "-o DPkg::Lock::Timeout=300 " + strings.Join(args, " ") }

var install = apt("install --yes --no-install-recommends the-package")

func TestNeed(t *testing.T) {
	t.Run("installed", func(t *testing.T) {
		aptGet := processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
		s, console, out := machine(t, true)
		require.NoError(t, s.need(t.Context(), console, "sh", []string{"the-package"}))
		assert.Empty(t, aptGet.Calls())
		assert.Empty(t, out.String())
	})

	t.Run("missing, as root", func(t *testing.T) {
		s, console, _ := machine(t, true)
		aptGet := processtest.Put(t, "apt-get", func(call processtest.Call) processtest.Answer {
			policy, err := os.ReadFile(s.policy)
			assert.NoError(t, err, "services must not be started")
			assert.Equal(t, "#!/bin/sh\nexit 101\n", string(policy))
			assert.Contains(t, call.Env, "DEBIAN_FRONTEND=noninteractive")
			return processtest.Answer{}
		})
		require.NoError(t, s.need(t.Context(), console, "no-such-program", []string{"the-package"}))
		assert.Equal(t, []string{install}, aptGet.Calls())
		assert.NoFileExists(t, s.policy)
	})

	t.Run("missing, as another user", func(t *testing.T) {
		aptGet := processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
		s, console, _ := machine(t, false)
		assert.EqualError(t, s.need(t.Context(), console, "no-such-program", []string{"a", "b"}),
			"no-such-program is missing: install it (on Debian: apt-get install a b) and try again")
		assert.Empty(t, aptGet.Calls())
	})

	t.Run("missing, not on Debian", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		s, console, _ := machine(t, true)
		assert.ErrorContains(t, s.need(t.Context(), console, "no-such-program", []string{"a"}), "is missing: install it")
	})

	t.Run("outdated package lists", func(t *testing.T) {
		s, console, _ := machine(t, true)
		updated := false
		aptGet := processtest.Put(t, "apt-get", func(call processtest.Call) processtest.Answer {
			if call.Args[2] == "update" {
				updated = true
			}
			if !updated {
				return processtest.Answer{Stderr: "E: Unable to locate package", Code: 100}
			}
			return processtest.Answer{}
		})
		require.NoError(t, s.need(t.Context(), console, "no-such-program", []string{"the-package"}))
		assert.Equal(t, []string{install, apt("update"), install}, aptGet.Calls())
	})

	t.Run("installation fails", func(t *testing.T) {
		s, console, out := machine(t, true)
		processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer {
			return processtest.Answer{Stderr: "E: no network\n", Code: 100}
		})
		err := s.need(t.Context(), console, "no-such-program", []string{"the-package"})
		assert.ErrorContains(t, err, "installing the-package: failed")
		assert.Contains(t, out.String(), "E: no network")
		assert.NoFileExists(t, s.policy)
	})

	t.Run("an existing policy is kept", func(t *testing.T) {
		s, console, _ := machine(t, true)
		require.NoError(t, os.WriteFile(s.policy, []byte("existing"), 0o600))
		processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
		require.NoError(t, s.need(t.Context(), console, "no-such-program", []string{"the-package"}))
		content, err := os.ReadFile(s.policy)
		require.NoError(t, err)
		assert.Equal(t, "existing", string(content))
	})

	t.Run("interrupted", func(t *testing.T) {
		s, console, _ := machine(t, true)
		ctx, stop := context.WithCancel(t.Context())
		processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer {
			stop()
			return processtest.Answer{Code: 100}
		})
		assert.ErrorIs(t, s.need(ctx, console, "no-such-program", []string{"the-package"}), context.Canceled)
		assert.NoFileExists(t, s.policy)
	})
}

// Two concurrent runs do not remove each other's policy.
func TestTwoAtOnce(t *testing.T) {
	s, console, _ := machine(t, true)
	console.Out = &locked{}
	aptGet := processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer {
		assert.FileExists(t, s.policy)
		return processtest.Answer{}
	})
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { assert.NoError(t, s.need(t.Context(), console, "no-such-program", []string{"the-package"})) })
	}
	both.Wait()
	assert.Equal(t, []string{install, install}, aptGet.Calls())
	assert.NoFileExists(t, s.policy)
}

// locked is a buffer for concurrent use.
type locked struct {
	lock sync.Mutex
	bytes.Buffer
}

func (l *locked) Write(data []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.Buffer.Write(data)
}

func TestInstallOnlyMissingPackages(t *testing.T) {
	query := func(call processtest.Call) processtest.Answer {
		switch call.Args[2] {
		case "there":
			return processtest.Answer{Stdout: "install ok installed"}
		case "removed":
			return processtest.Answer{Stdout: "deinstall ok config-files"}
		}
		return processtest.Answer{Stderr: "no packages found", Code: 1}
	}
	processtest.Put(t, "dpkg-query", query)
	aptGet := processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })

	s, console, _ := machine(t, true)
	require.NoError(t, s.install(t.Context(), console, []string{"there"}))
	assert.Empty(t, aptGet.Calls())
	require.NoError(t, s.install(t.Context(), console, []string{"there", "removed", "new"}))
	assert.Equal(t, []string{apt("install --yes --no-install-recommends removed new")}, aptGet.Calls())

	s.root = false
	assert.EqualError(t, s.install(t.Context(), console, []string{"there", "new"}),
		"missing Debian packages: sudo apt-get install new")
}
