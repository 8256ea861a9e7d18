// Package page runs both services on this machine, with SQLite and PostgreSQL,
// and tests invoice-app's page in a real browser: with the keyboard, without
// JavaScript, and in light and dark mode.
package page

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

// moduleRoot is the root of the services' module.
const moduleRoot = "../../.."

const (
	enough = 2 * time.Minute // a timeout for anything that hangs
	pause  = 50 * time.Millisecond
)

// screenshots is the folder for new screenshots, or "".
var screenshots = flag.String("screenshots", "", "folder for the documentation's screenshots of the page")

// programs is the folder with the binaries of both services.
var programs string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "page-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	build := exec.Command("go", "build", "-o", folder+"/", "./invoice-app", "./payment-provider")
	build.Dir = moduleRoot
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n%s", build, err, out)
		return 1
	}
	programs = folder
	return m.Run()
}

// engines create a new database for a service, by database engine.
var engines = map[string]func(t *testing.T, service string) (url string){
	"SQLite": func(t *testing.T, service string) string {
		return "sqlite:" + filepath.Join(t.TempDir(), service+".db")
	},
	"PostgreSQL": func(t *testing.T, service string) string {
		server := postgrestest.Start(t)
		url := server.URL(postgrestest.Superuser, "postgres")
		migrate := exec.Command(filepath.Join(programs, service), "migrate")
		migrate.Dir = t.TempDir() // without an .env file
		migrate.Env = []string{"DATABASE_URL=" + url}
		out, err := migrate.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return url
	},
}

// start runs a service until the test ends, and returns its URL.
func start(t *testing.T, service string, env ...string) (url string) {
	t.Helper()
	command := exec.Command(filepath.Join(programs, service))
	command.Dir = t.TempDir()
	command.Env = append(env, "LISTEN_ADDR=127.0.0.1:0")
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	})
	lines := bufio.NewReader(stderr)
	for {
		text, err := lines.ReadString('\n')
		require.NoError(t, err, "%s exited: %s", service, text)
		var line struct{ Msg, Address string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
			go func() { _, _ = io.Copy(io.Discard, lines) }() // until the service exits
			return "http://" + line.Address
		}
	}
}

// startBoth runs both services with an engine, and returns invoice-app's URL.
func startBoth(t *testing.T, engine string) (url string) {
	t.Helper()
	return startInvoiceApp(t, engine, start(t, "payment-provider", "DATABASE_URL="+engines[engine](t, "payment-provider")))
}

func startInvoiceApp(t *testing.T, engine, provider string, env ...string) (url string) {
	t.Helper()
	return start(t, "invoice-app",
		append(env, "DATABASE_URL="+engines[engine](t, "invoice-app"), "PAYMENT_PROVIDER_URL="+provider)...)
}

// add adds invoices using the API, from lines of CSV.
func add(t *testing.T, url string, lines ...string) {
	t.Helper()
	text := "InvoiceId,Value,Currency\n" + strings.Join(lines, "\n")
	response, err := http.Post(url+"/invoices", "text/csv", strings.NewReader(text))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, response.StatusCode, "%s", body)
}

// rejectable is a fake payment-provider that rejects payments with "bad" in their
// id and accepts others. Each request waits for the gate.
type rejectable struct {
	url  string
	gate chan struct{}
}

func newRejectable(t *testing.T) rejectable {
	t.Helper()
	p := rejectable{gate: make(chan struct{})}
	listening := &http.Server{Handler: http.HandlerFunc(p.respond)}
	p.url = "http://" + serve(t, listening)
	return p
}

// browser is a tab of a headless Chromium.
type browser struct {
	*testing.T
	ctx context.Context
}

// open opens a page in a new browser, which is closed after the test. Errors in the
// browser's log, such as violations of the page's policy, fail the test.
func open(t *testing.T, url string, before ...chromedp.Action) browser {
	t.Helper()
	// As root, for example in CI, Chromium runs only without its sandbox. It opens only this page.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(900, 760))
	allocator, closeBrowser := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(closeBrowser)
	ctx, closePage := chromedp.NewContext(allocator)
	t.Cleanup(closePage)
	chromedp.ListenTarget(ctx, func(event any) {
		switch event := event.(type) {
		case *log.EventEntryAdded:
			// The log also has error responses, such as for rejected forms, which tests may expect.
			if event.Entry.Source != log.SourceNetwork {
				t.Errorf("the browser logged: %s %s", event.Entry.Text, event.Entry.URL)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("the script failed: %s", event.ExceptionDetails.Error())
		}
	})
	b := browser{t, ctx}
	require.NoError(t, chromedp.Run(ctx)) // the browser runs until this context is done
	b.run(log.Enable())
	b.run(before...)
	b.run(chromedp.Navigate(url))
	return b
}

func (b browser) run(actions ...chromedp.Action) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, enough)
	defer cancel()
	require.NoError(b, chromedp.Run(ctx, actions...))
}

// evaluate evaluates a JavaScript expression on the page.
func (b browser) evaluate(expression string) (result string) {
	b.Helper()
	b.run(chromedp.Evaluate("String("+expression+")", &result))
	return result
}

// text returns an element's text, with whitespace collapsed.
func (b browser) text(selector string) string {
	b.Helper()
	return strings.Join(strings.Fields(b.evaluate(fmt.Sprintf(`(() => {
		const parts = [];
		const texts = document.createTreeWalker(
			document.querySelector(%q) ?? document.createTextNode(""), NodeFilter.SHOW_TEXT);
		while (texts.nextNode()) {
			parts.push(texts.currentNode.data);
		}
		return parts.join(" ");
	})()`, selector))), " ")
}

// await waits until an element's text satisfies a condition.
func (b browser) await(selector string, right func(string) bool) (text string) {
	b.Helper()
	if !assert.Eventually(b, func() bool {
		text = b.text(selector)
		return right(text)
	}, enough, pause) {
		b.Fatalf("%s is %q on the page:\n%s", selector, text, b.text("body"))
	}
	return text
}

func is(want string) func(string) bool { return func(text string) bool { return text == want } }

func contains(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}
