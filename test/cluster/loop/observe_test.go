package loop

import (
	"encoding/json"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/docstest"
)

// screenshots is the folder for a new screenshot, or "".
var screenshots = flag.String("screenshots", "", "folder for the documentation's screenshot of the dashboard")

// metrics is VictoriaMetrics, through the port that Tilt forwards.
type metrics struct {
	page
	url string
}

// query returns the values of a query's result, by the label.
func (m metrics) query(expression, label string) map[string]float64 {
	m.Helper()
	body, err := m.get(m.url + "/api/v1/query?latency_offset=1s&query=" + url.QueryEscape(expression))
	if err != nil {
		return nil
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	require.NoError(m, json.Unmarshal(body, &answer), "%s", body)
	values := map[string]float64{}
	for _, result := range answer.Data.Result {
		value, err := strconv.ParseFloat(result.Value[1].(string), 64)
		require.NoError(m, err)
		values[result.Metric[label]] = value
	}
	return values
}

// value returns the value of a query with one result.
func (m metrics) value(expression string) (float64, bool) {
	m.Helper()
	value, found := m.query(expression, "")[""]
	return value, found
}

func (m metrics) awaitValue(expression string, right func(float64) bool) {
	m.Helper()
	var last any
	if !assert.Eventually(m, func() bool {
		value, found := m.value(expression)
		last = value
		return found && right(value)
	}, enough, time.Second) {
		m.Fatalf("%s is %v", expression, last)
	}
}

func is(want float64) func(float64) bool { return func(value float64) bool { return value == want } }

// The promises are numbers that are computed from both databases.
var promises = []string{"audit_paid_without_payment", "audit_paid_twice", "audit_payments_without_invoice",
	"audit_amounts_differ", "max(abs(audit_difference_minor))"}

func TestObserve(t *testing.T) {
	long(t)
	p := openPage(tiltUp(t, "--", "--observe"))
	p.awaitState("audit", "ok")
	p.awaitState("victoria-metrics", "ok")
	dashboard := ""
	require.Eventually(t, func() (found bool) {
		dashboard, _, found = strings.Cut(p.links("victoria-metrics")["dashboard"], "/vmui/")
		return found
	}, enough, time.Second, "victoria-metrics has no link")
	m := metrics{p, dashboard}
	m.awaitValue(`sum(up)`, is(3+3+1+2)) // the replicas of both services, the audit, VictoriaMetrics and vmalert
	// Without what other tests have left: a database that TestMishaps has deleted.
	p.press("platform", "Reset all data")
	p.press("platform", "Sure? Reset all data")
	m.awaitValue("audit_payments", is(0))
	p.saveVersion(invoiceApp, "observed")
	p.awaitVersion(invoiceApp, 3, "observed")
	m.awaitValue(`last_over_time(go_live_update_seconds{service="invoice-app",stage="total"}[1h])`,
		func(seconds float64) bool { return seconds > 0 })

	// A pod is killed under load, while invoices are paid.
	m.awaitValue(`count(up{job="invoice-app"} == 1)`, is(3))
	before := m.query(`up{job="invoice-app"} == 1`, "instance")
	require.Len(t, before, 3)
	p.press("invoice-app", "Add 1,000 invoices")
	p.press("load", "Run")
	m.awaitValue(`sum(rate(http_request_duration_seconds_count{job="invoice-app",route="/invoices"}[30s]))`,
		func(rate float64) bool { return rate > 10 })
	p.press("load", "Kill a pod")
	p.press("invoice-app", "Pay all invoices")
	require.Eventually(t, func() bool {
		now := m.query(`up{job="invoice-app"} == 1`, "instance")
		left, came := 0, 0
		for instance := range before {
			if _, up := now[instance]; !up {
				left++
			}
		}
		for instance := range now {
			if _, old := before[instance]; !old {
				came++
			}
		}
		return left == 1 && came == 1 && len(now) == 3
	}, enough, time.Second, "one pod is replaced")
	rows := p.sql("SELECT count(*) FROM invoices")
	count, err := strconv.ParseFloat(rows, 64)
	require.NoError(t, err)
	m.awaitValue("audit_invoices", is(count))
	m.awaitValue("audit_invoices_paid", is(count))
	m.awaitValue("audit_payments", func(payments float64) bool { return payments >= count })
	for _, promise := range promises {
		m.awaitValue(promise, is(0))
	}

	p.run(chromedp.EmulateViewport(1400, 1900), chromedp.Navigate(dashboard+"/vmui/?g0.range_input=5m#/dashboards"))
	for _, title := range []string{"Violations", "Payments per second, by result", "Requests per second, by pod"} {
		p.await("document.body.innerText.includes("+strconv.Quote(title)+")", "true")
	}
	p.await("document.querySelectorAll('canvas').length > 3", "true")
	p.await("document.querySelectorAll('.vm-spinner').length", "0")
	p.run(chromedp.Sleep(3 * time.Second)) // until the lines are drawn
	var picture []byte
	p.run(chromedp.CaptureScreenshot(&picture))
	if *screenshots != "" {
		require.NoError(t, os.WriteFile(filepath.Join(*screenshots, "observe.png"), picture, 0o600))
	}

	// An invoice that is marked paid without a payment is found.
	p.sql(`INSERT INTO invoices (id, amount_minor, currency, paid_at) VALUES ('never-paid', 7, 'EUR', now())`)
	m.awaitValue("audit_paid_without_payment", is(1))
	m.awaitValue(`audit_difference_minor{currency="EUR"}`, is(-7))
	require.Eventually(t, func() bool {
		return m.query(`ALERTS{alertstate="firing"}`, "alertname")["PaidWithoutPayment"] == 1
	}, enough, time.Second, "the alert fires")
	p.sql(`DELETE FROM invoices WHERE id = 'never-paid'`)
	m.awaitValue("audit_paid_without_payment", is(0))

	t.Run("pages", func(t *testing.T) { p.runPages(t) })
}

// runPages runs the blocks of the pages that are marked as `sh observe`.
func (p page) runPages(t *testing.T) {
	replace := map[string]string{"kind-" + list.Product: p.kubeContext}
	ran := 0
	for file, content := range docstest.Pages(t, "../../..") {
		for _, b := range content.Blocks {
			if b.Is("observe") {
				ran++
				b.Run(t, "../../..", os.Environ(), replace, false)
				t.Logf("%s:%d works", file, b.Line)
			}
		}
	}
	require.Greater(t, ran, 10)
}
