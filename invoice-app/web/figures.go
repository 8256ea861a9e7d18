package web

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"sync"
	"time"

	"example.com/invoices/invoice-app/invoice"
)

const (
	// countPart is how many invoices one statement adds up, which takes milliseconds.
	countPart = 10_000
	// rest is the pause after a count, as a multiple of its duration, so that counting takes at
	// most a tenth of one connection's time, however many invoices there are.
	rest = 9
	// countCheap is the longest duration of a count that every page can have: it costs no more than
	// the page itself.
	countCheap = 5 * time.Millisecond
	// maxAge is how old figures can become, besides the time that counting takes, before they are
	// stale.
	maxAge = 10 * time.Second
	// countTimeout limits one count.
	countTimeout = 5 * time.Minute
	// recountAfter is when nothing of an earlier count is reused any more.
	recountAfter = 10 * time.Minute
)

// figures has the number of invoices and their totals.
type figures struct {
	At                          time.Time // when the count began
	Currencies                  []currencyFigures
	All, Paid, Unpaid, Rejected int64 // Unpaid without the rejected
	progress
}

// End returns the value of Done at which everything is settled.
func (f *figures) End() int64 { return f.Done + f.Unpaid }

// currencyFigures are the figures of one currency.
type currencyFigures struct {
	Currency               string
	Paid, Unpaid, Rejected total
}

// total is the total of invoices in one currency.
type total struct {
	Count int64
	Minor *big.Int
}

func (t total) plus(count int64, minor *big.Int) total {
	return total{t.Count + count, new(big.Int).Add(cmp.Or(t.Minor, new(big.Int)), minor)}
}

func (t total) minus(other total) total {
	return t.plus(-other.Count, new(big.Int).Neg(cmp.Or(other.Minor, new(big.Int))))
}

// counter counts for all pages of a process, one count at a time.
//
// The amount of an invoice never changes, and no invoice is removed. So the total of all of them
// is kept, and only new ones are added to it; unpaid and rejected ones are counted from scratch,
// by their index; and the rest is paid. An invoice that is paid during a count is counted in its
// old or in its new state, but only once.
type counter struct {
	store    invoice.Store
	part     int           // how many invoices one statement adds up
	cheap    time.Duration // a count that took no longer is repeated for every page
	patience time.Duration // how long a page waits for figures

	mu       sync.Mutex
	latest   *figures
	err      error         // why there are no newer ones
	counting chan struct{} // closed at the end of the current count; nil: there is none
	took     time.Duration // by the last count
	notUntil time.Time     // when the next one can begin
	changed  time.Time     // the last change that figures must show
	pace     pace

	// Of the current count:
	since  time.Time
	last   invoice.Invoice // the last one in totals
	totals map[string]total
}

// ask returns the newest figures. If those are stale, it waits a moment for a count. There may be
// none yet: then they are nil, and the error says why, unless the first count is still in
// progress.
func (c *counter) ask(ctx context.Context) (*figures, error) {
	c.mu.Lock()
	if c.counting == nil && !time.Now().Before(c.notUntil) {
		c.counting = make(chan struct{})
		go c.count()
	}
	counting := c.counting
	wait := c.took <= c.cheap || c.stale()
	c.mu.Unlock()
	if counting != nil && wait {
		patience := time.NewTimer(c.patience)
		defer patience.Stop()
		select {
		case <-counting:
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest, c.err
}

// note records a change that figures must show.
func (c *counter) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = time.Now()
}

// stale reports whether there are no figures, or they lack the last change, or are too old. The
// caller holds mu.
func (c *counter) stale() bool {
	return c.latest == nil || c.latest.At.Before(c.changed) || time.Since(c.latest.At) > maxAge+(rest+2)*c.took
}

// due reports whether newer figures are needed, and will be available after a while.
func (c *counter) due() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && c.stale()
}

// count does one count, which all callers share.
func (c *counter) count() {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	start := time.Now()
	counted, err := c.add(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	if err == nil {
		counted.At = start
		c.pace.note(start, counted.Paid+counted.Rejected)
		counted.progress = c.pace.progress(counted.Unpaid)
		c.latest = counted
	}
	if c.took = time.Since(start); c.took > c.cheap {
		c.notUntil = time.Now().Add(rest * c.took)
	}
	close(c.counting)
	c.counting = nil
}

func (c *counter) add(ctx context.Context) (*figures, error) {
	if err := c.addNew(ctx); err != nil {
		return nil, err
	}
	unpaid, rejected := map[string]total{}, map[string]total{}
	no := false
	_, err := c.sum(ctx, invoice.Filter{Paid: &no}, c.last.Seq, func(s invoice.Sum) {
		into := unpaid
		if s.Rejected {
			into = rejected
		}
		into[s.Currency] = into[s.Currency].plus(s.Count, s.Minor)
	})
	if err != nil {
		return nil, err
	}
	f := &figures{}
	for _, currency := range slices.Sorted(maps.Keys(c.totals)) {
		of := currencyFigures{Currency: currency, Unpaid: unpaid[currency], Rejected: rejected[currency]}
		of.Paid = c.totals[currency].minus(of.Unpaid).minus(of.Rejected)
		f.Currencies = append(f.Currencies, of)
		f.All += c.totals[currency].Count
		f.Paid += of.Paid.Count
		f.Unpaid += of.Unpaid.Count
		f.Rejected += of.Rejected.Count
	}
	return f, nil
}

// addNew adds the invoices since the last count to totals.
func (c *counter) addNew(ctx context.Context) error {
	same, err := c.sameDatabase(ctx)
	if err != nil {
		return err
	}
	if !same || time.Since(c.since) > recountAfter {
		c.since, c.last, c.totals = time.Now(), invoice.Invoice{}, map[string]total{}
	}
	last, err := c.sum(ctx, invoice.Filter{After: c.last.Seq}, math.MaxInt64, func(s invoice.Sum) {
		c.totals[s.Currency] = c.totals[s.Currency].plus(s.Count, s.Minor)
	})
	if err == nil && last > 0 {
		c.last, err = c.at(ctx, last)
	}
	if err != nil {
		c.totals = nil // some may have been added
	}
	return err
}

// sameDatabase reports whether totals still belong to the database: somebody may have emptied it,
// as developers do, or restored a backup.
func (c *counter) sameDatabase(ctx context.Context) (bool, error) {
	if c.totals == nil || c.last.Seq == 0 {
		return false, nil
	}
	now, err := c.at(ctx, c.last.Seq)
	return now.ID == c.last.ID && now.Amount == c.last.Amount, err
}

// at returns the invoice with this Seq, or another one if there is none.
func (c *counter) at(ctx context.Context, seq int64) (invoice.Invoice, error) {
	list, err := c.store.List(ctx, invoice.Filter{After: seq - 1, Limit: 1})
	if err != nil || len(list) == 0 {
		return invoice.Invoice{}, err
	}
	return list[0], nil
}

// sum calls each with the sums of all invoices that match filter, up to through, part by part, and
// returns the last Seq, or 0 if there are none.
func (c *counter) sum(
	ctx context.Context, filter invoice.Filter, through int64, each func(invoice.Sum),
) (last int64, err error) {
	filter.Limit = c.part
	for {
		sums, end, err := c.store.Sum(ctx, filter, through)
		if err != nil || end == 0 {
			return last, err
		}
		for _, s := range sums {
			each(s)
		}
		last, filter.After = end, end
	}
}

// pace measures how fast invoices are settled, by whichever replica.
type pace struct {
	began  point   // when settling began
	recent []point // within the last paceWindow
}

type point struct {
	at      time.Time
	settled int64
}

const (
	paceWindow = 30 * time.Second
	paceStep   = 500 * time.Millisecond // the minimum between two points
)

// note records how many invoices are settled at this time.
func (p *pace) note(at time.Time, settled int64) {
	now := point{at, settled}
	n := len(p.recent)
	switch {
	case n == 0, at.Sub(p.recent[n-1].at) > paceWindow, settled < p.recent[n-1].settled:
		p.began, p.recent = now, []point{now}
		return
	case at.Sub(p.recent[n-1].at) < paceStep:
		return
	}
	p.recent = append(p.recent, now)
	for at.Sub(p.recent[0].at) > paceWindow {
		p.recent = p.recent[1:]
	}
	if p.recent[0].settled == settled { // nothing is being settled
		p.began, p.recent = now, []point{now}
	}
}

// progress is how far paying has come.
type progress struct {
	Moving bool          // invoices were settled recently
	Done   int64         // settled since that began
	Rate   float64       // per second
	Left   time.Duration // until everything is settled at this rate; 0: unknown
}

func (p *pace) progress(unpaid int64) progress {
	n := len(p.recent)
	if n < 2 {
		return progress{}
	}
	first, last := p.recent[0], p.recent[n-1]
	now := progress{
		Moving: last.settled > p.recent[n-2].settled,
		Done:   last.settled - p.began.settled,
		Rate:   float64(last.settled-first.settled) / last.at.Sub(first.at).Seconds(),
	}
	now.Left = time.Duration(float64(unpaid) / now.Rate * float64(time.Second))
	return now
}

// RateText and LeftText are for people.
func (p progress) RateText() string {
	if p.Rate < 10 {
		return fmt.Sprintf("%.1f", p.Rate)
	}
	return commas(int64(p.Rate))
}

func (p progress) LeftText() string {
	switch left := p.Left; {
	case left < time.Minute:
		return fmt.Sprintf("%d s", int(math.Ceil(left.Seconds())))
	case left < time.Hour:
		return fmt.Sprintf("%d min", int(math.Ceil(left.Minutes())))
	default:
		return fmt.Sprintf("%d h", int(math.Ceil(left.Hours())))
	}
}

// commas formats a number with commas between thousands.
func commas(n int64) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
