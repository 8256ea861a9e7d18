-- +goose Up
-- A long list waits here, chunk by chunk, until all of it has come. Nothing in it
-- is promised to anybody: it is not logged, and a crash of the server empties it.
CREATE UNLOGGED TABLE staged_invoices (
    batch        bigint      NOT NULL, -- drawn for each list
    place        bigint      NOT NULL, -- in the list, from 0
    id           text        NOT NULL,
    amount_minor bigint      NOT NULL,
    currency     text        NOT NULL,
    staged_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Each invoice is claimed and paid: two updates, of which the first finds room
-- on its page, and dead index entries that a claim walks over until vacuum comes.
ALTER TABLE invoices SET (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02
);
