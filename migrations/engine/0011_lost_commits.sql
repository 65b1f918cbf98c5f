-- Commits that the database has acknowledged and no longer contains, as after a failover to a standby that had not
-- received them. They have no home: on a distributed Postgres they stay on the coordinator.
CREATE TABLE lost_commits (
    saga_id               uuid        NOT NULL,
    noted_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The epoch in which they were acknowledged.
    epoch                 integer     NOT NULL,
    -- The saga's newest acknowledged revision, and the one that was found; null: the saga is not there.
    acknowledged_revision integer     NOT NULL,
    found_revision        integer,
    -- The order's id, where the program that noted it has placed the order.
    business_key          text,
    PRIMARY KEY (epoch, saga_id)
);
GRANT SELECT ON lost_commits TO amends_engine;

-- Whether no program shall start until somebody has looked.
ALTER TABLE deployment ADD COLUMN is_suspended boolean NOT NULL DEFAULT false;

-- As in 0002, and programs may start in the new epoch.
CREATE OR REPLACE FUNCTION raise_epoch() RETURNS integer
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    raised integer;
BEGIN
    LOCK TABLE deployment IN ACCESS EXCLUSIVE MODE;
    UPDATE deployment SET epoch = epoch + 1, is_suspended = false RETURNING epoch INTO raised;
    RETURN raised;
END $$;

-- Notes lost commits, and begins the next epoch unless another program has done so. With `stopping`, no program starts in
-- it until somebody has looked (`amends restore`). It waits, a few seconds, for writes that are not committed. Notes go
-- after 400 days.
CREATE FUNCTION note_lost_commits(of_epoch integer, stopping boolean, saga_ids uuid[], acknowledged_revisions integer[],
                                  found_revisions integer[], business_keys text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    LOCK TABLE deployment IN ACCESS EXCLUSIVE MODE;
    DELETE FROM lost_commits WHERE noted_at < now() - interval '400 days';
    INSERT INTO lost_commits AS l (epoch, saga_id, acknowledged_revision, found_revision, business_key)
    SELECT of_epoch, n.saga_id, n.acknowledged_revision, n.found_revision, n.business_key
    FROM UNNEST(saga_ids, acknowledged_revisions, found_revisions, business_keys)
         AS n (saga_id, acknowledged_revision, found_revision, business_key)
    ON CONFLICT (epoch, saga_id) DO UPDATE
    SET acknowledged_revision = GREATEST(l.acknowledged_revision, EXCLUDED.acknowledged_revision),
        business_key = COALESCE(l.business_key, EXCLUDED.business_key);
    UPDATE deployment AS d SET epoch = d.epoch + 1, is_suspended = stopping WHERE d.epoch = of_epoch;
END $$;

REVOKE ALL ON FUNCTION note_lost_commits FROM PUBLIC;
GRANT EXECUTE ON FUNCTION note_lost_commits TO amends_engine;
