package paths

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHash(t *testing.T) {
	write := func(root, name, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	hash := func(root string, names ...string) string {
		t.Helper()
		all, err := Paths{Root: root}.Hash(names...)
		require.NoError(t, err)
		assert.Len(t, all, 16)
		return all
	}
	here, there := t.TempDir(), filepath.Join(t.TempDir(), "a clone, elsewhere & späťer")
	for _, root := range []string{here, there} {
		write(root, "folder/a", "1")
		write(root, "folder/b/c", "2")
		write(root, "other", "3")
	}
	before := hash(here, "folder", "other")
	assert.Equal(t, before, hash(there, "folder", "other"), "the hash must not depend on the clone's path")
	assert.NotEqual(t, before, hash(here, "folder"))

	write(there, "folder/b/c", "another")
	assert.NotEqual(t, before, hash(there, "folder", "other"), "a file was changed")
	write(there, "folder/b/c", "2")
	require.NoError(t, os.Rename(filepath.Join(there, "folder/a"), filepath.Join(there, "folder/z")))
	assert.NotEqual(t, before, hash(there, "folder", "other"), "a file was renamed")

	_, err := Paths{Root: here}.Hash("folder", "missing")
	assert.ErrorIs(t, err, os.ErrNotExist)
}
