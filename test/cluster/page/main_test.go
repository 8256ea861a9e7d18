// Package page runs both services on this machine, on SQLite and on PostgreSQL,
// and uses invoice-app's page as people do: in a real browser, with the keyboard,
// without JavaScript, in the dark.
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

// moduleRoot is where the services' module begins.
const moduleRoot = "../../.."

const (
	enough = 2 * time.Minute // for anything; only ends a test that hangs
	pause  = 50 * time.Millisecond
)

// screenshots is the folder that gets docs' pictures anew, or "".
var screenshots = flag.String("screenshots", "", "folder for the documentation's pictures of the page")

// programs is the folder of the two services' binaries.
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

// engines are what the services can keep their data in, each in new databases.
var engines = map[string]func(t *testing.T, service string) (url string){
	"SQLite": func(t *testing.T, service string) string {
		return "sqlite:" + filepath.Join(t.TempDir(), service+".db")
	},
	"PostgreSQL": func(t *testing.T, service string) string {
		server := postgrestest.Start(t)
		url := server.URL(postgrestest.Superuser, "postgres")
		migrate := exec.Command(filepath.Join(programs, service), "migrate")
		migrate.Dir = t.TempDir() // no .env file is found there
		migrate.Env = []string{"DATABASE_URL=" + url}
		out, err := migrate.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return url
	},
}

// start runs a service until the test ends, and returns where it is.
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
		require.NoError(t, err, "%s has ended: %s", service, text)
		var line struct{ Msg, Address string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
			go func() { _, _ = io.Copy(io.Discard, lines) }() // until it ends
			return "http://" + line.Address
		}
	}
}

// startBoth runs both services on an engine, and returns where invoice-app is.
func startBoth(t *testing.T, engine string) (url string) {
	t.Helper()
	return startInvoiceApp(t, engine, start(t, "payment-provider", "DATABASE_URL="+engines[engine](t, "payment-provider")))
}

func startInvoiceApp(t *testing.T, engine, provider string, env ...string) (url string) {
	t.Helper()
	return start(t, "invoice-app", append(env, "DATABASE_URL="+engines[engine](t, "invoice-app"), "PAYMENT_PROVIDER_URL="+provider)...)
}

// add adds invoices by the API, from the lines of a CSV.
func add(t *testing.T, url string, lines ...string) {
	t.Helper()
	text := "InvoiceId,Value,Currency\n" + strings.Join(lines, "\n")
	response, err := http.Post(url+"/invoices", "text/csv", strings.NewReader(text))
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, response.StatusCode, "%s", answer)
}

// rejectable is a provider that rejects what has "bad" in its id, and takes the
// rest as soon as a call is let through.
type rejectable struct {
	url  string
	gate chan struct{} // a call waits for it
}

func newRejectable(t *testing.T) rejectable {
	t.Helper()
	p := rejectable{gate: make(chan struct{})}
	listening := &http.Server{Handler: http.HandlerFunc(p.answer)}
	p.url = "http://" + serve(t, listening)
	return p
}

// browser is a tab of a headless Chromium.
type browser struct {
	*testing.T
	ctx context.Context
}

// open opens a page in a browser of its own, which ends with the test. What the
// browser complains about, such as a breach of the page's policy, fails the test.
func open(t *testing.T, url string, before ...chromedp.Action) browser {
	t.Helper()
	// As root, as in CI, Chromium runs without its sandbox or not at all; it sees nothing but this page.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(900, 760))
	allocator, closeBrowser := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(closeBrowser)
	ctx, closePage := chromedp.NewContext(allocator)
	t.Cleanup(closePage)
	chromedp.ListenTarget(ctx, func(event any) {
		switch event := event.(type) {
		case *log.EventEntryAdded:
			// That a form was refused is an answer like others.
			if event.Entry.Source != log.SourceNetwork {
				t.Errorf("the browser complains: %s %s", event.Entry.Text, event.Entry.URL)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("the script fails: %s", event.ExceptionDetails.Error())
		}
	})
	b := browser{t, ctx}
	require.NoError(t, chromedp.Run(ctx)) // it lives as long as this context
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

// evaluate asks the page in JavaScript.
func (b browser) evaluate(expression string) (answer string) {
	b.Helper()
	b.run(chromedp.Evaluate("String("+expression+")", &answer))
	return answer
}

// text is what an element says, with single blanks.
func (b browser) text(selector string) string {
	b.Helper()
	return strings.Join(strings.Fields(b.evaluate(fmt.Sprintf(`(() => {
		const parts = [];
		const texts = document.createTreeWalker(document.querySelector(%q) ?? document.createTextNode(""), NodeFilter.SHOW_TEXT);
		while (texts.nextNode()) {
			parts.push(texts.currentNode.data);
		}
		return parts.join(" ");
	})()`, selector))), " ")
}

// await waits until an element's text is right.
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
