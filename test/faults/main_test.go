// Package faults runs several replicas of the real programs on a real PostgreSQL through a storm
// of faults, and then checks that every invoice was paid exactly once. It also breaks the programs
// on purpose, to check that the tests would notice.
//
// FAULTS sets the number of faults that the storm injects, and FAULTS_SEED the seed of the random
// numbers. A seed repeats the random numbers, but their order still depends on the operating
// system.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/mutation"
)

// programs are the paths of the two services' binaries.
type programs struct{ invoiceApp, paymentProvider string }

// inFolder returns the programs that were built into folder.
func inFolder(folder string) programs {
	return programs{filepath.Join(folder, "invoice-app"), filepath.Join(folder, "payment-provider")}
}

// unbroken are the unchanged programs, built once.
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

// moduleRoot is the root of this package's module.
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

// mutate builds the service with the mutation, and returns it with the unchanged other one.
func mutate(t *testing.T, service string, m mutation.Mutation) programs {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, build(folder, "-overlay", m.Overlay(t, moduleRoot), "./"+service))
	mutants := unbroken
	switch service {
	case "invoice-app":
		mutants.invoiceApp = inFolder(folder).invoiceApp
	case "payment-provider":
		mutants.paymentProvider = inFolder(folder).paymentProvider
	}
	return mutants
}
