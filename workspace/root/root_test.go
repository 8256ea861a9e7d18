package root

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
)

func TestMain(m *testing.M) { processtest.Main(m) }

func put(t *testing.T, endpoint string) {
	processtest.Put(t, "go", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: `{"GOPROXY": "https://proxy.example.com", "GOCACHE": "/home/me/cache"}`}
	})
	processtest.Put(t, "docker", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: endpoint + "\n"}
	})
}

// The printed command passes settings unchanged through the shell and env.
func TestCommandSurvivesTheShell(t *testing.T) {
	put(t, "unix:///run/user/1000/docker.sock")
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755))
	path := bin + ":/usr/bin:/bin:/a folder/of $HOME's & Ümläute"
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("HTTPS_PROXY", "http://user:pass@word's@proxy.example.com:3128")
	t.Setenv("GOCACHE", "/home/me/cache")

	line, err := command(t.Context(), []string{"images", "source"})
	require.NoError(t, err)
	// Run env in place of the program, to print its environment.
	self, err := os.Executable()
	require.NoError(t, err)
	require.Contains(t, line, self+" images source")
	assert.True(t, strings.HasPrefix(line, "sudo env HOME=/root GOWORK=off "), line)
	assert.Contains(t, line, "GOPROXY=https://proxy.example.com")
	assert.NotContains(t, line, "GOCACHE", "root must use its own cache")

	t.Setenv("PATH", path)
	line, err = command(t.Context(), nil) // works without docker and go
	require.NoError(t, err)
	shell := exec.Command("/bin/sh", "-c", strings.Replace(line, self, "env", 1))
	shell.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
	printed, err := shell.CombinedOutput()
	require.NoError(t, err, "%s: %s", line, printed)
	assert.Contains(t, string(printed), "PATH="+path+"\n")
	assert.Contains(t, string(printed), "HTTPS_PROXY=http://user:pass@word's@proxy.example.com:3128\n")
}

func TestDockerHost(t *testing.T) {
	t.Setenv("DOCKER_HOST", "")
	put(t, "unix:///run/user/1000/docker.sock")
	assert.Equal(t, []string{"DOCKER_HOST=unix:///run/user/1000/docker.sock"}, dockerHost(t.Context()))
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	assert.Equal(t, []string{"DOCKER_HOST=tcp://127.0.0.1:1"}, dockerHost(t.Context()))
	t.Setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
	assert.Empty(t, dockerHost(t.Context()))
}

func TestRequire(t *testing.T) {
	put(t, "unix:///var/run/docker.sock")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SUDO_UID", "")
	err := Require(t.Context(), "this", "images", "source")
	if os.Geteuid() != 0 {
		assert.ErrorContains(t, err, "this needs root:\n  sudo env ")
		return
	}
	assert.NoError(t, err)

	// As with sudo -E, where new files in the user's home would belong to root.
	require.NoError(t, os.Chown(home, 4711, 4711))
	t.Setenv("SUDO_UID", "4711")
	assert.ErrorContains(t, Require(t.Context(), "this"), "this would leave files owned by root in "+home)
	t.Setenv("HOME", "/root")
	assert.NoError(t, Require(t.Context(), "this"))
}

func TestBelongsTo(t *testing.T) {
	folder := t.TempDir()
	info, err := os.Stat(folder)
	require.NoError(t, err)
	if info.Sys().(*syscall.Stat_t).Uid == 0 {
		require.NoError(t, os.Chown(folder, 4711, 4711))
		assert.True(t, belongsTo("4711", folder))
	}
	assert.False(t, belongsTo("4712", folder))
	assert.False(t, belongsTo("", folder))
	assert.False(t, belongsTo("0", folder))
	assert.False(t, belongsTo("4711", filepath.Join(folder, "missing")))
}
