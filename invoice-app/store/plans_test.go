package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/invoice-app/invoice"
)

// Nearly all invoices are paid, and few are rejected: a query that reads more than it returns
// shows up here.
const manyInvoices = 100_000

// fillPostgres makes every invoice paid except each 10,000th, and every other one of these
// rejected.
const fillPostgres = `
	INSERT INTO invoices (id, amount_minor, currency, paid_at, rejected_reason)
	SELECT 'I' || n, n, 'EUR', CASE WHEN n % 10000 <> 0 THEN now() END, CASE WHEN n % 20000 = 0 THEN 'no' END
	FROM generate_series(1, 100000) AS n`

func plans(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	server.Exec(name, fillPostgres)
	server.Exec(name, `SELECT setval('invoices_seq_seq', 100000)`)
	server.Exec(name, `VACUUM (ANALYZE) invoices`)
	conn, err := pgx.Connect(t.Context(), server.URL("app", name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	yes, no := true, false
	// Of the more than 2,000 of the table and its indexes. The tests' rolled back updates leave dead rows behind, and
	// which test runs after which is random.
	const buffers = 200
	for what, query := range map[string]struct {
		sql  string
		args []any
	}{
		"get":                   {getSQL, []any{"I77777"}},
		"first page":            {listSQL(invoice.Filter{}), []any{0, 10}},
		"page in the middle":    {listSQL(invoice.Filter{}), []any{55_555, 100}},
		"page at the end":       {listSQL(invoice.Filter{}), []any{99_990, 100}},
		"unpaid":                {listSQL(invoice.Filter{Paid: &no}), []any{0, 10}},
		"unpaid from the end":   {listSQL(invoice.Filter{Paid: &no}), []any{99_990, 10}},
		"paid":                  {listSQL(invoice.Filter{Paid: &yes}), []any{0, 10}},
		"paid from the end":     {listSQL(invoice.Filter{Paid: &yes}), []any{99_990, 100}},
		"rejected":              {listSQL(invoice.Filter{Rejected: &yes}), []any{0, 10}},
		"to be paid":            {listSQL(invoice.Filter{Paid: &no, Rejected: &no}), []any{0, 10}},
		"sum of a part":         {sumSQL(invoice.Filter{}), []any{55_555, 1000, all}},
		"sum of the unpaid":     {sumSQL(invoice.Filter{Paid: &no}), []any{0, 1000, all}},
		"last":                  {maxSQL, nil},
		"claim":                 {claimSQL, []any{0, all, 8, time.Minute, invoice.MaxLease}},
		"claim behind a cursor": {claimSQL, []any{50_000, all, 8, time.Minute, invoice.MaxLease}},
		"claim of nothing":      {claimSQL, []any{99_999, all, 8, time.Minute, invoice.MaxLease}},
		"unsettled":             {unsettledSQL, []any{all}},
		"backlog":               {backlogSQL, nil},
		"mark paid":             {markPaidSQL, []any{[]int64{10_000, 30_000}}},
		"reject":                {rejectSQL, []any{[]int64{10_000, 30_000}, []int{0, 0}, []string{"no", "no"}}},
		"release":               {releaseSQL, []any{[]int64{10_000, 50_000}, []int{0, 0}, []time.Duration{time.Minute, 0}}},
		"retry":                 {retrySQL, []any{"I20000"}},
		"retry all":             {retryAllSQL, []any{0, 2}},
		"add":                   {addSQL, []any{[]string{"new", "I5"}, []int64{1, 5}, []string{"EUR", "EUR"}}},
		"conflict":              {conflictSQL(sent), []any{[]string{"new", "I5"}, []int64{1, 5}, []string{"EUR", "EUR"}}},
	} {
		// The plan for these arguments, and the generic one.
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			t.Run(what+" "+mode, func(t *testing.T) {
				plan := explain(t, conn, mode, query.sql, query.args)
				text, err := json.MarshalIndent(plan, "", "  ")
				require.NoError(t, err)
				for _, node := range plan.nodes() {
					assert.False(t, node.Type == "Seq Scan" && node.Relation == "invoices", "%s", text)
				}
				assert.Less(t, plan.Hit+plan.Read, buffers, "%s", text)
			})
		}
	}
}

// planNode is a part of the output of EXPLAIN (FORMAT JSON).
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name,omitempty"`
	Index    string     `json:"Index Name,omitempty"`
	Hit      int        `json:"Shared Hit Blocks"`
	Read     int        `json:"Shared Read Blocks"`
	Plans    []planNode `json:",omitempty"`
}

func (p planNode) nodes() []planNode {
	nodes := []planNode{p}
	for _, child := range p.Plans {
		nodes = append(nodes, child.nodes()...)
	}
	return nodes
}

// explain runs a query in a transaction that is rolled back, and returns its plan.
func explain(t *testing.T, conn *pgx.Conn, mode, query string, args []any) planNode {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), "SET LOCAL plan_cache_mode = "+mode)
	require.NoError(t, err)
	var answer []byte
	require.NoError(t, tx.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+query, args...).Scan(&answer))
	var plan []struct{ Plan planNode }
	require.NoError(t, json.Unmarshal(answer, &plan))
	return plan[0].Plan
}

// A pay-all claims behind its cursor. So a claim costs as much after 50,000 payments as after
// none, although vacuum cannot remove anything because an old snapshot, such as pg_dump's, may
// need it.
func claimsUnderAnOldSnapshot(t *testing.T, server *postgrestest.Server) {
	name := newDatabase(t, server)
	server.Exec(name,
		`INSERT INTO invoices (id, amount_minor, currency) SELECT 'I' || n, n, 'EUR' FROM generate_series(1, 60000) AS n`)
	server.Exec(name, `VACUUM (ANALYZE) invoices`)
	old, err := pgx.Connect(t.Context(), server.URL(postgrestest.Superuser, name))
	require.NoError(t, err)
	defer old.Close(context.Background())
	for _, statement := range []string{`BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT count(*) FROM invoices`} {
		_, err := old.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	server.Exec(name, `UPDATE invoices SET claimed_until = now() + interval '1 minute', attempts = 1 WHERE seq <= 50000`)
	server.Exec(name, `UPDATE invoices SET paid_at = now() WHERE seq <= 50000`)
	server.Exec(name, `VACUUM (ANALYZE) invoices`)

	conn, err := pgx.Connect(t.Context(), server.URL("app", name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	plan := explain(t, conn, "auto", claimSQL, []any{50_000, all, 8, time.Minute, invoice.MaxLease})
	assert.Less(t, plan.Hit+plan.Read, 200)
	plan = explain(t, conn, "auto", claimSQL, []any{0, all, 8, time.Minute, invoice.MaxLease})
	assert.Greater(t, plan.Hit+plan.Read, 200,
		"without the cursor it walks over all of them: is this test still about something?")
}

func TestPlansOfSQLite(t *testing.T) {
	s := openURL(t, "sqlite:"+t.TempDir()+"/invoices.db").(sqlite)
	_, err := s.Exec(fmt.Sprintf(`
		WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
		INSERT INTO invoices (id, amount_minor, currency, paid_at, rejected_reason)
		SELECT 'I' || n, n, 'EUR', CASE WHEN n %% 10000 <> 0 THEN 1 END,
			CASE WHEN n %% 20000 = 0 THEN 'no' END FROM numbers`, manyInvoices))
	require.NoError(t, err)
	yes, no := true, false
	for what, query := range map[string]struct {
		sql   string
		index string // the index that the query should use
		args  []any
	}{
		"get": {getSQLite, "SEARCH invoices USING INDEX sqlite_autoindex_invoices_1 (id=?)", []any{"I7"}},
		"list": {listSQLite(invoice.Filter{}),
			"SEARCH invoices USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", []any{0, 10}},
		"unpaid": {listSQLite(invoice.Filter{Paid: &no}),
			"SEARCH invoices USING INDEX invoices_unpaid (seq>? AND seq<?)", []any{0, 10}},
		"paid": {listSQLite(invoice.Filter{Paid: &yes}),
			"SEARCH invoices USING INDEX invoices_paid (seq>? AND seq<?)", []any{0, 10}},
		"rejected": {
			listSQLite(invoice.Filter{Rejected: &yes}),
			"SEARCH invoices USING INDEX invoices_rejected (seq>? AND seq<?)", []any{0, 10},
		},
		"to be paid": {
			listSQLite(invoice.Filter{Paid: &no, Rejected: &no}),
			"SEARCH invoices USING INDEX invoices_unsettled (seq>? AND seq<?)", []any{0, 10},
		},
		"sum of the unpaid": {
			sumSQLite(invoice.Filter{Paid: &no}),
			"SEARCH invoices USING INDEX invoices_unpaid (seq>? AND seq<?)", []any{0, 10, all},
		},
		"retry all": {retryAllSQLite, "SEARCH invoices USING INDEX invoices_rejected (seq>? AND seq<?)", []any{0, 10}},
		"last":      {maxSQLite, "SEARCH invoices USING INTEGER PRIMARY KEY (rowid<?)", nil},
		"claim": {claimSQLite, "SEARCH invoices USING INDEX invoices_unsettled (seq>? AND seq<?)",
			[]any{0, all, 8, 1000, 600_000}},
		"backlog":   {backlogSQLite, "invoices USING INDEX invoices_unsettled", nil},
		"unsettled": {unsettledSQLite, "invoices USING INDEX invoices_unsettled (seq<?)", []any{all}},
	} {
		t.Run(what, func(t *testing.T) {
			rows, err := s.Query("EXPLAIN QUERY PLAN "+query.sql, query.args...)
			require.NoError(t, err)
			defer rows.Close()
			var plan strings.Builder
			for rows.Next() {
				var id, parent, unused int
				var detail string
				require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
				fmt.Fprintln(&plan, detail)
			}
			require.NoError(t, rows.Err())
			assert.Contains(t, plan.String(), query.index)
			assert.NotContains(t, plan.String(), "SCAN invoices")
			assert.NotContains(t, plan.String(), "TEMP B-TREE FOR ORDER BY")
		})
	}
}
