package database

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

// A password is changed under load, while connections come and go: first both are in the passfile, in either order,
// then the server has the new one, then the old one is removed.
func rotatedPassword(t *testing.T, server *postgrestest.Server, database string) {
	const rotations = 5
	server.Exec("postgres", "CREATE ROLE rotated LOGIN PASSWORD 'password0'")
	server.RequirePassword("rotated")
	s := schema(things)
	require.NoError(t, s.Migrate(t.Context(), server.URL(postgrestest.Superuser, database), "rotated"))
	folder := t.TempDir()
	passfile := filepath.Join(folder, "passfile")
	write := func(passwords ...string) {
		text := "# a comment\nelsewhere:*:*:rotated:no\n*:*:*:another:no\n"
		for _, password := range passwords {
			text += "*:*:*:rotated:" + password + "\n"
		}
		require.NoError(t, os.WriteFile(passfile+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(passfile+".new", passfile))
	}
	write("password0")
	url := server.URL("rotated", database) + "&passfile=" + passfile
	pool := open(t, s, url, 4)
	stop := make(chan struct{})
	var queries atomic.Int64
	var working sync.WaitGroup
	for range 8 {
		working.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !assert.NoError(t, exec(t.Context(), pool, "SELECT 1")) {
					return
				}
				if queries.Add(1)%20 == 0 {
					pool.pool.Reset() // so that there are new connections all the time
				}
			}
		})
	}
	for n := range rotations {
		before, after := fmt.Sprint("password", n), fmt.Sprint("password", n+1)
		both := []string{before, after}
		if n%2 == 1 {
			both = []string{after, before}
		}
		write(both...)
		time.Sleep(100 * time.Millisecond)
		server.Exec("postgres", "ALTER ROLE rotated PASSWORD '"+after+"'")
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, pool.Ping(t.Context()))
		again, err := s.OpenPostgres(t.Context(), url, 1)
		require.NoError(t, err)
		again.Close()
		write(after)
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	working.Wait()
	require.NotZero(t, queries.Load())
	t.Logf("%d queries", queries.Load())

	write("wrong", "also wrong")
	_, err := s.OpenPostgres(t.Context(), url, 1)
	require.ErrorContains(t, err, "28P01")
	assert.NotErrorIs(t, err, ErrUnavailable)
	assert.NotContains(t, err.Error(), "wrong")
	current := fmt.Sprintf("rotated:password%d@", rotations)
	_, err = s.OpenPostgres(t.Context(), strings.Replace(url, "rotated@", current, 1), 1)
	require.NoError(t, err, "a password in the URL is the only one")
}
