package faults

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestMutants breaks the programs on purpose, one way at a time, and expects
// the check that is there for it to notice.
func TestMutants(t *testing.T) {
	server := startServer(t)
	mutants := map[string]struct {
		mutation  mutation
		statement string // run in payment-provider's database
		caught    rule
	}{
		"no key in the provider's table": {
			statement: `ALTER TABLE payments DROP CONSTRAINT payments_pkey`,
			caught:    atMostOnce,
		},
		"the provider does not compare the amount": {
			mutation: mutation{
				"payment-provider", "payment-provider/payment/payment.go",
				`if kept.Amount != amount {`,
				`if kept.ID != id {`,
			},
			caught: paidMeansPaid,
		},
		"marked before paid": {
			mutation: mutation{
				"invoice-app", "invoice-app/invoice/payer.go",
				`answer := r.provider.Pay(calling, claim.Invoice)`,
				`_ = r.ledger.MarkPaid(calling, claim.ID); answer := r.provider.Pay(calling, claim.Invoice)`,
			},
			caught: paidMeansPaid,
		},
		"any answer counts as paid": {
			mutation: mutation{
				"invoice-app", "invoice-app/provider/client.go",
				`case unreadable != nil:`,
				`case true: return "paid", nil; case unreadable != nil:`,
			},
			caught: paidMeansPaid,
		},
		"what others have claimed is not waited for": {
			mutation: mutation{
				"invoice-app", "invoice-app/store/postgres.go",
				"WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1`",
				"WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1 AND claimed_until <= clock_timestamp()`",
			},
			caught: honest200,
		},
		"any refusal is a verdict": {
			mutation: mutation{
				"invoice-app", "invoice-app/provider/client.go",
				`case status == http.StatusUnprocessableEntity && answer.Code == "payment_mismatch",`,
				`case status >= 400,`,
			},
			caught: onlyVerdicts,
		},
		"anybody's token will do": {
			mutation: mutation{
				"payment-provider", "internal/identity/verifier.go",
				`refused := v.check(c.Request)`,
				`refused := v.check(c.Request); refused = nil`,
			},
			caught: knownCaller,
		},
		"a claim does not end with its lease": {
			mutation: mutation{
				"invoice-app", "invoice-app/store/postgres.go",
				`SET claimed_until = clock_timestamp() + $4, attempts = attempts + 1`,
				`SET claimed_until = clock_timestamp() + $4 + interval '1 hour', attempts = attempts + 1`,
			},
			caught: neverStuck,
		},
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := unbroken
			if m.mutation.service != "" {
				broken = m.mutation.build(t)
			}
			c := newCluster(t, server, settings{programs: broken, apps: 2, providers: 2, env: stormEnv})
			if m.statement != "" {
				server.Exec(c.paying, m.statement)
			}
			s := newStorm(c, 1, 100)
			if m.caught == neverStuck {
				s.bound = 2 * stormLease // it is not to be waited for
			}
			violations := s.run(t)
			assert.Contains(t, violated(violations), m.caught)
			for _, v := range violations[:min(5, len(violations))] {
				t.Log(v)
			}
		})
	}
}
