-- How sagas are written: births and commits are one statement each, so that a batch is one round trip and one transaction.
-- The number of an entry is given in one place, append_entries. `of_home` is the home of all rows that a call writes.

-- Returns true if the database is in this epoch; otherwise it fails with an error of its own (`sqlstate::is_other_epoch`).
-- A program that was started before a restore may remember sagas, positions and answers that the database no longer
-- contains: in the epoch after it, it can write nothing. The row is read, and the table's lock held until the commit:
-- `raise_epoch` waits for all writes of the epoch before.
CREATE FUNCTION check_epoch(of_epoch integer) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    present integer;
BEGIN
    SELECT d.epoch INTO present FROM deployment AS d;
    IF present <> of_epoch THEN
        RAISE EXCEPTION 'the database was restored to an earlier state: its epoch is %, and this program was started in epoch %',
            present, of_epoch USING ERRCODE = 'AM001';
    END IF;
    RETURN true;
END $$;

-- The same for plain statements: it is executed once, before any row is written.
CREATE FUNCTION is_epoch(of_epoch integer) RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN check_epoch(of_epoch);
END $$;

-- Begins the next epoch, after the database was restored to an earlier state; returns it. For the database's owner. It
-- waits, a few seconds, for writes that are not committed.
CREATE FUNCTION raise_epoch() RETURNS integer
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    raised integer;
BEGIN
    LOCK TABLE deployment IN ACCESS EXCLUSIVE MODE;
    UPDATE deployment SET epoch = epoch + 1 RETURNING epoch INTO raised;
    RETURN raised;
END $$;

-- Waits until no other transaction is writing entries in these slots, and keeps others out until the end of this one.
-- In the order of the slots, so that two batches cannot deadlock. The first number is the class of these advisory locks,
-- "amnd".
CREATE FUNCTION lock_slots(of_home smallint, slots smallint[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1634561636, slot)
    FROM (SELECT DISTINCT slot::integer AS slot FROM UNNEST(slots) AS s (slot) ORDER BY 1) AS s;
END $$;

-- Returns those of these slots that no other transaction is writing in, and keeps others out of them.
CREATE FUNCTION lock_free_slots(of_home smallint, slots smallint[]) RETURNS smallint[]
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN ARRAY(
        SELECT slot FROM (SELECT DISTINCT slot FROM UNNEST(slots) AS s (slot) ORDER BY 1) AS s
        WHERE pg_try_advisory_xact_lock(1634561636, slot::integer));
END $$;

-- Appends entries to the timelines of the sagas in `among` (null: of all), in the given order, and numbers them. The
-- slots are locked first and until the commit: within a slot the order of positions is the order of commits, and a
-- reader of a slot that has seen a position will see none below it. `IN (…) IS TRUE` keeps the entries in order, where
-- a join would not.
CREATE FUNCTION append_entries(of_home smallint, saga_ids uuid[], slots smallint[], revisions integer[],
                               ats timestamptz[], bodies text[], batch bigint, among uuid[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM lock_slots(of_home, ARRAY(
        SELECT DISTINCT e.slot FROM UNNEST(saga_ids, slots) AS e (saga_id, slot)
        WHERE among IS NULL OR e.saga_id IN (SELECT UNNEST(among))));
    INSERT INTO timeline (home, saga_id, slot, revision, at, body, batch)
    SELECT of_home, e.saga_id, e.slot, e.revision, e.at, e.body, append_entries.batch
    FROM UNNEST(saga_ids, slots, revisions, ats, bodies) AS e (saga_id, slot, revision, at, body)
    WHERE among IS NULL OR (e.saga_id IN (SELECT UNNEST(among))) IS TRUE;
END $$;

-- Inserts the new sagas in `among` (null: all) with their personal fields and first entries. New rows block no other
-- transaction, so the slots are locked last.
CREATE FUNCTION bear_sagas(of_home smallint, of_epoch integer, ids uuid[], slots smallint[], business_keys text[], workflows text[],
                           workflow_versions integer[], labels text[], wake_ats timestamptz[], steps text[],
                           ats timestamptz[], states text[], personals text[], bodies text[], lives boolean[],
                           core_versions smallint[], state_versions smallint[], batch bigint, among uuid[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM check_epoch(of_epoch);
    INSERT INTO sagas (home, id, slot, business_key, workflow, workflow_version, revision, label, parked, live, wake_at,
                       step, since, born_at, updated_at, state, core_version, state_version)
    SELECT of_home, w.id, w.slot, w.business_key, w.workflow, w.workflow_version, 1, w.label, false, w.live, w.wake_at,
           w.step, w.at, w.at, w.at, w.state, w.core_version, w.state_version
    FROM UNNEST(ids, slots, business_keys, workflows, workflow_versions, labels, wake_ats, steps, ats, states, lives,
                core_versions, state_versions)
         AS w (id, slot, business_key, workflow, workflow_version, label, wake_at, step, at, state, live, core_version,
               state_version)
    WHERE among IS NULL OR w.id IN (SELECT UNNEST(among));
    INSERT INTO personal (home, saga_id, data)
    SELECT of_home, w.id, w.data FROM UNNEST(ids, personals) AS w (id, data)
    WHERE w.data IS NOT NULL AND (among IS NULL OR w.id IN (SELECT UNNEST(among)));
    PERFORM append_entries(of_home, ids, slots, array_fill(1, ARRAY[cardinality(ids)]), ats, bodies, batch, among);
END $$;

-- Writes a batch of sagas and appends their entries. A row is written if it still has the revision that was read, in the
-- given order (by id, so that batches cannot deadlock); only then are the slots locked. `flags`, a bit each: 1 parked,
-- 2 live; and what of the input the caller asks for: 4 data, 8 personal fields. With `passing_over` it waits for nobody:
-- a row that another transaction holds, or whose slot is held, is passed over. Returns the rows that were written, with
-- the input that was asked for, and as `locked` those that were passed over.
CREATE FUNCTION commit_sagas(of_home smallint, of_epoch integer, passing_over boolean, ids uuid[], read_revisions integer[],
                             revisions integer[], labels text[], headings text[], reasons text[], outcomes text[],
                             flags smallint[], wake_ats timestamptz[], steps text[], sinces timestamptz[], updated_ats timestamptz[],
                             core_versions smallint[], state_versions smallint[], states text[],
                             entry_sagas uuid[], entry_slots smallint[], entry_revisions integer[],
                             entry_ats timestamptz[], entry_bodies text[], batch bigint)
RETURNS TABLE (saga_id uuid, locked boolean, data text, personal text)
LANGUAGE plpgsql
AS $$
DECLARE
    free         uuid[];
    free_slots   smallint[];
    locked_slots smallint[];
    written      uuid[];
    asked        smallint[];
BEGIN
    PERFORM check_epoch(of_epoch);
    IF passing_over THEN
        WITH held AS (
            SELECT s.id, s.slot
            FROM UNNEST(ids, read_revisions) AS w (id, revision) JOIN sagas AS s ON (of_home IS NULL OR s.home = of_home) AND s.id = w.id
            WHERE s.revision = w.revision FOR UPDATE OF s SKIP LOCKED
        ) SELECT array_agg(held.id), array_agg(held.slot) INTO free, free_slots FROM held;
        locked_slots := lock_free_slots(of_home, free_slots);
        SELECT array_agg(f.id) INTO free FROM UNNEST(free, free_slots) AS f (id, slot) WHERE f.slot = ANY (locked_slots);
    END IF;
    WITH done AS (
        UPDATE sagas AS s
        SET revision = w.revision, label = w.label, heading_for = w.heading_for, reason = w.reason, outcome = w.outcome,
            parked = w.flags & 1 <> 0, live = w.flags & 2 <> 0, wake_at = w.wake_at, step = w.step, since = w.since,
            updated_at = w.updated_at, state = w.state, core_version = w.core_version, state_version = w.state_version,
            stuck_at = CASE WHEN s.since = w.since AND s.step = w.step THEN s.stuck_at END
        FROM UNNEST(ids, read_revisions, revisions, labels, headings, reasons, outcomes, commit_sagas.flags, wake_ats,
                    steps, sinces, updated_ats, core_versions, state_versions, states)
             AS w (id, read_revision, revision, label, heading_for, reason, outcome, flags, wake_at, step, since,
                   updated_at, core_version, state_version, state)
        WHERE (of_home IS NULL OR s.home = of_home) AND s.id = w.id AND s.revision = w.read_revision
          AND (NOT passing_over OR w.id IN (SELECT UNNEST(free)))
        RETURNING s.id, w.flags
    ) SELECT array_agg(done.id), array_agg(done.flags) INTO written, asked FROM done;
    IF written IS NOT NULL THEN
        PERFORM append_entries(of_home, entry_sagas, entry_slots, entry_revisions, entry_ats, entry_bodies, batch,
                               CASE WHEN cardinality(written) < cardinality(ids) THEN written END);
        RETURN QUERY
            SELECT w.id, false,
                   CASE WHEN w.flags & 4 <> 0 THEN (
                       SELECT t.body::json #>> '{event,started}' FROM timeline AS t
                       WHERE (of_home IS NULL OR t.home = of_home) AND t.saga_id = w.id AND t.revision = 1) END,
                   CASE WHEN w.flags & 8 <> 0 THEN (
                       SELECT p.data FROM personal AS p WHERE (of_home IS NULL OR p.home = of_home) AND p.saga_id = w.id) END
            FROM UNNEST(written, asked) AS w (id, flags);
    END IF;
    IF passing_over THEN
        RETURN QUERY
            SELECT w.id, true, NULL::text, NULL::text
            FROM UNNEST(ids, read_revisions) AS w (id, revision)
            JOIN sagas AS s ON (of_home IS NULL OR s.home = of_home) AND s.id = w.id AND s.revision = w.revision
            WHERE (w.id IN (SELECT UNNEST(written))) IS NOT TRUE;
    END IF;
END $$;

REVOKE ALL ON FUNCTION check_epoch, is_epoch, raise_epoch, lock_slots, lock_free_slots,
    append_entries, bear_sagas, commit_sagas FROM PUBLIC;
GRANT EXECUTE ON FUNCTION check_epoch, is_epoch, lock_slots, lock_free_slots, append_entries, bear_sagas, commit_sagas
    TO amends_engine;
