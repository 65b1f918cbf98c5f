-- A return or a refund knows the request that added it: sent again, it adds nothing, and another request with its key is
-- refused, also where the answer that was kept is lost.

-- Digest of the body of the request that added it. Older programs add rows without it.
ALTER TABLE order_sagas ADD COLUMN fingerprint bytea;

-- As in 0010. The digest of a request's body goes with its reason, and the saga that fulfils an order is known by its
-- workflow: by its id, a return may precede it after the clock was set back.
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
              WHERE (of_home IS NULL OR x.home = of_home) AND x.order_id = o.id
              ORDER BY x.workflow = 'order_fulfilment' DESC, x.saga_id LIMIT 1), o.saga_id)
          AND NOT ((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL(settled))
        RETURNING o.id
    ), silenced AS (
        UPDATE order_sagas AS x SET reason = '', fingerprint = NULL
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
              WHERE (of_home IS NULL OR x.home = of_home) AND x.order_id = o.id
              ORDER BY x.workflow = 'order_fulfilment' DESC, x.saga_id LIMIT 1), o.saga_id)
          AND starts_with(t.body, '{"event":{"cancel_requested":') AND t.body <> without_cancel_reason(t.body)
          AND NOT ((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL(settled))
        RETURNING o.id)
    SELECT count(*) INTO orders_erased
    FROM (SELECT id FROM erased UNION SELECT id FROM silenced UNION SELECT id FROM unexplained) AS any_of_it;
    RETURN orders_erased;
END $$;
