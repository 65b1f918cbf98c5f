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

-- The built-in carrier's own books: the worker's code does not read them. One row a key, by which a booking is
-- repeated without effect. No address is kept.
CREATE TABLE carrier_bookings (
    key             uuid PRIMARY KEY,
    tracking_number text,  -- none if it was refused
    country         text NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE carrier_cancellations (
    key         uuid PRIMARY KEY,
    booking_key uuid NOT NULL UNIQUE REFERENCES carrier_bookings (key),
    created_at  timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON commands TO amends_shipment;
GRANT SELECT, INSERT ON carrier_bookings, carrier_cancellations TO amends_shipment;
-- The service checks at its start that the schema is the one it was made for.
GRANT SELECT ON _sqlx_migrations TO amends_shipment;
