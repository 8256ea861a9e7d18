package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An image is pulled from a registry, here the cluster's own, carried across an air gap in a file, and does not change.
func TestImagesArePulledAndCarried(t *testing.T) {
	long(t)
	local, pulled := list.Product+"/registry:local", "test/pulled:local"
	remote := registry(t) + "/upstream/registry:1"
	layers := func(image string) string {
		return mustRun(t, command(t, "docker", "image", "inspect", "--format={{.RootFS.Layers}}", image))
	}
	want := layers(local)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", pulled, remote).Run() }) // after t.Context is done
	mustRun(t, command(t, "docker", "tag", local, remote))
	mustRun(t, command(t, "docker", "push", "--quiet", remote))
	mustRun(t, command(t, "docker", "rmi", remote))

	list := filepath.Join(t.TempDir(), "images.txt")
	require.NoError(t, os.WriteFile(list, []byte("# local upstream\n"+pulled+" "+remote+"\n"), 0o600))
	images := func(args ...string) {
		run := command(t, "workspace/run", append([]string{"images"}, args...)...)
		run.Env = append(os.Environ(), "IMAGE_LIST="+list)
		mustRun(t, run)
	}
	images("pull")
	assert.Equal(t, want, layers(pulled))

	file := filepath.Join(t.TempDir(), "images.tar")
	images("export", file)
	mustRun(t, command(t, "docker", "rmi", pulled, remote))
	images("load", file)
	assert.Equal(t, want, layers(pulled))
}
