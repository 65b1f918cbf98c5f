-- Drops the oldest month of `commands`, if all of its sagas were born longer than `retention` ago. A row for which
-- something remains to be done is not dropped: it moves into the default partition. A row that an operator has settled is
-- dropped. Returns the month and how many rows moved; if more than 2,000 would, the month stays (`stays`): while rows
-- move, no command is read or written. It waits only briefly for locks, because others wait behind it.
--
-- Rows are kept for 60 days at least: without its row a repeated command would be taken for a new one.
CREATE FUNCTION retire_month(retention interval, OUT month text, OUT moved bigint, OUT stays boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
SET enable_seqscan = off
AS $$
DECLARE
    most_moved CONSTANT integer := 2000;
    child text;
    due text;
BEGIN
    IF (retention >= interval '60 days') IS NOT TRUE THEN
        RAISE EXCEPTION 'rows are kept for 60 days at least, not for %', retention USING ERRCODE = '22023';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('ensure_partitions')) THEN
        RETURN;
    END IF;
    SELECT min(c.relname) INTO child FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'commands'::regclass AND c.relname ~ '^commands_[0-9]{6}$';
    IF child IS NULL OR (to_date(right(child, 6), 'YYYYMM') + interval '1 month') AT TIME ZONE 'UTC' > now() - retention THEN
        RETURN;
    END IF;
    month := child;
    -- Each half has an index.
    due := format('SELECT * FROM %1$I WHERE live AND NOT unsure AND resolved IS NULL
                   UNION ALL SELECT * FROM %1$I WHERE live AND unsure AND resolved IS NULL', child);
    EXECUTE format('SELECT count(*) FROM (SELECT FROM (%s) AS due LIMIT %s) AS counted', due, most_moved + 1) INTO moved;
    stays := moved > most_moved;
    IF stays THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE commands DETACH PARTITION %I', child);
    EXECUTE 'INSERT INTO commands ' || due;
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format('DROP TABLE %I', child);
END $$;

REVOKE ALL ON FUNCTION retire_month(interval) FROM PUBLIC;

-- Programs of the version before call this one.
CREATE OR REPLACE FUNCTION expire_partition(retention interval) RETURNS text
LANGUAGE sql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$ SELECT month FROM retire_month(retention) WHERE NOT stays $$;

-- The worker's role may do now what it could do before.
DO $$
DECLARE
    worker oid;
BEGIN
    FOR worker IN SELECT DISTINCT acl.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS acl
                  WHERE p.oid = 'expire_partition(interval)'::regprocedure AND acl.privilege_type = 'EXECUTE' AND acl.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION retire_month(interval) TO %s', worker::regrole);
    END LOOP;
END $$;
