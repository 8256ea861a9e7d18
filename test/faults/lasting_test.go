package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/internal/server"
)

// lasting is a kind of fault that freezes or holds something for a while.
type lasting struct {
	kind string
	strike
}

// strike causes the fault once, and ends early with ctx. It returns false if there was no
// opportunity.
type strike func(ctx context.Context, s *storm, draw *rand.Rand) bool

// outlast is the duration of a fault that must outlast every deadline.
const outlast = server.AnswerTimeout + 2*time.Second

// lastingFaults are those of the storm. Each list has its own goroutine, so that faults of
// different lists coincide.
var lastingFaults = [][]lasting{
	{
		{"replica frozen and resumed", frozenReplica(stormTimeout, stormLease)},
		{"replica frozen for longer than its claims", frozenReplica(stormLease, 2*stormLease)},
		{"no packets to a database", droppedDatabase(there)},
		{"no packets from a database", droppedDatabase(back)},
		{"no packets to and from a database, for long", droppedForLong},
		{"no packets to payment-provider", droppedProvider(there)},
		{"no packets from payment-provider", droppedProvider(back)},
		{"no packets to and from payment-provider", droppedProvider(there, back)},
	},
	{
		{"import", importing(nil)},
		{"import frozen in its transaction, and resumed", importing(resume)},
		{"import frozen in its transaction, and left", importing(leave)},
		{"import killed in its transaction", importing(kill)},
		{"connection lost before a commit", lostCommit(lost)},
		{"connection lost behind a commit", lostCommit(lostBehind)},
		{"row locked by a forgotten session", forgottenLock},
	},
	{
		{"database frozen", frozenDatabase},
	},
}

// strikeOn causes the faults of a list, in random order, again and again until ctx is done. It
// calls round when each has happened once.
func (s *storm) strikeOn(ctx context.Context, list []lasting, draw *rand.Rand, round func()) {
	sleep(ctx, 2*time.Second) // so that it strikes calls in progress
	for ctx.Err() == nil {
		for _, n := range draw.Perm(len(list)) {
			for ctx.Err() == nil && !list[n].strike(ctx, s, draw) {
				sleep(ctx, 100*time.Millisecond)
			}
			if ctx.Err() == nil {
				s.count(list[n].kind)
			}
			sleep(ctx, between(draw, 0, time.Second))
		}
		round()
		const faultsPerRound = 400
		for until := s.injector.injected() + faultsPerRound; s.injector.injected() < until && ctx.Err() == nil; {
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// sleep waits unless ctx is done.
func sleep(ctx context.Context, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// between returns a random duration.
func between(draw *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(draw.Int64N(int64(most-least)))
}

func frozenReplica(least, most time.Duration) strike {
	return func(ctx context.Context, s *storm, draw *rand.Rand) bool {
		replicas := s.replicas()
		thaw, ok := replicas[draw.IntN(len(replicas))].freeze()
		if ok {
			sleep(ctx, between(draw, least, most))
			thaw()
		}
		return ok
	}
}

func droppedDatabase(directions ...direction) strike {
	return func(ctx context.Context, s *storm, draw *rand.Rand) bool {
		replicas := s.replicas()
		s.dropDatabase(ctx, replicas[draw.IntN(len(replicas))], between(draw, stormTimeout, 3*stormLease), directions...)
		return true
	}
}

// droppedForLong cuts off an invoice-app for longer than any response may take.
func droppedForLong(ctx context.Context, s *storm, draw *rand.Rand) bool {
	s.dropDatabase(ctx, s.apps[draw.IntN(len(s.apps))], outlast, there, back)
	return true
}

func (s *storm) dropDatabase(ctx context.Context, r *replica, lasts time.Duration, directions ...direction) {
	defer r.cutOff.begin()()
	defer r.database.drop(directions...)()
	sleep(ctx, lasts)
}

func droppedProvider(directions ...direction) strike {
	return func(ctx context.Context, s *storm, draw *rand.Rand) bool {
		defer s.toProvider[draw.IntN(len(s.toProvider))].drop(directions...)()
		sleep(ctx, between(draw, stormTimeout, stormLease))
		return true
	}
}

// frozenDatabase freezes PostgreSQL for longer than a request waits for it.
func frozenDatabase(ctx context.Context, s *storm, draw *rand.Rand) bool {
	s.serverMu.Lock()
	defer s.serverMu.Unlock()
	defer s.cutOffAll()()
	s.server.Freeze()
	sleep(ctx, between(draw, 26*time.Second, 28*time.Second))
	s.server.Thaw()
	return true
}

// cutOffAll records that no replica can reach its database until over.
func (s *storm) cutOffAll() (over func()) {
	ends := []func(){s.stopped.begin()}
	for _, r := range s.replicas() {
		ends = append(ends, r.cutOff.begin())
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// Texts of PostgreSQL's protocol within a transaction.
const (
	commit  = "Q\x00\x00\x00\x0bcommit\x00"
	lastDid = "setval('invoices_seq_seq'" // the last statement of an import before its commit
)

// lostCommit drops the connection on which an invoice-app commits while it adds a list: with the
// commit, or right after it.
func lostCommit(how fate) strike {
	return func(ctx context.Context, s *storm, draw *rand.Rand) bool {
		app, seen := s.apps[draw.IntN(len(s.apps))], make(chan struct{})
		app.database.at(commit, func() fate {
			close(seen)
			return how
		})
		select {
		case <-seen:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// forgottenLock locks an unpaid invoice, in both databases, like somebody who leaves psql open.
func forgottenLock(ctx context.Context, s *storm, draw *rand.Rand) bool {
	var id string
	invoicing, err := pgx.Connect(ctx, s.server.URL(superuser, s.invoicing))
	if err != nil {
		return false // the database is stopped
	}
	defer invoicing.Close(context.WithoutCancel(ctx))
	paying, err := pgx.Connect(ctx, s.server.URL(superuser, s.paying))
	if err != nil {
		return false
	}
	defer paying.Close(context.WithoutCancel(ctx))
	_, err = invoicing.Exec(ctx, `BEGIN`)
	if err == nil {
		err = invoicing.QueryRow(ctx, `SELECT id FROM invoices WHERE paid_at IS NULL AND rejected_reason IS NULL
			ORDER BY seq DESC LIMIT 1 FOR UPDATE`).Scan(&id)
	}
	if err == nil {
		_, err = paying.Exec(ctx, `BEGIN`)
	}
	if err == nil {
		_, err = paying.Exec(ctx, `INSERT INTO payments (id, amount_minor, currency) VALUES ($1, 1, 'EUR')`, id)
	}
	if err != nil {
		return false
	}
	sleep(ctx, between(draw, 10*time.Second, 14*time.Second))
	return true // which ends the sessions
}

// importSize is more than invoice-app adds in one go, so that the list is staged.
const importSize = 1100

// newImport creates the invoices of all imports, and a file with them.
func (s *storm) newImport(t *testing.T) {
	t.Helper()
	var text strings.Builder
	text.WriteString("InvoiceId,Value,Currency\n")
	draw := s.draws(4)
	for n := range importSize {
		i := historytest.Sent{ID: fmt.Sprintf("import-%d", n), Amount: historytest.NewAmount(draw)}
		s.inFile = append(s.inFile, i)
		fmt.Fprintf(&text, "%s,%s,%s\n", i.ID, i.Amount.Number, i.Amount.Currency)
	}
	s.Send(s.inFile)
	s.file = filepath.Join(t.TempDir(), "invoices.csv")
	require.NoError(t, os.WriteFile(s.file, []byte(text.String()), 0o600))
	s.toImport = newLink(t, s.server.Address())
}

// importer is the process of an import. It ends with ctx, even if it is frozen.
func (s *storm) importer(ctx context.Context) *exec.Cmd {
	c := exec.CommandContext(ctx, s.apps[len(s.apps)-1].binary, "import", s.file)
	c.Dir = s.apps[0].folder
	c.Env = []string{"DATABASE_URL=" + postgrestest.URL(s.toImport.address(), "application", s.invoicing)}
	return c
}

// importing runs an import, lets accident happen to it when it is about to commit unless that is
// nil, and then repeats the import until it has succeeded.
func importing(accident func(context.Context, *os.Process, *rand.Rand)) strike {
	return func(ctx context.Context, s *storm, draw *rand.Rand) bool {
		if accident != nil && !s.importTo(ctx, func(p *os.Process) { accident(ctx, p, draw) }) {
			return false
		}
		bounded, cancel := context.WithTimeout(ctx, enough)
		defer cancel()
		for {
			out, err := s.importer(bounded).CombinedOutput()
			switch {
			case err == nil:
				s.imported.Do(func() {
					for _, i := range s.inFile {
						s.Did(i.ID, historytest.Add, 0, nil)
					}
					s.Accept(s.inFile)
				})
				return true
			case ctx.Err() != nil:
				return false
			case bounded.Err() != nil:
				s.Violate(locksFree, "an import does not succeed: %v: %s", err, out)
				return true
			}
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// importTo runs an import up to its commit, pauses it there, and calls then. It returns false if
// the import ended before.
func (s *storm) importTo(ctx context.Context, then func(*os.Process)) bool {
	command, stopped := s.importer(ctx), make(chan struct{})
	if err := command.Start(); err != nil {
		s.Violate(soundProcess, "an import does not start: %v", err)
		return true
	}
	s.toImport.at(lastDid, func() fate {
		_ = command.Process.Signal(syscall.SIGSTOP)
		close(stopped)
		return passes
	})
	ended := make(chan struct{})
	s.left.Go(func() {
		_ = command.Wait() // whatever its result, the next import must succeed
		close(ended)
	})
	select {
	case <-stopped:
		then(command.Process)
		return true
	case <-ended:
		return false
	}
}

// frozenImport freezes an import in its transaction for longer than the server tolerates.
func frozenImport(ctx context.Context, s *storm, _ *rand.Rand) bool {
	return s.importTo(ctx, func(*os.Process) { sleep(ctx, longestIdle+stubborn+late/2) })
}

func leave(context.Context, *os.Process, *rand.Rand) {}

func kill(_ context.Context, p *os.Process, _ *rand.Rand) { _ = p.Kill() }

func resume(ctx context.Context, p *os.Process, draw *rand.Rand) {
	sleep(ctx, between(draw, stormTimeout, 3*stormLease))
	_ = p.Signal(syscall.SIGCONT)
}
