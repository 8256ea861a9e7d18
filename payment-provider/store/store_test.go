package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/payment-provider/payment"
)

var twelve = money.Amount{Minor: 1215, Currency: "EUR"}

// TestConformance runs on all engines.
func TestConformance(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		conformance(t, func(t *testing.T) Store {
			s, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "new folder", "payments.db"), 1)
			require.NoError(t, err)
			t.Cleanup(s.Close)
			return s
		})
	})
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE provider LOGIN")
	for name, url := range map[string]func(role, database string) string{
		"PostgreSQL": server.URL,
		"PgBouncer":  server.Pooler("provider"),
	} {
		t.Run(name, func(t *testing.T) {
			conformance(t, func(t *testing.T) Store {
				database := strings.ReplaceAll(t.Name(), "/", "_")
				server.CreateDatabase(database)
				require.NoError(t, Schema.Migrate(t.Context(), server.URL(postgrestest.Superuser, database), "provider"))
				s, err := Open(t.Context(), url("provider", database), 10)
				require.NoError(t, err)
				t.Cleanup(s.Close)
				return s
			})
		})
	}
}

func conformance(t *testing.T, open func(*testing.T) Store) {
	t.Run("insert once", func(t *testing.T) {
		s := open(t)
		before, err := s.Insert(t.Context(), []payment.Payment{{ID: "I1", Amount: twelve}})
		require.NoError(t, err)
		assert.Empty(t, before)
		kept, err := s.Get(t.Context(), "I1")
		require.NoError(t, err)
		assert.Equal(t, twelve, kept.Amount)
		assert.WithinDuration(t, time.Now(), kept.TakenAt, time.Minute)

		other := payment.Payment{ID: "I1", Amount: money.Amount{Minor: 1, Currency: "JPY"}}
		before, err = s.Insert(t.Context(), []payment.Payment{{ID: "I2", Amount: twelve}, other, {ID: "I0", Amount: twelve}})
		require.NoError(t, err)
		assert.Equal(t, map[string]money.Amount{"I1": twelve}, before)
		again, err := s.Get(t.Context(), "I1")
		require.NoError(t, err)
		assert.Equal(t, kept, again, "the first stays")
		for _, id := range []string{"I0", "I2"} {
			got, err := s.Get(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, twelve, got.Amount)
		}
	})

	t.Run("get what is not there", func(t *testing.T) {
		_, err := open(t).Get(t.Context(), "I9")
		assert.ErrorIs(t, err, payment.ErrNotFound)
	})

	t.Run("take", func(t *testing.T) {
		s := open(t)
		take := func(payments ...payment.Payment) []payment.Outcome {
			outcomes, err := payment.Take(t.Context(), s, payments)
			require.NoError(t, err)
			return outcomes
		}
		i1, i2, i3 := payment.Payment{ID: "I1", Amount: twelve}, payment.Payment{ID: "I2", Amount: twelve},
			payment.Payment{ID: "I3", Amount: twelve}
		assert.Equal(t, []payment.Outcome{payment.Taken}, take(i1))
		assert.Equal(t, []payment.Outcome{payment.Repeated}, take(i1))
		for _, other := range []money.Amount{{Minor: 1216, Currency: "EUR"}, {Minor: 1215, Currency: "GBP"}} {
			assert.Equal(t, []payment.Outcome{payment.Mismatch}, take(payment.Payment{ID: "I1", Amount: other}))
		}
		i2other := payment.Payment{ID: "I2", Amount: money.Amount{Minor: 1, Currency: "EUR"}}
		assert.Equal(t, []payment.Outcome{payment.Taken, payment.Repeated}, take(i2, i1))
		assert.Equal(t, []payment.Outcome{payment.Repeated, payment.Mismatch, payment.Taken}, take(i1, i2other, i3))
	})

	// Each in another order: they must not deadlock.
	t.Run("many lists of the same ids at once", func(t *testing.T) {
		s := open(t)
		var mu sync.Mutex
		seen := map[payment.Outcome]int{}
		var all sync.WaitGroup
		for n := range 40 {
			list := make([]payment.Payment, 50)
			for i := range list {
				list[i] = payment.Payment{ID: fmt.Sprint("I", i), Amount: money.Amount{Minor: int64(1 + n%2), Currency: "EUR"}}
			}
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			all.Go(func() {
				outcomes, err := payment.Take(context.Background(), s, list)
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				for _, outcome := range outcomes {
					seen[outcome]++
				}
			})
		}
		all.Wait()
		assert.Equal(t, map[payment.Outcome]int{payment.Taken: 50, payment.Repeated: 950, payment.Mismatch: 1000}, seen)
	})
}

func TestServiceRoleCannotChangePayments(t *testing.T) {
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE provider LOGIN")
	url := server.URL(postgrestest.Superuser, "postgres")

	var all sync.WaitGroup
	for range 5 {
		all.Go(func() { assert.NoError(t, Schema.Migrate(context.Background(), url, "provider"), "several at once") })
	}
	all.Wait()

	s, err := Open(t.Context(), server.URL("provider", "postgres"), 2)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Insert(t.Context(), []payment.Payment{{ID: "I1", Amount: twelve}})
	require.NoError(t, err)
	for _, statement := range []string{
		`UPDATE payments SET amount_minor = 1`, `DELETE FROM payments`, `TRUNCATE payments`,
		`DROP TABLE payments`, `CREATE TABLE mine (x int)`,
	} {
		err := s.(postgres).Do(t.Context(), func(conn *pgx.Conn) error {
			_, err := conn.Exec(t.Context(), statement)
			return err
		})
		assert.ErrorContains(t, err, "42501", statement) // insufficient privilege
	}

	server.Kill()
	assert.ErrorIs(t, s.Ping(t.Context()), database.ErrUnavailable)
	_, err = s.Get(t.Context(), "I1")
	assert.ErrorIs(t, err, database.ErrUnavailable)
	server.Run()
	kept, err := s.Get(t.Context(), "I1")
	require.NoError(t, err, "it recovers by itself")
	assert.Equal(t, twelve, kept.Amount, "and nothing that was confirmed is lost")
}

// With synchronous replication a payment counts when the standby has it. Here no standby ever
// responds, and the first caller does not wait: the second must not be told that the payment is
// safe.
func TestRepeatedPaymentWaitsForReplication(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.URL(postgrestest.Superuser, "postgres")
	require.NoError(t, Schema.Migrate(t.Context(), url, ""))
	s, err := Open(t.Context(), url, 4)
	require.NoError(t, err)
	defer s.Close()
	server.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	server.Exec("postgres", "SELECT pg_reload_conf()")
	take := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := payment.Take(ctx, s, []payment.Payment{{ID: "I1", Amount: twelve}})
		return err
	}
	require.Eventually(t, func() bool { return take() != nil }, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { // once the server has noticed that nobody waits any more
		_, err := s.Get(t.Context(), "I1")
		return err == nil
	}, time.Minute, 10*time.Millisecond, "it is there, and visible")
	require.ErrorIs(t, take(), database.ErrUnavailable, "and not confirmed")

	// If an operator cancels the wait, the commit succeeds with a warning: it is not confirmed,
	// either.
	canceled := make(chan error, 1)
	go func() {
		_, err := payment.Take(context.Background(), s, []payment.Payment{{ID: "I1", Amount: twelve}})
		canceled <- err
	}()
	require.Eventually(t, func() bool {
		server.Exec("postgres", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		select {
		case err := <-canceled:
			assert.ErrorIs(t, err, database.ErrUnavailable)
			return true
		default:
			return false
		}
	}, time.Minute, 100*time.Millisecond)

	server.Exec("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
	server.Exec("postgres", "SELECT pg_reload_conf()")
	require.Eventually(t, func() bool { return take() == nil }, time.Minute, 10*time.Millisecond)
}

func TestPathIsUsedUnchanged(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "mit Leerzeichen ü")
	settings := &url.URL{Scheme: "sqlite", Path: filepath.Join(folder, "payments.db")} // as the configuration gives it
	s, err := Open(t.Context(), settings.String(), 1)
	require.NoError(t, err)
	s.Close()
	assert.FileExists(t, filepath.Join(folder, "payments.db"))

	_, err = Open(t.Context(), "sqlite://data/payments.db", 1)
	assert.ErrorContains(t, err, "must be sqlite:PATH")
}

func TestDamagedFileIsRejectedAndUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payments.db")
	text := []byte("this is no database, and somebody may want it back")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	_, err := Open(t.Context(), "sqlite:"+path, 1)
	require.ErrorContains(t, err, path)
	left, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, text, left)
}
