-- The generation of keys: advisory locks are of one node, so those who take keys share the lock of their home's row.

CREATE OR REPLACE FUNCTION hold_key_generation(of_home smallint, of_class smallint) RETURNS smallint
LANGUAGE plpgsql
AS $$
DECLARE
    present smallint;
BEGIN
    SELECT g.generation INTO STRICT present FROM key_generations AS g
    WHERE g.home = of_home AND g.class = of_class FOR SHARE;
    RETURN present;
END $$;

-- Limits how long what this transaction does on other nodes waits for a lock. A function's own setting counts on its node
-- only, and those who need the lock there would wait behind it. Citus sends on what a DO block sets, but not a function.
CREATE OR REPLACE FUNCTION limit_lock_waits(patience text) RETURNS void
LANGUAGE plpgsql
SET citus.propagate_set_commands = 'local'
AS $$
BEGIN
    EXECUTE format('DO $do$ BEGIN SET LOCAL lock_timeout = %L; END $do$', patience);
END $$;
REVOKE ALL ON FUNCTION limit_lock_waits FROM PUBLIC;

-- The same as with one home, but it waits for the transactions that take keys in each home.
CREATE OR REPLACE FUNCTION turn_keys(of_class smallint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    present idempotency_key_classes;
    next    smallint;
BEGIN
    PERFORM limit_lock_waits('250ms');
    SELECT * INTO present FROM idempotency_key_classes WHERE class = of_class AND began_at + lifetime <= now();
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    next := 3 * of_class + (present.generation + 1) % 3;
    UPDATE idempotency_key_classes SET generation = next, began_at = now()
    WHERE class = of_class AND generation = present.generation;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE key_generations SET generation = next WHERE class = of_class;
    EXECUTE format('TRUNCATE %I', 'idempotency_keys_' || next);
    RETURN true;
END $$;
