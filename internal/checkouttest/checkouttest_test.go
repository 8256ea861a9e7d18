package checkouttest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClone(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), mode))
	}
	require.NoError(t, exec.Command("git", "init", "--quiet", root).Run())
	write(".gitignore", "/out/\n", 0o644)
	write("new file", "not added\n", 0o644)
	write("sub/tracked", "as committed\n", 0o755)
	write("deleted", "", 0o644)
	write("out/program", "", 0o755)
	require.NoError(t, exec.Command("git", "-C", root, "add", "sub", "deleted").Run())
	require.NoError(t, os.Remove(filepath.Join(root, "deleted")))
	write("sub/tracked", "as edited\n", 0o755)

	files, err := Files(root)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{".gitignore", "new file", "sub/tracked"}, files)
	files, err = Files(root, "sub", "out")
	require.NoError(t, err)
	assert.Equal(t, []string{"sub/tracked"}, files)

	origin, clone := filepath.Join(t.TempDir(), "origin"), filepath.Join(t.TempDir(), "clone")
	require.NoError(t, Clone(root, origin, clone))
	content, err := os.ReadFile(filepath.Join(clone, "sub/tracked"))
	require.NoError(t, err)
	assert.Equal(t, "as edited\r\n", string(content))
	info, err := os.Stat(filepath.Join(origin, "sub/tracked"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode())

	require.NoError(t, os.Symlink("sub", filepath.Join(root, "link")))
	assert.ErrorContains(t, Copy(root, t.TempDir()), "link is not a regular file")
}

// .gitattributes gives every file the same bytes on every machine: with CRLF a script does not start, a ConfigMap
// changes, and a checksum does not match.
func TestLineEndingsOfThisCheckout(t *testing.T) {
	const root = "../.."
	files, err := Files(root)
	require.NoError(t, err)
	require.Greater(t, len(files), 100)
	origin, clone := filepath.Join(t.TempDir(), "origin"), filepath.Join(t.TempDir(), "clone")
	require.NoError(t, Clone(root, origin, clone))
	for _, file := range files {
		here, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		there, err := os.ReadFile(filepath.Join(clone, file))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(here, there), "%s differs in a clone with core.autocrlf=true", file)
	}
}

// Git ignores what developers' tools leave behind, and no package, whatever its name.
func TestLeftovers(t *testing.T) {
	ignored := func(path string) bool {
		check := exec.Command("git", "-C", "../..", "check-ignore", "--quiet", "--no-index", path)
		err := check.Run()
		require.Less(t, check.ProcessState.ExitCode(), 2, "%v", err)
		return err == nil
	}
	patterns, err := os.ReadFile("../../.gitignore")
	require.NoError(t, err)
	for pattern := range strings.Lines(string(patterns)) {
		folder := strings.Trim(pattern, "/\n")
		if strings.HasSuffix(pattern, "/\n") && !strings.HasPrefix(folder, ".") { // Go ignores other folders, too
			assert.False(t, ignored("internal/"+folder+"/a.go"), pattern)
		}
	}
	for _, path := range []string{
		"data/invoice-app.db", "invoice-app/data/invoice-app.db", "invoice-app/data/invoice-app.db-wal", // make run, go run .
		"invoice-app/api/api.test", "invoice-app/api/__debug_bin123", "internal/money/cover.out", "cpu.prof",
		"go_live/.build/build", "invoice-app/.env", "tilt_config.json", "Tiltfile.local",
	} {
		assert.True(t, ignored(path), path)
	}
}
