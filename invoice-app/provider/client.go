// Package provider is the client for payment-provider.
package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/requestid"
	"example.com/invoices/invoice-app/invoice"
)

// maxAnswer is in bytes. The provider's responses are far shorter, and an endless one must not
// fill the memory.
const maxAnswer = 512 << 10

// Client calls payment-provider over HTTP. It implements invoice.Provider.
type Client struct {
	payURL, batchURL string
	token            *identity.TokenFile // nil: none is sent
	connections      int
	http             *http.Client
	calls            *prometheus.HistogramVec
	payments         *prometheus.CounterVec
}

// New returns a client of the provider at base. It keeps up to connections connections open,
// presents and requires certificates unless that is nil, and sends the token in tokenFile unless
// that is "".
func New(base *url.URL, certificates *identity.Certificates, tokenFile string, connections int,
	metrics prometheus.Registerer,
) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = false // a connection has one call at a time
	if certificates != nil {
		transport.DialTLSContext = certificates.Dial
		transport.Proxy = nil // a connection through a proxy would not use them
	}
	// As many as there are concurrent calls: with a lower limit, each call above it would open and
	// close a connection.
	transport.MaxConnsPerHost = connections
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = connections, connections
	transport.IdleConnTimeout = 30 * time.Second // less than the server's 60 s, so that the client closes first
	var token *identity.TokenFile
	if tokenFile != "" {
		token = identity.NewTokenFile(tokenFile)
	}
	return &Client{
		token:       token,
		payURL:      base.JoinPath("payments", "pay").String(),
		batchURL:    base.JoinPath("payments", "batch").String(),
		connections: connections,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		calls: promauto.With(metrics).NewHistogramVec(prometheus.HistogramOpts{
			Name: "provider_call_duration_seconds",
			Help: "Time of a call to payment-provider, by the HTTP status of the response, or none.",
		}, []string{"status"}),
		payments: promauto.With(metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "provider_payments_total",
			Help: "Payments requested from payment-provider, by outcome: paid, rejected, failed.",
		}, []string{"outcome"}),
	}
}

// Pay implements invoice.Provider. ctx limits the whole call. Several invoices are sent in one
// request, or one by one if the provider does not accept lists.
func (c *Client) Pay(ctx context.Context, invoices []invoice.Invoice) []error {
	answers := make([]error, len(invoices))
	var requests []request
	var places []int // of requests in invoices
	for n, i := range invoices {
		number, err := i.Amount.Number()
		if err != nil { // no later attempt can succeed either, until a newer program knows the currency
			answers[n] = &invoice.Rejection{Reason: err.Error()}
			continue
		}
		requests = append(requests, request{i.ID, json.Number(number), i.Amount.Currency})
		places = append(places, n)
	}
	for n, err := range c.ask(ctx, requests) {
		answers[places[n]] = err
	}
	for _, err := range answers {
		c.payments.WithLabelValues(outcome(err)).Inc()
	}
	return answers
}

// request is the body of a payment request.
type request struct {
	ID       string      `json:"id"`
	Value    json.Number `json:"value"`
	Currency string      `json:"currency"`
}

func (c *Client) ask(ctx context.Context, requests []request) []error {
	if len(requests) > 1 {
		if answers, ok := c.askForAll(ctx, requests); ok {
			return answers
		}
	}
	answers := make([]error, len(requests))
	var calls errgroup.Group
	calls.SetLimit(c.connections)
	for n, r := range requests {
		calls.Go(func() error {
			answers[n] = c.askForOne(ctx, r)
			return nil
		})
	}
	_ = calls.Wait()
	return answers
}

func (c *Client) askForOne(ctx context.Context, r request) error {
	status, text, err := c.post(ctx, c.payURL, r)
	if err != nil {
		return err
	}
	var answer verdict
	if err := json.Unmarshal(text, &answer); err != nil && !takesNothing[status] {
		return fmt.Errorf("status %d with an unexpected body", status)
	}
	answer.Status = status
	return answer.on(r.ID)
}

// askForAll requests all payments in one call. ok is false if the provider does not accept lists.
func (c *Client) askForAll(ctx context.Context, requests []request) (answers []error, ok bool) {
	status, text, err := c.post(ctx, c.batchURL, requests)
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return nil, false
	}
	var verdicts []verdict
	switch {
	case err != nil:
	case status != http.StatusOK:
		err = verdict{Status: status}.on("")
	case json.Unmarshal(text, &verdicts) != nil:
		verdicts, err = nil, fmt.Errorf("status %d with an unexpected body", status)
	}
	// A verdict on an invoice counts only if the response contains it once, or several times
	// without a difference. Nothing is known of all other invoices.
	said := make(map[string]verdict, len(verdicts))
	for _, v := range verdicts {
		if before, twice := said[v.ID]; twice && before != v {
			v.Status = 0
		}
		said[v.ID] = v
	}
	answers = make([]error, len(requests))
	for n, r := range requests {
		answers[n] = err
		if v, known := said[r.ID]; known {
			answers[n] = v.on(r.ID)
		} else if err == nil {
			answers[n] = fmt.Errorf("status %d without this invoice", status)
		}
	}
	return answers, true
}

// post sends what as JSON, and returns the response.
func (c *Client) post(ctx context.Context, url string, what any) (status int, text []byte, err error) {
	start := time.Now()
	defer func() {
		label := "none"
		if status != 0 {
			label = strconv.Itoa(status)
		}
		c.calls.WithLabelValues(label).Observe(time.Since(start).Seconds())
	}()
	body, err := json.Marshal(what)
	if err != nil {
		return 0, nil, fmt.Errorf("encode payment: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("create request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(requestid.Header, requestid.From(ctx))
	if c.token != nil {
		if err := c.token.Authorize(request); err != nil {
			return 0, nil, fmt.Errorf("%w: %w", invoice.ErrDown, err)
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", invoice.ErrDown, err)
	}
	defer response.Body.Close()
	text, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return response.StatusCode, nil, fmt.Errorf("read response: %w", err)
	case len(text) > maxAnswer:
		return response.StatusCode, nil, fmt.Errorf("status %d with a body over %d bytes", response.StatusCode, maxAnswer)
	case response.StatusCode == http.StatusUnauthorized && c.token != nil:
		if trouble := c.token.Trouble(); trouble != "" {
			return response.StatusCode, nil, fmt.Errorf("%w: status 401: %s", invoice.ErrDown, trouble)
		}
	}
	return response.StatusCode, text, nil
}

// takesNothing are the statuses that are about this client, or about the provider as a whole:
// other invoices would get the same.
var takesNothing = map[int]bool{
	http.StatusUnauthorized: true, http.StatusForbidden: true, http.StatusTooManyRequests: true,
	http.StatusBadGateway: true, http.StatusServiceUnavailable: true, http.StatusGatewayTimeout: true,
}

// verdict is the provider's response to one payment.
type verdict struct {
	ID     string
	Status int // of the response, or of one payment in a list
	Code   string
	Error  string
}

// on returns what the verdict means for the invoice with this ID. Only two verdicts count: 200
// with exactly this ID, and a rejection with one of the provider's own codes. A proxy's error
// page, a refused token or an overload says nothing about the invoice.
func (v verdict) on(id string) error {
	switch {
	case takesNothing[v.Status]:
		return fmt.Errorf("%w: status %d: %s", invoice.ErrDown, v.Status, printable(v.Error))
	case v.Status == http.StatusOK && v.ID == id:
		return nil
	case v.Status == http.StatusOK:
		return fmt.Errorf("status 200 for another id: %.40q", v.ID)
	case v.Status == http.StatusUnprocessableEntity && v.Code == "payment_mismatch",
		v.Status == http.StatusBadRequest && v.Code == "invalid_payment":
		reason := printable(v.Error)
		if reason == "" {
			reason = v.Code // an empty reason would mean: not rejected
		}
		return &invoice.Rejection{Reason: reason}
	}
	return fmt.Errorf("status %d: %s", v.Status, printable(v.Error))
}

// outcome returns the metric label for a result.
func outcome(err error) string {
	var rejection *invoice.Rejection
	switch {
	case err == nil:
		return "paid"
	case errors.As(err, &rejection):
		return "rejected"
	}
	return "failed"
}

// printable makes text from outside safe for logs, responses and a database column: it limits the
// length, and removes control characters.
func printable(text string) string {
	visible := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
	return fmt.Sprintf("%.200s", visible)
}
