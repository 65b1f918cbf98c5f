-- The engine's database on Citus: what differs from an ordinary Postgres. `amends migrate` runs these files after those of
-- migrations/engine, each in one transaction, and as often as it runs: they change nothing that is right already. The
-- number of homes is the session's setting `amends.homes`.

-- A run that ended before anything else was distributed may have had another number of homes.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'sagas'::regclass) THEN
        DROP TABLE IF EXISTS slot_positions;
    END IF;
END $$;

-- The last position of each slot. Advisory locks and sequences are of one node: here a row both locks a slot and numbers
-- its entries. Its shards decide on which nodes the homes are: they are distributed, and placed, before all others.
CREATE TABLE IF NOT EXISTS slot_positions (
    home     smallint NOT NULL,
    slot     smallint NOT NULL,
    position bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (home, slot)
) WITH (fillfactor = 10);
GRANT SELECT, UPDATE ON slot_positions TO amends_engine;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'slot_positions'::regclass) THEN
        PERFORM create_distributed_table('slot_positions', 'home', colocate_with := 'none',
                                         shard_count := current_setting('amends.homes')::integer);
    END IF;
END $$;
