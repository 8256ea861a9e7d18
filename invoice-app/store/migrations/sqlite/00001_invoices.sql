-- +goose Up
CREATE TABLE invoices (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival
    id              TEXT    NOT NULL UNIQUE,
    amount_minor    INTEGER NOT NULL CHECK (amount_minor > 0),
    currency        TEXT    NOT NULL CHECK (length(currency) = 3),
    -- Bookkeeping of paying: all that may change. Times are milliseconds since 1970.
    created_at      INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    paid_at         INTEGER,
    rejected_reason TEXT    CHECK (rejected_reason <> ''),
    claimed_until   INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    CHECK (paid_at IS NULL OR rejected_reason IS NULL)
) STRICT;

-- The work that is left: small, however many invoices have been paid.
CREATE INDEX invoices_unsettled ON invoices (seq) WHERE paid_at IS NULL AND rejected_reason IS NULL;
