-- Answers to requests with an idempotency key, other than those that place orders. The row is inserted before the
-- request is carried out and committed with its answer, so that a second request with the key waits for the first.
-- A request that is refused leaves no row.
CREATE TABLE idempotent_answers (
    -- Digest of subject, method, path and key. The home follows from it.
    request     bytea NOT NULL CHECK (octet_length(request) = 32),
    home        smallint NOT NULL,
    expires_at  timestamptz NOT NULL,
    status      smallint    NOT NULL,
    -- Digest of the request's body.
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    headers     text        NOT NULL,
    body        text        NOT NULL,
    PRIMARY KEY (request, home)
);

-- What has expired is deleted page by page, the oldest first.
CREATE INDEX idempotent_answers_by_expiry ON idempotent_answers (expires_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON idempotent_answers TO amends_engine;
