-- Copies all five databases, as they are now, into temporary tables of this session. The connections `engine`,
-- `inventory`, `payment`, `shipment` and `notification` are open (dblink). JSON is cast at its source, whatever the
-- type of its column.

CREATE TEMP TABLE sagas AS SELECT * FROM dblink('engine', $$
    SELECT id, business_key, workflow, step, revision, label, outcome, live, parked, state::jsonb FROM sagas $$)
    AS t (id uuid, order_id text, workflow text, step text, revision integer, label text, outcome text, live boolean,
          parked boolean, state jsonb);
CREATE UNIQUE INDEX ON sagas (id);

-- Each order with the saga that fulfils it.
CREATE TEMP TABLE orders AS SELECT * FROM dblink('engine', $$
    SELECT o.id, COALESCE(x.saga_id, o.saga_id), o.total, o.currency,
           (SELECT sum((line ->> 'quantity')::bigint)::bigint FROM jsonb_array_elements(o.lines::jsonb) AS line),
           o.lines::jsonb
    FROM orders AS o LEFT JOIN order_sagas AS x
      ON (x.home, x.order_id, x.workflow) = (o.home, o.id, 'order_fulfilment') $$)
    AS t (id uuid, saga_id uuid, total bigint, currency text, pieces bigint, lines jsonb);
CREATE UNIQUE INDEX ON orders (id);
CREATE UNIQUE INDEX ON orders (saga_id);

-- Returns and refunds, as the orders' ledger has them.
CREATE TEMP TABLE entries AS SELECT * FROM dblink('engine', $$
    SELECT order_id, saga_id, workflow, amount, lines::jsonb FROM order_sagas WHERE workflow <> 'order_fulfilment' $$)
    AS t (order_id uuid, saga_id uuid, workflow text, amount bigint, lines jsonb);
CREATE UNIQUE INDEX ON entries (saga_id);

CREATE TEMP TABLE timeline AS SELECT * FROM dblink('engine', $$
    SELECT saga_id, revision, at, body::jsonb -> 'event', body::jsonb -> 'did', coalesce((body::jsonb ->> 'epoch')::integer, 0)
    FROM timeline $$)
    AS t (saga_id uuid, revision integer, at timestamptz, event jsonb, did jsonb, epoch integer);
CREATE UNIQUE INDEX ON timeline (saga_id, revision);

CREATE TEMP TABLE keys AS SELECT * FROM dblink('engine', 'SELECT subject, key, order_id FROM idempotency_keys')
    AS t (subject text, key text, order_id uuid);
CREATE INDEX ON keys (key);

CREATE TEMP TABLE strays AS SELECT * FROM dblink('engine', 'SELECT saga_id, command_id FROM strays')
    AS t (saga_id uuid, command_id uuid);

CREATE TEMP TABLE stock AS SELECT * FROM dblink('inventory',
    'SELECT product_id, adjusted, on_hand, reserved, shipped FROM stock')
    AS t (product_id text, adjusted bigint, on_hand bigint, reserved bigint, shipped bigint);

CREATE TEMP TABLE reservations AS SELECT * FROM dblink('inventory',
    'SELECT command_id, product_id, saga_id, quantity, status FROM reservations')
    AS t (command_id uuid, product_id text, saga_id uuid, quantity bigint, status text);
CREATE INDEX ON reservations (saga_id);

CREATE TEMP TABLE moves AS SELECT * FROM dblink('inventory',
    'SELECT product_id, kind, quantity, command_id FROM moves')
    AS t (product_id text, kind text, quantity bigint, command_id uuid);

CREATE TEMP TABLE restocks AS SELECT * FROM dblink('inventory',
    'SELECT reservation, product_id, command_id, quantity FROM restocks')
    AS t (reservation uuid, product_id text, command_id uuid, quantity bigint);

CREATE TEMP TABLE charges AS SELECT * FROM dblink('payment',
    'SELECT key, amount, currency, declined FROM gateway_charges')
    AS t (key uuid, amount bigint, currency text, declined text);
CREATE INDEX ON charges (key);

CREATE TEMP TABLE refunds AS SELECT * FROM dblink('payment',
    'SELECT key, charge_key, amount FROM gateway_refunds')
    AS t (key uuid, charge_key uuid, amount bigint);
CREATE INDEX ON refunds (charge_key);

CREATE TEMP TABLE bookings AS SELECT * FROM dblink('shipment',
    'SELECT b.key, c.key FROM carrier_bookings AS b LEFT JOIN carrier_cancellations AS c ON c.booking_key = b.key
     WHERE b.tracking_number IS NOT NULL')
    AS t (key uuid, cancelled uuid);
CREATE INDEX ON bookings (key);

CREATE TEMP TABLE worker_rows AS
    SELECT 'inventory' AS worker, * FROM dblink('inventory', 'SELECT command_id, saga_id, status, live, undo IS NOT NULL FROM commands')
        AS t (command_id uuid, saga_id uuid, status text, live boolean, undo_remembered boolean)
    UNION ALL
    SELECT 'payment', * FROM dblink('payment', 'SELECT command_id, saga_id, status, live, undo IS NOT NULL FROM commands')
        AS t (command_id uuid, saga_id uuid, status text, live boolean, undo_remembered boolean)
    UNION ALL
    SELECT 'shipment', * FROM dblink('shipment', 'SELECT command_id, saga_id, status, live, undo IS NOT NULL FROM commands')
        AS t (command_id uuid, saga_id uuid, status text, live boolean, undo_remembered boolean);
CREATE INDEX ON worker_rows (command_id);

-- Sagas that were lost when the engine's database was restored to an earlier state: workers have rows of them. Their
-- effects must be listed as strays; then they are explained, and left out of all that follows. (What they have reserved
-- and shipped stays in the stock's sums.)
CREATE TEMP TABLE restores AS SELECT * FROM dblink('engine', 'SELECT coalesce(max(epoch), 0) FROM deployment') AS t (epoch integer);
CREATE TEMP TABLE lost AS
    SELECT DISTINCT w.saga_id FROM worker_rows AS w
    WHERE (SELECT epoch FROM restores) > 0 AND NOT EXISTS (SELECT FROM sagas AS s WHERE s.id = w.saga_id);
CREATE UNIQUE INDEX ON lost (saga_id);
CREATE TEMP TABLE unlisted AS
    SELECT w.worker, w.command_id, w.saga_id FROM worker_rows AS w JOIN lost AS l ON l.saga_id = w.saga_id
    WHERE w.status = 'succeeded' AND NOT EXISTS (SELECT FROM strays AS s WHERE s.command_id = w.command_id);
CREATE TEMP TABLE lost_commands AS SELECT w.command_id FROM worker_rows AS w JOIN lost AS l ON l.saga_id = w.saga_id;
CREATE UNIQUE INDEX ON lost_commands (command_id);
DELETE FROM refunds WHERE charge_key IN (SELECT command_id FROM lost_commands);
DELETE FROM charges WHERE key IN (SELECT command_id FROM lost_commands);
DELETE FROM bookings WHERE key IN (SELECT command_id FROM lost_commands);
DELETE FROM worker_rows WHERE saga_id IN (SELECT saga_id FROM lost);
DELETE FROM strays WHERE saga_id IN (SELECT saga_id FROM lost);

-- Each event has a row a channel; both are recorded in one statement.
CREATE TEMP TABLE notified AS SELECT * FROM dblink('notification',
    'SELECT event_id, event_type, channel FROM notifications')
    AS t (event_id text, event_type text, channel text);
CREATE INDEX ON notified (event_id);

-- Every domain event, as the publisher noted it for a webhook that is disabled (`note_events`): its number among those of
-- its order. Empty if there is no such webhook.
CREATE TEMP TABLE published AS SELECT * FROM dblink('engine',
    $$SELECT order_id, sequence, event_id FROM webhook_deliveries
      WHERE webhook_id = '00000000-0000-7000-8000-00000000b00c'$$)
    AS t (order_id uuid, sequence bigint, event_id text);
CREATE INDEX ON published (event_id);

-- Every command that a saga's row records as sent, with its id by the protocol.
CREATE TEMP TABLE sent AS
    SELECT s.id AS saga_id, c.step_no, c.step, c.part, c.generation, c.status, c.undo_asked, c.undone, c.parked,
           c.held, CASE c.step WHEN 'pay' THEN 'payment' WHEN 'refund' THEN 'payment' WHEN 'ship' THEN 'shipment' ELSE 'inventory' END AS worker,
           (left(s.id::text, 14) || '8' || substr(uuid_generate_v5(
               s.id, c.step || '/' || c.part || '/' || c.generation)::text, 16))::uuid AS command_id
    FROM sagas AS s, LATERAL (
        SELECT (e ->> 'step')::integer AS step_no,
               (CASE s.workflow WHEN 'order_return' THEN ARRAY['decision', 'refund', 'restock']
                                WHEN 'order_refund' THEN ARRAY['refund']
                                ELSE ARRAY['reserve', 'pay', 'ship', 'take'] END)[(e ->> 'step')::integer + 1] AS step,
               coalesce((e ->> 'part')::integer, 0) AS part, coalesce((e ->> 'generation')::integer, 1) AS generation,
               e ->> 'status' AS status, e -> 'undo' IS NOT NULL AS undo_asked,
               coalesce((e -> 'undo' ->> 'done')::boolean, false) AS undone,
               coalesce(e -> 'parked', e -> 'undo' -> 'parked') ->> 'code' AS parked,
               coalesce(e -> 'held', '[]') AS held
        FROM jsonb_array_elements(s.state -> 'commands') AS e) AS c
    -- A wait for a signal is no command.
    WHERE c.step <> 'decision';
CREATE UNIQUE INDEX ON sent (command_id);
CREATE INDEX ON sent (saga_id);

-- Commands sent according to timelines, by name (`pay execute 2`), and when first.
CREATE TEMP TABLE dispatched AS
    SELECT t.saga_id, split_part(split_part(name, ' ', 1), '/', 1) AS step, split_part(name, ' ', 2) AS kind,
           min(t.revision) AS first_revision
    FROM timeline AS t, LATERAL jsonb_array_elements_text(coalesce(t.did -> 'sent', '[]')) AS name
    GROUP BY 1, 2, 3;
CREATE UNIQUE INDEX ON dispatched (saga_id, step, kind);

-- Actions of people, by the timelines.
CREATE TEMP TABLE actions AS
    SELECT saga_id, revision, did ->> 'step' AS step, key AS action,
           coalesce(value -> 'by', value) ->> 'why' AS why, coalesce(value -> 'by', value) ->> 'who' AS who,
           coalesce((value ->> 'done')::boolean, false) AS done,
           (value -> 'seen' ->> 'revision')::integer AS seen_revision, (value -> 'seen' ->> 'commandId')::uuid AS seen_command
    FROM timeline, LATERAL jsonb_each(CASE jsonb_typeof(event) WHEN 'object' THEN event ELSE '{}' END)
    WHERE key IN ('cancel_requested', 'retry_requested', 'resend_requested', 'resolved');

-- Commands settled by hand, with evidence from the other side: `undone` for a compensation, `done` for an execute.
CREATE TEMP TABLE by_hand AS
    SELECT a.saga_id, a.step, CASE WHEN d.saga_id IS NULL THEN 'done' ELSE 'undone' END AS what
    FROM actions AS a LEFT JOIN dispatched AS d
      ON (d.saga_id, d.step, d.kind) = (a.saga_id, a.step, 'compensate') AND d.first_revision < a.revision
    WHERE a.action = 'resolved' AND a.done;

-- What each return or refund has paid back, by the gateway's books or by hand.
CREATE TEMP TABLE paid_back AS
    SELECT c.saga_id, r.charge_key, r.key, r.amount FROM refunds AS r
    JOIN sent AS c ON c.command_id = r.key AND c.step = 'refund';
CREATE INDEX ON paid_back (saga_id);

-- The gateway's and the carrier's books for each saga, without what returns and refunds have paid back. What was given
-- back by hand counts as given back.
CREATE TEMP TABLE paid AS
    SELECT c.saga_id, g.currency, count(*) AS charges, sum(g.amount)::bigint AS captured,
           sum(coalesce(r.amount, CASE WHEN h.saga_id IS NOT NULL THEN g.amount END, 0))::bigint AS given_back
    FROM charges AS g
    LEFT JOIN refunds AS r ON r.charge_key = g.key AND NOT EXISTS (SELECT FROM paid_back AS b WHERE b.key = r.key)
    LEFT JOIN sent AS c ON c.command_id = g.key
    LEFT JOIN by_hand AS h ON (h.saga_id, h.step, h.what) = (c.saga_id, 'pay', 'undone')
    WHERE g.declined IS NULL
    GROUP BY 1, 2;
CREATE INDEX ON paid (saga_id);

CREATE TEMP TABLE shipped AS
    SELECT saga_id, count(*) AS labels FROM (
        SELECT c.saga_id FROM bookings AS b LEFT JOIN sent AS c ON c.command_id = b.key WHERE b.cancelled IS NULL
        UNION ALL SELECT saga_id FROM by_hand WHERE (step, what) = ('ship', 'done')) AS labels
    GROUP BY 1;
CREATE INDEX ON shipped (saga_id);

CREATE TEMP TABLE taken AS
    SELECT saga_id, sum(quantity) FILTER (WHERE status = 'taken')::bigint AS pieces,
           sum(quantity) FILTER (WHERE status = 'held')::bigint AS held
    FROM reservations GROUP BY 1;
CREATE INDEX ON taken (saga_id);

-- The violations found, one row each; and how many things were checked.
CREATE TEMP TABLE violations (invariant integer NOT NULL, what text NOT NULL);
CREATE TEMP TABLE looked_at (invariant integer NOT NULL, things bigint NOT NULL);

-- What is known from outside (see the ledger); filled before the report if it is known.
CREATE TEMP TABLE told (key text, order_id uuid NOT NULL);
CREATE TEMP TABLE promised (order_id uuid NOT NULL);
CREATE TEMP TABLE seen (order_id uuid NOT NULL, status text NOT NULL);
CREATE TEMP TABLE acted (saga_id uuid NOT NULL, action text NOT NULL, why text NOT NULL, sure boolean NOT NULL);
CREATE TEMP TABLE poison (topic text NOT NULL, mark text NOT NULL, sure boolean NOT NULL);
CREATE TEMP TABLE dead_letters (topic text NOT NULL, mark text NOT NULL);

ANALYZE;
