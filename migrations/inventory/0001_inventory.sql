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

-- Stock by product. What was put in (or written off) is on hand or shipped; what is reserved is on hand. Each update
-- checks the id again: with the length in the pattern ({1,64}) that took 16 microseconds, without it takes one.
CREATE TABLE stock (
    product_id text PRIMARY KEY COLLATE "C"
               CHECK (octet_length(product_id) <= 64 AND product_id ~ '^[A-Za-z0-9._-]+$'),
    adjusted   bigint NOT NULL DEFAULT 0,
    on_hand    bigint NOT NULL CHECK (on_hand >= 0),
    reserved   bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    shipped    bigint NOT NULL DEFAULT 0 CHECK (shipped >= 0),
    CHECK (reserved <= on_hand),
    CHECK (adjusted = on_hand + shipped)
) WITH (fillfactor = 50);

-- What each reserve command holds, by product.
CREATE TABLE reservations (
    command_id uuid NOT NULL,
    product_id text NOT NULL COLLATE "C",
    saga_id    uuid NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    status     text NOT NULL CHECK (status IN ('held', 'released', 'taken')),
    PRIMARY KEY (command_id, product_id)
) WITH (fillfactor = 80);

-- The ledger: every move of stock, appended and never changed.
CREATE TABLE moves (
    move_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id text NOT NULL COLLATE "C",
    kind       text NOT NULL CHECK (kind IN ('adjusted', 'reserved', 'released', 'taken')),
    quantity   bigint NOT NULL,
    command_id uuid,  -- the command that moved it; none for an adjustment
    at         timestamptz NOT NULL DEFAULT now()
);

-- How far the ledger has been published as domain events.
CREATE TABLE published (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    move_id  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO published DEFAULT VALUES;

GRANT SELECT, UPDATE ON published TO amends_inventory;
GRANT SELECT, INSERT, UPDATE, DELETE ON commands TO amends_inventory;
GRANT SELECT, INSERT, UPDATE ON stock, reservations TO amends_inventory;
GRANT SELECT, INSERT ON moves TO amends_inventory;
-- The service checks at its start that the schema is the one it was made for.
GRANT SELECT ON _sqlx_migrations TO amends_inventory;
