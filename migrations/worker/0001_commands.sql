-- The worker's rows: one per command, keyed by the id of its execute. Each worker's folder links to this file. An id
-- begins with the millisecond of its saga's birth, so that a month's rows are one partition and are dropped together.
CREATE TABLE commands (
    command_id  uuid PRIMARY KEY,
    saga_id     uuid NOT NULL,
    status      text NOT NULL CHECK (status IN ('accepted', 'started', 'succeeded', 'refused', 'failed_transient',
                                                'failed_for_good', 'undoing', 'undone', 'tombstone')),
    attempt     integer NOT NULL CHECK (attempt > 0),
    epoch       integer NOT NULL CHECK (epoch >= 0),
    issued_at   timestamptz NOT NULL,
    unsure      boolean NOT NULL DEFAULT false,  -- an external call got no answer
    live        boolean NOT NULL DEFAULT false,  -- an external action remains to be done
    owner       uuid,                            -- the instance that is calling
    lease_until timestamptz,                     -- when its lease ends; without an owner: when the row is due
    started_at  timestamptz,                     -- when the key of the present call was first used
    command     text,                            -- the execute, until it is settled
    reply       text,                            -- the recorded reply beyond its outcome
    undo        text,                            -- the remembered compensation
    undo_reply  text,                            -- the recorded reply of the compensation
    resolved    text CHECK (resolved IN ('done', 'notDone')),  -- an operator's resolution of the execute
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (NOT live OR lease_until IS NOT NULL)
) PARTITION BY RANGE (command_id);

-- Rows of transactional workers are never live: their updates touch no index.
CREATE INDEX commands_due ON commands (lease_until) WHERE live AND NOT unsure;
CREATE INDEX commands_unsure ON commands (lease_until) WHERE live AND unsure;

-- For rows without a month: those that were still live when their month was dropped, and ids of no time of ours.
CREATE TABLE commands_default PARTITION OF commands DEFAULT WITH (fillfactor = 70);

-- Returns the least id of a time.
CREATE FUNCTION least_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(greatest(0, (extract(epoch FROM at) * 1000)::bigint)), 12, '0') || repeat('0', 20))::uuid;

-- Creates the partitions of a month (the present one, unless another is named) and of the given number of following
-- ones; returns how many were missing. Rows that came before their partition move into it. It waits only briefly for
-- locks, because others would wait behind it.
CREATE FUNCTION ensure_partitions(months integer, first timestamptz DEFAULT now()) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    made integer := 0;
    month timestamp := date_trunc('month', first AT TIME ZONE 'UTC');
    child text;
    low uuid;
    high uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOR i IN 0..months LOOP
        child := 'commands' || to_char(month, '_YYYYMM');
        low := least_id(month AT TIME ZONE 'UTC');
        month := month + interval '1 month';
        high := least_id(month AT TIME ZONE 'UTC');
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE commands INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 70)', child);
        LOCK TABLE commands_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM commands_default WHERE command_id >= %L AND command_id < %L RETURNING *)
                        INSERT INTO %I SELECT * FROM moved', low, high, child);
        EXECUTE format('ALTER TABLE commands ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', child, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops the oldest month, if all of its sagas were born longer than `retention` ago; returns the month, or null. A row
-- for which something remains to be done is not dropped: it moves along. A row that an operator has settled is dropped.
CREATE FUNCTION expire_partition(retention interval) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '2s'
SET enable_seqscan = off
AS $$
DECLARE
    child text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    SELECT min(c.relname) INTO child FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'commands'::regclass AND c.relname ~ '^commands_[0-9]{6}$';
    IF child IS NULL OR (to_date(right(child, 6), 'YYYYMM') + interval '1 month') AT TIME ZONE 'UTC' > now() - retention THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE commands DETACH PARTITION %I', child);
    EXECUTE format('INSERT INTO commands
                    SELECT * FROM %1$I WHERE live AND NOT unsure AND resolved IS NULL
                    UNION ALL SELECT * FROM %1$I WHERE live AND unsure AND resolved IS NULL', child);
    EXECUTE format('DROP TABLE %I', child);
    RETURN child;
END $$;

SELECT ensure_partitions(3);

-- The keys that sign the engine's commands for this worker. `amends migrate` writes them.
CREATE TABLE command_keys (
    stage text PRIMARY KEY CHECK (stage IN ('previous', 'current', 'next')),
    id    text NOT NULL UNIQUE CHECK (id ~ '^[A-Za-z0-9_-]{1,32}$'),
    key   text NOT NULL CHECK (key ~ '^[0-9a-f]{64}$')
);

REVOKE ALL ON FUNCTION ensure_partitions(integer, timestamptz), expire_partition(interval) FROM PUBLIC;

-- The oldest schema whose programs can run beside this one. A migration after which they cannot raises it: an N-1
-- program starts, and runs, beside a migrated N database.
CREATE TABLE schema_compatibility (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    compatible_from bigint NOT NULL
);
INSERT INTO schema_compatibility (compatible_from) VALUES (1);
