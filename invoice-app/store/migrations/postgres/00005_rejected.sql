-- +goose NO TRANSACTION
-- +goose Up
-- What waits for somebody to look at it: found among any number of unpaid invoices.
-- (Made as those of 00003_lists.sql are.)
SET lock_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS invoices_rejected;
CREATE INDEX CONCURRENTLY invoices_rejected ON invoices (seq) WHERE rejected_reason IS NOT NULL;
RESET lock_timeout;
