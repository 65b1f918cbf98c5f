-- The engine's database. Every key begins with the saga's (or order's) id and no foreign key crosses sagas, so
-- that it can be distributed by that column; idempotency keys, watermarks and the deployment's row apart.

-- What is true of the whole deployment. One row, made by `amends migrate`.
CREATE TABLE deployment (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     integer NOT NULL DEFAULT 0,
    reply_key text    NOT NULL CHECK (reply_key ~ '^[0-9a-f]{64}$'),
    -- Accepted as well: what was signed with before the last rotation, and what will be after the next.
    previous_reply_key text CHECK (previous_reply_key ~ '^[0-9a-f]{64}$'),
    next_reply_key     text CHECK (next_reply_key ~ '^[0-9a-f]{64}$')
);

-- What commands are signed with: the current key of each participant. Each participant's own database has its keys too,
-- and accepts them all.
CREATE TABLE command_keys (
    participant text NOT NULL,
    stage       text NOT NULL CHECK (stage IN ('previous', 'current', 'next')),
    id          text NOT NULL CHECK (id ~ '^[A-Za-z0-9_-]{1,32}$'),
    key         text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$'),
    PRIMARY KEY (participant, stage)
);

-- A saga's row is also its outbox and its timers. An ordinary update touches no indexed column, so that it is
-- heap-only: no index may mention revision, label, step or since. A row doubles in its life: with pages filled to
-- 40 % all these updates find room beside it (with 50 % nine of ten), and the table ends up no larger.
-- What never changes stands first: of a row that is written anew, the log gets only what follows the first change.
-- JSON is text throughout: nothing here looks into it, and it need not be taken apart to be put back together.
CREATE TABLE sagas (
    id               uuid        NOT NULL,
    born_at          timestamptz NOT NULL,
    workflow_version integer     NOT NULL,
    slot             smallint    NOT NULL CHECK (slot BETWEEN 0 AND 1023),
    workflow         text        NOT NULL,
    business_key     text        NOT NULL,
    core_version     smallint    NOT NULL,
    state_version    smallint    NOT NULL,
    revision         integer     NOT NULL,
    wake_at          timestamptz,
    since            timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    stuck_at         timestamptz,
    live             boolean     NOT NULL,
    parked           boolean     NOT NULL,
    outcome          text        CHECK (outcome IN ('completed', 'undone')),
    step             text        NOT NULL,
    label            text        NOT NULL,
    heading_for      text,
    reason           text,
    state            text        NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- Not by slot first: an engine owns hundreds, and would descend once for each, in each partition, at each look
-- (2.5 ms against 0.05 ms with 1,024 slots and five partitions).
CREATE INDEX sagas_due ON sagas (wake_at) WHERE live;
CREATE INDEX sagas_parked ON sagas (id) WHERE parked;
-- For whoever goes through all that has not ended: operators' lists, and upkeep.
CREATE INDEX sagas_open ON sagas (id) WHERE live OR parked;

-- The personal fields of what a saga was given: here and nowhere else. The rest is in its first entry.
CREATE TABLE personal (
    saga_id uuid PRIMARY KEY,
    data    text NOT NULL
);

-- What happened and what was decided. Within a slot the order of positions is the order of commits: whoever
-- appends holds the slot's transaction-level advisory lock. No cache: each position is drawn when it is used.
CREATE SEQUENCE timeline_position AS bigint CACHE 1;

CREATE TABLE timeline (
    saga_id  uuid        NOT NULL,
    position bigint      NOT NULL DEFAULT nextval('timeline_position'),
    at       timestamptz NOT NULL,
    batch    bigint      NOT NULL,
    revision integer     NOT NULL,
    slot     smallint    NOT NULL,
    body     text        NOT NULL,
    PRIMARY KEY (saga_id, revision)
) PARTITION BY RANGE (saga_id);

CREATE INDEX timeline_by_position ON timeline (slot, position);

-- How far the domain events of a slot are published: its furthest row. Rows come and go, and are never updated.
CREATE TABLE publisher_watermarks (
    slot     smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (slot, position)
);

-- Successes that no saga here ordered: for an operator.
CREATE TABLE strays (
    saga_id     uuid        NOT NULL,
    command_id  uuid        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    reply       text        NOT NULL,
    PRIMARY KEY (saga_id, command_id)
);

-- An order's immutable input and the id of its newest saga, whose label is its status. Lines as they came.
CREATE TABLE orders (
    id          uuid PRIMARY KEY,
    saga_id     uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    cancels_at  timestamptz,
    total       bigint      NOT NULL,
    subject     text        NOT NULL,
    customer_id text        NOT NULL,
    currency    text        NOT NULL,
    lines       text        NOT NULL
);

CREATE TABLE idempotency_keys (
    subject     text        NOT NULL,
    key         text        NOT NULL,
    order_id    uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    PRIMARY KEY (subject, key)
);

-- Keys come in the order in which they expire.
CREATE INDEX idempotency_keys_expiry ON idempotency_keys USING brin (expires_at) WITH (pages_per_range = 32, autosummarize = on);

-- The least UUIDv7 of an instant.
CREATE FUNCTION least_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- What has no month yet, and ids that are no UUIDv7 of our time.
CREATE TABLE sagas_default PARTITION OF sagas DEFAULT
    WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE timeline_default PARTITION OF timeline DEFAULT;

-- Makes the partitions of this month and of so many following; answers how many were missing. Rows that came
-- before their partition move into it. It waits for nobody long, for others would wait behind it.
CREATE FUNCTION ensure_partitions(months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    made integer := 0;
    month timestamptz;
    parent record;
    child text;
    low uuid;
    high uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOR i IN 0..months LOOP
        month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        low := least_id(month);
        high := least_id((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
        FOR parent IN
            SELECT * FROM (VALUES
                ('sagas', 'id', 'WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)'),
                ('timeline', 'saga_id', '')) AS p (name, key, storage)
        LOOP
            child := parent.name || to_char(month AT TIME ZONE 'UTC', '_YYYYMM');
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %s',
                           child, parent.name, parent.storage);
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent.name || '_default');
            EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                           parent.name || '_default', parent.key, low, parent.key, high, child);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent.name, child, low, high);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

SELECT ensure_partitions(3);

-- What the engine and the api may do. History they can only add to.
REVOKE ALL ON FUNCTION ensure_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions(integer) TO amends_engine;
GRANT SELECT ON command_keys, _sqlx_migrations, deployment TO amends_engine;
GRANT SELECT, INSERT ON sagas, personal, timeline, strays, orders TO amends_engine;
GRANT UPDATE (wake_at, since, updated_at, stuck_at, revision, core_version, state_version, live, parked, outcome,
              step, label, heading_for, reason, state) ON sagas TO amends_engine;
GRANT UPDATE (saga_id) ON orders TO amends_engine;
GRANT USAGE, SELECT ON SEQUENCE timeline_position TO amends_engine;
GRANT SELECT, INSERT, DELETE ON publisher_watermarks TO amends_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO amends_engine;
