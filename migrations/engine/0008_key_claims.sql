-- Idempotency keys in a database with several homes. A key's home is that of its hash, and its order has another home. So
-- the key is taken first, by a row that names the order's id, and the order is placed afterwards in its own home. With one
-- home, keys are taken by take_keys in the transaction that places the orders.

-- Returns the generation in which a class's keys are taken now. It stays until the end of the transaction.
CREATE FUNCTION hold_key_generation(of_home smallint, of_class smallint) RETURNS smallint
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('idempotency_keys'), of_class);
    RETURN (SELECT c.generation FROM idempotency_key_classes AS c WHERE c.class = of_class);
END $$;

-- Takes the keys that are free or expired, in the given order (sorted, so that two callers cannot deadlock). Returns for
-- each key, by the order that asks, the order that has it now, and the fingerprint of that order's request. If another
-- transaction is just taking a key, it waits.
CREATE FUNCTION claim_keys(of_home smallint, of_class smallint, subjects text[], keys text[], orders uuid[],
                           fingerprints bytea[])
RETURNS TABLE (asked_by uuid, named uuid, known bytea)
LANGUAGE plpgsql
AS $$
DECLARE
    present smallint := hold_key_generation(of_home, of_class);
    began   timestamptz := clock_timestamp();
    until   timestamptz;
BEGIN
    SELECT began + c.lifetime INTO STRICT until FROM idempotency_key_classes AS c WHERE c.class = of_class;
    INSERT INTO idempotency_keys (home, subject, key, order_id, expires_at, generation, fingerprint)
    SELECT of_home, w.subject, w.key, w.order_id, until, present, w.fingerprint
    FROM UNNEST(subjects, keys, orders, fingerprints) AS w (subject, key, order_id, fingerprint)
    WHERE NOT EXISTS (
        SELECT FROM idempotency_keys AS e
        WHERE (of_home IS NULL OR e.home = of_home) AND e.subject = w.subject AND e.key = w.key
          AND e.generation BETWEEN 3 * of_class AND 3 * of_class + 2 AND e.generation <> present AND e.expires_at > began)
    ON CONFLICT DO NOTHING;
    UPDATE idempotency_keys AS k SET order_id = w.order_id, fingerprint = w.fingerprint, expires_at = until
    FROM UNNEST(subjects, keys, orders, fingerprints) AS w (subject, key, order_id, fingerprint)
    WHERE (of_home IS NULL OR k.home = of_home) AND k.subject = w.subject AND k.key = w.key AND k.generation = present
      AND k.expires_at <= began;
    RETURN QUERY
        SELECT w.order_id, k.order_id, k.fingerprint
        FROM UNNEST(subjects, keys, orders) AS w (subject, key, order_id)
        JOIN idempotency_keys AS k ON (of_home IS NULL OR k.home = of_home) AND k.subject = w.subject AND k.key = w.key
        WHERE k.generation BETWEEN 3 * of_class AND 3 * of_class + 2 AND k.expires_at > began;
END $$;

REVOKE ALL ON FUNCTION hold_key_generation, claim_keys FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hold_key_generation, claim_keys TO amends_engine;
