package faults

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"example.com/invoices/internal/historytest"
)

// read reads invoices and payments, mostly the latest, until ctx is done.
func (s *storm) read(ctx context.Context, draw *rand.Rand) {
	for ; ctx.Err() == nil; sleep(ctx, between(draw, 0, 40*time.Millisecond)) {
		i := s.Latest(draw.IntN(1 + draw.IntN(200)))
		for _, look := range []func(context.Context, historytest.Sent, *rand.Rand){s.readInvoice, s.readPayment} {
			look(ctx, i, draw)
		}
	}
}

func (s *storm) readInvoice(ctx context.Context, i historytest.Sent, draw *rand.Rand) {
	call := s.Now()
	app := s.apps[draw.IntN(len(s.apps))]
	status, text := app.ask(ctx, "", http.MethodGet, "/invoices/"+url.PathEscape(i.ID), "")
	var invoice historytest.Shown
	switch {
	case status == http.StatusNotFound:
		s.Did(i.ID, historytest.Read, call, historytest.Account{})
	case status != http.StatusOK:
		s.checkUnanswered("GET an invoice", status, text)
	case json.Unmarshal(text, &invoice) != nil || invoice.InvoiceId != i.ID:
		s.Violate(historytest.ClearAnswers, "%q is shown as %s", i.ID, text)
	default:
		s.Did(i.ID, historytest.Read, call, invoice.Sees())
	}
}

func (s *storm) readPayment(ctx context.Context, i historytest.Sent, draw *rand.Rand) {
	call := s.Now()
	provider := s.providers[draw.IntN(len(s.providers))]
	status, text := provider.ask(ctx, s.tokens.Token(), http.MethodGet, "/payments/"+url.PathEscape(i.ID), "")
	var payment struct {
		ID       string
		Value    json.RawMessage
		Currency string
	}
	switch {
	case status == http.StatusNotFound:
		s.Did(i.ID, historytest.Ask, call, historytest.NoPayment)
	case status != http.StatusOK:
		s.checkUnanswered("GET a payment", status, text)
	case json.Unmarshal(text, &payment) != nil || payment.ID != i.ID:
		s.Violate(historytest.ClearAnswers, "payment %q is shown as %s", i.ID, text)
	case string(payment.Value) == i.Amount.Number && payment.Currency == i.Amount.Currency:
		s.Did(i.ID, historytest.Ask, call, historytest.SamePayment)
	default:
		s.Did(i.ID, historytest.Ask, call, historytest.OtherPayment)
	}
}

// checkUnanswered checks a reply that has no information about the invoice.
func (s *storm) checkUnanswered(request string, status int, text []byte) {
	switch status {
	case 0, http.StatusServiceUnavailable, http.StatusUnauthorized: // the last for a key that was just removed
	default:
		s.Violate(historytest.ClearAnswers, "%s: %d %s", request, status, text)
	}
}
