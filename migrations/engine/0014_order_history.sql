-- An order's sagas go together: while one of them has not ended, or is younger than its retention, the others stay, too,
-- with their timelines. Without them nobody could tell what was captured and given back, or number the order's next event.

-- Sagas of orders, by their own ids: few orders have any.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX order_sagas_by_saga ON order_sagas (saga_id);

-- As in 0004, and pages of `orders` keep room: a return changes its order's row, which is heap-only then.
CREATE OR REPLACE FUNCTION monthly_tables() RETURNS TABLE (name text, key text, storage text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    VALUES ('sagas', 'id', 'WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)'),
           ('timeline', 'saga_id', ''), ('personal', 'saga_id', ''), ('odd_replies', 'saga_id', ''),
           ('strays', 'saga_id', ''), ('orders', 'id', 'WITH (fillfactor = 90)'), ('order_sagas', 'order_id', '')
$$;

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'orders'::regclass AND c.relname >= to_char(now() AT TIME ZONE 'UTC', '"orders_"YYYYMM') LOOP
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 90)', part);
    END LOOP;
END $$;

-- Returns the sagas with ids from `low` to below `high` that stay with another saga of their order: one that has not ended
-- (`open_ids` are in a partition that may be detached), one whose id is not below `young`, or one that has outlived its
-- month and has changed after `changed_after`. They are `most` at most.
CREATE FUNCTION kept_by_their_orders(low uuid, high uuid, young uuid, changed_after timestamptz, open_homes smallint[],
                                     open_ids uuid[], most integer, OUT homes smallint[], OUT ids uuid[])
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
BEGIN
    -- An order is as old as its oldest saga: younger months of `order_sagas` are not read.
    SELECT array_agg(k.home), array_agg(k.saga_id) INTO homes, ids FROM (
        SELECT DISTINCT x.home, x.saga_id
        FROM (SELECT y.home, y.order_id, y.saga_id FROM order_sagas AS y WHERE y.order_id < high AND y.saga_id >= young
              UNION ALL
              SELECT y.home, y.order_id, y.saga_id FROM sagas AS s JOIN order_sagas AS y ON y.home = s.home AND y.saga_id = s.id
              WHERE (s.live OR s.parked OR s.outcome IS NULL) AND y.order_id < high
              UNION ALL
              SELECT y.home, y.order_id, y.saga_id FROM sagas_default AS s JOIN order_sagas AS y ON y.home = s.home AND y.saga_id = s.id
              WHERE s.updated_at > changed_after AND y.order_id < high
              UNION ALL
              SELECT y.home, y.order_id, y.saga_id FROM UNNEST(open_homes, open_ids) AS s (home, id)
                   JOIN order_sagas AS y ON y.home = s.home AND y.saga_id = s.id
              WHERE y.order_id < high) AS stays
             JOIN order_sagas AS x ON x.home = stays.home AND x.order_id = stays.order_id
        WHERE x.order_id < high AND x.saga_id >= low AND x.saga_id < high AND x.saga_id <> stays.saga_id
        LIMIT most) AS k;
END $$;

-- On a distributed database the function of 0004 has this name: `amends migrate` gives it to the following one.
-- squawk-ignore ban-drop-function
DO $$
BEGIN
    IF to_regprocedure('retire_month_here(text, interval)') IS NOT NULL THEN
        DROP FUNCTION retire_month_here(text, interval);
    END IF;
END
$$;

-- Drops the oldest month of `sagas` (with its timelines, personal fields and odd replies), of `strays` or of `orders`,
-- if everything born in it is older than `retention`; orders two months later, and not before their sagas. What has not
-- ended moves along into the default partition, with the other sagas of its order; and so do sagas whose order has one
-- that is younger than `retention`, strays that came later, and the orders of sagas that are kept. Returns the month and
-- how many rows moved; if more than 2,000 have not ended, the month stays (`stays`). If only with the sagas that others
-- keep they would be more, the month is not due: it will be once those others are past their retention.
CREATE OR REPLACE FUNCTION retire_month(what text, retention interval, OUT month text, OUT moved bigint, OUT stays boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    most_moved CONSTANT integer := 2000;
    uuid_text CONSTANT text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    kept interval := check_retention(retention) + CASE what WHEN 'orders' THEN interval '2 months' ELSE interval '0' END;
    -- The least id of the first month of sagas that is not past its retention, and the time before which nothing has changed.
    young uuid := least_id(date_trunc('month', (clock_timestamp() - retention) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC');
    before timestamptz := clock_timestamp() - retention;
    oldest text;
    first_day timestamp;
    survivors uuid[];
    homes smallint[];
    held uuid[];
    held_homes smallint[];
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
       OR (what = 'orders' AND to_regclass('sagas_' || oldest) IS NOT NULL)
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
                SELECT home, business_key::uuid AS id FROM sagas
                WHERE (live OR parked OR outcome IS NULL) AND business_key COLLATE "C" >= low AND business_key COLLATE "C" < high
                  AND business_key ~ uuid_text
                UNION
                SELECT home, business_key::uuid FROM sagas_default
                WHERE business_key COLLATE "C" >= low AND business_key COLLATE "C" < high AND business_key ~ uuid_text
                UNION
                SELECT home, order_id FROM order_sagas
                WHERE order_id >= low::uuid AND order_id < high::uuid AND saga_id >= young
                LIMIT most_moved + 1) AS s;
    END CASE;
    survivors := COALESCE(survivors, '{}');
    stays := cardinality(survivors) > most_moved;
    moved := cardinality(survivors);
    IF stays THEN
        RETURN;
    END IF;
    IF what = 'sagas' THEN
        SELECT k.ids INTO held FROM kept_by_their_orders(low::uuid, high::uuid, young, before, homes, survivors, most_moved + 1) AS k;
        IF cardinality(held) + moved > most_moved THEN
            month := NULL;
            RETURN;
        END IF;
    END IF;
    FOREACH part IN ARRAY tables LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', part, part || '_' || oldest);
    END LOOP;
    IF what = 'sagas' THEN
        -- A saga may have become live since it was read, and an order may have got another one; from here on nothing can.
        EXECUTE format('SELECT array_agg(home), COALESCE(array_agg(id), ''{}'') FROM %I WHERE live OR parked OR outcome IS NULL',
                       'sagas_' || oldest) INTO homes, survivors;
        SELECT k.homes, k.ids INTO held_homes, held
        FROM kept_by_their_orders(low::uuid, high::uuid, young, before, homes, survivors, 2 * most_moved) AS k;
        SELECT array_agg(s.home), COALESCE(array_agg(s.id), '{}') INTO homes, survivors FROM (
            SELECT home, id FROM UNNEST(homes, survivors) AS o (home, id)
            UNION SELECT home, id FROM UNNEST(held_homes, held) AS h (home, id)) AS s;
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
-- ended and not changed for `retention`, with their timelines, personal fields and odd replies, if all other sagas of
-- their orders are here and past it as well, or gone; strays that came before that; orders that are two months older,
-- once their sagas are gone. Returns how many it read, the last of them, and how many it deleted.
CREATE OR REPLACE FUNCTION forget_leftovers(of_home smallint, what text, retention interval, after uuid,
                                 OUT looked_at bigint, OUT reached uuid, OUT gone bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    most CONSTANT integer := 500;
    uuid_text CONSTANT text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    before timestamptz := clock_timestamp() - check_retention(retention);
    ended uuid[];
    order_ids uuid[];
    locked uuid[];
BEGIN
    CASE what
        WHEN 'sagas' THEN
            SELECT count(*), (array_agg(id ORDER BY id DESC))[1], COALESCE(array_agg(id) FILTER (WHERE is_over), '{}'),
                   array_agg(business_key::uuid) FILTER (WHERE is_over AND business_key ~ uuid_text)
            INTO looked_at, reached, ended, order_ids
            FROM (SELECT id, business_key, NOT live AND NOT parked AND outcome IS NOT NULL AND updated_at <= before AS is_over
                  FROM sagas_default WHERE home = of_home AND id > after ORDER BY id LIMIT most) AS page;
            -- Whoever adds a saga to an order holds its row.
            SELECT array_agg(id) INTO locked FROM (
                SELECT id FROM orders WHERE home = of_home AND id = ANY(order_ids) FOR UPDATE SKIP LOCKED) AS o;
            SELECT array_agg(o.id) INTO order_ids FROM orders AS o
            WHERE o.home = of_home AND o.id = ANY(order_ids) AND NOT o.id = ANY(COALESCE(locked, '{}'));
            -- Not a saga that has just become live, and none that another one of its order keeps.
            SELECT COALESCE(array_agg(id), '{}') INTO ended FROM (
                SELECT d.id FROM sagas_default AS d
                WHERE d.home = of_home AND d.id = ANY(ended) AND NOT d.live AND NOT d.parked AND d.outcome IS NOT NULL
                  AND d.updated_at <= before AND NOT d.business_key = ANY(COALESCE(order_ids::text[], '{}'))
                  AND NOT EXISTS (
                      SELECT FROM order_sagas AS x
                           JOIN order_sagas AS y ON y.home = of_home AND y.order_id = x.order_id AND y.saga_id <> x.saga_id
                           JOIN sagas AS s ON s.home = of_home AND s.id = y.saga_id
                           LEFT JOIN sagas_default AS e ON e.home = of_home AND e.id = y.saga_id AND NOT e.live AND NOT e.parked
                                AND e.outcome IS NOT NULL AND e.updated_at <= before
                      WHERE x.home = of_home AND x.saga_id = d.id AND e.id IS NULL)
                FOR UPDATE OF d SKIP LOCKED) AS s;
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
                             AND NOT EXISTS (SELECT FROM sagas AS s WHERE s.home = o.home AND s.id = o.saga_id)
                             AND NOT EXISTS (SELECT FROM order_sagas AS x JOIN sagas AS s ON s.home = x.home AND s.id = x.saga_id
                                             WHERE x.home = o.home AND x.order_id = o.id) AS is_over
                  FROM orders_default AS o WHERE o.home = of_home AND o.id > after ORDER BY o.id LIMIT most) AS page;
            DELETE FROM order_sagas_default WHERE home = of_home AND order_id = ANY(ended);
            DELETE FROM orders_default WHERE home = of_home AND id = ANY(ended);
        ELSE
            RAISE EXCEPTION '% does not go by month', what USING ERRCODE = '22023';
    END CASE;
    gone := cardinality(ended);
END $$;

REVOKE ALL ON FUNCTION kept_by_their_orders FROM PUBLIC;
