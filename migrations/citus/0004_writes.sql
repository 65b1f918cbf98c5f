-- The bodies of the functions that lock slots and number entries, and the functions that are executed where their home is.

CREATE OR REPLACE FUNCTION lock_slots(of_home smallint, slots smallint[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM slot_positions AS p WHERE p.home = of_home AND p.slot = ANY (slots) ORDER BY p.slot FOR UPDATE;
END $$;

CREATE OR REPLACE FUNCTION lock_free_slots(of_home smallint, slots smallint[]) RETURNS smallint[]
LANGUAGE plpgsql
AS $$
DECLARE
    free smallint[];
BEGIN
    SELECT array_agg(f.slot) INTO free FROM (
        SELECT p.slot FROM slot_positions AS p WHERE p.home = of_home AND p.slot = ANY (slots)
        ORDER BY p.slot FOR UPDATE SKIP LOCKED) AS f;
    RETURN free;
END $$;

-- Several slots are locked in their order before they are counted up; the update of one locks it.
CREATE OR REPLACE FUNCTION append_entries(of_home smallint, saga_ids uuid[], slots smallint[], revisions integer[],
                                          ats timestamptz[], bodies text[], batch bigint, among uuid[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    taken smallint[];
    bases bigint[];
BEGIN
    IF (SELECT count(DISTINCT s) FROM UNNEST(slots) AS s) > 1 THEN
        PERFORM lock_slots(of_home, slots);
    END IF;
    WITH numbered AS (
        UPDATE slot_positions AS p SET position = p.position + e.entries
        FROM (SELECT u.slot, count(*) AS entries FROM UNNEST(saga_ids, slots) AS u (saga_id, slot)
              WHERE among IS NULL OR u.saga_id = ANY (among) GROUP BY u.slot) AS e
        WHERE p.home = of_home AND p.slot = e.slot
        RETURNING p.slot, p.position - e.entries AS base
    ) SELECT array_agg(n.slot), array_agg(n.base) INTO taken, bases FROM numbered AS n;
    INSERT INTO timeline (home, saga_id, slot, position, revision, at, body, batch)
    SELECT of_home, e.saga_id, e.slot, n.base + row_number() OVER (PARTITION BY e.slot ORDER BY e.place), e.revision,
           e.at, e.body, append_entries.batch
    FROM UNNEST(saga_ids, slots, revisions, ats, bodies) WITH ORDINALITY AS e (saga_id, slot, revision, at, body, place)
         JOIN UNNEST(taken, bases) AS n (slot, base) ON n.slot = e.slot
    WHERE among IS NULL OR e.saga_id = ANY (among);
END $$;

-- A call whose first argument is a home is executed on that home's node, as one transaction there.
SELECT create_distributed_function(f.oid::regprocedure, 'of_home', colocate_with := 'slot_positions')
FROM pg_proc AS f
WHERE f.pronamespace = 'public'::regnamespace
  AND f.proname IN ('append_entries', 'bear_sagas', 'commit_sagas', 'place_orders', 'claim_keys', 'forget_leftovers',
                    'erase_personal_data');
