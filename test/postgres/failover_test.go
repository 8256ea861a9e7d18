package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/porttest"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/provider"
	invoicestore "example.com/invoices/invoice-app/store"
	paymentapi "example.com/invoices/payment-provider/api"
	paymentstore "example.com/invoices/payment-provider/store"
)

// route is an address that leads to one server after the other, as a Kubernetes Service does.
type route struct {
	net.Listener

	mu     sync.Mutex
	target string // "": connections are refused
	open   []*link
}

type link struct {
	client, server net.Conn
	dropped        atomic.Bool // nothing arrives any more, and nobody says so
}

func newRoute(t *testing.T, target string) *route {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	s := &route{Listener: listener, target: target}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			s.connect(client)
		}
	}()
	return s
}

func (s *route) connect(client net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var server net.Conn
	err := errors.New("nobody")
	if s.target != "" {
		server, err = net.Dial("tcp", s.target)
	}
	if err != nil {
		client.Close()
		return
	}
	l := &link{client: client, server: server}
	s.open = append(s.open, l)
	for _, way := range []struct{ from, to net.Conn }{{client, server}, {server, client}} {
		go func() {
			buffer := make([]byte, 32<<10)
			for {
				n, err := way.from.Read(buffer)
				if l.dropped.Load() {
					if err != nil {
						return
					}
					continue
				}
				if n > 0 {
					_, _ = way.to.Write(buffer[:n])
				}
				if err != nil {
					way.to.Close()
					return
				}
			}
		}()
	}
}

// lead sends new connections to target. With drop, nothing more arrives on the others.
func (s *route) lead(target string, drop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = target
	for _, l := range s.open {
		if drop {
			l.dropped.Store(true)
		}
	}
}

// No request fails while the database fails over, in any of the ways in which it can; nothing that was confirmed is
// lost, and everything is paid once.
func TestFailover(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	primary := postgrestest.Start(t)
	for _, name := range []string{"ours", "theirs"} {
		primary.CreateDatabase(name)
	}
	rw := newRoute(t, primary.Address())
	address := func(name string) string {
		return postgrestest.URL(rw.Addr().String(), postgrestest.Superuser, name)
	}
	require.NoError(t, invoicestore.Schema.Migrate(t.Context(), address("ours"), ""))
	require.NoError(t, paymentstore.Schema.Migrate(t.Context(), address("theirs"), ""))
	payments, err := paymentstore.Open(t.Context(), address("theirs"), 10)
	require.NoError(t, err)
	defer payments.Close()
	invoices, err := invoicestore.Open(t.Context(), address("ours"), 10)
	require.NoError(t, err)
	defer invoices.Close()
	running, end := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	defer ended.Wait()
	defer end()
	run := func(s *server.Server, drain func()) string {
		at := fmt.Sprint("127.0.0.1:", porttest.Free(t))
		ended.Go(func() { _ = s.Run(running, at, 20*time.Second, drain) })
		return "http://" + at
	}
	theirs, err := url.Parse(run(paymentapi.New(log, prometheus.NewRegistry(), payments.Ping, payments, nil), func() {}))
	require.NoError(t, err)
	payer := invoice.NewPayer(invoices, provider.New(theirs, nil, "", 8, prometheus.NewRegistry()), invoice.PayerConfig{
		Concurrency: 8, Batch: 256, Lease: 15 * time.Second, Timeout: 3 * time.Second, Patience: 30 * time.Second,
		Answer: 45 * time.Second, RunTimeout: 10 * time.Minute,
		Transient: func(err error) bool { return errors.Is(err, database.ErrUnavailable) },
	}, log)
	defer payer.Close()
	ours := run(api.New(log, prometheus.NewRegistry(), invoices.Ping, invoices, payer, 45*time.Second, nil), payer.Stop)

	var added, sent, longest atomic.Int64
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	ask := func(method, path, body string) bool {
		request, err := http.NewRequest(method, ours+path, bytes.NewReader([]byte(body)))
		if !assert.NoError(t, err) {
			return false
		}
		request.Header.Set("Content-Type", "application/json")
		start := time.Now()
		response, err := client.Do(request)
		if !assert.NoError(t, err) {
			return false
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		sent.Add(1)
		if took := time.Since(start).Milliseconds(); path != "/invoices/pay" && took > longest.Load() {
			longest.Store(took)
		}
		return assert.Less(t, response.StatusCode, 300, "%s %s: %s", method, path, text)
	}
	require.Eventually(t, func() bool {
		response, err := client.Get(ours + "/livez")
		return err == nil && response.Body.Close() == nil
	}, time.Minute, 10*time.Millisecond)
	stop := make(chan struct{})
	var working sync.WaitGroup
	work := func(workers int, do func() bool) {
		for range workers {
			working.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
						if !do() {
							return
						}
					}
				}
			})
		}
	}
	work(4, func() bool {
		id := fmt.Sprintf(`{"InvoiceId":"F-%d","Value":1.00,"Currency":"EUR"}`, added.Add(1))
		return ask(http.MethodPost, "/invoices", id)
	})
	work(2, func() bool { return ask(http.MethodGet, "/invoices?limit=10", "") })
	work(1, func() bool { return ask(http.MethodPost, "/invoices/pay", "") })

	away := 4 * time.Second
	for _, way := range []struct {
		name string
		fail func(primary, standby *postgrestest.Server)
	}{
		{"switchover", func(primary, standby *postgrestest.Server) { primary.Stop() }},
		{"crash", func(primary, standby *postgrestest.Server) { primary.Kill() }},
		{"gone without a word", func(primary, standby *postgrestest.Server) { rw.lead("", true) }},
		{"read-only", func(primary, standby *postgrestest.Server) {
			rw.lead(standby.Address(), false) // a standby, for now
			primary.Stop()
		}},
	} {
		standby := primary.Standby()
		time.Sleep(time.Second)
		before := sent.Load()
		way.fail(primary, standby)
		time.Sleep(away)
		standby.Promote()
		rw.lead(standby.Address(), false)
		start := time.Now()
		require.Eventually(t, func() bool { return sent.Load() > before+100 || t.Failed() }, time.Minute, 10*time.Millisecond)
		t.Logf("%s: %s from the new primary to the hundredth response", way.name, time.Since(start).Round(time.Millisecond))
		require.False(t, t.Failed())
		primary = standby
	}
	close(stop)
	working.Wait()
	require.True(t, ask(http.MethodPost, "/invoices/pay", ""))
	count := func(name, query string) (n int64) {
		conn, err := pgx.Connect(t.Context(), address(name))
		require.NoError(t, err)
		defer conn.Close(context.Background())
		require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&n))
		return n
	}
	assert.Equal(t, added.Load(), count("ours", "SELECT count(*) FROM invoices WHERE paid_at IS NOT NULL"))
	assert.Equal(t, added.Load(), count("theirs", "SELECT count(*) FROM payments"))
	t.Logf("%d requests, of which the longest but for pay-all took %d ms; %d invoices",
		sent.Load(), longest.Load(), added.Load())

	primary.Freeze() // and nobody takes over
	start := time.Now()
	response, err := client.Get(ours + "/invoices?limit=10")
	took := time.Since(start)
	primary.Thaw()
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	assert.LessOrEqual(t, took, server.AnswerTimeout+time.Second)
	t.Logf("503 after %s without a primary", took.Round(time.Second))
}
