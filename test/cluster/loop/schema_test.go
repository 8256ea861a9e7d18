package loop

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSchema edits migrations as it happens while one is written, and between branches.
func TestSchema(t *testing.T) {
	long(t)
	p := openPage(tiltUp(t, invoiceApp.name, paymentProvider.name))
	p.saveVersion(invoiceApp, "schema")
	p.awaitVersion(invoiceApp, 3, "schema")
	p.Cleanup(func() { // otherwise the next program would find an unknown schema
		p.sql("ALTER TABLE invoices " +
			"DROP COLUMN IF EXISTS loop_a, DROP COLUMN IF EXISTS loop_b, DROP COLUMN IF EXISTS loop_c; " +
			"DELETE FROM goose_db_version WHERE version_id BETWEEN 88 AND 92")
	})
	const folder = "invoice-app/store/migrations/postgres/"
	file := func(name string) string { return folder + name }
	column := func(name string) string { return "-- +goose Up\nALTER TABLE invoices ADD COLUMN " + name + " text;\n" }
	columns := func() string {
		p.Helper()
		return p.sql("SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM information_schema.columns " +
			"WHERE table_name = 'invoices' AND column_name LIKE 'loop_%'")
	}
	// replaced saves something, and waits until all pods have been replaced by new ones.
	replaced := func(save func()) {
		p.Helper()
		before := p.processes(invoiceApp)
		save()
		p.awaitOthers(before, "schema")
	}
	// refused saves something, and waits until it is said why it does not reach the database. The pods go on.
	refused := func(save func(), why string) {
		p.Helper()
		n := p.log.len()
		save()
		p.awaitLog(n, why, 1)
		p.awaitState("invoice-app", "error")
		p.await("document.querySelector(`"+row("invoice-app")+"`).textContent.includes('"+why+"')", "true")
		for _, pod := range p.pods(invoiceApp) {
			if pod.ready() {
				return
			}
		}
		require.Fail(p, "no pod is ready")
	}
	press := func(v service) {
		p.Helper()
		p.press(v.name, "Rebuild schema")
		p.press(v.name, "Sure? Rebuild schema")
	}

	// A new migration, which many editors create empty: nothing alarms anybody.
	n := p.log.len()
	replaced(func() { p.save(file("00090_loop.sql"), "") })
	replaced(func() { p.save(file("00090_loop.sql"), column("loop_a")) })
	require.Equal(p, "loop_a", columns())
	assert.Contains(p, p.log.since(n), "applied a migration")
	for _, alarm := range []string{"older than this program", "ended before it was ready", "waiting for the database"} {
		assert.NotContains(p, p.log.since(n), alarm)
	}

	// It is edited after it was applied: the button rebuilds the schema.
	before := p.processes(invoiceApp)
	refused(func() { p.save(file("00090_loop.sql"), column("loop_b")) }, "00090_loop.sql has changed since it was applied")
	require.Equal(p, "loop_a", columns())
	press(invoiceApp)
	p.awaitOthers(before, "schema")
	require.Equal(p, "loop_b", columns())
	p.awaitState("invoice-app", "ok")

	// A lower number is refused, and a higher one is all that it takes.
	before = p.processes(invoiceApp)
	refused(func() { p.save(file("00089_low.sql"), column("loop_c")) },
		"00089_low.sql was not applied before 00090_loop.sql")
	require.NoError(p, os.Rename(p.file(file("00089_low.sql")), p.file(file("00091_low.sql"))))
	p.awaitOthers(before, "schema")
	require.Equal(p, "loop_b loop_c", columns())

	// Another branch has the same number. Back on the first one, everything is as it was.
	before = p.processes(invoiceApp)
	refused(func() {
		require.NoError(p, os.Remove(p.file(file("00091_low.sql"))))
		require.NoError(p, os.Rename(p.file(file("00090_loop.sql")), p.file(file("00090_other.sql"))))
		p.save(file("00090_other.sql"), column("loop_a"))
	}, "00090_loop.sql was applied, and this program")
	require.NoError(p, os.Remove(p.file(file("00090_other.sql"))))
	p.save(file("00090_loop.sql"), column("loop_b"))
	p.save(file("00091_low.sql"), column("loop_c"))
	p.awaitOthers(before, "schema")
	require.Equal(p, "loop_b loop_c", columns())

	// Without the payments, their invoices must not be left.
	require.NotEqual(p, "0", p.sql("SELECT count(*) FROM invoices"))
	providers := p.processes(paymentProvider)
	press(paymentProvider)
	require.Eventually(p, func() bool {
		ready := 0
		for _, pod := range p.pods(paymentProvider) {
			if _, old := providers[pod.Metadata.UID]; !old && pod.ready() {
				ready++
			}
		}
		return ready == 3
	}, enough, pause)
	require.Equal(p, "0", p.sql("SELECT count(*) FROM invoices"))
}
