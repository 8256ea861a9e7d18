-- +goose Up
-- What waits for somebody to look at it: found among any number of unpaid invoices.
CREATE INDEX invoices_rejected ON invoices (seq) WHERE rejected_reason IS NOT NULL;
