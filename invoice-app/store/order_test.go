package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/invoice-app/invoice"
)

// patience is longer than anything that a test waits for.
const patience = time.Minute

// many is a list that is too long to be added in one go.
func many(prefix string, n int) []invoice.Invoice {
	list := make([]invoice.Invoice, n)
	for i := range list {
		list[i] = euros(fmt.Sprint(prefix, i), 1)
	}
	return list
}

func ids(t *testing.T, s Store, f invoice.Filter) (ids []string) {
	t.Helper()
	list, err := s.List(t.Context(), f)
	require.NoError(t, err)
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

// follower reads page after page, and continues behind the end of the last one.
type follower struct {
	store Store
	after int64
	seen  map[string]int
}

func (f *follower) read(ctx context.Context) error {
	for {
		page, err := f.store.List(ctx, invoice.Filter{After: f.after, Limit: 100})
		if err != nil {
			return err
		}
		for _, i := range page {
			f.seen[i.ID]++
			f.after = i.Seq
		}
		if len(page) < 100 {
			return nil
		}
	}
}

func followersMissNone(t *testing.T, open func(*testing.T) Store) {
	s := open(t)
	var adders, followers sync.WaitGroup
	var wanted atomic.Int32
	for n := range 6 {
		adders.Go(func() {
			for i := range 25 {
				list := many(fmt.Sprintf("%d-%d-", n, i), 1+(n+i)%4)
				_, err := s.Add(context.Background(), invoice.All(list))
				assert.NoError(t, err)
				wanted.Add(int32(len(list)))
			}
		})
	}
	for n := range 2 {
		adders.Go(func() {
			_, err := s.Add(context.Background(), invoice.All(many(fmt.Sprint("long", n, "-"), 2*addChunk)))
			assert.NoError(t, err)
			wanted.Add(2 * addChunk)
		})
	}
	done := make(chan struct{})
	all := make([]follower, 3)
	for n := range all {
		all[n] = follower{store: s, seen: map[string]int{}}
		followers.Go(func() {
			for {
				select {
				case <-done:
					assert.NoError(t, all[n].read(context.Background()))
					return
				default:
					assert.NoError(t, all[n].read(context.Background()))
				}
			}
		})
	}
	adders.Wait()
	close(done)
	followers.Wait()
	for _, f := range all {
		assert.Len(t, f.seen, int(wanted.Load()))
		for id, times := range f.seen {
			assert.Equal(t, 1, times, id)
		}
	}
}

// acceptedIsListed reads each invoice back, and expects it in the snapshot of a pay-all, while
// others add invoices.
func acceptedIsListed(t *testing.T, open func(*testing.T) Store) {
	s := open(t)
	var adders sync.WaitGroup
	for n := range 6 {
		adders.Go(func() {
			after := int64(0)
			for i := range 15 {
				id := fmt.Sprintf("%d-%d", n, i)
				_, err := s.Add(context.Background(), invoice.All([]invoice.Invoice{euros(id, 1)}))
				assert.NoError(t, err)
				last, err := s.LastSeq(context.Background())
				assert.NoError(t, err)
				kept, err := s.Get(context.Background(), id)
				assert.NoError(t, err)
				assert.LessOrEqual(t, kept.Seq, last)
				list, err := s.List(context.Background(), invoice.Filter{After: after, Limit: 1000})
				assert.NoError(t, err)
				found := false
				for _, i := range list {
					found = found || i.ID == id
				}
				assert.True(t, found, id)
				after = kept.Seq
			}
		})
	}
	adders.Wait()
}

// held is a short list in a transaction that is not committed.
func held(t *testing.T, url string, list ...invoice.Invoice) (commit func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, _, err = addRows(t.Context(), tx, list)
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Commit(t.Context())) }
}

func listEndsBeforeWhatMayBecomeVisible(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	s := openURL(t, server.URL("app", name))
	add(t, s, euros("a", 1))
	commit := held(t, server.URL("app", name), euros("slow", 1))
	add(t, s, euros("b", 1))
	get(t, s, "b") // by its ID it is visible at once
	last, err := s.LastSeq(t.Context())
	require.NoError(t, err)
	claims, err := s.Claim(t.Context(), 0, last, 10, invoice.MaxLease)
	require.NoError(t, err)
	assert.Len(t, claims, 2, "and a pay-all pays it")

	assert.Equal(t, []string{"a"}, ids(t, s, invoice.Filter{Limit: 10}))
	assert.Equal(t, []string{"a"}, ids(t, s, invoice.Filter{Limit: 1}))
	commit()
	assert.Equal(t, []string{"a", "slow", "b"}, ids(t, s, invoice.Filter{Limit: 10}))
}

// An old snapshot, or a foreign transaction in this or another database, hides nothing.
func otherTransactionsHideNothing(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	for _, database := range []string{name, newDatabase(t, server)} {
		conn, err := pgx.Connect(t.Context(), server.URL(postgrestest.Superuser, database))
		require.NoError(t, err)
		defer conn.Close(context.Background())
		for _, statement := range []string{
			`CREATE TABLE others (x int)`, `BEGIN ISOLATION LEVEL REPEATABLE READ`,
			`SELECT pg_advisory_xact_lock_shared(1)`, `INSERT INTO others VALUES (1)`,
		} {
			_, err := conn.Exec(t.Context(), statement)
			require.NoError(t, err)
		}
	}
	s := openURL(t, server.URL("app", name))
	add(t, s, euros("a", 1))
	assert.Equal(t, []string{"a"}, ids(t, s, invoice.Filter{Limit: 10}))
}

func commonInvoices(t *testing.T, open func(*testing.T) Store) {
	s := open(t)
	var adders sync.WaitGroup
	for n := range 6 {
		adders.Go(func() {
			list := many("common", 40)
			for i := range list { // each in another order
				j := (i*7 + n*13) % len(list)
				list[i], list[j] = list[j], list[i]
			}
			_, err := s.Add(context.Background(), invoice.All(list))
			assert.NoError(t, err)
		})
	}
	adders.Wait()
	requireUnsettled(t, s, 40)
}

// pausing is a list whose sender pauses before the last invoice until goOn is closed. Of a list of
// three chunks, the first one is in the database by then.
func pausing(
	list []invoice.Invoice, paused chan<- struct{}, goOn <-chan struct{}, err error,
) func(func(invoice.Invoice, error) bool) {
	return func(yield func(invoice.Invoice, error) bool) {
		for n, i := range list {
			if n == len(list)-1 {
				close(paused)
				<-goOn
				if err != nil {
					yield(invoice.Invoice{}, err)
					return
				}
			}
			if !yield(i, nil) {
				return
			}
		}
	}
}

func longListKeepsNobodyWaiting(t *testing.T, open func(*testing.T) Store) {
	s := open(t)
	add(t, s, euros("first", 1))
	paused, goOn := make(chan struct{}), make(chan struct{})
	imported := make(chan error, 1)
	go func() {
		added, err := s.Add(context.Background(), pausing(many("long", 3*addChunk), paused, goOn, nil))
		assert.Equal(t, 3*addChunk, added)
		imported <- err
	}()
	<-paused // most of it has arrived
	add(t, s, euros("meanwhile", 1))
	assert.Equal(t, []string{"first", "meanwhile"}, ids(t, s, invoice.Filter{Limit: 10}))
	claims, err := s.Claim(t.Context(), 0, all, 10, invoice.MaxLease)
	require.NoError(t, err)
	require.Len(t, claims, 2, "nothing of it can be claimed")
	markPaid(t, s, "meanwhile")
	_, err = s.Get(t.Context(), "long0")
	require.ErrorIs(t, err, invoice.ErrNotFound)
	last, err := s.LastSeq(t.Context())
	require.NoError(t, err)
	assert.Equal(t, claims[1].Seq, last)
	requireUnsettled(t, s, 1)

	close(goOn)
	require.NoError(t, <-imported)
	requireUnsettled(t, s, 1+3*addChunk)
	add(t, s, euros("after", 1))
	list := ids(t, s, invoice.Filter{Limit: 5 * addChunk})
	require.Len(t, list, 3+3*addChunk)
	assert.Equal(t, []string{"first", "meanwhile", "long0", "long1"}, list[:4])
	assert.Equal(t, "after", list[len(list)-1])
}

func failedLongList(t *testing.T, open func(*testing.T) Store) {
	broken := errors.New("broken")
	s := open(t)
	paused, goOn := make(chan struct{}), make(chan struct{})
	close(goOn)
	_, err := s.Add(t.Context(), pausing(many("long", 3*addChunk), paused, goOn, broken))
	require.ErrorIs(t, err, broken)
	add(t, s, euros("long0", 7)) // its id is free
	requireUnsettled(t, s, 1)

	_, err = s.Add(t.Context(), invoice.All(many("long", 3*addChunk)))
	var conflict *invoice.ConflictError
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, invoice.ConflictError{Index: 0, ID: "long0"}, *conflict)

	twice := append(many("other", 3*addChunk), euros("other5", 2))
	_, err = s.Add(t.Context(), invoice.All(twice))
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, invoice.ConflictError{Index: 3 * addChunk, ID: "other5"}, *conflict)
	requireUnsettled(t, s, 1)

	twice[3*addChunk].Amount.Minor = 1
	added, err := s.Add(t.Context(), invoice.All(twice))
	require.NoError(t, err)
	assert.Equal(t, 3*addChunk, added)
	added, err = s.Add(t.Context(), invoice.All(twice))
	require.NoError(t, err)
	assert.Zero(t, added, "again")
}

func severalLongLists(t *testing.T, open func(*testing.T) Store) {
	s := open(t)
	var adders sync.WaitGroup
	var total atomic.Int32
	for range 3 {
		adders.Go(func() {
			added, err := s.Add(context.Background(), invoice.All(many("same", 2*addChunk+1)))
			assert.NoError(t, err)
			total.Add(int32(added))
		})
	}
	adders.Wait()
	assert.EqualValues(t, 2*addChunk+1, total.Load())
	requireUnsettled(t, s, 2*addChunk+1)
}

// While an import that contains an invoice may still fail, nothing is known about that invoice.
func invoiceOfAnImportUnderWay(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	for engine, s := range map[string]Store{
		"SQLite":     openURL(t, "sqlite:"+t.TempDir()+"/invoices.db"),
		"PostgreSQL": openURL(t, server.URL("app", name)),
	} {
		t.Run(engine, func(t *testing.T) {
			paused, goOn := make(chan struct{}), make(chan struct{})
			imported := make(chan error, 1)
			if engine == "SQLite" {
				go func() {
					_, err := s.Add(context.Background(), pausing(many("long", 3*addChunk), paused, goOn, nil))
					imported <- err
				}()
				<-paused
			} else {
				commit := held(t, server.URL("app", name), many("long", 100)...)
				go func() {
					<-goOn
					commit()
					imported <- nil
				}()
			}
			_, err := s.Add(t.Context(), invoice.All([]invoice.Invoice{euros("long7", 1)}))
			require.ErrorIs(t, err, database.ErrUnavailable)
			_, err = s.Add(t.Context(), invoice.All([]invoice.Invoice{euros("x", 1), euros("long7", 2)}))
			require.ErrorIs(t, err, database.ErrUnavailable)
			close(goOn)
			require.NoError(t, <-imported)
			added, err := s.Add(t.Context(), invoice.All([]invoice.Invoice{euros("long7", 1)}))
			require.NoError(t, err)
			assert.Zero(t, added)
			_, err = s.Add(t.Context(), invoice.All([]invoice.Invoice{euros("long7", 2)}))
			var conflict *invoice.ConflictError
			assert.ErrorAs(t, err, &conflict)
		})
	}
}

// A list whose rows are lost, as after a crash of the server, is not partly added.
func stagedListGotLost(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	s := openURL(t, server.URL("app", name))
	paused, goOn := make(chan struct{}), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := s.Add(context.Background(), pausing(many("long", 3*addChunk), paused, goOn, nil))
		failed <- err
	}()
	<-paused
	server.Exec(name, `DELETE FROM staged_invoices WHERE place = 7`)
	close(goOn)
	err := <-failed
	require.ErrorIs(t, err, database.ErrUnavailable)
	require.ErrorContains(t, err, "send it again")
	requireUnsettled(t, s, 0)
	var left int
	conn, err := pgx.Connect(t.Context(), server.URL(postgrestest.Superuser, name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM staged_invoices`).Scan(&left))
	assert.Zero(t, left)
}

// Leftovers of a killed import in an SQLite file are never visible, and are deleted when the file
// is opened; those of a running import are kept.
func TestLeftoversOfAKilledImport(t *testing.T) {
	url := "sqlite:" + t.TempDir() + "/invoices.db"
	s := openURL(t, url)
	add(t, s, euros("mine", 1))
	killed, err := s.(sqlite).beginImport(t.Context())
	require.NoError(t, err)
	list := many("long", 2*addChunk)
	for from := 0; from < len(list); from += addChunk {
		_, err := killed.add(t.Context(), from, list[from:from+addChunk])
		require.NoError(t, err)
	}
	stored := func(s Store) (rows int) {
		require.NoError(t, s.(sqlite).QueryRow(`SELECT count(*) FROM invoices`).Scan(&rows))
		return rows
	}
	second := openURL(t, url)
	assert.Equal(t, 1+2*addChunk, stored(second), "it may yet be finished")
	require.NoError(t, killed.lock.Unlock()) // as the end of its process does

	requireUnsettled(t, s, 1)
	third := openURL(t, url)
	assert.Equal(t, 1, stored(third))
	add(t, third, euros("long0", 7))
	assert.Equal(t, []string{"mine", "long0"}, ids(t, third, invoice.Filter{Limit: 10}))
}

// TestOthersCanWriteDuringAnImport needs its invoices to be accepted before the import ends.
func TestOthersCanWriteDuringAnImport(t *testing.T) {
	url := "sqlite:" + t.TempDir() + "/invoices.db"
	importer, other := openURL(t, url), openURL(t, url)
	var sent atomic.Int32
	enough := make(chan struct{})
	imported := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		_, err := importer.Add(ctx, func(yield func(invoice.Invoice, error) bool) {
			for n := 0; ; n++ {
				select {
				case <-enough:
					return
				default:
				}
				sent.Add(1)
				if !yield(euros(fmt.Sprint("long", n), 1), nil) {
					return
				}
			}
		})
		imported <- err
	}()
	require.Eventually(t, func() bool { return sent.Load() > 2*addChunk }, patience, time.Millisecond)
	for n := range 20 {
		add(t, other, euros(fmt.Sprint("other", n), 1))
	}
	close(enough)
	require.NoError(t, <-imported)
	requireUnsettled(t, other, 20+int(sent.Load()))
}
