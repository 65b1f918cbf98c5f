-- Distributes all other tables in one transaction, so that none is distributed if one cannot be. Tables that are
-- distributed already stay as they are. All rows of a home are on one node, and no write of the engine concerns two.

-- The generation in which a home's keys are taken now: a transaction that takes keys shares the row's lock.
CREATE TABLE IF NOT EXISTS key_generations (
    home       smallint NOT NULL,
    class      smallint NOT NULL,
    generation smallint NOT NULL,
    PRIMARY KEY (home, class)
);
GRANT SELECT, UPDATE ON key_generations TO amends_engine;

DO $$
DECLARE
    homes CONSTANT integer := current_setting('amends.homes')::integer;
    named text;
BEGIN
    ALTER TABLE timeline ALTER COLUMN position DROP DEFAULT;
    -- A copy on each node.
    FOREACH named IN ARRAY ARRAY['deployment', 'command_keys', '_sqlx_migrations', 'schema_compatibility',
                                 'idempotency_key_classes', 'products'] LOOP
        IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = named::regclass) THEN
            PERFORM create_reference_table(named);
        END IF;
    END LOOP;
    -- What is written without a home stays on the coordinator, and the other nodes ask there. Webhooks and their deliveries,
    -- lost commits and plans are ordinary tables there: Citus refuses a statement that returns what depends on the time.
    FOREACH named IN ARRAY ARRAY['programs', 'personal_data_erasures'] LOOP
        IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = named::regclass) THEN
            PERFORM citus_add_local_table_to_metadata(named);
        END IF;
    END LOOP;
    FOREACH named IN ARRAY ARRAY['key_generations', 'sagas', 'timeline', 'personal', 'orders', 'order_sagas', 'idempotency_keys',
                                 'idempotent_answers', 'publisher_watermarks', 'publisher_handoffs', 'strays',
                                 'odd_replies', 'deferred_replies'] LOOP
        IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = named::regclass) THEN
            PERFORM create_distributed_table(named, 'home', colocate_with := 'slot_positions');
        END IF;
    END LOOP;
    INSERT INTO slot_positions (home, slot) SELECT s % homes, s FROM generate_series(0, 1023) AS s ON CONFLICT DO NOTHING;
    INSERT INTO key_generations (home, class, generation)
    SELECT h, 0, (SELECT generation FROM idempotency_key_classes WHERE class = 0) FROM generate_series(0, homes - 1) AS h
    ON CONFLICT DO NOTHING;
END $$;
