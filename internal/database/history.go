package database

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
	goosedb "github.com/pressly/goose/v3/database"
)

// ErrOtherMigrations means that the schema was made by other migrations than those of this program: an applied one was
// edited or deleted, another branch used the same number, or a new one has a lower number than an applied one.
var ErrOtherMigrations = errors.New("the database's schema comes from other migrations than this program's")

// migration is a file of the program.
type migration struct {
	version int64
	file    string
	sum     string // of its statements; "" if it has none yet: then it is not applied
}

// record is what the database knows of an applied migration: nothing, if the release that applied it recorded only the
// version.
type record struct{ file, sum string }

// checksum is the text of a record, in the format of sha256sum.
func (r record) checksum() string { return r.sum + "  " + r.file }

func parseRecord(checksum string) record {
	sum, file, _ := strings.Cut(checksum, "  ")
	return record{file, sum}
}

// readMigrations returns the migrations in files, in their order. goose would silently ignore a file without a number.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		return nil, errors.Join(err, errors.New("no migrations are embedded"))
	}
	var list []migration
	for _, name := range names {
		m := migration{file: name}
		if m.version, err = goose.NumericComponent(name); err != nil {
			return nil, fmt.Errorf("migration %s must be named NUMBER_NAME.sql, as in 00002_name.sql: %w", name, err)
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		if text := statements(string(content)); text != "" {
			m.sum = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for n := range list[1:] {
		if a, b := list[n], list[n+1]; a.version == b.version {
			return nil, fmt.Errorf("migrations %s and %s have the same number: give the one that was written later "+
				"the next number, %05d", a.file, b.file, list[len(list)-1].version+1)
		}
	}
	return list, nil
}

// statements returns what goose runs of a migration. Line ends, comments and empty lines between statements, and the
// Down section make no difference to the schema.
func statements(file string) string {
	var up strings.Builder
	within := false // a statement
	for line := range strings.Lines(file) {
		line = strings.TrimRight(line, "\r\n")
		code, comment, _ := strings.Cut(line, "--")
		code = strings.TrimSpace(code)
		if _, annotation, ok := strings.Cut(comment, "+goose"); ok && code == "" {
			if strings.EqualFold(strings.TrimSpace(annotation), "Down") {
				break
			}
			continue
		}
		if code == "" && !within {
			continue
		}
		up.WriteString(line + "\n")
		within = !strings.HasSuffix(code, ";")
	}
	return up.String()
}

// newest returns the version of the last migration that has statements.
func newest(own []migration) (version int64) {
	for _, m := range own {
		if m.sum != "" {
			version = m.version
		}
	}
	return version
}

// compare returns an ErrOtherMigrations that lists how the applied migrations differ from the program's. A schema that
// is merely newer or older does not differ: during a rollout, old programs run on the new schema.
func compare(own []migration, applied map[int64]record) error {
	differences := map[int64]string{}
	var last int64
	for version := range applied {
		last = max(last, version)
	}
	for _, m := range own {
		was, ok := applied[m.version]
		switch {
		case !ok && m.sum != "" && m.version < last:
			differences[m.version] = fmt.Sprintf("%s was not applied before %s", m.file, applied[last].name())
		case !ok || was.file == "" || was.sum == m.sum:
		case was.file == m.file:
			differences[m.version] = m.file + " has changed since it was applied"
		default:
			differences[m.version] = fmt.Sprintf("%s was applied, and this program's %s has other content", was.file, m.file)
		}
	}
	for version, was := range applied {
		known := slices.ContainsFunc(own, func(m migration) bool { return m.version == version })
		if !known && version < newest(own) {
			differences[version] = was.name() + " was applied, but this program does not have it"
		}
	}
	if len(differences) == 0 {
		return nil
	}
	text := ""
	for _, version := range slices.Sorted(maps.Keys(differences)) {
		text += fmt.Sprintf("\n  version %d: %s", version, differences[version])
	}
	return fmt.Errorf("%w:%s\nApplied migrations must stay as they are, so undo the change, and put what is new into a "+
		"migration with the next number, %05d. In development you can rebuild the schema instead, which deletes the data: "+
		`press "Rebuild schema" in Tilt, or run make reset if you use make run`,
		ErrOtherMigrations, text, max(last, own[len(own)-1].version)+1)
}

// name returns the migration's file, if that was recorded.
func (r record) name() string { return cmp.Or(r.file, "a migration") }

// history is goose's table of versions, with a column for what each version has run. goose reads and writes it under
// its lock, and writes the row of a migration in the migration's own transaction, if that has one.
type history struct {
	goosedb.Store
	dialect goosedb.Dialect
	own     []migration
}

// column says how to find the column, and to add it to a table of a release that did not have it.
var column = map[goosedb.Dialect]struct{ count, add string }{
	goosedb.DialectPostgres: {
		`SELECT count(*) FROM pg_attribute WHERE attrelid = 'goose_db_version'::regclass AND attname = 'checksum'`,
		`ALTER TABLE goose_db_version ADD COLUMN IF NOT EXISTS checksum text`,
	},
	goosedb.DialectSQLite3: {
		`SELECT count(*) FROM pragma_table_info('goose_db_version') WHERE name = 'checksum'`,
		`ALTER TABLE goose_db_version ADD COLUMN checksum text`,
	},
}

func (h history) TableExists(ctx context.Context, db goosedb.DBTxConn) (bool, error) {
	return h.Store.(goosedb.StoreExtender).TableExists(ctx, db)
}

func (h history) CreateVersionTable(ctx context.Context, db goosedb.DBTxConn) error {
	if err := h.Store.CreateVersionTable(ctx, db); err != nil {
		return err
	}
	return h.addColumn(ctx, db)
}

func (h history) addColumn(ctx context.Context, db goosedb.DBTxConn) error {
	var count int
	if err := db.QueryRowContext(ctx, column[h.dialect].count).Scan(&count); err != nil || count > 0 {
		return err
	}
	_, err := db.ExecContext(ctx, column[h.dialect].add)
	return err
}

func (h history) Insert(ctx context.Context, db goosedb.DBTxConn, request goosedb.InsertRequest) error {
	var applied record // version 0 is only a mark of goose
	for _, m := range h.own {
		if m.version == request.Version {
			applied = record{m.file, m.sum}
		}
	}
	_, err := db.ExecContext(ctx, `INSERT INTO goose_db_version (version_id, is_applied, checksum) VALUES ($1, $2, $3)`,
		request.Version, true, applied.checksum())
	return err
}

// ListMigrations lists what has been applied, if that can be what the program's migrations have done. goose lists
// before it applies anything.
func (h history) ListMigrations(ctx context.Context, db goosedb.DBTxConn) ([]*goosedb.ListMigrationsResult, error) {
	if err := h.addColumn(ctx, db); err != nil {
		return nil, fmt.Errorf("add a column for the checksums of migrations: %w", err)
	}
	for {
		// Before the comparison: goose may list without its lock, and what another program applies in between must not be
		// taken for this program's.
		list, err := h.Store.ListMigrations(ctx, db)
		if err != nil {
			return nil, err
		}
		applied, err := h.applied(ctx, db)
		if err != nil {
			return nil, fmt.Errorf("read the checksums of migrations: %w", err)
		}
		if err := compare(h.own, applied); err != nil {
			return nil, err
		}
		var adopted []string
		for _, m := range h.own {
			if was, ok := applied[m.version]; !ok || was.file != "" {
				continue
			}
			if _, err := db.ExecContext(ctx,
				`UPDATE goose_db_version SET checksum = $1 WHERE version_id = $2 AND checksum IS NULL`,
				record{m.file, m.sum}.checksum(), m.version); err != nil {
				return nil, fmt.Errorf("record the checksum of %s: %w", m.file, err)
			}
			adopted = append(adopted, m.file)
		}
		if len(adopted) == 0 {
			return list, nil
		}
		slog.Info("these migrations were applied before checksums were recorded: from now on they must stay as they are",
			"files", adopted)
		// Another program may have been faster, so compare again.
	}
}

func (h history) applied(ctx context.Context, db goosedb.DBTxConn) (map[int64]record, error) {
	rows, err := db.QueryContext(ctx,
		`SELECT version_id, coalesce(checksum, '') FROM goose_db_version WHERE is_applied AND version_id > 0`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	applied := map[int64]record{}
	for rows.Next() {
		var version int64
		var checksum string
		if err := rows.Scan(&version, &checksum); err != nil {
			return nil, err
		}
		applied[version] = parseRecord(checksum)
	}
	return applied, rows.Err()
}
