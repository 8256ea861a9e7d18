-- +goose Up
CREATE INDEX invoices_unpaid ON invoices (seq) WHERE paid_at IS NULL;
CREATE INDEX invoices_paid ON invoices (seq) WHERE paid_at IS NOT NULL;

-- The import that is under way, if there is one: invoices from first to next,
-- exclusively, are hidden until it is deleted.
CREATE TABLE importing (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    first INTEGER NOT NULL,
    next  INTEGER NOT NULL
) STRICT;
