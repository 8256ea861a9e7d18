// Package provider is invoice-app's way to payment-provider.
package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// maxAnswer is in bytes. The provider's answers are far shorter, and one that
// does not end must not fill the memory.
const maxAnswer = 64 << 10

// Client asks payment-provider over HTTP. It is an invoice.Provider.
type Client struct {
	payURL string
	token  *identity.TokenFile // nil: none is sent
	http   *http.Client
	calls  *prometheus.HistogramVec
}

// New returns a client of the provider at base, that keeps up to connections
// of them open. It shows the token in tokenFile, if that is not "".
func New(base *url.URL, tokenFile string, connections int, metrics prometheus.Registerer) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = connections
	transport.IdleConnTimeout = 30 * time.Second // less than the server's 60 s, so that it is we who close
	var token *identity.TokenFile
	if tokenFile != "" {
		token = identity.NewTokenFile(tokenFile)
	}
	return &Client{
		token:  token,
		payURL: base.JoinPath("payments", "pay").String(),
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		calls: promauto.With(metrics).NewHistogramVec(prometheus.HistogramOpts{
			Name: "provider_call_duration_seconds",
			Help: "Time of a call to payment-provider, by outcome: paid, rejected, failed.",
		}, []string{"outcome"}),
	}
}

// Pay is invoice.Provider's Pay. ctx bounds the whole call.
func (c *Client) Pay(ctx context.Context, i invoice.Invoice) error {
	start := time.Now()
	outcome, err := c.pay(ctx, i)
	c.calls.WithLabelValues(outcome).Observe(time.Since(start).Seconds())
	return err
}

func (c *Client) pay(ctx context.Context, i invoice.Invoice) (outcome string, err error) {
	number, err := i.Amount.Number()
	if err != nil { // no later try can succeed either, until a program that knows it is there
		return "rejected", &invoice.Rejection{Reason: err.Error()}
	}
	body, err := json.Marshal(struct {
		ID       string      `json:"id"`
		Value    json.Number `json:"value"`
		Currency string      `json:"currency"`
	}{i.ID, json.Number(number), i.Amount.Currency})
	if err != nil {
		return "failed", fmt.Errorf("encode payment: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.payURL, bytes.NewReader(body))
	if err != nil {
		return "failed", fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(server.RequestIDHeader, server.RequestID(ctx))
	if c.token != nil {
		if err := c.token.Authorize(request); err != nil {
			return "failed", err
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return "failed", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return "failed", fmt.Errorf("read answer: %w", err)
	}
	if len(text) > maxAnswer {
		return "failed", fmt.Errorf("status %d with a body over %d bytes", response.StatusCode, maxAnswer)
	}
	return judge(i.ID, response.StatusCode, text)
}

// judge says what an answer means. Only two things count: 200 with the very
// id, and a verdict with one of the provider's own codes. A proxy's page, a
// refused token or an overload says nothing about the invoice.
func judge(id string, status int, text []byte) (outcome string, err error) {
	var answer struct{ ID, Code, Error string }
	unreadable := json.Unmarshal(text, &answer)
	switch {
	case unreadable != nil:
		return "failed", fmt.Errorf("status %d with a body that is not the provider's", status)
	case status == http.StatusOK && answer.ID == id:
		return "paid", nil
	case status == http.StatusOK:
		return "failed", fmt.Errorf("status 200 for another id: %.40q", answer.ID)
	case status == http.StatusUnprocessableEntity && answer.Code == "payment_mismatch",
		status == http.StatusBadRequest && answer.Code == "invalid_payment":
		reason := printable(answer.Error)
		if reason == "" {
			reason = answer.Code // no reason at all would mean: not rejected
		}
		return "rejected", &invoice.Rejection{Reason: reason}
	}
	return "failed", fmt.Errorf("status %d: %s", status, printable(answer.Error))
}

// printable is text from outside made fit for logs, answers and a database
// column: of bounded length, and without control characters.
func printable(text string) string {
	visible := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
	return fmt.Sprintf("%.200s", visible)
}
