package store

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/invoice/ledgertest"
)

// TestEngines runs the same tests on all engines, and then those for PostgreSQL only.
func TestEngines(t *testing.T) {
	server := startMigrated(t)
	pooler := server.Pooler("app")
	for engine, open := range map[string]func(t *testing.T) Store{
		"SQLite":     func(t *testing.T) Store { return openURL(t, "sqlite:"+filepath.Join(t.TempDir(), "invoices.db")) },
		"PostgreSQL": func(t *testing.T) Store { return openURL(t, server.URL("app", newDatabase(t, server))) },
		"PgBouncer":  func(t *testing.T) Store { return openURL(t, pooler("app", newDatabase(t, server))) },
	} {
		t.Run(engine, func(t *testing.T) {
			conformance(t, open)
			ledgertest.Test(t, func(t *testing.T, invoices []invoice.Invoice) ledgertest.Store {
				s := open(t)
				add(t, s, invoices...)
				return s
			})
			for name, test := range map[string]func(*testing.T, func(*testing.T) Store){
				"a client that follows the list misses none":          followersMissNone,
				"what was accepted is listed while others are adding": acceptedIsListed,
				"lists with invoices in common do not deadlock":       commonInvoices,
				"a long list keeps nobody waiting":                    longListKeepsNobodyWaiting,
				"a long list that fails leaves nothing":               failedLongList,
				"several long lists at once":                          severalLongLists,
			} {
				t.Run(name, func(t *testing.T) { test(t, open) })
			}
		})
	}
	for name, test := range map[string]func(*testing.T, *postgrestest.Server){
		"a list ends before what may yet become visible": listEndsBeforeWhatMayBecomeVisible,
		"other transactions hide nothing":                otherTransactionsHideNothing,
		"plans":                                          plans,
		"claims under an old snapshot":                   claimsUnderAnOldSnapshot,
		"a staged list that got lost":                    stagedListGotLost,
		"an invoice of an import that is under way":      invoiceOfAnImportUnderWay,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func openURL(t *testing.T, url string) Store {
	t.Helper()
	s, err := Open(t.Context(), url, 10)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// newDatabase creates a migrated database, in which the role app has the privileges for serving.
// Migrating each one would take a second; a copy takes a moment.
func newDatabase(t *testing.T, server *postgrestest.Server) (name string) {
	t.Helper()
	name = fmt.Sprint("test", databases.Add(1))
	server.Exec("postgres", "CREATE DATABASE "+name+" TEMPLATE migrated")
	return name
}

// startMigrated starts a server for newDatabase.
func startMigrated(t *testing.T) *postgrestest.Server {
	t.Helper()
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE app LOGIN")
	server.CreateDatabase("migrated")
	require.NoError(t, Schema.Migrate(t.Context(), server.URL(postgrestest.Superuser, "migrated"), "app"))
	return server
}

var databases atomic.Int32

const all = 1 << 62 // as a Seq: every invoice

func euros(id string, minor int64) invoice.Invoice {
	return invoice.Invoice{ID: id, Amount: money.Amount{Minor: minor, Currency: "EUR"}}
}

func add(t *testing.T, s Store, invoices ...invoice.Invoice) {
	t.Helper()
	added, err := s.Add(t.Context(), invoice.All(invoices))
	require.NoError(t, err)
	require.Equal(t, len(invoices), added)
}

func get(t *testing.T, s Store, id string) invoice.Invoice {
	t.Helper()
	i, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	return i
}

func requireUnsettled(t *testing.T, s Store, want int) (wait time.Duration) {
	t.Helper()
	count, wait, err := s.Unsettled(t.Context(), all)
	require.NoError(t, err)
	require.Equal(t, want, count)
	return wait
}

func conformance(t *testing.T, open func(*testing.T) Store) {
	t.Run("add, get and list in order", func(t *testing.T) {
		s := open(t)
		last, err := s.LastSeq(t.Context())
		require.NoError(t, err)
		assert.Zero(t, last)
		add(t, s, euros("b", 1), invoice.Invoice{ID: "a", Amount: money.Amount{Minor: 9223372036854775807, Currency: "JPY"}})
		add(t, s, euros("ü/ '\"", 3))

		a := get(t, s, "a")
		assert.Equal(t, money.Amount{Minor: 9223372036854775807, Currency: "JPY"}, a.Amount)
		assert.False(t, a.Settled())
		_, err = s.Get(t.Context(), "c")
		assert.ErrorIs(t, err, invoice.ErrNotFound)

		list, err := s.List(t.Context(), invoice.Filter{Limit: 10})
		require.NoError(t, err)
		require.Len(t, list, 3)
		assert.Equal(t, []string{"b", "a", "ü/ '\""}, []string{list[0].ID, list[1].ID, list[2].ID})
		last, err = s.LastSeq(t.Context())
		require.NoError(t, err)
		assert.Equal(t, list[2].Seq, last)

		page, err := s.List(t.Context(), invoice.Filter{After: list[0].Seq, Limit: 1})
		require.NoError(t, err)
		assert.Equal(t, list[1:2], page)
	})

	t.Run("add again", func(t *testing.T) {
		s := open(t)
		add(t, s, euros("a", 1))
		added, err := s.Add(t.Context(), invoice.All([]invoice.Invoice{euros("b", 2), euros("a", 1), euros("b", 2)}))
		require.NoError(t, err)
		assert.Equal(t, 1, added)

		for name, conflicting := range map[string][]invoice.Invoice{
			"with what is there": {euros("c", 3), euros("a", 2)},
			"within the list":    {euros("c", 3), euros("c", 4)},
		} {
			_, err := s.Add(t.Context(), invoice.All(conflicting))
			var conflict *invoice.ConflictError
			require.ErrorAs(t, err, &conflict, name)
			assert.Equal(t, invoice.ConflictError{Index: 1, ID: conflicting[1].ID}, *conflict)
			_, err = s.Get(t.Context(), "c")
			assert.ErrorIs(t, err, invoice.ErrNotFound, "all or none")
		}
	})

	t.Run("a sequence that fails adds nothing", func(t *testing.T) {
		s := open(t)
		broken := errors.New("broken")
		_, err := s.Add(t.Context(), func(yield func(invoice.Invoice, error) bool) {
			for n := range 2500 { // more than one statement adds
				if !yield(euros(fmt.Sprint(n), 1), nil) {
					return
				}
			}
			yield(invoice.Invoice{}, broken)
		})
		require.ErrorIs(t, err, broken)
		requireUnsettled(t, s, 0)
	})

	t.Run("a long list keeps its order, and says where a conflict is", func(t *testing.T) {
		s := open(t)
		list := make([]invoice.Invoice, 2500)
		for n := range list {
			list[n] = euros(fmt.Sprint(n), 1)
		}
		add(t, s, list...)
		kept, err := s.List(t.Context(), invoice.Filter{Limit: 3000})
		require.NoError(t, err)
		require.Len(t, kept, 2500)
		for n, i := range kept {
			require.Equal(t, fmt.Sprint(n), i.ID)
		}
		list[2222].Amount.Minor = 2
		_, err = s.Add(t.Context(), invoice.All(list))
		var conflict *invoice.ConflictError
		require.ErrorAs(t, err, &conflict)
		assert.Equal(t, 2222, conflict.Index)
	})

	t.Run("filter by paid", func(t *testing.T) {
		s := open(t)
		add(t, s, euros("a", 1), euros("b", 1), euros("c", 1))
		markPaid(t, s, "b")
		for paid, want := range map[bool][]string{true: {"b"}, false: {"a", "c"}} {
			list, err := s.List(t.Context(), invoice.Filter{Paid: &paid, Limit: 10})
			require.NoError(t, err)
			var ids []string
			for _, i := range list {
				ids = append(ids, i.ID)
				assert.Equal(t, paid, i.Paid)
			}
			assert.Equal(t, want, ids)
		}
	})

	t.Run("filter by rejected, and add up", func(t *testing.T) {
		s := open(t)
		const most = 1<<63 - 1
		add(t, s, euros("a", most), euros("b", 2), invoice.Invoice{ID: "c", Amount: money.Amount{Minor: 3, Currency: "JPY"}},
			euros("d", most), euros("e", 5))
		markPaid(t, s, "a")
		markPaid(t, s, "d")
		claims, err := s.Claim(t.Context(), 0, all, 1, invoice.MaxLease)
		require.NoError(t, err)
		require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claims[0], Reason: "no"}}))

		yes, no := true, false
		for _, want := range []struct {
			filter invoice.Filter
			ids    []string
		}{
			{invoice.Filter{Limit: 10, Rejected: &yes}, []string{"b"}},
			{invoice.Filter{Limit: 10, Rejected: &no}, []string{"a", "c", "d", "e"}},
			{invoice.Filter{Limit: 10, Rejected: &no, Paid: &no}, []string{"c", "e"}},
			{invoice.Filter{Limit: 10, Rejected: &yes, Paid: &yes}, nil},
		} {
			assert.Equal(t, want.ids, ids(t, s, want.filter))
		}

		both, _ := new(big.Int).SetString("18446744073709551614", 10) // more than an Amount
		paid := invoice.Sum{Currency: "EUR", Paid: true, Count: 2, Minor: both}
		rejected := invoice.Sum{Currency: "EUR", Rejected: true, Count: 1, Minor: big.NewInt(2)}
		yen := invoice.Sum{Currency: "JPY", Count: 1, Minor: big.NewInt(3)}
		left := invoice.Sum{Currency: "EUR", Count: 1, Minor: big.NewInt(5)}
		seq := func(id string) int64 { return get(t, s, id).Seq }
		for name, want := range map[string]struct {
			filter  invoice.Filter
			through int64
			sums    []invoice.Sum
			last    int64
		}{
			"all":         {invoice.Filter{Limit: 10}, all, []invoice.Sum{paid, rejected, yen, left}, seq("e")},
			"unpaid":      {invoice.Filter{Limit: 10, Paid: &no}, all, []invoice.Sum{rejected, yen, left}, seq("e")},
			"a limit":     {invoice.Filter{Limit: 1, Paid: &no}, all, []invoice.Sum{rejected}, seq("b")},
			"after":       {invoice.Filter{Limit: 10, After: seq("d")}, all, []invoice.Sum{left}, seq("e")},
			"through":     {invoice.Filter{Limit: 10, After: seq("a")}, seq("c"), []invoice.Sum{rejected, yen}, seq("c")},
			"of nothing":  {invoice.Filter{Limit: 10, After: seq("e")}, all, nil, 0},
			"of one kind": {invoice.Filter{Limit: 10, Paid: &yes}, all, []invoice.Sum{paid}, seq("d")},
		} {
			sums, last, err := s.Sum(t.Context(), want.filter, want.through)
			require.NoError(t, err, name)
			assert.ElementsMatch(t, want.sums, sums, name)
			assert.Equal(t, want.last, last, name)
		}
	})

	t.Run("seed", func(t *testing.T) {
		s := open(t)
		require.NoError(t, Seed(t.Context(), s))
		require.NoError(t, Seed(t.Context(), s))
		assert.Equal(t, money.Amount{Minor: 6613, Currency: "DKK"}, get(t, s, "I3").Amount)
		requireUnsettled(t, s, 3)

		markPaid(t, s, "I1")
		require.NoError(t, Seed(t.Context(), s))
		requireUnsettled(t, s, 2)
	})

	t.Run("only a new database is seeded", func(t *testing.T) {
		s := open(t)
		add(t, s, euros("mine", 1))
		require.NoError(t, Seed(t.Context(), s))
		requireUnsettled(t, s, 1)
	})
}

// markPaid marks an invoice paid, claimed or not.
func markPaid(t *testing.T, s Store, id string) {
	t.Helper()
	require.NoError(t, s.MarkPaid(t.Context(), []invoice.Claim{{Invoice: get(t, s, id)}}))
}

func TestServiceRoleCanChangeBookkeepingOnly(t *testing.T) {
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE app LOGIN")
	url := server.URL(postgrestest.Superuser, "postgres")
	require.NoError(t, Schema.Migrate(t.Context(), url, "app"))

	s, err := Open(t.Context(), server.URL("app", "postgres"), 2)
	require.NoError(t, err)
	defer s.Close()
	add(t, s, euros("a", 1))
	for _, statement := range []string{
		`UPDATE invoices SET amount_minor = 1`, `UPDATE invoices SET id = 'x'`, `UPDATE invoices SET currency = 'JPY'`,
		`INSERT INTO invoices (id, amount_minor, currency, paid_at) VALUES ('x', 1, 'EUR', now())`,
		`DELETE FROM invoices`, `TRUNCATE invoices`, `DROP TABLE invoices`,
	} {
		err := s.(postgres).Do(t.Context(), func(conn *pgx.Conn) error {
			_, err := conn.Exec(t.Context(), statement)
			return err
		})
		assert.ErrorContains(t, err, "42501", statement) // insufficient privilege
	}
}

// While a chunk is written, the next one is read, but no more than that.
func TestReadingContinuesWhileAChunkIsWritten(t *testing.T) {
	list := make([]invoice.Invoice, 5*addChunk+1)
	for n := range list {
		list[n] = euros(fmt.Sprint(n), 1)
	}
	const never = 1 << 30
	unreadable, unwritable := errors.New("unreadable"), errors.New("unwritable")
	for name, test := range map[string]struct {
		unreadable, unwritable int // from this invoice on
		want                   error
	}{
		"all of it":     {never, never, nil},
		"reading fails": {2*addChunk + 1, never, unreadable},
		"writing fails": {never, 2 * addChunk, unwritable},
		"both fail":     {2*addChunk + 1, addChunk, unreadable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var written []invoice.Invoice
				var read atomic.Int64
				writing := false
				err := chunks(func(yield func(invoice.Invoice, error) bool) {
					for n, i := range list {
						read.Store(int64(n))
						if n >= test.unreadable {
							yield(invoice.Invoice{}, unreadable)
							return
						}
						if !yield(i, nil) {
							return
						}
					}
				}, func(index int, chunk []invoice.Invoice, last bool) error {
					assert.False(t, writing, "one at a time")
					writing = true
					defer func() { writing = false }()
					synctest.Wait() // until no more is read
					assert.EqualValues(t, min(index+2*addChunk, test.unreadable, len(list)-1), read.Load())
					if index >= test.unwritable {
						return unwritable
					}
					assert.Len(t, written, index)
					written = append(written, chunk...)
					assert.Equal(t, len(written) == len(list), last)
					return nil
				})
				assert.Equal(t, test.want, err)
				assert.False(t, writing, "it ends before chunks does")
				if err == nil {
					assert.Equal(t, list, written)
				}
			})
		})
	}
}

func TestSeveralProgramsOpenANewFileAtOnce(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "invoices.db")
	var programs sync.WaitGroup
	for range 6 {
		programs.Go(func() {
			s, err := Open(context.Background(), url, 1)
			if !assert.NoError(t, err) {
				return
			}
			defer s.Close()
			assert.NoError(t, Seed(context.Background(), s))
		})
	}
	programs.Wait()
	s, err := Open(t.Context(), url, 1)
	require.NoError(t, err)
	defer s.Close()
	requireUnsettled(t, s, 3)
}
