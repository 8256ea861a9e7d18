package images

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/processtest"
)

// recipes returns a builder for two images. The recipe of the second one ends with the given line of shell.
func recipes(t *testing.T, d *engine, last string) (builder, *processtest.Program) {
	images, program, _ := open(t, "kind", d)
	for name, end := range map[string]string{"one": "", "two": last} {
		files(t, images.paths.Root+"/offline", map[string]string{
			name + "/debian": "#!/bin/sh\nset -eu\nmkdir -p \"$1\"\necho unpacking\necho " + name + " >\"$1/file\"\n" +
				end + "\n",
			name + "/Dockerfile": "FROM " + name,
			"debian.sh":          "",
		})
	}
	images.list = []image{{tag: "things/one:local", upstream: "x/y"}, {tag: "things/two:local", upstream: "x/z"}}
	folder := filepath.Join(t.TempDir(), "späte & |Rechnungen|")
	require.NoError(t, os.Mkdir(folder, 0o755))
	return builder{Images: images, compiler: compile.Compiler{}, folder: folder}, program
}

func TestBuild(t *testing.T) {
	d := &engine{}
	b, docker := recipes(t, d, "")
	var imported []string
	require.NoError(t, b.fromPackages(t.Context(), b.list))
	for _, call := range docker.Calls() {
		if strings.HasPrefix(call, "import ") {
			imported = append(imported, call)
		}
	}
	assert.Equal(t, []string{"import - things/one:root-file-system", "import - things/two:root-file-system"}, imported)
	missing, err := b.missing(t.Context(), b.list, built)
	require.NoError(t, err)
	assert.Empty(t, missing)
	log, err := os.ReadFile(b.console.Logs + "/one-debian.log")
	require.NoError(t, err)
	assert.Contains(t, string(log), "unpacking\n")

	// After a change to its recipe an image is outdated.
	files(t, b.paths.Root+"/offline", map[string]string{"two/debian": "#!/bin/sh\n"})
	missing, err = b.missing(t.Context(), b.list, built)
	require.NoError(t, err)
	require.Len(t, missing, 1)
	assert.Equal(t, "things/two:local", missing[0].tag)
}

func TestFailingRecipe(t *testing.T) {
	d := &engine{}
	b, _ := recipes(t, d, "echo no space left >&2; exit 3")
	err := b.fromPackages(t.Context(), b.list)
	assert.ErrorContains(t, err, "things/two:local: installing Debian packages: failed: exit status 3")
	assert.Contains(t, d.labels, "things/one:local")
	assert.NotContains(t, d.labels, "things/two:local")
	log, err := os.ReadFile(b.console.Logs + "/two-debian.log")
	require.NoError(t, err)
	assert.Contains(t, string(log), "no space left")
}

func TestBuildInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	d := &engine{}
	b, _ := recipes(t, d, `echo $$ >"$1/pid"; sleep 600`)
	go func() {
		defer stop()
		for t.Context().Err() == nil {
			if content, err := os.ReadFile(filepath.Join(b.folder, "two/pid")); err == nil && len(content) > 0 {
				return
			}
		}
	}()
	assert.ErrorIs(t, b.fromPackages(ctx, b.list), context.Canceled)
	pid, err := os.ReadFile(filepath.Join(b.folder, "two/pid"))
	require.NoError(t, err)
	assert.Error(t, exec.Command("kill", "-0", strings.TrimSpace(string(pid))).Run(), "the recipe is still running")
	assert.NotContains(t, d.labels, "things/two:local")
}

// A replaced image is removed, unless the new one is identical.
func TestReplacedImageIsRemoved(t *testing.T) {
	d := &engine{labels: map[string]string{"things/one:local": "old"}}
	b, docker := recipes(t, d, "")
	require.NoError(t, b.fromPackages(t.Context(), b.list[:1]))
	var removed []string
	for _, call := range docker.Calls() {
		if name, isRemoval := strings.CutPrefix(call, "rmi "); isRemoval {
			removed = append(removed, name)
		}
	}
	assert.Equal(t, []string{"things/one:root-file-system"}, removed)
}

func TestBuildingNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 { // root is refused only with another user's home, as with sudo -E
		home := t.TempDir()
		require.NoError(t, os.Chown(home, 4711, 4711))
		t.Setenv("HOME", home)
		t.Setenv("SUDO_UID", "4711")
	}
	processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	b, docker := recipes(t, &engine{arch: runtime.GOARCH}, "")
	err := b.Fill(t.Context(), "source")
	assert.ErrorContains(t, err, "images source --product kind\nor pull them")
	for _, call := range docker.Calls() {
		assert.NotContains(t, call, "import")
	}
}
