package simulation

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/mutation"
)

// moduleRoot is the root of this package's module.
const moduleRoot = "../.."

// caughtWithin is the maximum number of schedules until a mutant is caught.
const caughtWithin = "20000"

const (
	runGo      = "invoice-app/invoice/run.go"
	ledgerGo   = "invoice-app/invoice/ledgertest/ledger.go"
	providerGo = "test/simulation/provider_test.go"
	payCall    = `answers := r.provider.Pay(calling, invoices)`
)

// TestMutants breaks the Payer, or a model, on purpose, one way at a time, and expects the
// corresponding rule to be violated soon.
func TestMutants(t *testing.T) {
	for name, m := range map[string]struct {
		mutation.Mutation
		caught rule
	}{
		"a verdict is applied to its neighbour": {
			mutation.Mutation{File: runGo, Old: payCall, New: payCall + `; answers = append(answers[1:], answers[0])`},
			paidMeansPaid,
		},
		"a short answer counts as all paid": {
			mutation.Mutation{
				File: runGo, Old: payCall,
				New: payCall + `; if answers[0] == nil { for n, err := range answers {
					if _, is := errors.AsType[*Rejection](err); !is { answers[n] = nil } } }`,
			},
			paidMeansPaid,
		},
		"a batch is marked before it is confirmed": {
			mutation.Mutation{File: runGo, Old: payCall, New: `_ = r.ledger.MarkPaid(calling, claims); ` + payCall},
			paidMeansPaid,
		},
		"a batch is sent, however late": {
			mutation.Mutation{
				File: "invoice-app/invoice/payer.go",
				Old:  `return (c.Lease - c.Timeout) / 2`, New: `return 100 * c.Lease`,
			},
			sentInTime,
		},
		"what others have claimed is not waited for": {
			mutation.Mutation{
				File: runGo,
				Old:  `if err != nil || count == 0 {`, New: `if err != nil || wait > 0 || count == 0 {`,
			},
			honestNil,
		},
		"a claim ignores the lease": {
			mutation.Mutation{File: ledgerGo, Old: `claimed := `, New: `claimed := false && `},
			oneOwner,
		},
		"a claim does not end with its lease": {
			mutation.Mutation{File: ledgerGo, Old: `now.Add(lease)`, New: `now.Add(lease + 5*time.Minute)`},
			settled,
		},
		"an old claim rejects": {
			mutation.Mutation{File: ledgerGo, Old: `r.Attempt == c.Attempt && !r.Paid`, New: `!r.Paid`},
			onlyVerdicts,
		},
		"an old claim releases": {
			mutation.Mutation{File: ledgerGo, Old: `; r.Attempt == c.Attempt {`, New: `; true {`},
			oneOwner,
		},
		"the provider takes a payment twice": {
			mutation.Mutation{
				File: providerGo, Old: `case there && kept.amount == i.Amount:`,
				New: `case there && kept.amount == i.Amount: b.payments[i.ID] = payment{i.Amount, kept.times + 1}`,
			},
			atMostOnce,
		},
		"a Payer that is closed does not wait": {
			mutation.Mutation{
				File: "invoice-app/invoice/payer.go",
				Old:  "p.working.Wait()", New: "",
			},
			nothingLeft,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mutant := filepath.Join(t.TempDir(), "mutant")
			build := exec.Command("go", "test", "-c", "-overlay", m.Overlay(t, moduleRoot), "-o", mutant, ".")
			out, err := build.CombinedOutput()
			require.NoError(t, err, "%s", out)
			simulation := exec.Command(mutant, "-test.run=^TestSchedules$")
			simulation.Env = append(os.Environ(), "SIMULATE="+caughtWithin)
			out, err = simulation.CombinedOutput()
			require.Error(t, err, "%s", out)
			verdict := regexp.MustCompile(`seed [0-9]+ breaks a rule: .*`).Find(out)
			assert.Contains(t, string(verdict), m.caught)
			t.Logf("%s", verdict)
		})
	}
}
