-- The reference. Frozen: do not change it, or no run can be compared with an earlier one.
--
-- For 500 sagas at a time: 500 rows and 500 entries are inserted, commit; three times the 500 rows are locked and
-- updated and 500 entries are inserted, commit.

CREATE TABLE reference_sagas (
    id       uuid PRIMARY KEY,
    wake_at  timestamptz,
    since    timestamptz NOT NULL,
    revision integer     NOT NULL,
    slot     smallint    NOT NULL,
    live     boolean     NOT NULL,
    label    text        NOT NULL,
    step     text        NOT NULL,
    state    jsonb       NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX reference_due ON reference_sagas (wake_at) WHERE live;

CREATE TABLE reference_timeline (
    saga_id uuid    NOT NULL,
    seq     integer NOT NULL,
    body    jsonb   NOT NULL,
    PRIMARY KEY (saga_id, seq)
);

-- Ids that grow with time, as UUIDv7.
CREATE SEQUENCE reference_ids;

CREATE FUNCTION reference_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (lpad(to_hex(nextval('reference_ids')), 16, '0') || lpad(to_hex((random() * 4294967295)::bigint), 8, '0')
            || lpad(to_hex((random() * 4294967295)::bigint), 8, '0'))::uuid
$$;

CREATE PROCEDURE reference(batches integer) LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
    -- About 400 bytes.
    state constant jsonb := jsonb_build_object(
        'direction', 'forward', 'timeoutAt', '2026-01-01T00:15:00Z',
        'commands', jsonb_build_array(
            jsonb_build_object('step', 0, 'generation', 1, 'attempt', 1, 'status', 'succeeded',
                               'issuedAt', '2026-01-01T00:00:00.123456Z', 'sentAt', '2026-01-01T00:00:00.123456Z',
                               'held', jsonb_build_array(jsonb_build_object('kind', 'stock_reserved', 'unit', 'mug-blue', 'amount', 2))),
            jsonb_build_object('step', 1, 'generation', 1, 'attempt', 1, 'status', 'waiting',
                               'issuedAt', '2026-01-01T00:00:00.123456Z', 'dueAt', '2026-01-01T00:00:05.123456Z')));
    -- About 60 bytes.
    body constant jsonb := jsonb_build_object('event', 'succeeded', 'did', jsonb_build_object('sent', 'pay execute'));
BEGIN
    FOR batch IN 1..batches LOOP
        SELECT array_agg(reference_id()) INTO ids FROM generate_series(1, 500);
        INSERT INTO reference_sagas (id, wake_at, since, revision, slot, live, label, step, state)
        SELECT id, now() + interval '5 s', now(), 1, batch % 1024, true, 'PENDING', 'reserve', state FROM unnest(ids) AS id;
        INSERT INTO reference_timeline (saga_id, seq, body) SELECT id, 1, body FROM unnest(ids) AS id;
        COMMIT;
        FOR turn IN 2..4 LOOP
            PERFORM FROM reference_sagas WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
            UPDATE reference_sagas AS s
            SET revision = turn, since = now(), label = 'CONFIRMED', step = 'pay', state = jsonb_set(s.state, '{turn}', to_jsonb(turn))
            WHERE s.id = ANY (ids);
            INSERT INTO reference_timeline (saga_id, seq, body) SELECT id, turn, body FROM unnest(ids) AS id;
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
