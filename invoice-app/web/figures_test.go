package web

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/store"
)

// summed is a store that records how many invoices were added up, and that can be made to fail or
// to be slow.
type summed struct {
	store.Store
	invoices *atomic.Int64
	fail     *atomic.Bool
	takes    time.Duration
}

var errBroken = errors.New("broken")

func (s summed) Sum(ctx context.Context, f invoice.Filter, through int64) ([]invoice.Sum, int64, error) {
	time.Sleep(s.takes)
	if s.fail.Load() {
		return nil, 0, errBroken
	}
	sums, last, err := s.Store.Sum(ctx, f, through)
	for _, sum := range sums {
		s.invoices.Add(sum.Count)
	}
	return sums, last, err
}

// part is how many invoices are added up at a time here.
const part = 100

func newCounter(t *testing.T, invoices ...invoice.Invoice) (summed, *counter) {
	t.Helper()
	s := summed{newStore(t, invoices...), new(atomic.Int64), new(atomic.Bool), 0}
	return s, &counter{store: s, part: part, cheap: time.Hour, patience: time.Hour}
}

func ask(t *testing.T, c *counter) *figures {
	t.Helper()
	f, err := c.ask(t.Context())
	require.NoError(t, err)
	require.NotNil(t, f)
	return f
}

func settle(t *testing.T, s store.Store, paid, rejected int) {
	t.Helper()
	claims, err := s.Claim(t.Context(), 0, 1<<62, paid+rejected, invoice.MaxLease)
	require.NoError(t, err)
	require.Len(t, claims, paid+rejected)
	require.NoError(t, s.MarkPaid(t.Context(), claims[:paid]))
	var refused []invoice.Rejected
	for _, c := range claims[paid:] {
		refused = append(refused, invoice.Rejected{Claim: c, Reason: "no"})
	}
	require.NoError(t, s.Reject(t.Context(), refused))
}

// Whatever happens between two counts, the figures match the store, and invoices that were added
// up once and are paid are not read again.
func TestFigures(t *testing.T) {
	var list []invoice.Invoice
	for n := range part + 10 { // more than is added up at a time
		list = append(list, of(fmt.Sprint("I", n), int64(n+1), []string{"EUR", "JPY"}[n%2]))
	}
	s, c := newCounter(t, list...)
	check := func() *figures {
		t.Helper()
		f := ask(t, c)
		want := map[string]map[string]total{}
		var paid, unpaid, rejected int64
		all, err := s.List(t.Context(), invoice.Filter{Limit: 100_000})
		require.NoError(t, err)
		for _, i := range all {
			state := "unpaid"
			switch {
			case i.Paid:
				state = "paid"
				paid++
			case i.Rejected != "":
				state = "rejected"
				rejected++
			default:
				unpaid++
			}
			if want[i.Amount.Currency] == nil {
				want[i.Amount.Currency] = map[string]total{"paid": {}, "unpaid": {}, "rejected": {}}
			}
			want[i.Amount.Currency][state] = want[i.Amount.Currency][state].plus(1, big.NewInt(i.Amount.Minor))
		}
		assert.Equal(t, []int64{int64(len(all)), paid, unpaid, rejected}, []int64{f.All, f.Paid, f.Unpaid, f.Rejected})
		require.Len(t, f.Currencies, len(want))
		for _, of := range f.Currencies {
			for state, got := range map[string]total{"paid": of.Paid, "unpaid": of.Unpaid, "rejected": of.Rejected} {
				assert.Equal(t, want[of.Currency][state].Count, got.Count, state)
				assert.Equal(t, sum(want[of.Currency][state], of.Currency), sum(got, of.Currency), state)
			}
		}
		return f
	}
	check()
	settle(t, s.Store, part, 3)
	check()
	_, err := s.Add(t.Context(),
		invoice.All([]invoice.Invoice{of("more", 1<<62, "EUR"), of("and more", 1<<62, "EUR"), of("other", 5, "KWD")}))
	require.NoError(t, err)
	check()
	freed, _, err := s.RetryAll(t.Context(), 0, 2)
	require.NoError(t, err)
	require.Equal(t, 2, freed)
	before := s.invoices.Load()
	f := check()
	assert.Equal(t, f.Unpaid+f.Rejected, s.invoices.Load()-before, "only these are added up again")
	assert.Equal(t, int64(13), f.Unpaid+f.Rejected)

	c.note()
	assert.True(t, c.due())
	s.fail.Store(true)
	stale, err := c.ask(t.Context())
	assert.ErrorIs(t, err, errBroken)
	assert.Equal(t, f, stale, "what was known is still known, and has its time")
	s.fail.Store(false)
	check()
	assert.False(t, c.due())
}

// Developers empty databases while the service runs.
func TestFiguresOfAnEmptiedDatabase(t *testing.T) {
	_, c := newCounter(t, of("a", 1, "EUR"), of("b", 2, "EUR"))
	assert.Equal(t, int64(2), ask(t, c).All)
	other, _ := newCounter(t)
	c.store = other
	assert.Zero(t, ask(t, c).All)
	_, err := other.Add(t.Context(),
		invoice.All([]invoice.Invoice{of("x", 3, "EUR"), of("y", 4, "EUR"), of("z", 5, "EUR")}))
	require.NoError(t, err)
	f := ask(t, c)
	assert.Equal(t, int64(3), f.All)
	assert.Equal(t, "0.12", sum(f.Currencies[0].Unpaid, "EUR"))
}

// However many callers there are, one counts, and then pauses for longer than the count took.
func TestCountingIsBounded(t *testing.T) {
	s, c := newCounter(t, of("a", 1, "EUR"))
	synctest.Test(t, func(t *testing.T) {
		s.takes = time.Second
		c.store, c.cheap, c.patience = s, countCheap, countPatience
		f, err := c.ask(t.Context())
		require.NoError(t, err)
		assert.Nil(t, f, "none yet, and nobody waits for long")
		var counts int
		start := time.Now()
		var last time.Time
		for time.Since(start) < 2*time.Minute {
			for range 10 {
				go func() { _, _ = c.ask(t.Context()) }()
			}
			time.Sleep(time.Second)
			f, err := c.ask(t.Context())
			require.NoError(t, err)
			if f != nil && f.At != last {
				counts++
				last = f.At
			}
		}
		assert.GreaterOrEqual(t, counts, 2)
		assert.LessOrEqual(t, counts, 8)
		time.Sleep(time.Hour)
		synctest.Wait()
	})
}

func TestPace(t *testing.T) {
	start := time.Now()
	var p pace
	at := func(seconds float64, settled, unpaid int64) progress {
		p.note(start.Add(time.Duration(seconds*float64(time.Second))), settled)
		return p.progress(unpaid)
	}
	assert.Equal(t, progress{}, at(0, 100, 1000))
	assert.Equal(t, progress{}, at(5, 100, 1000), "nothing happens yet")
	now := at(7, 300, 800)
	assert.True(t, now.Moving)
	assert.Equal(t, int64(200), now.Done)
	assert.InDelta(t, 100, now.Rate, 1e-9, "since it began")
	assert.Equal(t, "100", now.RateText())
	assert.Equal(t, 8*time.Second, now.Left)
	assert.Equal(t, "8 s", now.LeftText())
	assert.Equal(t, now, at(7.1, 310, 800), "too soon to tell")
	now = at(9, 300, 800)
	assert.False(t, now.Moving)
	assert.InDelta(t, 50, now.Rate, 1e-9)
	for s := 10; s < 60; s++ {
		now = at(float64(s), 300+int64(s-9), 790)
	}
	assert.InDelta(t, 1, now.Rate, 1e-9, "of the last half minute")
	assert.Equal(t, "1.0", now.RateText())
	assert.Equal(t, int64(250), now.Done, "of all of it")
	assert.Equal(t, "14 min", now.LeftText())
	assert.Equal(t, progress{}, at(61, 5, 10), "freed, or another database")
	assert.Equal(t, progress{}, at(200, 10, 5), "nobody has looked for long")
	assert.Equal(t, "3 h", progress{Left: 2*time.Hour + time.Second}.LeftText())
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -100: "-100", 1234567: "1,234,567",
	} {
		assert.Equal(t, want, commas(n))
	}
}

// An amount whose minor unit is unknown is not shown in major units.
func TestUnknownCurrency(t *testing.T) {
	s := newSite(t, newStore(t, of("old", 1215, "BGN"), of("unknown", 1215, "XXX")), nil, impatient)
	page := s.get("/")
	assert.Equal(t, []string{"old 12.15 BGN unpaid", "unknown 1215 minor units XXX unpaid"}, page.rows("invoices"))
	assert.Contains(t, page.rows("summary"), "XXX 1215 minor units 0 minor units 0 minor units")
}
