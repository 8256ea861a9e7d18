-- +goose Up
CREATE TABLE invoices (
    seq             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- order of arrival
    id              text        NOT NULL UNIQUE,
    amount_minor    bigint      NOT NULL CHECK (amount_minor > 0),
    currency        text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Bookkeeping of paying: all that may change.
    paid_at         timestamptz,
    rejected_reason text        CHECK (rejected_reason <> ''),
    claimed_until   timestamptz NOT NULL DEFAULT '-infinity',
    attempts        integer     NOT NULL DEFAULT 0,
    CHECK (paid_at IS NULL OR rejected_reason IS NULL)
);

-- The work that is left: small, however many invoices have been paid.
CREATE INDEX invoices_unsettled ON invoices (seq) WHERE paid_at IS NULL AND rejected_reason IS NULL;
