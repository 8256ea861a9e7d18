// Package mutation breaks source code on purpose, to check that a test notices.
package mutation

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Mutation is a fault in a source file: Old, which must occur exactly once, is replaced by New.
type Mutation struct{ File, Old, New string }

// Overlay returns a file for go build's -overlay that applies the mutation. The source itself,
// under root, is not changed.
func (m Mutation) Overlay(t *testing.T, root string) string {
	t.Helper()
	folder := t.TempDir()
	original, err := filepath.Abs(filepath.Join(root, m.File))
	require.NoError(t, err)
	source, err := os.ReadFile(original)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), m.Old), "%s must contain exactly once:\n%s", m.File, m.Old)
	mutated := filepath.Join(folder, "mutated.go")
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), m.Old, m.New, 1)), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	require.NoError(t, err)
	file := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	return file
}

// RequireCaught requires the tests in folder that match pattern, as -run takes it,
// to pass, and one of them to fail with the mutation.
func (m Mutation) RequireCaught(t *testing.T, root, folder, pattern string) {
	t.Helper()
	test := func(flags ...string) (string, error) {
		command := exec.Command("go", append(append([]string{"test", "-v", "-run=" + pattern}, flags...), "./"+folder)...)
		command.Dir = root
		output, err := command.CombinedOutput()
		return string(output), err
	}
	output, err := test()
	require.NoError(t, err, "%s", output)
	require.Contains(t, output, "--- PASS", "%s has no test %s", folder, pattern)
	output, err = test("-overlay=" + m.Overlay(t, root))
	require.Error(t, err, "%s passes with the mutation", pattern)
	require.Contains(t, output, "--- FAIL", "the mutation does not compile:\n%s", output)
}
