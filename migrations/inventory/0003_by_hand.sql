-- Changes of stock by hand: who made them and why, each once.

-- Both are null for a move by a command.
ALTER TABLE moves ADD COLUMN reason text, ADD COLUMN made_by text;

-- A product's movements, page by page, the newest first. No release has moves yet, so no writer waits for it.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX moves_by_product ON moves (product_id, move_id);

-- Answers to changes with an idempotency key, stored in the transaction of the change. A request that is refused leaves
-- no row.
CREATE TABLE stock_requests (
    -- Digest of the key, which the api makes of subject, method, path and the caller's key.
    request     bytea       PRIMARY KEY CHECK (octet_length(request) = 32),
    expires_at  timestamptz NOT NULL,
    status      smallint    NOT NULL,
    -- Digest of the request's content.
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    body        text        NOT NULL
);

-- What has expired is deleted page by page, the oldest first.
CREATE INDEX stock_requests_by_expiry ON stock_requests (expires_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON stock_requests TO amends_inventory;
