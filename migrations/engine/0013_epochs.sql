-- As in 0011, but an epoch is begun once. A failover may lose the beginning of an epoch with the commits after it: programs
-- of that epoch find an earlier one, and the next epoch is the one after theirs.
CREATE OR REPLACE FUNCTION note_lost_commits(of_epoch integer, stopping boolean, saga_ids uuid[],
                                             acknowledged_revisions integer[], found_revisions integer[],
                                             business_keys text[]) RETURNS void
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
    UPDATE deployment AS d SET epoch = of_epoch + 1, is_suspended = stopping WHERE d.epoch <= of_epoch;
END $$;
