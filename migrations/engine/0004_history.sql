-- History goes by month: partitions of sagas, orders and all that belongs to them, and how what is past its retention goes.

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
           ('strays', 'saga_id', ''), ('orders', 'id', ''), ('order_sagas', 'order_id', '')
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

-- Places a new partition where those of its parent are: on a distributed Postgres, home by home.
CREATE FUNCTION place_partition(child text, parent text) RETURNS void
LANGUAGE sql
AS $$ $$;

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
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %I WHERE %I >= %L AND %I < %L LIMIT %s) AS early',
                       parent.name || '_default', parent.key, low, parent.key, high, most_moved + 1) INTO moving;
        CONTINUE WHEN moving > most_moved;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %s',
                       child, parent.name, parent.storage);
        PERFORM place_partition(child, parent.name);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent.name || '_default');
        EXECUTE format('INSERT INTO %I SELECT * FROM %I WHERE %I >= %L AND %I < %L',
                       child, parent.name || '_default', parent.key, low, parent.key, high);
        EXECUTE format('DELETE FROM %I WHERE %I >= %L AND %I < %L',
                       parent.name || '_default', parent.key, low, parent.key, high);
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
    homes smallint[];
    low text;
    high text;
    tables text[] := CASE what WHEN 'sagas' THEN ARRAY['sagas', 'timeline', 'personal', 'odd_replies']
                               WHEN 'orders' THEN ARRAY['orders', 'order_sagas'] ELSE ARRAY[what] END;
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
            EXECUTE format('SELECT array_agg(home), array_agg(id) FROM (SELECT home, id FROM %I WHERE live OR parked OR outcome IS NULL LIMIT %s) AS s',
                           'sagas_' || oldest, most_moved + 1) INTO homes, survivors;
        WHEN 'strays' THEN
            EXECUTE format('SELECT array_agg(home), array_agg(saga_id) FROM (SELECT DISTINCT home, saga_id FROM %I WHERE received_at > clock_timestamp() - $1 LIMIT %s) AS s',
                           'strays_' || oldest, most_moved + 1) INTO homes, survivors USING kept;
        ELSE
            SELECT array_agg(home), array_agg(id) INTO homes, survivors FROM (
                SELECT DISTINCT home, business_key::uuid AS id FROM sagas
                WHERE (live OR parked OR outcome IS NULL) AND business_key COLLATE "C" >= low AND business_key COLLATE "C" < high
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
        EXECUTE format('SELECT array_agg(home), COALESCE(array_agg(id), ''{}'') FROM %I WHERE live OR parked OR outcome IS NULL',
                       'sagas_' || oldest) INTO homes, survivors;
        moved := cardinality(survivors);
    END IF;
    FOREACH part IN ARRAY tables LOOP
        EXECUTE format('INSERT INTO %I SELECT p.* FROM UNNEST($1, $2) AS s (home, id) JOIN %I AS p ON p.home = s.home AND p.%I = s.id',
                       part || '_default', part || '_' || oldest, (SELECT key FROM monthly_tables() WHERE name = part))
            USING homes, survivors;
        EXECUTE format('DROP TABLE %I', part || '_' || oldest);
    END LOOP;
END $$;

-- Reads a home's next rows of a default partition after `after`, and deletes those past their retention: sagas that have
-- ended and not changed for `retention`, with their timelines, personal fields and odd replies; strays that came before
-- that; orders that are two months older, once their newest saga is gone. Returns how many it read, the last of them,
-- and how many it deleted.
CREATE FUNCTION forget_leftovers(of_home smallint, what text, retention interval, after uuid,
                                 OUT looked_at bigint, OUT reached uuid, OUT gone bigint)
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
            FROM (SELECT id, NOT live AND NOT parked AND outcome IS NOT NULL AND updated_at <= before AS is_over FROM sagas_default
                  WHERE home = of_home AND id > after ORDER BY id LIMIT most) AS page;
            -- Not a saga that has just become live.
            SELECT COALESCE(array_agg(id), '{}') INTO ended FROM (
                SELECT id FROM sagas_default
                WHERE home = of_home AND id = ANY(ended) AND NOT live AND NOT parked AND outcome IS NOT NULL AND updated_at <= before
                FOR UPDATE SKIP LOCKED) AS s;
            DELETE FROM timeline_default WHERE home = of_home AND saga_id = ANY(ended);
            DELETE FROM personal_default WHERE home = of_home AND saga_id = ANY(ended);
            DELETE FROM odd_replies_default WHERE home = of_home AND saga_id = ANY(ended);
            DELETE FROM sagas_default WHERE home = of_home AND id = ANY(ended);
        WHEN 'strays' THEN
            SELECT count(*), (array_agg(saga_id ORDER BY saga_id DESC))[1],
                   COALESCE(array_agg(saga_id) FILTER (WHERE received_at <= before), '{}')
            INTO looked_at, reached, ended
            FROM (SELECT saga_id, received_at FROM strays_default
                  WHERE home = of_home AND saga_id > after ORDER BY saga_id LIMIT most) AS page;
            DELETE FROM strays_default WHERE home = of_home AND saga_id = ANY(ended) AND received_at <= before;
        WHEN 'orders' THEN
            SELECT count(*), (array_agg(id ORDER BY id DESC))[1], COALESCE(array_agg(id) FILTER (WHERE is_over), '{}')
            INTO looked_at, reached, ended
            FROM (SELECT o.id, o.created_at <= before - interval '2 months'
                             AND NOT EXISTS (SELECT FROM sagas AS s WHERE s.home = o.home AND s.id = o.saga_id) AS is_over
                  FROM orders_default AS o WHERE o.home = of_home AND o.id > after ORDER BY o.id LIMIT most) AS page;
            DELETE FROM order_sagas_default WHERE home = of_home AND order_id = ANY(ended);
            DELETE FROM orders_default WHERE home = of_home AND id = ANY(ended);
        ELSE
            RAISE EXCEPTION '% does not go by month', what USING ERRCODE = '22023';
    END CASE;
    gone := cardinality(ended);
END $$;

REVOKE ALL ON FUNCTION place_partition, ensure_partitions, ensure_month, retire_month, forget_leftovers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions, retire_month, forget_leftovers TO amends_engine;
