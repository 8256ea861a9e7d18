package contracttest

import (
	"context"
	"fmt"

	"example.com/invoices/internal/database"
)

// Frozen is a database that neither responds nor fails until Thawed is closed. If it is Deaf, it
// ignores the context, too.
type Frozen struct {
	Deaf   bool
	Thawed chan struct{}
}

// Wait is what every method of a frozen store does.
func (f Frozen) Wait(ctx context.Context) error {
	if f.Deaf {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-ctx.Done():
	case <-f.Thawed:
	}
	return fmt.Errorf("10.0.0.7: %w: %w", database.ErrUnavailable, context.Cause(ctx))
}
