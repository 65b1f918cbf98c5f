-- The engine's database. Every key begins with the saga's (or order's) id and no foreign key crosses sagas, so that the
-- database can be distributed by that column; idempotency keys, watermarks and the deployment's row are exceptions.

-- Properties of the whole deployment: one row, created by `amends migrate`.
CREATE TABLE deployment (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     integer NOT NULL DEFAULT 0,
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

-- Not by slot first: an engine owns hundreds of slots, and would descend once for each, in each partition, at each scan
-- (2.5 ms against 0.05 ms with 1,024 slots and five partitions).
CREATE INDEX sagas_due ON sagas (wake_at) WHERE live;
CREATE INDEX sagas_parked ON sagas (id) WHERE parked;
-- For walks through all sagas that have not ended: operators' lists, and upkeep.
CREATE INDEX sagas_open ON sagas (id) WHERE live OR parked;

-- The personal fields of a saga's input, stored only here. The rest of the input is in its first entry.
CREATE TABLE personal (
    saga_id uuid PRIMARY KEY,
    data    text NOT NULL
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
    body     text        NOT NULL,
    PRIMARY KEY (saga_id, revision)
) PARTITION BY RANGE (saga_id);

CREATE INDEX timeline_by_position ON timeline (slot, position);

-- How far the domain events of a slot are published: its furthest row. Rows are inserted and deleted, and never
-- updated.
CREATE TABLE publisher_watermarks (
    slot     smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (slot, position)
);

-- Slots whose owner has reached an entry that it cannot read: a program that can read it continues from there.
CREATE TABLE publisher_handoffs (
    slot             smallint NOT NULL,
    position         bigint   NOT NULL,
    workflow         text     NOT NULL,
    workflow_version integer  NOT NULL,
    core_version     smallint NOT NULL,
    PRIMARY KEY (slot, position)
);

-- Successes that no saga here ordered, for an operator.
CREATE TABLE strays (
    saga_id     uuid        NOT NULL,
    command_id  uuid        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    reply       text        NOT NULL,
    PRIMARY KEY (saga_id, command_id)
) PARTITION BY RANGE (saga_id);

-- Replies that changed nothing, by saga and reason: their number, and the last of them. Only operators read it. Only sagas
-- that exist here have rows, at most one for each reason.
CREATE TABLE odd_replies (
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
    PRIMARY KEY (saga_id, reason)
) PARTITION BY RANGE (saga_id);

-- Replies that could not be judged on arrival: another transaction held their saga's row, or the receiving engine did
-- not know its workflow or the format of its row. An engine that can judge them does so, and deletes them.
CREATE TABLE deferred_replies (
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
    PRIMARY KEY (saga_id, digest)
);

-- An engine reads only replies that it can judge: all others are elsewhere in the index.
CREATE INDEX deferred_replies_due ON deferred_replies (workflow, workflow_version, due_at);

-- The live programs, and what they know: workflows, rules, formats. Each announces itself every two seconds.
CREATE TABLE programs (
    id      uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    known   text        NOT NULL
) WITH (fillfactor = 50);

-- An order's immutable input and the id of its newest saga, whose label is its status. Lines are stored as received.
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
) PARTITION BY RANGE (id);

-- The order that belongs to each key. A key is unique for the lifetime of its class. It is inserted in the class's
-- current generation, and looked up in all of them; a class has three generations, used in turn. A class moves on to
-- the next once the current one is a lifetime old: then every key of the oldest has expired, and that generation is
-- emptied as a whole.
CREATE TABLE idempotency_keys (
    subject     text        NOT NULL,
    key         text        NOT NULL,
    order_id    uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    generation  smallint    NOT NULL,
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    PRIMARY KEY (subject, key, generation)
) PARTITION BY LIST (generation);

-- A class's generations are `3 * class` and the two after it.
CREATE TABLE idempotency_key_classes (
    class      smallint    PRIMARY KEY,
    lifetime   interval    NOT NULL,
    generation smallint    NOT NULL CHECK (generation / 3 = class),
    began_at   timestamptz NOT NULL
);

-- Placed orders: kept for a day.
INSERT INTO idempotency_key_classes VALUES (0, '24 hours', 0, now());
CREATE TABLE idempotency_keys_0 PARTITION OF idempotency_keys FOR VALUES IN (0);
CREATE TABLE idempotency_keys_1 PARTITION OF idempotency_keys FOR VALUES IN (1);
CREATE TABLE idempotency_keys_2 PARTITION OF idempotency_keys FOR VALUES IN (2);

-- Takes the keys that are free or expired, in the given order (sorted, so that two doors cannot deadlock), and returns
-- the orders for which it took them. If another transaction is just taking a key, it waits. A transaction that takes
-- keys shares the lock of their class until its commit, and then reads what others have committed: the class moves on
-- only while no key is being taken, so that one key is never taken in two generations. If the class moves on late, or
-- its clock is late, nothing else depends on it.
CREATE FUNCTION take_keys(of_class smallint, subjects text[], keys text[], orders uuid[], fingerprints bytea[])
RETURNS SETOF uuid
LANGUAGE plpgsql
AS $$
DECLARE
    present smallint;
    until   timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('idempotency_keys'), of_class);
    SELECT c.generation, clock_timestamp() + c.lifetime INTO STRICT present, until
    FROM idempotency_key_classes AS c WHERE c.class = of_class;
    RETURN QUERY
        INSERT INTO idempotency_keys AS k (subject, key, order_id, expires_at, generation, fingerprint)
        SELECT w.subject, w.key, w.order_id, until, present, w.fingerprint
        FROM UNNEST(subjects, keys, orders, fingerprints) AS w (subject, key, order_id, fingerprint)
        WHERE NOT EXISTS (
            SELECT FROM idempotency_keys AS e
            WHERE e.subject = w.subject AND e.key = w.key AND e.generation BETWEEN 3 * of_class AND 3 * of_class + 2
              AND e.generation <> present AND e.expires_at > clock_timestamp())
        ON CONFLICT (subject, key, generation) DO UPDATE
        SET order_id = EXCLUDED.order_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at
        WHERE k.expires_at <= clock_timestamp()
        RETURNING k.order_id;
END $$;

-- Returns true if a statement that was issued at this time arrives in time; otherwise it fails. By then its program has
-- waited 12 seconds for the answer, and has read back that nothing was written. A network that was silent may still
-- deliver the statement.
CREATE FUNCTION arrives_in_time(issued_at timestamptz) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF issued_at < clock_timestamp() - interval '12 seconds' THEN
        RAISE EXCEPTION 'the statement was issued too long ago' USING ERRCODE = 'query_canceled';
    END IF;
    RETURN true;
END $$;

-- Moves a class on to its next generation if the current one is a lifetime old; returns whether it was. The keys that
-- it deletes were taken before the current generation's predecessor began. If the locks are not free soon, it gives up
-- until later, because orders wait behind them.
CREATE FUNCTION turn_keys(of_class smallint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    present idempotency_key_classes;
    next    smallint;
BEGIN
    SELECT * INTO present FROM idempotency_key_classes
    WHERE class = of_class AND began_at + lifetime <= clock_timestamp() FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    next := 3 * of_class + (present.generation + 1) % 3;
    PERFORM pg_advisory_xact_lock(hashtext('idempotency_keys'), of_class);
    EXECUTE format('TRUNCATE %I', 'idempotency_keys_' || next);
    UPDATE idempotency_key_classes SET generation = next, began_at = clock_timestamp() WHERE class = of_class;
    RETURN true;
END $$;

-- Returns the least UUIDv7 of a time.
CREATE FUNCTION least_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- The tables with monthly partitions, and the id that determines a row's month: that of its saga, or of its order.
CREATE FUNCTION monthly_tables() RETURNS TABLE (name text, key text, storage text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    VALUES ('sagas', 'id', 'WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)'),
           ('timeline', 'saga_id', ''), ('personal', 'saga_id', ''), ('odd_replies', 'saga_id', ''),
           ('strays', 'saga_id', ''), ('orders', 'id', '')
$$;

-- For rows without a month, rows that have outlived their month, and ids that are no UUIDv7 of our time.
DO $$
DECLARE
    parent record;
BEGIN
    FOR parent IN SELECT * FROM monthly_tables() LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT %s', parent.name || '_default', parent.name, parent.storage);
    END LOOP;
END $$;

-- Creates the partitions of the month of `instant`; returns how many were missing. Rows that came before their
-- partition move into it, unless there are so many that other transactions would wait for it: those stay where they
-- are.
CREATE FUNCTION ensure_month(instant timestamptz) RETURNS integer
LANGUAGE plpgsql
SET search_path = public, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    most_moved CONSTANT integer := 10000;
    made integer := 0;
    first_day timestamp := date_trunc('month', instant AT TIME ZONE 'UTC');
    low uuid := least_id(first_day AT TIME ZONE 'UTC');
    high uuid := least_id((first_day + interval '1 month') AT TIME ZONE 'UTC');
    parent record;
    child text;
    moving bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOR parent IN SELECT * FROM monthly_tables() LOOP
        child := parent.name || to_char(first_day, '_YYYYMM');
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %I WHERE %I >= %L AND %I < %L LIMIT %s) AS early',
                       parent.name || '_default', parent.key, low, parent.key, high, most_moved + 1) INTO moving;
        CONTINUE WHEN moving > most_moved;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %s',
                       child, parent.name, parent.storage);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent.name || '_default');
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                       parent.name || '_default', parent.key, low, parent.key, high, child);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent.name, child, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Creates the partitions of this month and the given number of following ones; returns how many were missing. It waits
-- only briefly for locks, because others would wait behind it.
CREATE FUNCTION ensure_partitions(months integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
    SELECT sum(ensure_month((date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC'))::integer
    FROM generate_series(0, months) AS i
$$;

SELECT ensure_partitions(3);

-- The minimum retention: the callers of the following functions may not delete what is younger.
CREATE FUNCTION check_retention(retention interval) RETURNS interval
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF retention < interval '60 days' THEN
        RAISE EXCEPTION 'history is kept for 60 days at least, not for %', retention USING ERRCODE = '22023';
    END IF;
    RETURN retention;
END $$;

-- Drops the oldest month of `sagas` (with its timelines, personal fields and odd replies), of `strays` or of `orders`,
-- if everything born in it is older than `retention`; orders two months later, so that none is dropped before its
-- sagas. What has not ended moves along into the default partition, and so do strays that came later and the orders of
-- sagas that have not ended. Returns the month and how many rows moved; if more than 2,000 would, the month stays
-- (`stays`).
CREATE FUNCTION retire_month(what text, retention interval, OUT month text, OUT moved bigint, OUT stays boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    most_moved CONSTANT integer := 2000;
    uuid_text CONSTANT text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    kept interval := check_retention(retention) + CASE what WHEN 'orders' THEN interval '2 months' ELSE interval '0' END;
    oldest text;
    first_day timestamp;
    survivors uuid[];
    low text;
    high text;
    tables text[] := CASE what WHEN 'sagas' THEN ARRAY['sagas', 'timeline', 'personal', 'odd_replies'] ELSE ARRAY[what] END;
    part text;
BEGIN
    IF what NOT IN ('sagas', 'strays', 'orders') THEN
        RAISE EXCEPTION '% does not go by month', what USING ERRCODE = '22023';
    END IF;
    SELECT right(c.relname, 6) INTO oldest FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = what::regclass AND c.relname ~ ('^' || what || '_[0-9]{6}$') ORDER BY 1 LIMIT 1;
    first_day := to_date(oldest, 'YYYYMM')::timestamp;
    IF oldest IS NULL OR (first_day + interval '1 month') AT TIME ZONE 'UTC' + kept > clock_timestamp()
       OR NOT pg_try_advisory_xact_lock(hashtext('ensure_partitions')) THEN
        RETURN;
    END IF;
    month := oldest;
    low := least_id(first_day AT TIME ZONE 'UTC')::text;
    high := least_id((first_day + interval '1 month') AT TIME ZONE 'UTC')::text;
    CASE what
        WHEN 'sagas' THEN
            EXECUTE format('SELECT array_agg(id) FROM (SELECT id FROM %I WHERE live OR parked LIMIT %s) AS s',
                           'sagas_' || oldest, most_moved + 1) INTO survivors;
        WHEN 'strays' THEN
            EXECUTE format('SELECT array_agg(saga_id) FROM (SELECT saga_id FROM %I WHERE received_at > clock_timestamp() - $1 LIMIT %s) AS s',
                           'strays_' || oldest, most_moved + 1) INTO survivors USING kept;
        ELSE
            SELECT array_agg(DISTINCT business_key::uuid) INTO survivors FROM (
                SELECT business_key FROM sagas
                WHERE (live OR parked) AND business_key COLLATE "C" >= low AND business_key COLLATE "C" < high
                  AND business_key ~ uuid_text
                LIMIT most_moved + 1) AS s;
    END CASE;
    survivors := COALESCE(survivors, '{}');
    stays := cardinality(survivors) > most_moved;
    moved := cardinality(survivors);
    IF stays THEN
        RETURN;
    END IF;
    FOREACH part IN ARRAY tables LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', part, part || '_' || oldest);
    END LOOP;
    IF what = 'sagas' THEN
        -- A saga may have become live since it was read; from here on nothing can write it.
        EXECUTE format('SELECT COALESCE(array_agg(id), ''{}'') FROM %I WHERE live OR parked', 'sagas_' || oldest)
            INTO survivors;
        moved := cardinality(survivors);
    END IF;
    FOREACH part IN ARRAY tables LOOP
        EXECUTE format('INSERT INTO %I SELECT * FROM %I WHERE %I = ANY($1)', part || '_default', part || '_' || oldest,
                       (SELECT key FROM monthly_tables() WHERE name = part)) USING survivors;
        EXECUTE format('DROP TABLE %I', part || '_' || oldest);
    END LOOP;
END $$;

-- Reads the next rows of a default partition after `after`, and deletes those past their retention: sagas that have
-- ended and not changed for `retention`, with their timelines, personal fields and odd replies; strays that came before
-- that; orders that are two months older, once their newest saga is gone. Returns how many it read, the last of them,
-- and how many it deleted.
CREATE FUNCTION forget_leftovers(what text, retention interval, after uuid, OUT looked_at bigint, OUT reached uuid, OUT gone bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    most CONSTANT integer := 500;
    before timestamptz := clock_timestamp() - check_retention(retention);
    ended uuid[];
BEGIN
    CASE what
        WHEN 'sagas' THEN
            SELECT count(*), (array_agg(id ORDER BY id DESC))[1], COALESCE(array_agg(id) FILTER (WHERE is_over), '{}')
            INTO looked_at, reached, ended
            FROM (SELECT id, NOT live AND NOT parked AND updated_at <= before AS is_over FROM sagas_default
                  WHERE id > after ORDER BY id LIMIT most) AS page;
            -- Not a saga that has just become live.
            SELECT COALESCE(array_agg(id), '{}') INTO ended FROM (
                SELECT id FROM sagas_default
                WHERE id = ANY(ended) AND NOT live AND NOT parked AND updated_at <= before FOR UPDATE SKIP LOCKED) AS s;
            DELETE FROM timeline_default WHERE saga_id = ANY(ended);
            DELETE FROM personal_default WHERE saga_id = ANY(ended);
            DELETE FROM odd_replies_default WHERE saga_id = ANY(ended);
            DELETE FROM sagas_default WHERE id = ANY(ended);
        WHEN 'strays' THEN
            SELECT count(*), (array_agg(saga_id ORDER BY saga_id DESC))[1],
                   COALESCE(array_agg(saga_id) FILTER (WHERE received_at <= before), '{}')
            INTO looked_at, reached, ended
            FROM (SELECT saga_id, received_at FROM strays_default WHERE saga_id > after ORDER BY saga_id LIMIT most) AS page;
            DELETE FROM strays_default WHERE saga_id = ANY(ended) AND received_at <= before;
        WHEN 'orders' THEN
            SELECT count(*), (array_agg(id ORDER BY id DESC))[1], COALESCE(array_agg(id) FILTER (WHERE is_over), '{}')
            INTO looked_at, reached, ended
            FROM (SELECT o.id, o.created_at <= before - interval '2 months'
                             AND NOT EXISTS (SELECT FROM sagas AS s WHERE s.id = o.saga_id) AS is_over
                  FROM orders_default AS o WHERE o.id > after ORDER BY o.id LIMIT most) AS page;
            DELETE FROM orders_default WHERE id = ANY(ended);
        ELSE
            RAISE EXCEPTION '% does not go by month', what USING ERRCODE = '22023';
    END CASE;
    gone := cardinality(ended);
END $$;

-- Permissions of the engine and the api. They can only add to history; the functions above delete what is past its
-- retention.
REVOKE ALL ON FUNCTION ensure_partitions(integer), ensure_month(timestamptz), turn_keys(smallint),
    retire_month(text, interval), forget_leftovers(text, interval, uuid),
    take_keys(smallint, text[], text[], uuid[], bytea[]), arrives_in_time(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION arrives_in_time(timestamptz), ensure_partitions(integer), turn_keys(smallint), retire_month(text, interval),
    forget_leftovers(text, interval, uuid), take_keys(smallint, text[], text[], uuid[], bytea[]) TO amends_engine;
GRANT SELECT ON command_keys, _sqlx_migrations, deployment, idempotency_key_classes TO amends_engine;
GRANT SELECT, INSERT ON sagas, personal, timeline, strays, orders TO amends_engine;
GRANT UPDATE (wake_at, since, updated_at, stuck_at, revision, core_version, state_version, live, parked, outcome,
              step, label, heading_for, reason, state) ON sagas TO amends_engine;
GRANT UPDATE (saga_id) ON orders TO amends_engine;
GRANT USAGE, SELECT ON SEQUENCE timeline_position TO amends_engine;
GRANT SELECT, INSERT, UPDATE ON odd_replies TO amends_engine;
GRANT SELECT, INSERT, DELETE ON publisher_watermarks, publisher_handoffs TO amends_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON deferred_replies, programs TO amends_engine;
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO amends_engine;

-- The oldest schema whose programs can run beside this one. A migration after which they cannot raises it: an N-1
-- program starts, and runs, beside a migrated N database.
CREATE TABLE schema_compatibility (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    compatible_from bigint NOT NULL
);
INSERT INTO schema_compatibility (compatible_from) VALUES (1);
GRANT SELECT ON schema_compatibility TO amends_engine;
