package invoice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Reconciliation is what Reconcile has found out about invoices that are marked paid.
type Reconciliation struct {
	Confirmed  int   // the provider has the payment, or had lost it and has taken it again
	Refused    int   // the provider has another amount or currency under this ID, or does not accept the payment
	Unanswered int   // the provider fails for this invoice, but not for others
	Through    int64 // the Seq up to which the provider was asked
}

// Reconcile requests the payment of each invoice with a Seq above after that is marked paid, for databases that were
// restored to different moments: the provider confirms the payments that it has, and takes those that it has lost. The
// invoices do not change, so it can be repeated, and run while invoices are paid. It calls report for each invoice that
// is not confirmed. The error is the store's, or the provider's if it answers for no invoice for config.Patience.
func Reconcile(
	ctx context.Context, store Store, provider Provider, config PayerConfig, after int64, report func(Invoice, error),
) (r Reconciliation, err error) {
	paid := true
	r.Through = after
	logged := time.Now()
	for {
		list, err := store.List(ctx, Filter{Paid: &paid, After: r.Through, Limit: config.Batch})
		if err != nil || len(list) == 0 {
			return r, err
		}
		answers, err := confirm(ctx, provider, config, list)
		if err != nil {
			return r, err
		}
		for n, answer := range answers {
			switch {
			case answer == nil:
				r.Confirmed++
				continue
			case final(answer):
				r.Refused++
			default:
				r.Unanswered++
			}
			report(list[n], answer)
		}
		r.Through = list[len(list)-1].Seq
		if time.Since(logged) >= logEvery {
			logged = time.Now()
			slog.Info("reconciling", "confirmed", r.Confirmed, "refused", r.Refused, "unanswered", r.Unanswered,
				"through", r.Through)
		}
	}
}

// confirm requests the payments of invoices in one call, and again one by one where that failed, until config.Patience
// has passed without an answer. The error means that there was none at all.
func confirm(ctx context.Context, provider Provider, config PayerConfig, invoices []Invoice) ([]error, error) {
	pay := func(list []Invoice) []error {
		ctx, cancel := context.WithTimeout(ctx, config.Timeout)
		defer cancel()
		return provider.Pay(ctx, list)
	}
	answers := pay(invoices)
	var queue []int // positions of invoices without an answer
	for n, answer := range answers {
		if !final(answer) {
			queue = append(queue, n)
		}
	}
	begin, wait := time.Now(), firstWait
	for len(queue) > 0 && time.Since(begin) < config.Patience {
		n := queue[0]
		queue = queue[1:]
		if answers[n] = pay(invoices[n : n+1])[0]; final(answers[n]) {
			begin, wait = time.Now(), firstWait
			continue
		}
		queue = append(queue, n) // those behind it may be fine
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, maxWait)
		}
	}
	if len(queue) == len(invoices) {
		return nil, fmt.Errorf("payment-provider does not answer: %w", answers[queue[0]])
	}
	return answers, nil
}

// final reports whether the provider's answer is its verdict: paid, or rejected.
func final(answer error) bool {
	var refused *Rejection
	return answer == nil || errors.As(answer, &refused)
}
