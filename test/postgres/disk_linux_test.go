package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/porttest"
)

// enough is a generous limit for everything that must happen. It only ends a test that hangs.
const enough = 3 * time.Minute

// A full volume first stops all writing, and then the server: it ends when there is no space for
// its write-ahead log, and cannot start. Both services report that, and continue without a loss
// when there is space again.
func TestFullVolume(t *testing.T) {
	p := newPod(t, "max_wal_size = 32MB\nmin_wal_size = 32MB\n") // a small one fills up sooner
	p.limitVolume(144 << 20)
	p.secrets("owner", "application")
	for _, database := range []string{"invoicing", "payments"} {
		output, err := p.prepare(database)
		require.NoError(t, err, lastOf(output))
	}
	url := p.serve()
	require.NoError(t, logsIn(t, url("owner", "owner", "invoicing")))
	provider := startService(t, "payment-provider",
		url("owner", "owner", "payments"), url("application", "application", "payments"))
	app := startService(t, "invoice-app",
		url("owner", "owner", "invoicing"), url("application", "application", "invoicing"),
		"PAYMENT_PROVIDER_URL="+provider.url, "PAY_PATIENCE=1s")

	added := map[string]bool{} // those with a 201
	batch := 0
	add := func() (status int) {
		batch++
		var list []map[string]any
		for n := range 500 {
			list = append(list, map[string]any{"InvoiceId": fmt.Sprintf("batch-%d-%d-%s", batch, n, strings.Repeat("x", 80)),
				"Value": 12.34, "Currency": "EUR"})
		}
		status, _ = app.call(http.MethodPost, "/invoices", list)
		if status == http.StatusCreated {
			for _, invoice := range list {
				added[invoice["InvoiceId"].(string)] = true
			}
		}
		return status
	}
	payment := 0
	pay := func() (status int) {
		payment++
		status, _ = provider.call(http.MethodPost, "/payments/pay",
			map[string]any{"id": fmt.Sprintf("direct-%d-%s", payment, strings.Repeat("x", 80)), "value": 1, "currency": "EUR"})
		return status
	}
	payAll := func() (status int) {
		status, _ = app.call(http.MethodPost, "/invoices/pay", nil)
		return status
	}
	until := func(status int, try func() int, what string) {
		t.Helper()
		for deadline := time.Now().Add(enough); ; {
			got := try()
			if got == status {
				return
			}
			time.Sleep(10 * time.Millisecond)
			require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusServiceUnavailable}, got, what)
			require.True(t, time.Now().Before(deadline), "%s: it is still %d", what, got)
		}
	}

	require.Equal(t, http.StatusCreated, add())
	require.Equal(t, http.StatusOK, payAll())
	require.Equal(t, http.StatusCreated, add())

	superuser := p.superuser() // now, since a new session would have no space for its files
	giveBack := p.fillVolume()
	until(http.StatusServiceUnavailable, add, "adding to a full volume")
	until(http.StatusServiceUnavailable, pay, "paying on a full volume")
	status, _ := app.call(http.MethodGet, "/invoices?limit=1", nil)
	assert.Equal(t, http.StatusOK, status, "reading needs no space")

	// The server cannot continue without space for its write-ahead log.
	for !superuser.IsClosed() {
		_, _ = superuser.Exec(t.Context(), "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'filler', 'x')")
	}
	for _, s := range []service{app, provider} {
		until(http.StatusServiceUnavailable, s.ready, "readiness without a database")
		status, _ := s.call(http.MethodGet, "/livez", nil)
		assert.Equal(t, http.StatusOK, status, "a restart would not help")
	}
	for range 3 {
		assert.Equal(t, http.StatusServiceUnavailable, add())
		assert.Equal(t, http.StatusServiceUnavailable, pay())
		assert.Equal(t, http.StatusServiceUnavailable, payAll())
	}

	giveBack()
	until(http.StatusCreated, add, "adding when there is space again")
	until(http.StatusOK, pay, "paying when there is space again")
	paid := app.invoices(t)
	for id, isPaid := range paid {
		if isPaid {
			status, _ = provider.call(http.MethodGet, "/payments/"+id, nil)
			require.Equal(t, http.StatusOK, status, "%s is marked paid, and there is no payment", id)
		}
	}
	until(http.StatusOK, payAll, "paying all when there is space again")
	paid = app.invoices(t)
	for id := range added {
		assert.True(t, paid[id], "%s was added, and is not there or not paid", id)
	}
}

// limitVolume limits the size of the volume, as a disk would.
func (p pod) limitVolume(size int) {
	p.t.Helper()
	if os.Getuid() != 0 {
		p.t.Skip("only root can mount a small file system: run this test as root")
	}
	require.NoError(p.t, syscall.Mount("tmpfs", p.path("volume"), "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	p.t.Cleanup(func() { assert.NoError(p.t, syscall.Unmount(p.path("volume"), syscall.MNT_DETACH)) })
	p.mkdir("volume")
}

// fillVolume uses up all space, including what the server frees, until the space is released.
func (p pod) fillVolume() (giveBack func()) {
	p.t.Helper()
	ballast, err := os.Create(p.path("volume/ballast"))
	require.NoError(p.t, err)
	page := make([]byte, 4096)
	for err == nil {
		_, err = ballast.Write(page)
	}
	require.ErrorIs(p.t, err, syscall.ENOSPC)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				for err = nil; err == nil; {
					_, err = ballast.Write(page)
				}
			}
		}
	}()
	giveBack = sync.OnceFunc(func() {
		close(stop)
		<-stopped
		_ = ballast.Close()
		assert.NoError(p.t, os.Remove(ballast.Name()))
	})
	p.t.Cleanup(giveBack)
	return giveBack
}

// superuser returns a session on the server's own socket.
func (p pod) superuser() *pgx.Conn {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(),
		fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres", p.path("run"), p.port))
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

type service struct{ url string }

// startService migrates a service's database and runs the service until the test ends.
func startService(t *testing.T, name, owner, application string, env ...string) service {
	t.Helper()
	command := func(url string, args ...string) *exec.Cmd {
		command := exec.Command(filepath.Join(programs, name), args...)
		command.Dir = t.TempDir() // no .env file is found there
		command.Env = append([]string{"DATABASE_URL=" + url}, env...)
		return command
	}
	output, err := command(owner, "migrate", "--grant-to", "application").CombinedOutput()
	require.NoError(t, err, "%s", output)
	address := fmt.Sprint("127.0.0.1:", porttest.Free(t))
	process := command(application)
	process.Env = append(process.Env, "LISTEN_ADDR="+address)
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	s := service{"http://" + address}
	require.Eventually(t, func() bool {
		return s.ready() == http.StatusOK
	}, enough, 100*time.Millisecond, "%s is ready", name)
	return s
}

// call returns the status and the body, or 0 if there is no answer.
func (s service) call(method, path string, body any) (status int, answer []byte) {
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		sent = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, s.url+path, sent)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Timeout: enough}).Do(request)
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(response.Body); err != nil {
		return 0, nil
	}
	return response.StatusCode, answer
}

func (s service) ready() (status int) {
	status, _ = s.call(http.MethodGet, "/readyz", nil)
	return status
}

// invoices returns whether each invoice is paid.
func (s service) invoices(t *testing.T) map[string]bool {
	t.Helper()
	status, answer := s.call(http.MethodGet, "/invoices", nil)
	require.Equal(t, http.StatusOK, status)
	var list []struct {
		InvoiceId string //nolint:revive,staticcheck // the API's spelling
		IsPaid    bool
	}
	require.NoError(t, json.Unmarshal(answer, &list))
	paid := map[string]bool{}
	for _, invoice := range list {
		paid[invoice.InvoiceId] = invoice.IsPaid
	}
	return paid
}

var programs string // the folder of the programs of both services

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "postgres-")
	if err == nil {
		defer os.RemoveAll(folder)
		build := exec.Command("go", "build", "-o", folder+"/", "./invoice-app", "./payment-provider")
		build.Dir = "../.."
		var output []byte
		if output, err = build.CombinedOutput(); err != nil {
			err = errors.New(string(output))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build both services:", err)
		return 1
	}
	programs = folder
	return m.Run()
}
