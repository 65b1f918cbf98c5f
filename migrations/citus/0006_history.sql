-- Months. Partitions are created and dropped on the coordinator only: called on another node, these functions ask it.

CREATE OR REPLACE FUNCTION place_partition(child text, parent text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM create_distributed_table(child, 'home', colocate_with := parent);
END $$;

CREATE OR REPLACE FUNCTION on_coordinator(command text) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    answer record;
BEGIN
    SELECT * INTO STRICT answer FROM run_command_on_coordinator(command);
    IF NOT answer.success THEN
        RAISE EXCEPTION 'the coordinator: %', answer.result USING ERRCODE = 'connection_failure';
    END IF;
    RETURN answer.result;
END $$;
REVOKE ALL ON FUNCTION on_coordinator FROM PUBLIC;

CREATE OR REPLACE FUNCTION ensure_partitions(months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    IF NOT citus_is_coordinator() THEN
        RETURN on_coordinator(format('SELECT ensure_partitions(%s)', months));
    END IF;
    PERFORM limit_lock_waits('2s');
    RETURN (SELECT sum(ensure_month((date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC'))
            FROM generate_series(0, months) AS i);
END $$;

DO $$
BEGIN
    IF to_regprocedure('retire_month_here(text, interval)') IS NULL THEN
        ALTER FUNCTION retire_month(text, interval) RENAME TO retire_month_here;
        REVOKE ALL ON FUNCTION retire_month_here(text, interval) FROM amends_engine;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION retire_month(what text, retention interval, OUT month text, OUT moved bigint, OUT stays boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    IF citus_is_coordinator() THEN
        PERFORM limit_lock_waits('250ms');
        SELECT r.* INTO month, moved, stays FROM retire_month_here(what, retention) AS r;
    ELSE
        SELECT r.* INTO month, moved, stays
        FROM json_to_record(on_coordinator(format('SELECT to_json(r) FROM retire_month(%L, %L) AS r', what, retention))::json)
             AS r (month text, moved bigint, stays boolean);
    END IF;
END $$;
REVOKE ALL ON FUNCTION retire_month FROM PUBLIC;
GRANT EXECUTE ON FUNCTION retire_month TO amends_engine;
