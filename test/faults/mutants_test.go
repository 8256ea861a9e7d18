package faults

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/mutation"
)

// TestMutants breaks the programs on purpose, one way at a time, and expects the corresponding
// check to notice.
func TestMutants(t *testing.T) {
	server := startServer(t)
	mutants := map[string]struct {
		service   string
		mutation  mutation.Mutation
		statement string // to run in payment-provider's database
		storm     mutantStorm
		caught    historytest.Rule
	}{
		"no key in the provider's table": {
			statement: `ALTER TABLE payments DROP CONSTRAINT payments_pkey`,
			caught:    historytest.AtMostOnce,
		},
		"the provider does not compare the amount": {
			service: "payment-provider",
			mutation: mutation.Mutation{
				File: "payment-provider/payment/payment.go",
				Old:  `case amount == p.Amount:`,
				New:  `case amount == p.Amount || existed:`,
			},
			caught: historytest.PaidMeansPaid,
		},
		"a batch is marked before it is confirmed": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/invoice/run.go",
				Old:  `answers := r.provider.Pay(calling, invoices)`,
				New:  `_ = r.ledger.MarkPaid(calling, claims); answers := r.provider.Pay(calling, invoices)`,
			},
			caught: historytest.PaidMeansPaid,
		},
		"any answer counts as paid": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/provider/client.go",
				Old:  `case takesNothing[v.Status]:`,
				New:  `case true: return nil; case takesNothing[v.Status]:`,
			},
			caught: historytest.PaidMeansPaid,
		},
		"a short answer counts as paid": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/provider/client.go",
				Old:  `answers[n] = fmt.Errorf("status %d without this invoice", status)`,
				New:  `answers[n] = nil`,
			},
			storm:  inBatches,
			caught: historytest.PaidMeansPaid,
		},
		"a verdict counts for its neighbour": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/provider/client.go",
				Old:  `answers[n] = v.on(r.ID)`,
				New:  `v = verdicts[n%len(verdicts)]; answers[n] = v.on(v.ID)`,
			},
			storm:  inBatches,
			caught: historytest.PaidMeansPaid,
		},
		"what others have claimed is not waited for": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/store/postgres.go",
				Old:  "WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1`",
				New:  "WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1 AND claimed_until <= clock_timestamp()`",
			},
			caught: historytest.Honest200,
		},
		"any refusal is a verdict": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/provider/client.go",
				Old:  `case v.Status == http.StatusUnprocessableEntity && v.Code == "payment_mismatch",`,
				New:  `case v.Status >= 400,`,
			},
			caught: historytest.OnlyVerdicts,
		},
		"anybody's token will do": {
			service: "payment-provider",
			mutation: mutation.Mutation{
				File: "internal/server/callers.go",
				Old:  `refusal := callers.Verify(c.Request)`,
				New:  `refusal := callers.Verify(c.Request); refusal = nil`,
			},
			caught: knownCaller,
		},
		"a claim does not end with its lease": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/store/postgres.go",
				Old:  `SET claimed_until = clock_timestamp() + $4, attempts = attempts + 1`,
				New:  `SET claimed_until = clock_timestamp() + $4 + interval '5 minutes', attempts = attempts + 1`,
			},
			caught: historytest.NeverStuck,
		},
		"a transaction may stand still": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "internal/database/postgres.go",
				Old:  `"idle_in_transaction_session_timeout": "5s",`,
				New:  `"idle_in_transaction_session_timeout": "0",`,
			},
			storm:  calm(lasting{"import frozen", frozenImport}),
			caught: locksFree,
		},
		"an invoice is shown as paid once it is claimed": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/store/postgres.go",
				Old:  "getSQL = `SELECT ` + columns + `",
				New: "getSQL = `SELECT seq, id, amount_minor, currency, " +
					"paid_at IS NOT NULL OR attempts > 0, coalesce(rejected_reason, '')",
			},
			caught: historytest.OneHistory,
		},
		"an invoice is shown as it once was": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "invoice-app/store/postgres.go",
				Old:  `func (s postgres) Get(ctx context.Context, id string) (i invoice.Invoice, err error) {`,
				New: `var once = make(chan map[string]invoice.Invoice, 1)
				func init() { once <- map[string]invoice.Invoice{} }
				func (s postgres) Get(ctx context.Context, id string) (invoice.Invoice, error) {
					kept := <-once
					i, found := kept[id]
					once <- kept
					if found { return i, nil }
					i, err := s.get(ctx, id)
					if err == nil { kept = <-once; kept[id] = i; once <- kept }
					return i, err
				}
				func (s postgres) get(ctx context.Context, id string) (i invoice.Invoice, err error) {`,
			},
			caught: historytest.OneHistory,
		},
		"readiness waits for locks": {
			service: "invoice-app",
			mutation: mutation.Mutation{
				File: "internal/database/postgres.go",
				Old:  `return ClassifyPostgres(p.probe.Ping(ctx))`,
				New: `_, err := p.probe.Exec(ctx, "SELECT FROM invoices WHERE paid_at IS NULL FOR UPDATE"); ` +
					`return ClassifyPostgres(err)`,
			},
			storm:  calm(lasting{"row locked", forgottenLock}),
			caught: staysReady,
		},
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := unbroken
			if m.service != "" {
				broken = mutate(t, m.service, m.mutation)
			}
			c := newCluster(t, server, settings{programs: broken, apps: 2, providers: 2, env: stormEnv})
			if m.statement != "" {
				server.Exec(c.paying, m.statement)
			}
			s := newStorm(c, 1, 100)
			s.pictures = t.TempDir()
			if m.storm != nil {
				m.storm(s)
			}
			if m.caught == historytest.NeverStuck {
				s.bound = 2 * stormLease // so as not to wait for it
			}
			violations := s.run(t)
			assert.Contains(t, violated(violations), m.caught)
			for _, v := range violations[:min(5, len(violations))] {
				t.Log(v)
			}
		})
	}
}

// mutantStorm adapts the storm for a mutant.
type mutantStorm func(*storm)

// inBatches restricts the storm to faults in batches.
func inBatches(s *storm) {
	s.faults = 30
	s.injector.single, s.injector.batch = nil, batchFaults
}

// calm restricts the storm to one lasting fault.
func calm(fault lasting) mutantStorm {
	return func(s *storm) {
		s.faults = 0
		s.injector.single, s.injector.batch = nil, nil
		s.lasting = [][]lasting{{fault}}
	}
}

// TestMutantsBeside breaks code that has a test beside it, and expects that test to fail.
func TestMutantsBeside(t *testing.T) {
	mutants := map[string]struct {
		mutation       mutation.Mutation
		folder, caught string // the test and its folder
	}{
		"a withdrawn currency is not known any more": {
			mutation.Mutation{File: "internal/money/money.go", Old: `old, known := withdrawn[currency]
	return`, New: `old, known := withdrawn[""]
	return`},
			"internal/money", "TestWithdrawnCurrency",
		},
		"a commit without an answer counts as refused": {
			mutation.Mutation{
				File: "internal/database/postgres.go",
				Old:  `case errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR":`,
				New:  `case errors.As(err, &refused), true:`,
			},
			"internal/database", "TestErrors",
		},
		"a list reads the whole table": {
			mutation.Mutation{File: "invoice-app/store/sqlite.go",
				Old: `FROM invoices WHERE seq > ?1 AND `, New: `FROM invoices WHERE seq + 0 > ?1 AND `},
			"invoice-app/store", "TestPlansOfSQLite",
		},
		"pages of other origins may write": {
			mutation.Mutation{File: "internal/server/door.go",
				Old: `s.crossOrigin.Check(r); err != nil`, New: `s.crossOrigin.Check(r); err != nil && false`},
			"internal/server", "TestForeignPagesAreRejected",
		},
		"as many requests as there are": {
			mutation.Mutation{File: "internal/server/limits.go",
				Old: `return make(Slots, n)`, New: `return make(Slots, 1000*n)`},
			"internal/server", "TestSlots",
		},
		"bodies of any size": {
			mutation.Mutation{File: "internal/server/body.go",
				Old: `http.MaxBytesReader(nil, r.Body, accepted.max)`, New: `r.Body`},
			"internal/server", "TestBodies",
		},
		"the application's role may change amounts": {
			mutation.Mutation{File: "invoice-app/store/store.go",
				Old: `[]string{"paid_at", `, New: `[]string{"amount_minor", "paid_at", `},
			"invoice-app/store", "TestServiceRoleCanChangeBookkeepingOnly",
		},
		"a wrong value is shown, a password included": {
			mutation.Mutation{File: "internal/config/config.go", Old: `if harmless.MatchString(text) {`, New: `if true {`},
			"internal/config", "TestPasswordsAreNotShown",
		},
		"the breaker never trips": {
			mutation.Mutation{File: "invoice-app/invoice/breaker.go", Old: `tripAfter = 8`, New: `tripAfter = 1 << 30`},
			"invoice-app/invoice", "TestFailingProviderIsNotFlooded",
		},
		"the cursor never goes back": {
			mutation.Mutation{File: "invoice-app/invoice/run.go", Old: `case r.cursor > 0:`, New: `case false:`},
			"invoice-app/invoice", "TestOneInvoiceHoldsUpItsBatchOnce",
		},
		"a batch is sent although its lease ends": {
			mutation.Mutation{File: "invoice-app/invoice/run.go", Old: `if time.Now().After(sendBy) {`, New: `if false {`},
			"invoice-app/invoice", "TestLateClaimsAreNotSent",
		},
		"an answer has no deadline": {
			mutation.Mutation{File: "internal/server/exchange.go",
				Old: `case <-x.timer.C:`, New: `case <-make(chan time.Time):`},
			"internal/server", "TestHandlerThatDoesNotReturn",
		},
		"a full server answers no probes": {
			mutation.Mutation{File: "internal/server/server.go",
				Old: `path != "/livez" && path != "/readyz"`, New: `path != "/metrics"`},
			"internal/server", "TestFullServer",
		},
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m.mutation.RequireCaught(t, moduleRoot, m.folder, "^"+m.caught+"$")
		})
	}
}
