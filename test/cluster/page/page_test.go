package page

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serve runs a server until the test ends, and returns its address.
func serve(t *testing.T, server *http.Server) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

// respond handles POST /payments/pay and /payments/batch.
func (p rejectable) respond(w http.ResponseWriter, r *http.Request) {
	select {
	case <-p.gate:
	case <-r.Context().Done():
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	single := r.URL.Path == "/payments/pay"
	if single {
		body = slices.Concat([]byte("["), body, []byte("]"))
	}
	var payments []struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(body, &payments) != nil {
		http.Error(w, "no payments", http.StatusBadRequest)
		return
	}
	type verdict struct {
		ID     string `json:"id"`
		Status int    `json:"status"`
		Code   string `json:"code,omitempty"`
		Error  string `json:"error,omitempty"`
	}
	verdicts := []verdict{}
	for _, payment := range payments {
		v := verdict{ID: payment.ID, Status: http.StatusOK}
		if strings.Contains(payment.ID, "bad") {
			v = verdict{payment.ID, http.StatusUnprocessableEntity, "payment_mismatch", "was paid with another amount"}
		}
		verdicts = append(verdicts, v)
	}
	w.Header().Set("Content-Type", "application/json")
	if single {
		w.WriteHeader(verdicts[0].Status)
		_ = json.NewEncoder(w).Encode(verdicts[0])
		return
	}
	_ = json.NewEncoder(w).Encode(verdicts)
}

// focused describes the element with the keyboard focus, by its tag and label.
func (b browser) focused() string {
	b.Helper()
	return b.evaluate(`(() => {
		const e = document.activeElement;
		const label = e.labels?.length ? e.labels[0].textContent : e.getAttribute("aria-label") ?? e.textContent;
		return e.localName + " " + label.trim().replace(/\s+/g, " ");
	})()`)
}

// tab presses Tab until an element is focused whose description has a prefix.
func (b browser) tab(to string) {
	b.Helper()
	for range 100 {
		b.run(chromedp.KeyEvent(kb.Tab))
		if strings.HasPrefix(b.focused(), to) {
			outline := b.evaluate(`getComputedStyle(document.activeElement).outlineStyle + ` +
				`getComputedStyle(document.activeElement).outlineWidth`)
			assert.Equal(b, "solid3px", outline, "%s: the focus must be visible", to)
			return
		}
	}
	require.FailNow(b, "not reachable with the keyboard", "%s", to)
}

// Everything can be done with the keyboard. This test uses both engines and the
// real payment-provider.
func TestKeyboard(t *testing.T) {
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			url := startBoth(t, engine)
			add(t, url, "I1,12.15,EUR", "I2,10.25,GBP", "I3,66.13,DKK")
			b := open(t, url)
			b.tab("a Skip to the list")
			b.run(chromedp.KeyEvent(kb.Enter))
			assert.Equal(t, "h2 All invoices", b.focused())
			b.run(chromedp.Navigate(url))

			var order []string
			for range 15 {
				b.run(chromedp.KeyEvent(kb.Tab))
				order = append(order, b.focused())
			}
			assert.Equal(t, []string{
				"a Skip to the list", "a All 3", "a Unpaid 3", "a Rejected 0", "a Paid 0", "button Pay all unpaid",
				"input Search by id", "button Search", "a I1", "a I2", "a I3", "a Download all as JSON",
				"input 12,15 in a CSV is 12.15",
				"input File of CSV, JSON lines or JSON, with InvoiceId, Value and Currency", "button Import",
			}, order, "tab order")

			b.run(chromedp.Navigate(url))
			b.tab("button Pay all unpaid")
			b.run(chromedp.KeyEvent(kb.Enter))
			b.await("#said", contains("paid now, or rejected"))
			b.await("#invoices tbody", is("I1 12.15 EUR paid I2 10.25 GBP paid I3 66.13 DKK paid"))
			b.await("#summary tbody", is("DKK 0.00 0.00 66.13 EUR 0.00 0.00 12.15 GBP 0.00 0.00 10.25"))
			assert.Equal(t, "button Pay all unpaid", b.focused(), "the focus must stay")
			b.run(chromedp.KeyEvent(kb.Enter)) // paying again is harmless
			b.await("#said", contains("paid now, or rejected"))

			b.tab("input Search by id")
			b.run(chromedp.KeyEvent("I2" + kb.Enter))
			b.await("#list", is("Invoice I2"))
			assert.Equal(t, "I2 10.25 GBP paid", b.text("#invoices tbody"))
		})
	}
}

// The page shows the progress of paying without a reload.
func TestLiveProgress(t *testing.T) {
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			provider := newRejectable(t)
			url := startInvoiceApp(t, engine, provider.url,
				"PAY_CONCURRENCY=1", "PAY_BATCH=5", "PAYMENT_TIMEOUT=30s", "CLAIM_LEASE=60s", "PAY_PATIENCE=10m")
			var lines []string
			for n := range 2000 {
				lines = append(lines, fmt.Sprintf("I%d,1,EUR", n))
			}
			add(t, url, append(lines, "bad,1,EUR")...)
			b := open(t, url+"/?show=rejected")
			assert.Equal(t, "There are none.", b.text("#invoices"))
			b.evaluate("window.same = 'the same page'")
			b.run(chromedp.Focus("#pay button"), chromedp.KeyEvent(kb.Enter))
			b.await("#summary label", is("Paying: 2,001 left"))

			seen := make(chan struct{})
			var letting sync.WaitGroup
			letting.Go(func() { // a few per second, until the progress has been seen
				for {
					select {
					case provider.gate <- struct{}{}:
					case <-seen:
						return
					}
					select {
					case <-time.After(100 * time.Millisecond):
					case <-seen:
						return
					}
				}
			})
			rate := regexp.MustCompile(`^Paying: [1-9][\d,]* left, [\d,.]+ a second, about \d+ (s|min) more$`)
			first := b.await("#summary label", rate.MatchString)
			b.await("#summary label", func(text string) bool { return rate.MatchString(text) && text != first })
			assert.NotEqual(t, "0", b.evaluate("document.querySelector('progress').value"))
			assert.Equal(t, "button Pay all unpaid", b.focused())

			// A page opened now, and without JavaScript, shows the progress, too.
			other := open(t, url, emulation.SetScriptExecutionDisabled(true))
			other.await("#summary label", contains("Paying: "))

			close(seen)
			letting.Wait()
			close(provider.gate)
			b.await("#said", is("Paying has ended."))
			b.await("#invoices tbody", contains("bad 1.00 EUR rejected: "))
			assert.Contains(t, b.text("#summary tbody"), "EUR 0.00 1.00 2000.00")
			assert.Equal(t, "the same page", b.evaluate("window.same"))
			assert.Equal(t, "button Pay all unpaid", b.focused())
			other.await("#summary .tabs", contains("Paid 2,000")) // it reloads automatically

			b.run(chromedp.Focus("[aria-label='Retry bad']"), chromedp.KeyEvent(kb.Enter))
			b.await("#said", is("1 invoice to be tried again when you pay."))
			b.await("#summary .tabs", contains("Unpaid 1"))
		})
	}
}

func TestImportWithInvalidLine(t *testing.T) {
	b := open(t, startBoth(t, "SQLite"))
	file := filepath.Join(t.TempDir(), "invoices.csv")
	importing := func(text string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		b.run(chromedp.SetUploadFiles("#file", []string{file}), chromedp.Focus("#file"))
		b.tab("button Import")
		b.run(chromedp.KeyEvent(kb.Enter))
	}
	importing("InvoiceId,Value,Currency\nI1,12.15,EUR\nI2,1.234,EUR\nI3,5,EUR\n")
	b.await("#wrong", is("Nothing was imported: line 3"))
	assert.Equal(t, "I2,1.234,EUR", b.text(".here mark"))
	assert.Equal(t, "value 1.234 has more decimals than the currency", b.text(".here p"))
	assert.Equal(t, "1 2 3 4",
		b.evaluate("[...document.querySelectorAll('.wrong li')].map((line) => line.value).join(' ')"))
	assert.Equal(t, "There are none.", b.text("#invoices"))
	importing("InvoiceId,Value,Currency\nI1,12.15,EUR\nI2,1.23,EUR\nI3,5,EUR\n")
	b.await("#said", is("3 invoices added. Already there: 0."))
	assert.Equal(t, "I1 12.15 EUR unpaid I2 1.23 EUR unpaid I3 5.00 EUR unpaid", b.text("#invoices tbody"))
}

func TestWithoutJavaScript(t *testing.T) {
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			url := startBoth(t, engine)
			var lines []string
			for n := range 60 {
				lines = append(lines, fmt.Sprintf("I%d,1,EUR", n))
			}
			add(t, url, lines...)
			b := open(t, url, emulation.SetScriptExecutionDisabled(true))
			b.run(chromedp.Click("//a[.='Next page']"))
			b.await("#invoices tbody", func(text string) bool { return strings.HasPrefix(text, "I50 1.00 EUR unpaid") })
			b.run(chromedp.Click("//button[.='Pay all unpaid']"))
			b.await("#summary .tabs", contains("Paid 60"))
			b.run(chromedp.Click("//a[starts-with(., 'Paid')]"))
			b.await("#list", is("Paid invoices"))
			b.await("#invoices tbody", func(text string) bool { return strings.HasPrefix(text, "I0 1.00 EUR paid") })
			assert.Equal(t, "undefined", b.evaluate("typeof follow"), "scripts must not run")
		})
	}
}
