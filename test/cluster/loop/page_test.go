package loop

import (
	"context"
	"fmt"
	"strings"
	"testing"

	devtools "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// page is the page of Tilt in a browser.
type page struct {
	*session
	ctx context.Context
}

// openPage opens the page in a headless Chromium, which ends with the test.
func openPage(s *session) page {
	// As root, as in CI, Chromium runs only without its sandbox; it sees nothing but this page.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1400, 1000))
	browser, closeBrowser := chromedp.NewExecAllocator(context.Background(), options...)
	s.Cleanup(closeBrowser)
	ctx, closePage := chromedp.NewContext(browser)
	s.Cleanup(closePage)
	p := page{s, ctx}
	p.run(chromedp.Navigate(s.page))
	return p
}

func (p page) run(actions ...chromedp.Action) {
	p.Helper()
	require.NoError(p, chromedp.Run(p.ctx, actions...))
}

// evaluate evaluates JavaScript in the page.
func (p page) evaluate(expression string) (answer string) {
	p.Helper()
	p.run(chromedp.Evaluate("String("+expression+")", &answer))
	return answer
}

// await waits until an expression has a value. It may fail until then, as it does while the page is being loaded.
func (p page) await(expression, want string) {
	p.Helper()
	var answer string
	var err error
	if !assert.Eventually(p, func() bool {
		err = chromedp.Run(p.ctx, chromedp.Evaluate("String("+expression+")", &answer))
		return err == nil && answer == want
	}, enough, pause) {
		var rows string
		p.run(chromedp.Text("body", &rows))
		p.Fatalf("%s is not %s on the page, but %s (%v):\n%s", expression, want, answer, err, rows)
	}
}

func row(resource string) string { return fmt.Sprintf("tr[data-resource=%q]", resource) }

func (p page) awaitState(resource, kind string) {
	p.Helper()
	p.await(fmt.Sprintf("document.querySelector(`%s [data-state]`)?.dataset.state", row(resource)), kind)
}

// press clicks a button of a resource.
func (p page) press(resource, text string) {
	p.Helper()
	p.run(chromedp.Click(fmt.Sprintf(`//tr[@data-resource=%q]//button[.=%q]`, resource, text)))
}

// show selects the resource whose log is shown.
func (p page) show(resource string) {
	p.Helper()
	p.run(chromedp.Click(row(resource) + " td"))
	p.await("document.getElementById('whose').textContent", "Log of "+resource)
}

func (p page) awaitLogOnPage(text string) {
	p.Helper()
	p.await(fmt.Sprintf("document.getElementById('log').textContent.includes(%q)", text), "true")
}

func TestTiltPage(t *testing.T) {
	long(t)
	p := openPage(tiltUp(t))
	for _, resource := range []string{"(Tiltfile)", "platform", "passwords", invoiceApp.namespace + "-postgres",
		paymentProvider.namespace + "-postgres",
		"invoice-app", "invoice-app-build", "payment-provider", "payment-provider-build"} {
		p.awaitState(resource, "ok")
	}
	p.awaitState("test", "idle") // it pays invoices, so it runs only on demand

	// A developer looks for the address, and for the duration of an update.
	assert.Equal(p, p.invoiceApp+"/invoices",
		p.evaluate(fmt.Sprintf("document.querySelector(`%s a`).href", row("invoice-app"))))
	p.press("unit-tests", "Run")
	p.awaitState("unit-tests", "ok")

	p.saveVersion(invoiceApp, "first") // when this is live everywhere, all pods have started
	p.awaitVersion(invoiceApp, 3, "first")
	n := p.log.len()
	p.saveVersion(invoiceApp, "page")
	p.awaitVersion(invoiceApp, 3, "page")
	p.awaitLog(n, " is live in 3 pods ", 1)
	p.show("invoice-app-build")
	p.awaitLogOnPage(" is live in 3 pods ")
	assert.Equal(p, "false",
		p.evaluate("document.getElementById('log').textContent.includes('Successfully loaded Tiltfile')"),
		"only its own log")

	original := p.read(invoiceApp.routes())
	p.save(invoiceApp.routes(), original+"\nthis is not Go\n")
	p.awaitState("invoice-app-build", "error")
	p.awaitLogOnPage("syntax error")
	p.save(invoiceApp.routes(), original)
	p.awaitState("invoice-app-build", "ok")

	// A save runs the unit tests: one of them compares the routes with openapi.yaml.
	renamed := strings.Replace(original, "/invoices/:id/retry", "/invoices/:id/again", 1)
	require.NotEqual(p, original, renamed)
	p.save(invoiceApp.routes(), renamed)
	p.awaitState("unit-tests", "error")
	p.show("unit-tests")
	p.awaitLogOnPage("/invoices/{id}/again")
	p.save(invoiceApp.routes(), original)
	p.awaitState("unit-tests", "ok")
	const test = "internal/money/money_test.go"
	good := p.read(test)
	p.save(test, good+"\nfunc TestIsRed(t *testing.T) { t.Fatal(\"on purpose\") }\n")
	p.awaitState("unit-tests", "error")
	p.awaitLogOnPage("on purpose")
	p.save(test, good)
	p.awaitState("unit-tests", "ok")

	const invoices, unpaid = "SELECT count(*) FROM invoices", "SELECT count(*) FROM invoices WHERE paid_at IS NULL"
	awaitRows := func(query, want string) {
		p.Helper()
		require.Eventually(p, func() bool { return p.sql(query) == want }, enough, pause, "%s gives %s", query, want)
	}
	thousandMore := p.sql("SELECT count(*) + 1000 FROM invoices")
	p.press("invoice-app", "Add 1,000 invoices")
	awaitRows(invoices, thousandMore)
	p.press("invoice-app", "Pay all invoices")
	awaitRows(unpaid, "0")

	p.press("test", "Run")
	p.awaitState("test", "ok")

	p.saveVersion(invoiceApp, "page")
	p.awaitVersion(invoiceApp, 3, "page")
	before := p.processes(invoiceApp)
	p.press("invoice-app", "Kill a pod")
	require.Eventually(p, func() bool {
		for _, pod := range p.pods(invoiceApp) {
			if _, old := before[pod.Metadata.UID]; !old {
				return p.everywhere(invoiceApp, 3, "page")
			}
		}
		return false
	}, enough, pause)

	p.press("platform", "Reset all data")
	assert.NotEqual(p, "0", p.sql(invoices), "the button asks for confirmation")
	p.press("platform", "Sure? Reset all data")
	awaitRows(invoices, "0")

	chromedp.ListenTarget(p.ctx, func(event any) {
		if asked, ok := event.(*devtools.EventJavascriptDialogOpening); ok {
			go func() {
				_ = chromedp.Run(p.ctx, devtools.HandleJavaScriptDialog(true).WithPromptText(asked.DefaultPrompt))
			}()
		}
	})
	database := invoiceApp.namespace + "-postgres"
	p.show(database)
	p.press(database, "psql")
	p.awaitLogOnPage("pg_size_pretty") // the header of the result
	p.awaitLogOnPage("goose_db_version")

	p.press("load", "Run")
	p.awaitState("load", "busy")
	p.show("load")
	p.awaitLogOnPage("100/s for 1m0s")
	p.press("load", "Stop Build")
	p.awaitLogOnPage("latency: p50 ")
}
