-- The worker's rows: one for each command, keyed by the id of its execute. The same in each worker's database.
CREATE TABLE commands (
    command_id  uuid PRIMARY KEY,
    saga_id     uuid NOT NULL,
    status      text NOT NULL CHECK (status IN ('accepted', 'started', 'succeeded', 'refused', 'failed_transient',
                                                'failed_for_good', 'undoing', 'undone', 'tombstone')),
    attempt     integer NOT NULL CHECK (attempt > 0),
    epoch       integer NOT NULL CHECK (epoch >= 0),
    issued_at   timestamptz NOT NULL,
    unsure      boolean NOT NULL DEFAULT false,  -- a call outside got no answer
    live        boolean NOT NULL DEFAULT false,  -- something outside is still to be done
    held        boolean NOT NULL DEFAULT false,  -- its effect is, or may be, in the world: does not expire
    owner       uuid,                            -- the instance that calls
    lease_until timestamptz,                     -- until when it may; without an owner: when the row is due
    started_at  timestamptz,                     -- when the key of the present call was first used
    command     text,                            -- the execute, until it is settled
    reply       text,                            -- what the recorded reply says beyond its outcome
    undo        text,                            -- the compensation that is remembered
    undo_reply  text,                            -- the recorded reply of the compensation
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (NOT live OR lease_until IS NOT NULL)
) WITH (fillfactor = 70);

-- Rows of transactional workers are never live: their updates touch no index.
CREATE INDEX commands_due ON commands (lease_until) WHERE live;
CREATE INDEX commands_age ON commands USING brin (created_at);

-- The built-in gateway's own books, as if they were a bank's: the worker's code does not read them.
-- One row a key, by which a charge is repeated without effect; the first answer stands.
CREATE TABLE gateway_charges (
    key        uuid PRIMARY KEY,
    charge_id  uuid NOT NULL,
    amount     bigint NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    method     text NOT NULL,
    declined   text,  -- why; none if the money was captured
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE gateway_refunds (
    key        uuid PRIMARY KEY,
    refund_id  uuid NOT NULL,
    charge_key uuid NOT NULL UNIQUE REFERENCES gateway_charges (key),
    amount     bigint NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- How often the gateway was out of order for a key (method card_error_twice).
CREATE TABLE gateway_faults (
    key   uuid PRIMARY KEY,
    calls integer NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON commands TO amends_payment;
GRANT SELECT, INSERT ON gateway_charges, gateway_refunds TO amends_payment;
GRANT SELECT, INSERT, UPDATE ON gateway_faults TO amends_payment;
-- The service checks at its start that the schema is the one it was made for.
GRANT SELECT ON _sqlx_migrations TO amends_payment;
