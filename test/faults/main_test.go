// Package faults runs the real programs, several of each on a real PostgreSQL,
// through a storm of faults, and then checks that every invoice was paid
// exactly once. It also breaks the programs on purpose, to see that the checks
// would notice.
//
// FAULTS sets how many faults the storm injects, FAULTS_SEED what is drawn. A
// seed repeats the draws; the operating system still has a say in their order.
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

// mutate builds the service with the mutation, and returns it with the other one unbroken.
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
