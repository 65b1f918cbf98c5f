-- Gives each node the same number of homes, or one more: by their hash, twelve homes once fell 9 : 3 on two nodes. Only
-- while the shards are empty; later they are the operator's to move.
DO $$
DECLARE
    homes CONSTANT integer := current_setting('amends.homes')::integer;
    names text[];
    ports integer[];
    loads integer[];
    best  integer;
    shard record;
BEGIN
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'sagas'::regclass) THEN
        RETURN;
    END IF;
    SELECT array_agg(n.nodename ORDER BY n.nodeid), array_agg(n.nodeport ORDER BY n.nodeid), array_agg(0)
    INTO STRICT names, ports, loads
    FROM pg_dist_node AS n WHERE n.noderole = 'primary' AND n.isactive AND n.shouldhaveshards;
    FOR shard IN
        SELECT s.shardid, s.nodename, s.nodeport, count(*) AS homes
        FROM generate_series(0, homes - 1) AS h (home)
             JOIN citus_shards AS s ON s.shardid = get_shard_id_for_distribution_column('slot_positions', h.home)
        GROUP BY s.shardid, s.nodename, s.nodeport ORDER BY count(*) DESC, s.shardid
    LOOP
        best := 1;
        FOR node IN 1..cardinality(loads) LOOP
            IF loads[node] < loads[best] OR (loads[node] = loads[best] AND names[node] = shard.nodename AND ports[node] = shard.nodeport) THEN
                best := node;
            END IF;
        END LOOP;
        loads[best] := loads[best] + shard.homes;
        IF names[best] <> shard.nodename OR ports[best] <> shard.nodeport THEN
            PERFORM citus_move_shard_placement(shard.shardid, shard.nodename, shard.nodeport, names[best], ports[best],
                                               'block_writes');
        END IF;
    END LOOP;
END $$;
