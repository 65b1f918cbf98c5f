-- The order book: orders beside their sagas, idempotency keys, and the one statement that places orders.

-- An order's immutable input and the id of the newest saga that carries its status: the label of that saga. Fulfilment
-- and returns do, refunds do not. Lines are stored as received.
CREATE TABLE orders (
    home        smallint    NOT NULL,
    id          uuid        NOT NULL,
    saga_id     uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    cancels_at  timestamptz,
    total       bigint      NOT NULL,
    subject     text        NOT NULL,
    customer_id text        NOT NULL,
    currency    text        NOT NULL,
    lines       text        NOT NULL,
    PRIMARY KEY (id, home)
) PARTITION BY RANGE (id);

-- The order's ledger: its sagas, once it has more than the one that fulfils it; that one is in it then, too. All of them
-- have the order's slot. A row is added in the transaction in which its saga is born, under the lock of the order's row.
CREATE TABLE order_sagas (
    home       smallint    NOT NULL,
    order_id   uuid        NOT NULL,
    saga_id    uuid        NOT NULL,
    created_at timestamptz NOT NULL,
    -- What is paid back, in minor units, and for which pieces.
    amount     bigint      NOT NULL CHECK (amount >= 0),
    workflow   text        NOT NULL,
    lines      text        NOT NULL,
    reason     text        NOT NULL,
    -- Digest of subject, path and idempotency key of the request that added it: sent again, it adds nothing.
    request    bytea       CHECK (octet_length(request) = 32),
    PRIMARY KEY (order_id, saga_id, home)
) PARTITION BY RANGE (order_id);

-- A customer's orders, by time: an id begins with the millisecond of the order's birth. Updates of orders do not touch
-- it.
CREATE INDEX orders_by_customer ON orders (customer_id, id);

-- The order that belongs to each key. A key is unique for the lifetime of its class. It is inserted in the class's
-- current generation, and looked up in all of them; a class has three generations, used in turn. A class moves on to
-- the next once the current one is a lifetime old: then every key of the oldest has expired, and that generation is
-- emptied as a whole.
CREATE TABLE idempotency_keys (
    home        smallint    NOT NULL,
    subject     text        NOT NULL,
    key         text        NOT NULL,
    order_id    uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    generation  smallint    NOT NULL,
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    PRIMARY KEY (subject, key, generation, home)
) PARTITION BY LIST (generation);

-- A class's generations are `3 * class` and the two after it.
CREATE TABLE idempotency_key_classes (
    class      smallint    PRIMARY KEY,
    lifetime   interval    NOT NULL,
    generation smallint    NOT NULL CHECK (generation / 3 = class),
    began_at   timestamptz NOT NULL
);

-- Placed orders: kept for a day.
INSERT INTO idempotency_key_classes VALUES (0, '24 hours', 0, now());
CREATE TABLE idempotency_keys_0 PARTITION OF idempotency_keys FOR VALUES IN (0);
CREATE TABLE idempotency_keys_1 PARTITION OF idempotency_keys FOR VALUES IN (1);
CREATE TABLE idempotency_keys_2 PARTITION OF idempotency_keys FOR VALUES IN (2);

-- Takes the keys that are free or expired, in the given order (sorted, so that two doors cannot deadlock), and returns
-- the orders for which it took them. If another transaction is just taking a key, it waits. A transaction that takes
-- keys shares the lock of their class until its commit, and then reads what others have committed: the class moves on
-- only while no key is being taken, so that one key is never taken in two generations. If the class moves on late, or
-- its clock is late, nothing else depends on it.
CREATE FUNCTION take_keys(of_home smallint, of_class smallint, subjects text[], keys text[], orders uuid[],
                          fingerprints bytea[])
RETURNS SETOF uuid
LANGUAGE plpgsql
AS $$
DECLARE
    present smallint;
    until   timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('idempotency_keys'), of_class);
    SELECT c.generation, clock_timestamp() + c.lifetime INTO STRICT present, until
    FROM idempotency_key_classes AS c WHERE c.class = of_class;
    RETURN QUERY
        INSERT INTO idempotency_keys AS k (home, subject, key, order_id, expires_at, generation, fingerprint)
        SELECT of_home, w.subject, w.key, w.order_id, until, present, w.fingerprint
        FROM UNNEST(subjects, keys, orders, fingerprints) AS w (subject, key, order_id, fingerprint)
        WHERE NOT EXISTS (
            SELECT FROM idempotency_keys AS e
            WHERE (of_home IS NULL OR e.home = of_home) AND e.subject = w.subject AND e.key = w.key
              AND e.generation BETWEEN 3 * of_class AND 3 * of_class + 2 AND e.generation <> present AND e.expires_at > clock_timestamp())
        ON CONFLICT (subject, key, generation, home) DO UPDATE
        SET order_id = EXCLUDED.order_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at
        WHERE k.expires_at <= clock_timestamp()
        RETURNING k.order_id;
END $$;

-- Returns true if a statement that was issued at this time arrives in time; otherwise it fails. By then its program has
-- waited 12 seconds for the answer, and has read back that nothing was written. A network that was silent may still
-- deliver the statement.
CREATE FUNCTION arrives_in_time(issued_at timestamptz) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF issued_at < clock_timestamp() - interval '12 seconds' THEN
        RAISE EXCEPTION 'the statement was issued too long ago' USING ERRCODE = 'query_canceled';
    END IF;
    RETURN true;
END $$;

-- Moves a class on to its next generation if the current one is a lifetime old; returns whether it was. The keys that
-- it deletes were taken before the current generation's predecessor began. If the locks are not free soon, it gives up
-- until later, because orders wait behind them.
CREATE FUNCTION turn_keys(of_class smallint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    present idempotency_key_classes;
    next    smallint;
BEGIN
    SELECT * INTO present FROM idempotency_key_classes
    WHERE class = of_class AND began_at + lifetime <= clock_timestamp() FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    next := 3 * of_class + (present.generation + 1) % 3;
    PERFORM pg_advisory_xact_lock(hashtext('idempotency_keys'), of_class);
    EXECUTE format('TRUNCATE %I', 'idempotency_keys_' || next);
    UPDATE idempotency_key_classes SET generation = next, began_at = clock_timestamp() WHERE class = of_class;
    RETURN true;
END $$;

-- Places orders with their sagas; returns the orders placed. An order with a key is placed only if the key was taken for
-- it: `key_orders` are the first order of each key, sorted by key. A statement that arrives after its program has given
-- it up places nothing, because the program has already read back that nothing was placed.
CREATE FUNCTION place_orders(of_home smallint, of_epoch integer, of_class smallint, key_subjects text[], keys text[], key_orders uuid[],
                             fingerprints bytea[], order_ids uuid[], keyed boolean[], cancels_ats timestamptz[],
                             totals bigint[], subjects text[], customer_ids text[], currencies text[], lines text[],
                             saga_ids uuid[], slots smallint[], business_keys text[], workflows text[],
                             workflow_versions integer[], labels text[], wake_ats timestamptz[], steps text[],
                             ats timestamptz[], states text[], personals text[], bodies text[], lives boolean[],
                             core_versions smallint[], state_versions smallint[], batch bigint)
RETURNS SETOF uuid
LANGUAGE plpgsql
AS $$
DECLARE
    taken  uuid[];
    placed uuid[];
    born   uuid[];
BEGIN
    PERFORM arrives_in_time(ats[1]);
    IF cardinality(keys) > 0 THEN
        taken := ARRAY(SELECT take_keys(of_home, of_class, key_subjects, keys, key_orders, fingerprints));
    END IF;
    SELECT array_agg(w.order_id), array_agg(w.saga_id) INTO placed, born
    FROM UNNEST(order_ids, saga_ids, keyed) AS w (order_id, saga_id, keyed)
    WHERE NOT w.keyed OR w.order_id IN (SELECT UNNEST(taken));
    IF placed IS NULL THEN
        RETURN;
    END IF;
    IF cardinality(placed) = cardinality(order_ids) THEN
        born := NULL;
    END IF;
    INSERT INTO orders (home, id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)
    SELECT of_home, w.* FROM UNNEST(order_ids, saga_ids, ats, cancels_ats, totals, subjects, customer_ids, currencies,
                           place_orders.lines)
         AS w (id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)
    WHERE born IS NULL OR w.saga_id IN (SELECT UNNEST(born));
    PERFORM bear_sagas(of_home, of_epoch, saga_ids, slots, business_keys, workflows, workflow_versions, labels, wake_ats, steps,
                       ats, states, personals, bodies, lives, core_versions, state_versions, batch, born);
    RETURN QUERY SELECT UNNEST(placed);
END $$;

REVOKE ALL ON FUNCTION take_keys, arrives_in_time, turn_keys, place_orders FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_keys, arrives_in_time, turn_keys, place_orders TO amends_engine;
GRANT SELECT ON idempotency_key_classes TO amends_engine;
GRANT SELECT, INSERT ON orders, order_sagas TO amends_engine;
GRANT UPDATE (saga_id) ON orders TO amends_engine;
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO amends_engine;
