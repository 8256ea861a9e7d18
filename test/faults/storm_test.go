package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/podtest"
	"example.com/invoices/internal/postgrestest"
)

const superuser = postgrestest.Superuser

// Settings of the storm: short, so that leases expire and calls time out all the time.
const (
	stormLease   = 3 * time.Second
	stormTimeout = 500 * time.Millisecond
)

var stormEnv = []string{
	"CLAIM_LEASE=" + stormLease.String(),
	"PAYMENT_TIMEOUT=" + stormTimeout.String(),
	"PAY_PATIENCE=2s",
	"PAY_ANSWER=5s",
	"PAY_TIMEOUT=20s",
}

func TestStorm(t *testing.T) {
	seed := fromEnv(t, "FAULTS_SEED", rand.Uint64N(1_000_000))
	faults := int(fromEnv(t, "FAULTS", 1000))
	deployed := inFolder(t.TempDir())
	require.NoError(t, podtest.Build(moduleRoot, filepath.Dir(deployed.invoiceApp), "invoice-app", "payment-provider"))
	c := newCluster(t, startServer(t),
		settings{programs: unbroken, apps: 3, providers: 2, env: stormEnv, inPods: &deployed})
	s := newStorm(c, seed, faults)
	s.databaseStops = true
	s.lasting = lastingFaults
	var err error
	s.pictures, err = os.MkdirTemp("", "histories-") // it is kept if the test fails
	require.NoError(t, err)
	violations := s.run(t)
	if len(violations) == 0 {
		require.NoError(t, os.RemoveAll(s.pictures))
	}
	assert.Empty(t, violations)
	assert.GreaterOrEqual(t, s.injector.injected(), faults)
	kinds := []string{replicaKilled, databaseStopped, snapshotHeld}
	for _, list := range lastingFaults {
		for _, fault := range list {
			kinds = append(kinds, fault.kind)
		}
	}
	for _, fault := range slices.Concat(faultKinds, batchFaults) {
		kinds = append(kinds, fault.kind)
	}
	for _, kind := range slices.AppendSeq(kinds, maps.Keys(clients)) {
		assert.Positive(t, s.injector.count(kind), kind)
	}
	assert.Positive(t, s.proxy.refused.Load(), "no token was refused")
	assert.Positive(t, s.payAlls[http.StatusOK], "no pay-all came to an end")
}

// fromEnv reads an integer.
func fromEnv(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 63)
	require.NoError(t, err, name)
	return n
}

// storm consists of random faults of the network, the processes and the database, while invoices
// arrive and several callers request that they are paid.
type storm struct {
	*cluster
	*historytest.Book
	*historytest.History
	injector      *injector
	pictures      string // folder for the pictures of violations
	seed          uint64
	faults        int           // the storm continues until this many have been injected; 0: nothing is killed
	databaseStops bool          // the database is stopped, too
	lasting       [][]lasting   // the storm continues until each has happened
	bound         time.Duration // of a pay-all after the storm

	serverMu sync.Mutex // held while the database is stopped or frozen
	stopped  spells     // of the database

	inFile   []historytest.Sent // what every import imports
	file     string
	toImport *link // from the imports to the database
	imported sync.Once
	left     sync.WaitGroup // abandoned imports

	countMu sync.Mutex
	payAlls map[int]int // by status; 0: no response
}

// Kinds of faults besides those of lists.
const (
	replicaKilled   = "replica killed and started again"
	databaseStopped = "database stopped hard"
	snapshotHeld    = "old snapshot held"
)

// newStorm returns a storm over c with random numbers from seed.
func newStorm(c *cluster, seed uint64, faults int) *storm {
	s := &storm{cluster: c, seed: seed, faults: faults, bound: enough, payAlls: map[int]int{}}
	s.Book = historytest.NewBook()
	s.History = historytest.NewHistory()
	s.injector = &injector{
		proxy: c.proxy, single: faultKinds, batch: append(slices.Repeat(batchFaults, 4), faultKinds...),
		slow: 2 * stormTimeout, late: 2 * stormLease,
		rand: s.draws(0), counts: map[string]int{},
	}
	return s
}

// draws returns a source of random numbers. Each goroutine has its own, so that their order does
// not depend on the scheduler.
func (s *storm) draws(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

// run runs the storm, ends it, and checks the result.
func (s *storm) run(t *testing.T) []historytest.Violation {
	t.Helper()
	t.Logf("FAULTS_SEED=%d FAULTS=%d", s.seed, s.faults)
	s.proxy.behave(s.injector.answer)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.newImport(t)
	var traffic, standing, rounds sync.WaitGroup
	for n, list := range s.lasting {
		rounds.Add(1)
		round := sync.OnceFunc(rounds.Done)
		standing.Go(func() { s.strikeOn(ctx, list, s.draws(uint64(20+n)), round) })
	}
	for n, kind := range slices.Sorted(maps.Keys(clients)) {
		traffic.Go(func() { s.misbehave(ctx, kind, s.draws(uint64(30+n))) })
	}
	for _, database := range []string{s.invoicing, s.paying} {
		traffic.Go(func() { s.holdSnapshot(ctx, database) })
	}
	traffic.Go(func() { s.watchLocks(ctx) })
	for _, r := range s.replicas() {
		traffic.Go(func() { watchReadiness(ctx, r) })
	}
	traffic.Go(func() { s.addInvoices(ctx) })
	traffic.Go(func() { s.intrude(ctx, s.draws(3)) })
	for n := range 4 {
		traffic.Go(func() { s.callPayAll(ctx, s.draws(uint64(10+n))) })
		traffic.Go(func() { s.read(ctx, s.draws(uint64(40+n))) })
	}
	over := make(chan struct{})
	go func() {
		rounds.Wait()
		close(over)
	}()
	if s.faults > 0 {
		s.disturb(t, over)
	}
	<-over
	cancel()
	standing.Wait()
	s.left.Wait()
	s.killAll(t)
	s.proxy.behave(s.proxy.relay)
	s.waitReady(t)
	traffic.Wait()
	s.payTheRest(t)
	require.Eventually(t, func() bool { return s.proxy.inFlight.Load() == 0 }, enough, 50*time.Millisecond)
	violations, err := s.check(t.Context(), s.Book)
	require.NoError(t, err)
	t.Log(s.report())
	return append(violations, s.History.Check(s.pictures, enough)...)
}

// disturb kills and starts replicas, stops and starts the database, spoils invoice-app's token and
// rotates the keys, until enough faults have been injected, and over is closed. The number of
// faults is its clock, so that a slow machine gets as far between two kills as a fast one.
func (s *storm) disturb(t *testing.T, over chan struct{}) {
	t.Helper()
	const (
		faultsPerKill = 12 // on average
		faultsPerStop = 250
	)
	draw := s.draws(1)
	pause := func(most time.Duration) { time.Sleep(time.Duration(draw.Int64N(int64(most)))) }
	nextStop := faultsPerStop / 2
	for s.injector.injected() < s.faults || !isClosed(over) {
		until := s.injector.injected() + draw.IntN(2*faultsPerKill)
		require.Eventually(t, func() bool { return s.injector.injected() >= until },
			enough, 10*time.Millisecond, "nothing is paid any more")
		pause(100 * time.Millisecond)
		replicas := s.replicas()
		draw.Shuffle(len(replicas), func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
		victims := replicas[:1+draw.IntN(2)]
		for _, victim := range victims {
			victim.kill()
			s.count(replicaKilled)
		}
		if draw.IntN(2) == 0 {
			s.tokens.TokenFile("spoiled")
		}
		pause(500 * time.Millisecond)
		if s.databaseStops && s.injector.injected() >= nextStop {
			nextStop += faultsPerStop
			s.stopDatabase(pause)
		}
		// Tokens signed with the oldest key may be in transit: they are refused, and replaced.
		s.tokens.AddKey()
		s.tokens.TokenFile(s.tokens.Token())
		s.tokens.RemoveKey()
		for _, victim := range victims {
			victim.start(t)
		}
		require.NoError(t, s.checkLeases(t.Context(), stormLease))
	}
}

func (s *storm) stopDatabase(pause func(time.Duration)) {
	s.serverMu.Lock()
	defer s.serverMu.Unlock()
	defer s.cutOffAll()()
	s.server.Kill()
	s.count(databaseStopped)
	pause(2 * time.Second)
	s.server.Run()
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// count counts a fault of a kind.
func (s *storm) count(kind string) { s.injector.add(kind) }

// killAll kills every invoice-app in the middle of its work. The claims must become free without
// them.
func (s *storm) killAll(t *testing.T) {
	for _, app := range s.apps {
		app.kill()
		s.count(replicaKilled)
	}
	require.NoError(t, s.checkLeases(t.Context(), stormLease))
	for _, app := range s.apps {
		app.start(t)
	}
}

// payTheRest calls pay-all on every invoice-app after the storm.
func (s *storm) payTheRest(t *testing.T) {
	var callers sync.WaitGroup
	for _, app := range s.apps {
		callers.Go(func() {
			for deadline := time.Now().Add(s.bound); ; time.Sleep(100 * time.Millisecond) {
				status, text := payAll(t.Context(), app)
				if status == http.StatusOK {
					return
				}
				if time.Now().After(deadline) {
					s.Violate(historytest.NeverStuck, "with no more faults, pay-all answers after %s: %d %s", s.bound, status, text)
					return
				}
			}
		})
	}
	callers.Wait()
}

// intrude requests payments without being invoice-app, until ctx is done.
func (s *storm) intrude(ctx context.Context, draw *rand.Rand) {
	for number := 0; ctx.Err() == nil; number++ {
		time.Sleep(time.Duration(draw.Int64N(int64(300 * time.Millisecond))))
		for name, token := range map[string]string{
			"nobody":          "",
			"a forger":        s.tokens.Forgeries()["another's key of the same name"],
			"another account": s.tokens.Token(func(claims *identitytest.Claims) { claims.Subject = "another" }),
		} {
			body := fmt.Sprintf(`{"id":"intruder-%d","value":1,"currency":"EUR"}`, number)
			status, text := anyOf(s.providers).ask(ctx, token, http.MethodPost, "/payments/pay", body)
			switch status {
			case 0, http.StatusUnauthorized, http.StatusForbidden: // 0: it does not serve
			default:
				s.Violate(knownCaller, "%s is answered %d %s", name, status, text)
			}
		}
	}
}

// callPayAll calls pay-all on random replicas, until ctx is done. Some callers leave early.
func (s *storm) callPayAll(ctx context.Context, draw *rand.Rand) {
	for ctx.Err() == nil {
		patience := enough
		if draw.IntN(4) == 0 {
			patience = time.Duration(draw.Int64N(int64(2 * time.Second)))
		}
		app := s.apps[draw.IntN(len(s.apps))]
		start, snapshot := s.Now(), s.Snapshot()
		call, hangUp := context.WithTimeout(context.WithoutCancel(ctx), patience)
		status, text := payAll(call, app)
		hangUp()
		s.countMu.Lock()
		s.payAlls[status]++
		s.countMu.Unlock()
		s.checkPayAll(status, text)
		if status == http.StatusOK {
			s.checkSettled(context.WithoutCancel(ctx), start, snapshot)
		}
		time.Sleep(time.Duration(draw.Int64N(int64(200 * time.Millisecond))))
	}
}

// checkSettled reads the invoices after a pay-all that began at start has returned 200, and checks
// that those of its snapshot are settled.
func (s *storm) checkSettled(ctx context.Context, start int64, snapshot []historytest.Sent) {
	for _, i := range snapshot {
		s.Did(i.ID, historytest.Settled, start, nil)
	}
	start = s.Now()
	invoices, err := s.list(ctx)
	if err != nil {
		s.Violate(historytest.ClearAnswers, "%v", err)
	}
	for _, i := range snapshot {
		invoice, found := invoices[i.ID]
		if !found { // the list ends before it if a transaction that adds invoices is stuck
			continue
		}
		s.Did(i.ID, historytest.Read, start, invoice.Sees())
		if !invoice.Settled() {
			s.Violate(historytest.Honest200, "%q was not settled", i.ID)
		}
	}
}

// addInvoices sends new invoices to random replicas until ctx is done. It waits while too many are
// unpaid.
func (s *storm) addInvoices(ctx context.Context) {
	const backlog = 300 + importSize
	draw := s.draws(2)
	for number := 0; ctx.Err() == nil; {
		time.Sleep(time.Duration(draw.Int64N(int64(300 * time.Millisecond))))
		if len(s.Snapshot())-len(s.proxy.confirmations()) > backlog {
			continue
		}
		var list []historytest.Sent
		for range 1 + draw.IntN(8) {
			number++
			list = append(list, s.newInvoice(draw, number))
		}
		s.Send(list)
		body, start := historytest.Encode(list, draw), s.Now()
		s.insist("invoice-app", func() (int, []byte) {
			return anyOf(s.apps).ask(context.Background(), "", http.MethodPost, "/invoices", body)
		})
		for _, i := range list {
			s.Did(i.ID, historytest.Add, start, nil)
		}
		s.Accept(list)
	}
}

// insist repeats a request until a replica has accepted it.
func (s *storm) insist(service string, call func() (status int, text []byte)) {
	for deadline := time.Now().Add(enough); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		switch status, text := call(); status {
		case http.StatusOK, http.StatusCreated:
			return
		case 0, http.StatusServiceUnavailable, http.StatusUnauthorized: // the last for a key that was just removed
		default:
			s.Violate(historytest.ClearAnswers, "%s: %d %s", service, status, text)
			return
		}
	}
	s.Violate(historytest.ClearAnswers, "%s takes nothing any more", service)
}

// newInvoice returns a random invoice. A few are already paid at the provider, some of those with
// another amount.
func (s *storm) newInvoice(draw *rand.Rand, number int) historytest.Sent {
	ids := []string{"S%d", "S-%d/ä", `S "%d" 請求`, "s%%20%d"}
	i := historytest.Sent{ID: fmt.Sprintf(ids[draw.IntN(len(ids))], number), Amount: historytest.NewAmount(draw)}
	before := i.Amount
	switch number % 20 {
	case 5:
	case 10:
		before.Number, before.Minor = "1", 1
		i.Mismatched = before.Minor != i.Amount.Minor
	case 15:
		before.Currency, before.Number = "USD", "7.25"
		i.Mismatched = true
	default:
		return i
	}
	body, _ := json.Marshal(map[string]any{"id": i.ID, "value": json.Number(before.Number), "currency": before.Currency})
	start, op := s.Now(), historytest.Prepay
	if i.Mismatched {
		op = historytest.PrepayElse
	}
	s.insist("payment-provider", func() (int, []byte) {
		return anyOf(s.providers).ask(context.Background(), s.tokens.Token(), http.MethodPost, "/payments/pay", string(body))
	})
	s.Did(i.ID, op, start, nil)
	return i
}

// report describes the storm.
func (s *storm) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d invoices, %d faults injected:\n", s.seed, len(s.Snapshot()), s.injector.injected())
	for _, kind := range slices.Sorted(maps.Keys(s.injector.counts)) {
		fmt.Fprintf(&b, "  %5d %s\n", s.injector.counts[kind], kind)
	}
	fmt.Fprintf(&b, "%d calls of invoice-app refused for their token\n", s.proxy.refused.Load())
	fmt.Fprintf(&b, "pay-alls by status (0: cut): %v", s.payAlls)
	return b.String()
}
