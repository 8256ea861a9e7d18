package database

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgpassfile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// credentials are what a DATABASE_URL takes from files: the password, and the authority of the server's certificate.
// They are read again for each connection, so that both can be replaced while the service runs.
type credentials struct {
	url string

	mu    sync.Mutex
	works string // the password of the last connection
}

// refresh is a pgxpool.Config.BeforeConnect. A passfile can have several passwords for the role, as while the
// password is changed: then it tries which one the server accepts.
func (c *credentials) refresh(ctx context.Context, config *pgx.ConnConfig) error {
	fresh, err := pgx.ParseConfig(c.url)
	if err != nil { // it could be parsed before, so a file is unreadable
		return fmt.Errorf("%w: DATABASE_URL: %w", ErrUnavailable, err)
	}
	config.Password, config.TLSConfig, config.Fallbacks = fresh.Password, fresh.TLSConfig, fresh.Fallbacks
	passwords := c.passwords(fresh)
	if len(passwords) < 2 {
		return nil
	}
	c.mu.Lock()
	works := c.works
	c.mu.Unlock()
	slices.SortStableFunc(passwords, func(a, b string) int {
		switch {
		case a == works && b != works:
			return -1
		case b == works && a != works:
			return 1
		}
		return 0
	})
	for _, config.Password = range passwords {
		conn, err := pgx.ConnectConfig(ctx, config.Copy())
		if err == nil {
			c.mu.Lock()
			c.works = config.Password
			c.mu.Unlock()
			_ = conn.Close(ctx)
			return nil
		}
		if !wrongPassword(err) {
			return err
		}
	}
	return nil // the server will refuse the last one once more, and say so
}

// passwords returns the passwords of the passfile that are for the role, if the URL has none.
func (c *credentials) passwords(config *pgx.ConnConfig) (found []string) {
	u, err := url.Parse(c.url)
	if err != nil {
		return nil
	}
	if _, set := u.User.Password(); set {
		return nil
	}
	path := u.Query().Get("passfile")
	if path == "" {
		path = os.Getenv("PGPASSFILE")
	}
	file, err := pgpassfile.ReadPassfile(path)
	if err != nil { // as for pgx
		return nil
	}
	host := config.Host
	if strings.HasPrefix(host, "/") {
		host = "localhost"
	}
	for n := range file.Entries {
		line := pgpassfile.Passfile{Entries: file.Entries[n : n+1]}
		password := line.FindPassword(host, fmt.Sprint(config.Port), config.Database, config.User)
		if password != "" && !slices.Contains(found, password) {
			found = append(found, password)
		}
	}
	return found
}

// wrongPassword reports whether the server, or PgBouncer (08P01), has refused the password.
func wrongPassword(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && (refused.Code == "28P01" || refused.Code == "08P01")
}

// connect opens a connection that belongs to no pool.
func connect(ctx context.Context, config *pgxpool.Config) (*pgx.Conn, error) {
	one := config.ConnConfig.Copy()
	if err := config.BeforeConnect(ctx, one); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, one)
}
