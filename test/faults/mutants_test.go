package faults

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestMutants breaks the programs on purpose, one way at a time, and expects
// the check that is there for it to notice.
func TestMutants(t *testing.T) {
	server := startServer(t)
	mutants := map[string]struct {
		service   string
		mutation  mutation
		statement string // run in payment-provider's database
		storm     mutantStorm
		caught    rule
	}{
		"no key in the provider's table": {
			statement: `ALTER TABLE payments DROP CONSTRAINT payments_pkey`,
			caught:    atMostOnce,
		},
		"the provider does not compare the amount": {
			service: "payment-provider",
			mutation: mutation{
				"payment-provider/payment/payment.go",
				`case amount == p.Amount:`,
				`case amount == p.Amount || existed:`,
			},
			caught: paidMeansPaid,
		},
		"a batch is marked before it is confirmed": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/invoice/run.go",
				`answers := r.provider.Pay(calling, invoices)`,
				`_ = r.ledger.MarkPaid(calling, claims); answers := r.provider.Pay(calling, invoices)`,
			},
			caught: paidMeansPaid,
		},
		"any answer counts as paid": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/provider/client.go",
				`case takesNothing[v.Status]:`,
				`case true: return nil; case takesNothing[v.Status]:`,
			},
			caught: paidMeansPaid,
		},
		"a short answer counts as paid": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/provider/client.go",
				`answers[n] = fmt.Errorf("status %d without this invoice", status)`,
				`answers[n] = nil`,
			},
			storm:  inBatches,
			caught: paidMeansPaid,
		},
		"a verdict counts for its neighbour": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/provider/client.go",
				`answers[n] = v.on(r.ID)`,
				`v = verdicts[n%len(verdicts)]; answers[n] = v.on(v.ID)`,
			},
			storm:  inBatches,
			caught: paidMeansPaid,
		},
		"what others have claimed is not waited for": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/store/postgres.go",
				"WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1`",
				"WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1 AND claimed_until <= clock_timestamp()`",
			},
			caught: honest200,
		},
		"any refusal is a verdict": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/provider/client.go",
				`case v.Status == http.StatusUnprocessableEntity && v.Code == "payment_mismatch",`,
				`case v.Status >= 400,`,
			},
			caught: onlyVerdicts,
		},
		"anybody's token will do": {
			service: "payment-provider",
			mutation: mutation{
				"internal/identity/verifier.go",
				`refused := v.check(c.Request)`,
				`refused := v.check(c.Request); refused = nil`,
			},
			caught: knownCaller,
		},
		"a claim does not end with its lease": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/store/postgres.go",
				`SET claimed_until = clock_timestamp() + $4, attempts = attempts + 1`,
				`SET claimed_until = clock_timestamp() + $4 + interval '1 hour', attempts = attempts + 1`,
			},
			caught: neverStuck,
		},
		"a transaction may stand still": {
			service: "invoice-app",
			mutation: mutation{
				"internal/database/postgres.go",
				`"idle_in_transaction_session_timeout": "5s",`,
				`"idle_in_transaction_session_timeout": "0",`,
			},
			storm:  calm(lasting{"import frozen", frozenImport}),
			caught: locksFree,
		},
		"an answer has no deadline": {
			service: "invoice-app",
			mutation: mutation{
				"internal/server/exchange.go",
				`case <-x.timer.C:`,
				`case <-make(chan time.Time):`,
			},
			storm:  calm(lasting{"no packets to and from a database", droppedForLong}),
			caught: inTime,
		},
		"an invoice is shown as paid once it is claimed": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/store/postgres.go",
				"getSQL = `SELECT ` + columns + `",
				"getSQL = `SELECT seq, id, amount_minor, currency, paid_at IS NOT NULL OR attempts > 0, coalesce(rejected_reason, '')",
			},
			caught: oneHistory,
		},
		"an invoice is shown as it once was": {
			service: "invoice-app",
			mutation: mutation{
				"invoice-app/store/postgres.go",
				`func (s postgres) Get(ctx context.Context, id string) (i invoice.Invoice, err error) {`,
				`var once = make(chan map[string]invoice.Invoice, 1)
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
			caught: oneHistory,
		},
		"readiness waits for locks": {
			service: "invoice-app",
			mutation: mutation{
				"internal/database/postgres.go",
				`return Postgres(p.probe.Ping(ctx))`,
				`_, err := p.probe.Exec(ctx, "SELECT FROM invoices WHERE paid_at IS NULL FOR UPDATE"); return Postgres(err)`,
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
				broken = m.mutation.build(t, m.service)
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

// mutantStorm is how the storm of a mutant differs from others.
type mutantStorm func(*storm)

// inBatches has faults in batches only.
func inBatches(s *storm) {
	s.faults = 30
	s.injector.single, s.injector.batch = nil, batchFaults
}

// calm has one fault that lasts, and no others.
func calm(fault lasting) mutantStorm {
	return func(s *storm) {
		s.faults = 0
		s.injector.single, s.injector.batch = nil, nil
		s.lasting = [][]lasting{{fault}}
	}
}

// TestMutantsBeside breaks what a test beside the code is there for, and expects
// that test to fail.
func TestMutantsBeside(t *testing.T) {
	mutants := map[string]struct {
		mutation       mutation
		folder, caught string // the test, and where it is
	}{
		"pages of other origins may write": {
			mutation{"internal/server/door.go", `s.crossOrigin.Check(r); err != nil`, `s.crossOrigin.Check(r); err != nil && false`},
			"internal/server", "TestTheDoor",
		},
		"as many requests as there are": {
			mutation{"internal/server/limits.go", `return make(Slots, n)`, `return make(Slots, 1000*n)`},
			"internal/server", "TestSlots",
		},
		"bodies of any size": {
			mutation{"internal/server/body.go", `http.MaxBytesReader(nil, r.Body, accepted.max)`, `r.Body`},
			"internal/server", "TestBodies",
		},
		"the application's role may change amounts": {
			mutation{"invoice-app/store/store.go", `[]string{"paid_at", `, `[]string{"amount_minor", "paid_at", `},
			"invoice-app/store", "TestTheProgramsRoleMayChangeBookkeepingOnly",
		},
		"a wrong value is shown, a password included": {
			mutation{"internal/config/config.go", `if harmless.MatchString(text) {`, `if true {`},
			"internal/config", "TestPasswordsAreNotShown",
		},
		"the breaker never trips": {
			mutation{"invoice-app/invoice/breaker.go", `tripAfter = 8`, `tripAfter = 1 << 30`},
			"invoice-app/invoice", "TestAProviderThatFailsEverythingIsNotFlooded",
		},
		"the cursor never goes back": {
			mutation{"invoice-app/invoice/run.go", `case r.cursor > 0:`, `case false:`},
			"invoice-app/invoice", "TestOneInvoiceHoldsUpItsBatchOnce",
		},
		"a batch is sent although its lease ends": {
			mutation{"invoice-app/invoice/run.go", `if time.Now().After(sendBy) {`, `if false {`},
			"invoice-app/invoice", "TestWhatIsClaimedTooLateIsNotSent",
		},
		"a full server answers no probes": {
			mutation{"internal/server/server.go", `path != "/livez" && path != "/readyz"`, `path != "/metrics"`},
			"internal/server", "TestAFullServer",
		},
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := exec.Command("go", "test", "-race", "-count=1", "-overlay", m.mutation.overlay(t), "-run", "^"+m.caught+"$", "./"+m.folder)
			command.Dir = moduleRoot
			out, err := command.CombinedOutput()
			assert.Error(t, err, "%s passes", command)
			assert.Contains(t, string(out), "--- FAIL: "+m.caught)
		})
	}
}
