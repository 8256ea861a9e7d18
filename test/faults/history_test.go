package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// history records the operations and observations of clients, by invoice. All of them together
// must be explainable by clients that acted one after the other.
type history struct {
	start time.Time

	mu  sync.Mutex
	ops map[string][]porcupine.Operation
}

// kindOfOp is an operation of a client, or of a service on its own, on one invoice.
type kindOfOp string

const (
	opAdd        kindOfOp = "add"
	opPrepay     kindOfOp = "pay directly"
	opPrepayElse kindOfOp = "pay directly, with another amount"
	opTake       kindOfOp = "take the payment"
	opMark       kindOfOp = "mark"
	opRead       kindOfOp = "read the invoice"
	opAsk        kindOfOp = "read the payment"
	opSettled    kindOfOp = "pay all, 200"
)

// payments are the possible payments of an invoice at the provider.
type payments string

const (
	noPayment    payments = "no payment"
	samePayment  payments = "paid"
	otherPayment payments = "paid with another amount"
)

// account is an invoice and its payment, as an observer of both would see them.
type account struct {
	known, paid, rejected bool
	payment               payments
}

// accounts is the model of one invoice. An operation that is not observed has a nil output.
var accounts = porcupine.Model{
	Init: func() any { return account{payment: noPayment} },
	Step: func(state, input, output any) (bool, any) {
		a := state.(account)
		settled := a.paid || a.rejected
		switch input.(kindOfOp) {
		case opAdd:
			a.known = true
		case opPrepay:
			if a.payment == noPayment {
				a.payment = samePayment
			}
		case opPrepayElse:
			if a.payment == noPayment {
				a.payment = otherPayment
			}
		case opTake:
			if a.known && a.payment == noPayment {
				a.payment = samePayment
			}
		case opMark:
			a.paid = a.known && a.payment == samePayment
			a.rejected = a.known && a.payment == otherPayment
		case opRead:
			seen := output.(account)
			return seen.known == a.known && seen.paid == a.paid && seen.rejected == a.rejected, a
		case opAsk:
			return output == a.payment, a
		case opSettled:
			return settled, a
		}
		return true, a
	},
	DescribeOperation: func(input, output any) string {
		if output == nil {
			return fmt.Sprint(input)
		}
		return fmt.Sprintf("%v: %v", input, output)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

// String describes what a reader sees of a.
func (a account) String() string {
	switch {
	case !a.known:
		return "not there"
	case a.paid:
		return "paid"
	case a.rejected:
		return "rejected"
	}
	return "unpaid"
}

// now returns the time of the history.
func (h *history) now() int64 { return int64(time.Since(h.start)) }

// did records that something was done or seen between call and now.
func (h *history) did(id string, op kindOfOp, call int64, output any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[id] = append(h.ops[id], porcupine.Operation{Input: op, Call: call, Output: output, Return: h.now()})
}

// may records something that may have been done at any time, or not at all: an add without a
// response, and what the services do on their own.
func may(op kindOfOp) porcupine.Operation {
	return porcupine.Operation{Input: op, Return: math.MaxInt64}
}

// sees returns what a reader of invoice-app sees in a response.
func (s shown) sees() account {
	return account{known: true, paid: s.IsPaid, rejected: s.Rejected != ""}
}

// check returns the histories that are impossible. It draws each of them in folder.
func (h *history) check(folder string) (violations []violation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, id := range slices.Sorted(maps.Keys(h.ops)) {
		ops := append(h.ops[id], may(opTake), may(opMark))
		if !slices.ContainsFunc(ops, func(op porcupine.Operation) bool { return op.Input == opAdd }) {
			ops = append(ops, may(opAdd))
		}
		inRows(ops)
		result, info := porcupine.CheckOperationsVerbose(accounts, ops, enough)
		if result == porcupine.Ok {
			continue
		}
		picture := filepath.Join(folder, fmt.Sprintf("invoice-%d.html", n))
		if err := porcupine.VisualizePath(accounts, info, picture); err != nil {
			picture = err.Error()
		}
		violations = append(violations, violation{oneHistory, fmt.Sprintf("%q: %s, see %s", id, result, picture)})
	}
	return violations
}

// inRows assigns simultaneous operations to different clients, for the picture.
func inRows(ops []porcupine.Operation) {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var ends []int64 // the end of each row
	for n := range ops {
		row := slices.IndexFunc(ends, func(end int64) bool { return end < ops[n].Call })
		if row < 0 {
			row, ends = len(ends), append(ends, 0)
		}
		ops[n].ClientId, ends[row] = row, ops[n].Return
	}
}

// read reads invoices and payments, mostly the latest, until ctx is done.
func (s *storm) read(ctx context.Context, draw *rand.Rand) {
	for ; ctx.Err() == nil; sleep(ctx, between(draw, 0, 40*time.Millisecond)) {
		i := s.latest(draw.IntN(1 + draw.IntN(200)))
		for _, look := range []func(context.Context, sent, *rand.Rand){s.readInvoice, s.readPayment} {
			look(ctx, i, draw)
		}
	}
}

func (s *storm) readInvoice(ctx context.Context, i sent, draw *rand.Rand) {
	call := s.now()
	app := s.apps[draw.IntN(len(s.apps))]
	status, text := app.ask(ctx, "", http.MethodGet, "/invoices/"+url.PathEscape(i.id), "")
	var invoice shown
	switch {
	case status == http.StatusNotFound:
		s.did(i.id, opRead, call, account{})
	case status != http.StatusOK:
		s.checkUnanswered("GET an invoice", status, text)
	case json.Unmarshal(text, &invoice) != nil || invoice.InvoiceId != i.id:
		s.violate(clearAnswers, "%q is shown as %s", i.id, text)
	default:
		s.did(i.id, opRead, call, invoice.sees())
	}
}

func (s *storm) readPayment(ctx context.Context, i sent, draw *rand.Rand) {
	call := s.now()
	provider := s.providers[draw.IntN(len(s.providers))]
	status, text := provider.ask(ctx, s.tokens.Token(), http.MethodGet, "/payments/"+url.PathEscape(i.id), "")
	var payment struct {
		ID       string
		Value    json.RawMessage
		Currency string
	}
	switch {
	case status == http.StatusNotFound:
		s.did(i.id, opAsk, call, noPayment)
	case status != http.StatusOK:
		s.checkUnanswered("GET a payment", status, text)
	case json.Unmarshal(text, &payment) != nil || payment.ID != i.id:
		s.violate(clearAnswers, "payment %q is shown as %s", i.id, text)
	case string(payment.Value) == i.amount.number && payment.Currency == i.amount.currency:
		s.did(i.id, opAsk, call, samePayment)
	default:
		s.did(i.id, opAsk, call, otherPayment)
	}
}

// checkUnanswered checks a reply that has no information about the invoice.
func (s *storm) checkUnanswered(request string, status int, text []byte) {
	switch status {
	case 0, http.StatusServiceUnavailable, http.StatusUnauthorized: // the last for a key that was just removed
	default:
		s.violate(clearAnswers, "%s: %d %s", request, status, text)
	}
}
