package ledgertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

// Store is the part of an invoice.Store that Test needs.
type Store interface {
	invoice.Ledger
	Get(ctx context.Context, id string) (invoice.Invoice, error)
	Retry(ctx context.Context, id string) error
	RetryAll(ctx context.Context, after int64, limit int) (freed int, last int64, err error)
}

const (
	all      = 1 << 62 // as a Seq: every invoice
	patience = time.Minute
)

// Test checks that the ledgers that open returns conform to invoice.Ledger and invoice.Store. open
// returns a new ledger with these invoices.
func Test(t *testing.T, open func(t *testing.T, invoices []invoice.Invoice) Store) {
	openWith := func(t *testing.T, ids ...string) store {
		t.Helper()
		invoices := make([]invoice.Invoice, len(ids))
		for n, id := range ids {
			invoices[n] = invoice.Invoice{ID: id, Amount: money.Amount{Minor: int64(n + 1), Currency: "EUR"}}
		}
		return store{open(t, invoices)}
	}
	for name, test := range map[string]func(t *testing.T, open func(*testing.T, ...string) store){
		"claims exclude each other until the lease ends": claimsExcludeEachOther,
		"a claim does not outlive its clock":             claimDoesNotOutliveItsClock,
		"claims stay within the snapshot":                claimsStayWithinTheSnapshot,
		"claims go on behind a cursor":                   claimsGoOnBehindACursor,
		"each invoice goes to one of many":               eachGoesToOneOfMany,
		"paid":                                           paid,
		"release":                                        release,
		"reject and retry":                               rejectAndRetry,
		"retry all":                                      retryAll,
		"a payment overrules a rejection, and never the other way": paymentOverrulesRejection,
		"of many at once, each has its own outcome":                eachHasItsOwnOutcome,
	} {
		t.Run(name, func(t *testing.T) { test(t, openWith) })
	}
}

type store struct{ Store }

func (s store) claim(t *testing.T, after, through int64, limit int, lease time.Duration) []invoice.Claim {
	t.Helper()
	claims, err := s.Claim(t.Context(), after, through, limit, lease)
	require.NoError(t, err)
	return claims
}

func (s store) claimOne(t *testing.T, lease time.Duration) invoice.Claim {
	t.Helper()
	claims := s.claim(t, 0, all, 1, lease)
	require.Len(t, claims, 1)
	return claims[0]
}

func (s store) get(t *testing.T, id string) invoice.Invoice {
	t.Helper()
	i, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	return i
}

// markPaid marks an invoice paid, whether it is claimed or not.
func (s store) markPaid(t *testing.T, id string) {
	t.Helper()
	require.NoError(t, s.MarkPaid(t.Context(), []invoice.Claim{{Invoice: s.get(t, id)}}))
}

func (s store) requireUnsettled(t *testing.T, want int) (wait time.Duration) {
	t.Helper()
	count, wait, err := s.Unsettled(t.Context(), all)
	require.NoError(t, err)
	require.Equal(t, want, count)
	return wait
}

func claimsExcludeEachOther(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b")
	first := s.claimOne(t, time.Millisecond)
	assert.Equal(t, "a", first.ID)
	assert.Equal(t, 1, first.Attempt)
	assert.LessOrEqual(t, s.requireUnsettled(t, 2), time.Millisecond, "claimed is not settled")
	var again []invoice.Claim
	require.Eventually(t, func() bool {
		again = s.claim(t, 0, first.Seq, 1, invoice.MaxLease)
		return len(again) > 0
	}, patience, time.Millisecond)
	assert.Equal(t, "a", again[0].ID)
	assert.Equal(t, 2, again[0].Attempt)
	assert.Equal(t, "b", s.claimOne(t, invoice.MaxLease).ID)
	none := s.claim(t, 0, all, 5, invoice.MaxLease)
	assert.Empty(t, none)
	assert.Greater(t, s.requireUnsettled(t, 2), 5*time.Minute)
}

// A claim that ends in more than MaxLease was made when the clock was ahead.
func claimDoesNotOutliveItsClock(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b")
	ahead := s.claim(t, 0, all, 2, 24*time.Hour+invoice.MaxLease)
	require.Len(t, ahead, 2)
	claim := s.claimOne(t, invoice.MaxLease)
	assert.Equal(t, "a", claim.ID)
	assert.Equal(t, 2, claim.Attempt)
	assert.Equal(t, "b", s.claimOne(t, invoice.MaxLease).ID)
	none := s.claim(t, 0, all, 5, invoice.MaxLease)
	assert.Empty(t, none, "claimed by a clock that is right")
	require.NoError(t, s.MarkPaid(t.Context(), ahead[:1]))
	assert.True(t, s.get(t, "a").Paid, "a payment counts, whatever the clock said")
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: ahead[1], Reason: "no"}}))
	assert.Empty(t, s.get(t, "b").Rejected, "somebody else has it")
}

func claimsStayWithinTheSnapshot(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b")
	last := s.get(t, "a").Seq
	claims := s.claim(t, 0, last, 5, invoice.MaxLease)
	require.Len(t, claims, 1)
	assert.Equal(t, "a", claims[0].ID)
	count, _, err := s.Unsettled(t.Context(), last)
	require.NoError(t, err)
	assert.Equal(t, 1, count)
	last, err = s.LastSeq(t.Context())
	require.NoError(t, err)
	assert.Equal(t, s.get(t, "b").Seq, last)
}

func claimsGoOnBehindACursor(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b", "c")
	first := s.claim(t, 0, all, 1, invoice.MaxLease)
	require.Len(t, first, 1)
	assert.Equal(t, "a", first[0].ID, "the lowest Seq first")
	require.NoError(t, s.Release(t.Context(), []invoice.Released{{Claim: first[0]}}))
	second := s.claim(t, first[0].Seq, all, 1, invoice.MaxLease)
	require.Len(t, second, 1)
	assert.Equal(t, "b", second[0].ID, "a is free, and before the cursor")
	none := s.claim(t, all, all, 1, invoice.MaxLease)
	assert.Empty(t, none)
}

func eachGoesToOneOfMany(t *testing.T, open func(*testing.T, ...string) store) {
	var ids []string
	for n := range 60 {
		ids = append(ids, fmt.Sprint(n))
	}
	s := open(t, ids...)
	var mu sync.Mutex
	seen := map[string]int{}
	var claimers sync.WaitGroup
	for range 8 {
		claimers.Go(func() {
			for {
				claims, err := s.Claim(context.Background(), 0, all, 3, invoice.MaxLease)
				if !assert.NoError(t, err) || len(claims) == 0 {
					return
				}
				mu.Lock()
				for _, c := range claims {
					seen[c.ID]++
				}
				mu.Unlock()
			}
		})
	}
	claimers.Wait()
	// SKIP LOCKED may end a claimer early, so the rest is claimed here.
	rest := s.claim(t, 0, all, 60, invoice.MaxLease)
	for _, c := range rest {
		seen[c.ID]++
	}
	assert.Len(t, seen, 60)
	for id, times := range seen {
		assert.Equal(t, 1, times, id)
	}
}

func paid(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a")
	s.claimOne(t, invoice.MaxLease)
	s.markPaid(t, "a")
	s.markPaid(t, "a")
	assert.True(t, s.get(t, "a").Paid)
	s.requireUnsettled(t, 0)
	assert.ErrorIs(t, s.Retry(t.Context(), "a"), invoice.ErrPaid)
	none := s.claim(t, 0, all, 5, invoice.MaxLease)
	assert.Empty(t, none)
}

func release(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a")
	claim := s.claimOne(t, invoice.MaxLease)
	require.NoError(t, s.Release(t.Context(), []invoice.Released{{Claim: claim}}))
	again := s.claimOne(t, invoice.MaxLease)
	assert.Equal(t, 2, again.Attempt)
	require.NoError(t, s.Release(t.Context(), []invoice.Released{{Claim: claim}}), "an old claim")
	assert.Greater(t, s.requireUnsettled(t, 1), time.Minute, "changes nothing")
}

func rejectAndRetry(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b")
	claim := s.claimOne(t, invoice.MaxLease)
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claim, Reason: "no"}}))
	assert.Equal(t, "no", s.get(t, "a").Rejected)
	s.requireUnsettled(t, 1)
	assert.Equal(t, "b", s.claimOne(t, invoice.MaxLease).ID, "it does not block the others")

	require.NoError(t, s.Retry(t.Context(), "a"))
	assert.Empty(t, s.get(t, "a").Rejected)
	require.NoError(t, s.Retry(t.Context(), "a"), "again")
	again := s.claimOne(t, invoice.MaxLease)
	assert.Equal(t, "a", again.ID)
	require.NoError(t, s.Retry(t.Context(), "a"), "while it is being paid")
	none := s.claim(t, 0, all, 5, invoice.MaxLease)
	assert.Empty(t, none, "retry takes no claim away")

	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claim, Reason: "late"}}), "an old claim")
	assert.Empty(t, s.get(t, "a").Rejected, "changes nothing")
	assert.ErrorIs(t, s.Retry(t.Context(), "x"), invoice.ErrNotFound)
}

func paymentOverrulesRejection(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a")
	claim := s.claimOne(t, invoice.MaxLease)
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claim, Reason: "no"}}))
	s.markPaid(t, "a")
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claim, Reason: "no"}}))
	require.NoError(t, s.Release(t.Context(), []invoice.Released{{Claim: claim}}))
	a := s.get(t, "a")
	assert.True(t, a.Paid)
	assert.Empty(t, a.Rejected)
}

func retryAll(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b", "c", "d", "e")
	claims := s.claim(t, 0, all, 5, invoice.MaxLease)
	require.Len(t, claims, 5)
	require.NoError(t, s.MarkPaid(t.Context(), claims[:1]))
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{
		{Claim: claims[1], Reason: "no"}, {Claim: claims[2], Reason: "no"}, {Claim: claims[4], Reason: "no"},
	}))
	freed, last, err := s.RetryAll(t.Context(), 0, 2)
	require.NoError(t, err)
	assert.Equal(t, 2, freed)
	assert.Equal(t, claims[2].Seq, last)
	assert.NotEmpty(t, s.get(t, "e").Rejected, "beyond the limit")
	freed, last, err = s.RetryAll(t.Context(), last, 2)
	require.NoError(t, err)
	assert.Equal(t, 1, freed)
	assert.Equal(t, claims[4].Seq, last)
	freed, last, err = s.RetryAll(t.Context(), 0, 2)
	require.NoError(t, err)
	assert.Zero(t, freed)
	assert.Zero(t, last)
	assert.True(t, s.get(t, "a").Paid)
	var again []string
	for _, c := range s.claim(t, 0, all, 5, invoice.MaxLease) {
		again = append(again, c.ID)
	}
	assert.Equal(t, []string{"b", "c", "e"}, again, "d's claim holds")
}

func eachHasItsOwnOutcome(t *testing.T, open func(*testing.T, ...string) store) {
	s := open(t, "a", "b", "c", "d", "e")
	claims := s.claim(t, 0, all, 5, invoice.MaxLease)
	require.Len(t, claims, 5)
	old := claims[3]
	old.Attempt--
	require.NoError(t, s.MarkPaid(t.Context(), claims[:2]))
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{
		{Claim: claims[1], Reason: "paid"}, {Claim: claims[2], Reason: "no"}, {Claim: old, Reason: "late"},
	}))
	require.NoError(t, s.Release(t.Context(), []invoice.Released{
		{Claim: claims[0]}, {Claim: old}, {Claim: claims[4], Wait: 5 * time.Minute},
	}))
	for id, want := range map[string]invoice.Invoice{
		"a": {Paid: true}, "b": {Paid: true}, "c": {Rejected: "no"}, "d": {}, "e": {},
	} {
		kept := s.get(t, id)
		assert.Equal(t, want.Paid, kept.Paid, id)
		assert.Equal(t, want.Rejected, kept.Rejected, id)
	}
	wait := s.requireUnsettled(t, 2)
	assert.Greater(t, wait, 3*time.Minute, "d's claim holds")
	assert.Less(t, wait, 6*time.Minute, "e's is over then")
}
