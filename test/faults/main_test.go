// Package faults runs the real programs, several of each on a real PostgreSQL,
// through a storm of faults, and then checks that every invoice was paid
// exactly once. It also breaks the programs on purpose, to see that the checks
// would notice.
//
// FAULTS sets how many faults the storm injects, FAULTS_SEED what is drawn. A
// seed repeats the draws; the operating system still has a say in their order.
package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// programs are the paths of the two services' binaries.
type programs struct{ invoiceApp, paymentProvider string }

// inFolder are the programs that were built into folder.
func inFolder(folder string) programs {
	return programs{filepath.Join(folder, "invoice-app"), filepath.Join(folder, "payment-provider")}
}

// unbroken are the programs as they are, built once.
var unbroken programs

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	if err := build(folder, "./invoice-app", "./payment-provider"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	unbroken = inFolder(folder)
	return m.Run()
}

// moduleRoot is where this package's module begins.
const moduleRoot = "../.."

// build builds services into folder, with the race detector.
func build(folder string, args ...string) error {
	command := exec.Command("go", append([]string{"build", "-race", "-o", folder + "/"}, args...)...)
	command.Dir = moduleRoot
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return nil
}

// mutation is a fault in the source of a program: a text that occurs exactly
// once in a file of this module, and what stands there instead.
type mutation struct{ file, old, new string }

// overlay returns the file that makes go build and go test see the mutation.
// The source itself is not touched.
func (m mutation) overlay(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	original, err := filepath.Abs(filepath.Join(moduleRoot, m.file))
	require.NoError(t, err)
	source, err := os.ReadFile(original)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), m.old), "%s must have exactly once:\n%s", m.file, m.old)
	mutated := filepath.Join(folder, "mutated.go")
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	require.NoError(t, err)
	path := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(path, overlay, 0o600))
	return path
}

// build builds the service with the mutation, and returns it with the other one unbroken.
func (m mutation) build(t *testing.T, service string) programs {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, build(folder, "-overlay", m.overlay(t), "./"+service))
	mutants := unbroken
	switch service {
	case "invoice-app":
		mutants.invoiceApp = inFolder(folder).invoiceApp
	case "payment-provider":
		mutants.paymentProvider = inFolder(folder).paymentProvider
	}
	return mutants
}
