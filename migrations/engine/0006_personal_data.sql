-- Personal data of customers: exported and erased on their request. It is in `personal` alone.

-- Who erased whose data, when, and of how many orders. An erasure without an end was interrupted: the same request
-- erases the rest.
CREATE TABLE personal_data_erasures (
    id          uuid        PRIMARY KEY,
    customer_id text        NOT NULL,
    erased_by   text        NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    orders      bigint      NOT NULL DEFAULT 0
);

CREATE INDEX personal_data_erasures_by_customer ON personal_data_erasures (customer_id, id);

-- Erases the personal fields of those of these orders that nothing needs any more: whose newest saga has ended, or has
-- one of the labels `settled`. The fields are those of the order's first saga, which fulfils it. The reasons of their
-- returns and refunds go too: they are somebody's own words. Returns the number of orders that had any of it.
CREATE FUNCTION erase_personal_data(of_home smallint, order_ids uuid[], settled text[]) RETURNS bigint
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
        RETURNING o.id)
    SELECT count(*) INTO orders_erased FROM (SELECT id FROM erased UNION SELECT id FROM silenced) AS either;
    RETURN orders_erased;
END $$;

REVOKE ALL ON FUNCTION erase_personal_data FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erase_personal_data TO amends_engine;
GRANT SELECT, INSERT ON personal_data_erasures TO amends_engine;
GRANT UPDATE (ended_at, orders) ON personal_data_erasures TO amends_engine;
