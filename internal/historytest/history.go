package historytest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// History records the operations and observations of clients, by invoice. All of them together
// must be explainable by clients that acted one after the other. Its methods may be called
// concurrently.
type History struct {
	start time.Time

	mu  sync.Mutex
	ops map[string][]porcupine.Operation
}

// NewHistory returns an empty history that begins now.
func NewHistory() *History {
	return &History{start: time.Now(), ops: map[string][]porcupine.Operation{}}
}

// Op is an operation of a client, or of a service on its own, on one invoice.
type Op string

// The operations. Read and Ask have an output: an Account, and Payments.
const (
	Add        Op = "add"
	Prepay     Op = "pay directly"
	PrepayElse Op = "pay directly, with another amount"
	take       Op = "take the payment"
	mark       Op = "mark"
	Read       Op = "read the invoice"
	Ask        Op = "read the payment"
	Settled    Op = "pay all, 200"
)

// Payments are the possible payments of an invoice at the provider.
type Payments string

// Payments of an invoice.
const (
	NoPayment    Payments = "no payment"
	SamePayment  Payments = "paid"
	OtherPayment Payments = "paid with another amount"
)

// Account is an invoice and its payment, as an observer of both would see them.
type Account struct {
	Known, Paid, Rejected bool
	payment               Payments
}

// accounts is the model of one invoice. An operation that is not observed has a nil output.
var accounts = porcupine.Model{
	Init: func() any { return Account{payment: NoPayment} },
	Step: func(state, input, output any) (bool, any) {
		a := state.(Account)
		settled := a.Paid || a.Rejected
		switch input.(Op) {
		case Add:
			a.Known = true
		case Prepay:
			if a.payment == NoPayment {
				a.payment = SamePayment
			}
		case PrepayElse:
			if a.payment == NoPayment {
				a.payment = OtherPayment
			}
		case take:
			if a.Known && a.payment == NoPayment {
				a.payment = SamePayment
			}
		case mark:
			a.Paid = a.Known && a.payment == SamePayment
			a.Rejected = a.Known && a.payment == OtherPayment
		case Read:
			seen := output.(Account)
			return seen.Known == a.Known && seen.Paid == a.Paid && seen.Rejected == a.Rejected, a
		case Ask:
			return output == a.payment, a
		case Settled:
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
func (a Account) String() string {
	switch {
	case !a.Known:
		return "not there"
	case a.Paid:
		return "paid"
	case a.Rejected:
		return "rejected"
	}
	return "unpaid"
}

// Now returns the time of the history, in nanoseconds since its beginning.
func (h *History) Now() int64 { return int64(time.Since(h.start)) }

// Did records that something was done or seen between call and now.
func (h *History) Did(id string, op Op, call int64, output any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[id] = append(h.ops[id], porcupine.Operation{Input: op, Call: call, Output: output, Return: h.Now()})
}

// may records something that may have been done at any time, or not at all: an add without a
// response, and what the services do on their own.
func may(op Op) porcupine.Operation {
	return porcupine.Operation{Input: op, Return: math.MaxInt64}
}

// Check returns the histories that are impossible, or not decided within limit each. It draws each
// of them in folder.
func (h *History) Check(folder string, limit time.Duration) (violations []Violation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, id := range slices.Sorted(maps.Keys(h.ops)) {
		ops := append(h.ops[id], may(take), may(mark))
		if !slices.ContainsFunc(ops, func(op porcupine.Operation) bool { return op.Input == Add }) {
			ops = append(ops, may(Add))
		}
		inRows(ops)
		result, info := porcupine.CheckOperationsVerbose(accounts, ops, limit)
		if result == porcupine.Ok {
			continue
		}
		picture := filepath.Join(folder, fmt.Sprintf("invoice-%d.html", n))
		if err := porcupine.VisualizePath(accounts, info, picture); err != nil {
			picture = err.Error()
		}
		violations = append(violations, Violation{OneHistory, fmt.Sprintf("%q: %s, see %s", id, result, picture)})
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
