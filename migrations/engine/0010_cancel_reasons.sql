-- An erasure takes the words with which an order was cancelled, too. They are in the entry of its cancellation; who
-- cancelled it, and when, stays.

-- Returns the body of a timeline's entry without the reason of a cancellation. It is the body itself if it has none.
CREATE FUNCTION without_cancel_reason(body text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(body, '^(\{"event":\{"cancel_requested":\{"who":"(?:[^"\\]|\\.)*"),"why":"(?:[^"\\]|\\.)*"', '\1');

-- As in 0006, and the reasons of cancellations go as well: those of the order's first saga, which fulfils it.
CREATE OR REPLACE FUNCTION erase_personal_data(of_home smallint, order_ids uuid[], settled text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    orders_erased bigint;
BEGIN
    WITH erased AS (
        DELETE FROM personal AS p
        USING orders AS o, sagas AS s
        WHERE (of_home IS NULL OR o.home = of_home) AND o.id = ANY(order_ids)
          AND (of_home IS NULL OR s.home = of_home) AND s.id = o.saga_id
          AND (of_home IS NULL OR p.home = of_home) AND p.saga_id = COALESCE((
              SELECT x.saga_id FROM order_sagas AS x
              WHERE (of_home IS NULL OR x.home = of_home) AND x.order_id = o.id ORDER BY x.saga_id LIMIT 1), o.saga_id)
          AND NOT ((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL(settled))
        RETURNING o.id
    ), silenced AS (
        UPDATE order_sagas AS x SET reason = ''
        FROM orders AS o, sagas AS s
        WHERE (of_home IS NULL OR o.home = of_home) AND o.id = ANY(order_ids)
          AND (of_home IS NULL OR s.home = of_home) AND s.id = o.saga_id
          AND (of_home IS NULL OR x.home = of_home) AND x.order_id = o.id AND x.reason <> ''
          AND NOT ((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL(settled))
        RETURNING o.id
    ), unexplained AS (
        UPDATE timeline AS t SET body = without_cancel_reason(t.body)
        FROM orders AS o, sagas AS s
        WHERE (of_home IS NULL OR o.home = of_home) AND o.id = ANY(order_ids)
          AND (of_home IS NULL OR s.home = of_home) AND s.id = o.saga_id
          AND (of_home IS NULL OR t.home = of_home) AND t.saga_id = COALESCE((
              SELECT x.saga_id FROM order_sagas AS x
              WHERE (of_home IS NULL OR x.home = of_home) AND x.order_id = o.id ORDER BY x.saga_id LIMIT 1), o.saga_id)
          AND starts_with(t.body, '{"event":{"cancel_requested":') AND t.body <> without_cancel_reason(t.body)
          AND NOT ((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL(settled))
        RETURNING o.id)
    SELECT count(*) INTO orders_erased
    FROM (SELECT id FROM erased UNION SELECT id FROM silenced UNION SELECT id FROM unexplained) AS any_of_it;
    RETURN orders_erased;
END $$;
