-- The engine's database: sagas, their timelines, and what the engine notes beside them. The functions that write them are
-- in 0002, the order book in 0003; months and retention of all of it are in 0004.
--
-- All rows of a saga, of its order and of its slot have the same home, and no statement and no foreign key crosses homes.
-- A home is the slot modulo `deployment.homes`; on one Postgres there is one home, 0. The slot is the last ten bits of the
-- id of a saga or order. A distributed Postgres places rows by home, and therefore each key contains it. It is the last
-- column: rows are then inserted at one end of an index, found by id alone, and no plan can begin with all rows of a home.

-- Properties of the whole deployment: one row, created by `amends migrate`.
CREATE TABLE deployment (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     integer NOT NULL DEFAULT 0,
    homes     smallint NOT NULL DEFAULT 1 CHECK (homes BETWEEN 1 AND 1024),
    reply_key text    NOT NULL CHECK (reply_key ~ '^[0-9a-f]{64}$'),
    -- Also accepted: the key that signed before the last rotation, and the one that will sign after the next.
    previous_reply_key text CHECK (previous_reply_key ~ '^[0-9a-f]{64}$'),
    next_reply_key     text CHECK (next_reply_key ~ '^[0-9a-f]{64}$')
);

-- The current key of each participant, with which commands are signed. Each participant's own database has its keys
-- too, and accepts all of them.
CREATE TABLE command_keys (
    participant text NOT NULL,
    stage       text NOT NULL CHECK (stage IN ('previous', 'current', 'next')),
    id          text NOT NULL CHECK (id ~ '^[A-Za-z0-9_-]{1,32}$'),
    key         text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$'),
    PRIMARY KEY (participant, stage)
);

-- A saga's row is also its outbox and its timers. An ordinary update touches no indexed column, so that it is
-- heap-only: no index may mention revision, label, step or since. A row doubles in its life: with pages filled to 40 %
-- all these updates find room beside it (with 50 % nine of ten), and the table ends up no larger. Columns that never
-- change come first: when a row is updated, the log contains only what follows the first change. JSON is stored as
-- text: no query looks into it, and it need not be parsed and rebuilt.
CREATE TABLE sagas (
    id               uuid        NOT NULL,
    born_at          timestamptz NOT NULL,
    workflow_version integer     NOT NULL,
    slot             smallint    NOT NULL CHECK (slot BETWEEN 0 AND 1023),
    home             smallint    NOT NULL,
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
    PRIMARY KEY (id, home)
) PARTITION BY RANGE (id);

-- Not by slot first: an engine owns hundreds of slots, and would descend once for each, in each partition, at each scan
-- (2.5 ms against 0.05 ms with 1,024 slots and five partitions).
CREATE INDEX sagas_due ON sagas (wake_at) WHERE live;
CREATE INDEX sagas_parked ON sagas (id) WHERE parked;
-- For walks through all sagas that have not ended: operators' lists, and upkeep.
-- A saga that waits for a signal without a deadline is neither live nor parked, and has no outcome.
CREATE INDEX sagas_open ON sagas (id) WHERE live OR parked OR outcome IS NULL;

-- The personal fields of a saga's input, stored only here. The rest of the input is in its first entry.
CREATE TABLE personal (
    home    smallint NOT NULL,
    saga_id uuid     NOT NULL,
    data    text     NOT NULL,
    PRIMARY KEY (saga_id, home)
) PARTITION BY RANGE (saga_id);

-- What happened and what was decided. Within a slot the order of positions is the order of commits: a writer of entries
-- holds the slot's transaction-level advisory lock. No cache: each position is drawn when it is used.
CREATE SEQUENCE timeline_position AS bigint CACHE 1;

CREATE TABLE timeline (
    saga_id  uuid        NOT NULL,
    position bigint      NOT NULL DEFAULT nextval('timeline_position'),
    at       timestamptz NOT NULL,
    batch    bigint      NOT NULL,
    revision integer     NOT NULL,
    slot     smallint    NOT NULL,
    home     smallint    NOT NULL,
    body     text        NOT NULL,
    PRIMARY KEY (saga_id, revision, home)
) PARTITION BY RANGE (saga_id);

CREATE INDEX timeline_by_position ON timeline (slot, position);

-- How far the domain events of a slot are published: its furthest row. Rows are inserted and deleted, and never
-- updated.
CREATE TABLE publisher_watermarks (
    home     smallint NOT NULL,
    slot     smallint NOT NULL,
    position bigint   NOT NULL,
    PRIMARY KEY (slot, position, home)
);

-- Slots whose owner has reached an entry that it cannot read: a program that can read it continues from there.
CREATE TABLE publisher_handoffs (
    home             smallint NOT NULL,
    slot             smallint NOT NULL,
    position         bigint   NOT NULL,
    workflow         text     NOT NULL,
    workflow_version integer  NOT NULL,
    core_version     smallint NOT NULL,
    PRIMARY KEY (slot, position, home)
);

-- Successes that no saga here ordered, for an operator.
CREATE TABLE strays (
    home        smallint    NOT NULL,
    saga_id     uuid        NOT NULL,
    command_id  uuid        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    reply       text        NOT NULL,
    PRIMARY KEY (saga_id, command_id, home)
) PARTITION BY RANGE (saga_id);

-- Replies that changed nothing, by saga and reason: their number, and the last of them. Only operators read it. Only sagas
-- that exist here have rows, at most one for each reason.
CREATE TABLE odd_replies (
    home          smallint    NOT NULL,
    saga_id       uuid        NOT NULL,
    reason        text        NOT NULL CHECK (reason ~ '^[a-z_]{1,32}$'),
    dead_lettered boolean     NOT NULL,
    count         bigint      NOT NULL,
    first_at      timestamptz NOT NULL,
    last_at       timestamptz NOT NULL,
    topic         text        NOT NULL,
    partition     integer     NOT NULL,
    "offset"      bigint      NOT NULL,
    command_id    uuid,
    step          text,
    kind          text,
    outcome       text,
    attempt       integer,
    PRIMARY KEY (saga_id, reason, home)
) PARTITION BY RANGE (saga_id);

-- Replies that could not be judged on arrival: another transaction held their saga's row, or the receiving engine did
-- not know its workflow or the format of its row. An engine that can judge them does so, and deletes them.
CREATE TABLE deferred_replies (
    home             smallint    NOT NULL,
    saga_id          uuid        NOT NULL,
    digest           uuid        NOT NULL,
    slot             smallint    NOT NULL,
    received_at      timestamptz NOT NULL DEFAULT now(),
    due_at           timestamptz NOT NULL,
    why              text        NOT NULL,
    workflow         text        NOT NULL,
    workflow_version integer     NOT NULL,
    core_version     smallint    NOT NULL,
    state_version    smallint    NOT NULL,
    topic            text        NOT NULL,
    partition        integer     NOT NULL,
    "offset"         bigint      NOT NULL,
    reply            text        NOT NULL,
    PRIMARY KEY (saga_id, digest, home)
);

-- An engine reads only replies that it can judge: all others are elsewhere in the index.
CREATE INDEX deferred_replies_due ON deferred_replies (workflow, workflow_version, due_at);

-- The live programs, and what they know: workflows, rules, formats. Each announces itself every two seconds.
CREATE TABLE programs (
    id      uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    known   text        NOT NULL
) WITH (fillfactor = 50);

-- Permissions of the engine and the api. They can only add to history; the functions of 0004 delete what is past its
-- retention.
GRANT SELECT ON command_keys, _sqlx_migrations, deployment TO amends_engine;
GRANT SELECT, INSERT ON sagas, personal, timeline, strays TO amends_engine;
GRANT UPDATE (wake_at, since, updated_at, stuck_at, revision, core_version, state_version, live, parked, outcome,
              step, label, heading_for, reason, state) ON sagas TO amends_engine;
GRANT USAGE, SELECT ON SEQUENCE timeline_position TO amends_engine;
GRANT SELECT, INSERT, UPDATE ON odd_replies TO amends_engine;
GRANT SELECT, INSERT, DELETE ON publisher_watermarks, publisher_handoffs TO amends_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON deferred_replies, programs TO amends_engine;

-- The oldest schema whose programs can run beside this one. A migration after which they cannot raises it: an N-1
-- program starts, and runs, beside a migrated N database.
CREATE TABLE schema_compatibility (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    compatible_from bigint NOT NULL
);
INSERT INTO schema_compatibility (compatible_from) VALUES (4);
GRANT SELECT ON schema_compatibility TO amends_engine;
