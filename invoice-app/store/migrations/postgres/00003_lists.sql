-- +goose NO TRANSACTION
-- +goose Up
-- Invoices are added and paid meanwhile. What is waited for here holds nobody up,
-- so it may take as long as the oldest transaction. Tried again, it begins anew:
-- an index whose making was interrupted is there, and of no use.
SET lock_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS invoices_unpaid;
CREATE INDEX CONCURRENTLY invoices_unpaid ON invoices (seq) WHERE paid_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS invoices_paid;
CREATE INDEX CONCURRENTLY invoices_paid ON invoices (seq) WHERE paid_at IS NOT NULL;
RESET lock_timeout;
