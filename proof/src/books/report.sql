-- RELIABILITY's invariants over the data that `gather.sql` has gathered from a deployment at rest. Each writes one row
-- per violation, in words, and the number of things checked.

-- 1. Stock, per product: put in = on hand + shipped; available = on hand - reserved; none negative; and the
-- ledger of moves and the reservations say the same.
INSERT INTO looked_at SELECT 1, count(*) FROM stock;
INSERT INTO violations
SELECT 1, format('%s: %s put in, %s on hand, %s reserved, %s shipped; reservations: %s held, %s taken; moves: %s put in, %s reserved, %s taken and not returned',
                 s.product_id, s.adjusted, s.on_hand, s.reserved, s.shipped, r.held, r.taken, m.put_in, m.reserved, m.taken)
FROM stock AS s
CROSS JOIN LATERAL (
    SELECT coalesce(sum(quantity) FILTER (WHERE status = 'held'), 0) AS held,
           coalesce(sum(quantity) FILTER (WHERE status = 'taken'), 0)
               - (SELECT coalesce(sum(quantity), 0) FROM restocks WHERE product_id = s.product_id) AS taken
    FROM reservations WHERE product_id = s.product_id) AS r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(quantity) FILTER (WHERE kind = 'adjusted'), 0) AS put_in,
           coalesce(sum(CASE kind WHEN 'reserved' THEN quantity WHEN 'adjusted' THEN 0 WHEN 'returned' THEN 0 ELSE -quantity END), 0) AS reserved,
           coalesce(sum(CASE kind WHEN 'taken' THEN quantity WHEN 'returned' THEN -quantity END), 0) AS taken
    FROM moves WHERE product_id = s.product_id) AS m
WHERE s.adjusted <> s.on_hand + s.shipped OR s.reserved > s.on_hand OR least(s.on_hand, s.reserved, s.shipped) < 0
   OR s.reserved <> r.held OR s.shipped <> r.taken
   OR s.adjusted <> m.put_in OR s.reserved <> m.reserved OR s.shipped <> m.taken;

-- 1. Nothing comes back that was not shipped, and no piece twice.
INSERT INTO violations
SELECT 1, format('reservation %s of %s: %s pieces came back, of %s that were taken', b.reservation, b.product_id, b.back, coalesce(r.quantity, 0))
FROM (SELECT reservation, product_id, sum(quantity) AS back FROM restocks GROUP BY 1, 2) AS b
LEFT JOIN reservations AS r ON (r.command_id, r.product_id, r.status) = (b.reservation, b.product_id, 'taken')
WHERE b.back > coalesce(r.quantity, 0);
INSERT INTO violations
SELECT 1, format('order %s, line %s: %s of %s pieces are back or on their way', o.id, l.line, l.pieces, l.quantity)
FROM orders AS o, LATERAL (
    SELECT b ->> 'lineId' AS line, sum((b ->> 'quantity')::bigint) AS pieces,
           max((o.lines -> ((b ->> 'lineId')::integer - 1) ->> 'quantity')::bigint) AS quantity
    FROM entries AS e JOIN sagas AS s ON s.id = e.saga_id, LATERAL jsonb_array_elements(e.lines) AS b
    WHERE e.order_id = o.id AND e.workflow = 'order_return' AND s.outcome IS DISTINCT FROM 'undone'
    GROUP BY 1) AS l
WHERE l.pieces > l.quantity;

-- 2. Money, per currency: captured - given back = value of what was shipped + what unfinished sagas hold; and per
-- saga the engine's ledger says what the gateway's books say, unless its payment is unknown.
CREATE TEMP TABLE ledger AS
    SELECT c.saga_id, h ->> 'unit' AS currency, sum((h ->> 'amount')::bigint)::bigint AS amount,
           bool_or(c.status IN ('waiting', 'unknown', 'backoff', 'expired') OR c.undo_asked AND NOT c.undone) AS open
    FROM sent AS c LEFT JOIN LATERAL jsonb_array_elements(c.held) AS h ON h ->> 'kind' = 'money_captured'
    WHERE c.step = 'pay' GROUP BY 1, 2;
INSERT INTO looked_at SELECT 2, count(*) FROM ledger;
INSERT INTO violations
SELECT 2, format('saga %s: the engine says that %s is held, the gateway captured %s and gave back %s',
                 coalesce(l.saga_id, p.saga_id), coalesce(l.amount, 0), coalesce(p.captured, 0), coalesce(p.given_back, 0))
FROM ledger AS l FULL JOIN paid AS p ON p.saga_id = l.saga_id
WHERE coalesce(l.amount, 0) <> coalesce(p.captured - p.given_back, 0) AND NOT coalesce(l.open, false);
INSERT INTO violations
SELECT 2, format('%s: %s is captured and not given back; %s was shipped, %s is held by what is not finished',
                 currency, kept, shipped, held)
FROM (
    SELECT currency, sum(kept) AS kept, sum(shipped) AS shipped, sum(held) AS held FROM (
        SELECT p.currency, p.captured - p.given_back AS kept, 0 AS shipped, 0 AS held FROM paid AS p
        UNION ALL SELECT o.currency, 0, o.total, 0 FROM orders AS o JOIN sagas AS s ON s.id = o.saga_id WHERE s.label = 'FULFILLED'
        UNION ALL SELECT l.currency, 0, 0, l.amount FROM ledger AS l JOIN sagas AS s ON s.id = l.saga_id
                  WHERE s.outcome IS NULL AND s.label <> 'FULFILLED') AS each
    GROUP BY currency) AS sums
WHERE kept <> shipped + held AND NOT EXISTS (SELECT FROM ledger WHERE open);

-- 2. Never a cent more than was captured is paid back or about to be; and the gateway has paid what the ledger says, where
-- nobody has settled it by hand.
INSERT INTO violations
SELECT 2, format('order %s: %s is paid back or about to be, of %s', o.id, sum(e.amount), o.total)
FROM orders AS o JOIN entries AS e ON e.order_id = o.id JOIN sagas AS s ON s.id = e.saga_id
WHERE s.outcome IS DISTINCT FROM 'undone' GROUP BY o.id, o.total HAVING sum(e.amount) > o.total;
INSERT INTO violations
SELECT 2, format('charge %s of %s: %s is paid back', g.key, g.amount, sum(r.amount))
FROM charges AS g JOIN refunds AS r ON r.charge_key = g.key GROUP BY g.key, g.amount HAVING sum(r.amount) > g.amount;
INSERT INTO violations
SELECT 2, format('saga %s (%s) pays %s back; the gateway has paid %s', e.saga_id, s.label, e.amount, coalesce(b.amount, 0))
FROM entries AS e JOIN sagas AS s ON s.id = e.saga_id
LEFT JOIN (SELECT saga_id, sum(amount) AS amount FROM paid_back GROUP BY 1) AS b ON b.saga_id = e.saga_id
WHERE NOT EXISTS (SELECT FROM by_hand AS h WHERE (h.saga_id, h.step) = (e.saga_id, 'refund'))
  AND coalesce(b.amount, 0) <> CASE s.outcome WHEN 'completed' THEN e.amount WHEN 'undone' THEN 0
                                   ELSE coalesce(b.amount, 0) END;

-- 3. Exactly one outcome a saga, and it never changes: by its timeline, and by the answers to clients.
INSERT INTO looked_at SELECT 3, count(*) FROM sagas;
INSERT INTO violations
SELECT 3, format('saga %s (%s): its row says %s, its timeline ended it %s times, as %s', s.id, s.label, s.outcome, t.times, t.ends)
FROM sagas AS s
LEFT JOIN (SELECT saga_id, count(*) AS times, string_agg(did ->> 'ended', ', ') AS ends
           FROM timeline WHERE did ? 'ended' GROUP BY 1) AS t ON t.saga_id = s.id
WHERE (s.outcome IS NULL) <> (t.times IS NULL) OR t.times > 1 OR t.ends <> s.outcome;
INSERT INTO violations
SELECT 3, format('saga %s: labelled %s after it had ended', t.saga_id, t.did ->> 'label')
FROM timeline AS t JOIN timeline AS e ON e.saga_id = t.saga_id AND e.did ? 'ended' AND e.revision < t.revision
WHERE t.did ? 'label';
INSERT INTO violations
SELECT 3, format('order %s was seen as %s, and is %s', n.order_id, n.status, s.label)
FROM seen AS n JOIN orders AS o ON o.id = n.order_id JOIN sagas AS s ON s.id = o.saga_id
WHERE n.status IN ('FULFILLED', 'CANCELLED', 'FAILED', 'PAYMENT_FAILED', 'SHIPMENT_FAILED') AND s.label <> n.status;
INSERT INTO violations
SELECT 3, format('order %s: its cancellation was promised, and it is %s', p.order_id, s.label)
FROM promised AS p JOIN orders AS o ON o.id = p.order_id JOIN sagas AS s ON s.id = o.saga_id
WHERE s.outcome IS NOT NULL AND s.label <> 'CANCELLED';

-- 4. No orphan: every effect is some saga's, and what ended undone has none left.
INSERT INTO looked_at SELECT 4, (SELECT count(*) FROM charges) + (SELECT count(*) FROM bookings) + (SELECT count(*) FROM reservations);
INSERT INTO violations SELECT 4, format('%s captured without a saga', captured) FROM paid WHERE saga_id IS NULL;
INSERT INTO violations SELECT 4, format('%s labels without a saga', labels) FROM shipped WHERE saga_id IS NULL;
INSERT INTO violations
SELECT 4, format('reservation %s of %s is %s, and saga %s is %s', r.command_id, r.product_id, r.status, r.saga_id, coalesce(s.outcome, 'unknown'))
FROM reservations AS r LEFT JOIN sagas AS s ON s.id = r.saga_id
WHERE s.id IS NULL AND NOT EXISTS (SELECT FROM lost AS l WHERE l.saga_id = r.saga_id) OR (r.status = 'held' AND s.outcome IS NOT NULL) OR (r.status = 'taken' AND s.label <> 'FULFILLED');
INSERT INTO violations SELECT 4, format('%s command %s of saga %s took effect; the saga was lost in a restore, and no stray lists it', worker, command_id, saga_id) FROM unlisted;
INSERT INTO violations SELECT 4, format('stray success of command %s, saga %s', command_id, saga_id) FROM strays;
INSERT INTO violations SELECT 4, format('saga %s without an order', s.id) FROM sagas AS s
WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.saga_id = s.id)
  AND NOT EXISTS (SELECT FROM entries AS e JOIN orders AS o ON o.id = e.order_id WHERE e.saga_id = s.id);

-- 5. FULFILLED and complete: exactly one of each effect, of the right size. Undone: it nets to zero.
INSERT INTO looked_at SELECT 5, count(*) FROM sagas WHERE outcome IS NOT NULL;
INSERT INTO violations
SELECT 5, format('order %s is %s (%s): %s charges, %s captured, %s given back of %s; %s labels; %s of %s pieces taken, %s held',
                 o.id, s.label, s.outcome, p.charges, p.captured, p.given_back, o.total, l.labels, t.pieces, o.pieces, t.held)
FROM sagas AS s JOIN orders AS o ON o.saga_id = s.id
LEFT JOIN paid AS p ON p.saga_id = s.id LEFT JOIN shipped AS l ON l.saga_id = s.id LEFT JOIN taken AS t ON t.saga_id = s.id
WHERE s.outcome IS NOT NULL AND NOT CASE s.outcome
    WHEN 'completed' THEN s.label = 'FULFILLED' AND (o.total = 0 OR p.charges = 1 AND p.captured = o.total AND p.given_back = 0)
         AND coalesce(l.labels, 0) = 1 AND coalesce(t.pieces, 0) = o.pieces AND coalesce(t.held, 0) = 0
    ELSE s.label NOT IN ('FULFILLED', 'CANCELLING', 'PENDING', 'CONFIRMED', 'PAID') AND coalesce(p.charges, 0) <= 1
         AND coalesce(p.captured - p.given_back, 0) = 0 AND coalesce(l.labels, 0) = 0
         AND coalesce(t.pieces, 0) = 0 AND coalesce(t.held, 0) = 0 END;

-- 5. A return that is done has put all its pieces back into stock, and one that was rejected none.
INSERT INTO violations
SELECT 5, format('return %s of order %s (%s): %s of %s pieces are back in stock', e.saga_id, e.order_id, s.outcome, coalesce(b.pieces, 0), e.pieces)
FROM (SELECT saga_id, order_id, sum((line ->> 'quantity')::bigint) AS pieces
      FROM entries, LATERAL jsonb_array_elements(lines) AS line WHERE workflow = 'order_return' GROUP BY 1, 2) AS e
JOIN sagas AS s ON s.id = e.saga_id AND s.outcome IS NOT NULL
LEFT JOIN (SELECT c.saga_id, sum(r.quantity) AS pieces FROM restocks AS r JOIN sent AS c ON c.command_id = r.command_id
           GROUP BY 1) AS b ON b.saga_id = e.saga_id
WHERE NOT EXISTS (SELECT FROM by_hand AS h WHERE (h.saga_id, h.step) = (e.saga_id, 'restock'))
  AND coalesce(b.pieces, 0) <> CASE s.outcome WHEN 'completed' THEN e.pieces ELSE 0 END;

-- 6. At most one effect for a saga, step, part and generation, by the workers' databases.
INSERT INTO looked_at SELECT 6, count(*) FROM worker_rows;
INSERT INTO violations
SELECT 6, format('%s effects under the %s command %s', count(*), kind, key) FROM (
    SELECT 'pay' AS kind, key FROM charges UNION ALL SELECT 'refund', key FROM refunds
    UNION ALL SELECT 'ship', key FROM bookings UNION ALL SELECT 'any', command_id FROM worker_rows) AS effects
GROUP BY kind, key HAVING count(*) > 1;
INSERT INTO violations
SELECT 6, format('command %s %s %s %s times', command_id, kind, product_id, count(*))
FROM moves WHERE command_id IS NOT NULL GROUP BY command_id, kind, product_id HAVING count(*) > 1;
INSERT INTO violations
SELECT 6, format('saga %s: %s generations of %s took effect', c.saga_id, count(*), c.step)
FROM sent AS c JOIN worker_rows AS w ON w.command_id = c.command_id AND w.status = 'succeeded'
GROUP BY c.saga_id, c.step, c.part HAVING count(*) > 1;

-- 7. Every order that was acknowledged to a client exists, a key belongs to one order, and there is no order that was
--    not acknowledged. (Clients without an answer repeated their request until they had one.)
INSERT INTO looked_at SELECT 7, count(*) FROM told HAVING count(*) > 0;
INSERT INTO violations
SELECT 7, format('order %s was acknowledged and is not there', t.order_id)
FROM told AS t LEFT JOIN orders AS o ON o.id = t.order_id WHERE o.id IS NULL;
INSERT INTO violations
SELECT 7, format('key %s stands for %s orders', key, count(DISTINCT order_id)) FROM told WHERE key IS NOT NULL
GROUP BY key HAVING count(DISTINCT order_id) > 1;
INSERT INTO violations
SELECT 7, format('key %s: the client was told %s, the table says %s', t.key, t.order_id, k.order_id)
FROM told AS t JOIN keys AS k ON k.key = t.key WHERE k.order_id <> t.order_id;
INSERT INTO violations
SELECT 7, format('order %s is there, and nobody was told of it', o.id) FROM orders AS o
WHERE EXISTS (SELECT FROM told) AND NOT EXISTS (SELECT FROM told AS t WHERE t.order_id = o.id);
INSERT INTO violations
SELECT 7, format('order %s and its saga %s do not share a slot', o.id, o.saga_id) FROM orders AS o
WHERE ('x' || right(o.id::text, 3))::bit(12) & B'001111111111' <> ('x' || right(o.saga_id::text, 3))::bit(12) & B'001111111111';

-- 8. Revisions without a gap. (That they replay to the stored row is checked by the pure core.)
INSERT INTO looked_at SELECT 8, count(*) FROM timeline;
INSERT INTO violations
SELECT 8, format('saga %s: revision %s, %s entries from %s to %s', s.id, s.revision, t.entries, t.first, t.last)
FROM sagas AS s FULL JOIN (
    SELECT saga_id, count(*) AS entries, min(revision) AS first, max(revision) AS last FROM timeline GROUP BY 1) AS t
  ON t.saga_id = s.id
WHERE (t.first, t.last, t.entries) IS DISTINCT FROM (1, s.revision, s.revision::bigint);

-- 9. Every row of a worker is a command that its saga's timeline sent, and every settled command has its row, which
--    says the same; commands settled by hand are exceptions. Where an operator's evidence says that nothing was done,
--    and the worker does not know either, it will undo an effect that appears later.
INSERT INTO looked_at SELECT 9, count(*) FROM sent;
INSERT INTO violations
SELECT 9, format('%s row %s (%s) of saga %s: no timeline sent it', w.worker, w.command_id, w.status, w.saga_id)
FROM worker_rows AS w LEFT JOIN sent AS c ON c.command_id = w.command_id
LEFT JOIN dispatched AS d ON (d.saga_id, d.step, d.kind) = (c.saga_id, c.step, 'execute')
WHERE d.saga_id IS NULL OR c.worker <> w.worker OR c.saga_id <> w.saga_id;
INSERT INTO violations
SELECT 9, format('saga %s: %s is %s%s, and its worker''s row is %s', c.saga_id, c.step, c.status,
                 CASE WHEN c.undone THEN ', undone' ELSE '' END, coalesce(w.status, 'missing'))
FROM sent AS c LEFT JOIN worker_rows AS w ON w.command_id = c.command_id
LEFT JOIN by_hand AS h ON h.saga_id = c.saga_id AND h.step = c.step
WHERE h.saga_id IS NULL AND NOT coalesce(CASE
    WHEN c.undone THEN w.status IN ('undone', 'tombstone', 'refused')
                    OR c.status = 'not_done' AND w.status = 'started' AND w.undo_remembered
    WHEN c.status = 'succeeded' THEN w.status IN ('succeeded', 'undoing', 'undone')
    WHEN c.status = 'refused' THEN w.status IN ('refused', 'tombstone')
    WHEN c.status = 'fenced' THEN w.status IN ('tombstone', 'undone')
    WHEN c.status = 'failed' THEN w.status IN ('failed_for_good', 'failed_transient', 'tombstone')
    ELSE true END, c.status NOT IN ('succeeded', 'refused', 'fenced', 'failed') AND NOT c.undone);

-- 11. Compensations in reverse, one step after the other, and only for what was sent.
INSERT INTO looked_at SELECT 11, count(*) FROM dispatched WHERE kind = 'compensate';
INSERT INTO violations
SELECT 11, format('saga %s: %s was compensated and never sent', d.saga_id, d.step)
FROM dispatched AS d LEFT JOIN dispatched AS e ON (e.saga_id, e.step, e.kind) = (d.saga_id, d.step, 'execute')
WHERE d.kind = 'compensate' AND (e.saga_id IS NULL OR e.first_revision > d.first_revision);
INSERT INTO violations
SELECT 11, format('saga %s: %s was compensated before %s', a.saga_id, a.step, b.step)
FROM dispatched AS a JOIN dispatched AS b ON b.saga_id = a.saga_id AND b.kind = 'compensate'
WHERE a.kind = 'compensate' AND array_position('{reserve,pay,ship,take}', a.step) < array_position('{reserve,pay,ship,take}', b.step)
  AND a.first_revision <= b.first_revision;
INSERT INTO violations
SELECT 11, format('saga %s ended undone, and %s (%s) has no compensation', s.id, c.step, c.status)
FROM sagas AS s JOIN sent AS c ON c.saga_id = s.id
WHERE s.outcome = 'undone' AND NOT c.undone AND c.status NOT IN ('refused', 'not_done');

-- 12. Every late success has its refund or release: no worker still holds, or may yet come to hold, an effect of
-- a saga that has ended undone.
INSERT INTO looked_at SELECT 12, count(*) FROM worker_rows AS w JOIN sagas AS s ON s.id = w.saga_id WHERE s.outcome = 'undone';
INSERT INTO violations
SELECT 12, format('saga %s ended undone, and %s row %s is %s', s.id, w.worker, w.command_id, w.status)
FROM worker_rows AS w JOIN sagas AS s ON s.id = w.saga_id JOIN sent AS c ON c.command_id = w.command_id
LEFT JOIN by_hand AS h ON (h.saga_id, h.step, h.what) = (s.id, c.step, 'undone')
WHERE s.outcome = 'undone' AND h.saga_id IS NULL AND c.status <> 'not_done'
  AND w.status IN ('succeeded', 'accepted', 'started', 'undoing', 'failed_transient', 'failed_for_good');
INSERT INTO violations
SELECT 12, format('saga %s is undone, and its %s holds %s', s.id, c.step, c.held)
FROM sent AS c JOIN sagas AS s ON s.id = c.saga_id
WHERE s.outcome = 'undone' AND NOT s.live AND NOT s.parked AND c.held <> '[]';
INSERT INTO violations
SELECT 12, format('saga %s: %s', saga_id, did ->> 'incident') FROM timeline WHERE did ? 'incident';

-- 13. Every saga has ended or is parked with a reason; nothing is in progress.
INSERT INTO looked_at SELECT 13, count(*) FROM sagas;
INSERT INTO violations
SELECT 13, format('saga %s is %s and neither ended nor parked', id, label) FROM sagas
-- A return waits for its decision as long as it takes.
WHERE outcome IS NULL AND NOT parked AND (workflow, step) <> ('order_return', 'decision');
INSERT INTO violations
SELECT 13, format('saga %s (%s) still waits', id, label) FROM sagas WHERE live AND NOT parked;
INSERT INTO violations
SELECT 13, format('saga %s is parked without a reason', s.id) FROM sagas AS s
WHERE s.parked AND s.state -> 'poisoned' IS NULL AND NOT EXISTS (SELECT FROM sent AS c WHERE c.saga_id = s.id AND c.parked IS NOT NULL);

INSERT INTO violations
SELECT 13, format('saga %s has ended, and its %s row %s (%s) is still called for', s.id, w.worker, w.command_id, w.status)
FROM worker_rows AS w JOIN sent AS c ON c.command_id = w.command_id JOIN sagas AS s ON s.id = c.saga_id
LEFT JOIN by_hand AS h ON h.saga_id = s.id AND h.step = c.step
WHERE w.live AND s.outcome IS NOT NULL AND c.status <> 'not_done' AND h.saga_id IS NULL;

-- 14. Dead letters = poison injected (each may be there twice; poison in a deleted topic need not be there).
INSERT INTO looked_at SELECT 14, count(*) FROM poison HAVING count(*) > 0;
INSERT INTO violations
SELECT 14, format('poison %s in %s is no dead letter', p.mark, p.topic)
FROM poison AS p WHERE p.sure AND NOT EXISTS (SELECT FROM dead_letters AS l WHERE (l.topic, l.mark) = (p.topic, p.mark));
INSERT INTO violations
SELECT 14, format('dead letter of %s that nobody poisoned: %s', l.topic, l.mark)
FROM dead_letters AS l WHERE NOT EXISTS (SELECT FROM poison AS p WHERE (p.topic, p.mark) = (l.topic, l.mark));

-- 15. Every operator action has one entry: who, when, why. (Before and after are its neighbours in the timeline.)
INSERT INTO looked_at SELECT 15, count(*) FROM acted HAVING count(*) > 0;
INSERT INTO violations
SELECT 15, format('%s of saga %s (%s): %s entries', a.action, a.saga_id, a.why, count(t.saga_id))
FROM acted AS a LEFT JOIN actions AS t ON (t.saga_id, t.action, t.why) = (a.saga_id, a.action, a.why)
GROUP BY a.action, a.saga_id, a.why, a.sure HAVING count(t.saga_id) > 1 OR (a.sure AND count(t.saga_id) = 0);
INSERT INTO violations
SELECT 15, format('saga %s: %s by %s (%s), which nobody did', t.saga_id, t.action, t.who, t.why)
FROM actions AS t WHERE t.action IN ('retry_requested', 'resend_requested', 'resolved') AND EXISTS (SELECT FROM acted)
  AND NOT EXISTS (SELECT FROM acted AS a WHERE (a.saga_id, a.action, a.why) = (t.saga_id, t.action, t.why));
INSERT INTO violations
SELECT 15, format('saga %s: %s at revision %s of what was looked at at revision %s', saga_id, action, revision - 1, seen_revision)
FROM actions WHERE action IN ('retry_requested', 'resolved') AND seen_revision IS DISTINCT FROM revision - 1;
INSERT INTO violations
SELECT 15, format('saga %s: %s of a command that it never sent: %s', a.saga_id, a.action, a.seen_command)
FROM actions AS a WHERE a.seen_command IS NOT NULL AND NOT EXISTS (
    SELECT FROM sent AS c WHERE c.saga_id = a.saga_id AND a.seen_command IN (c.command_id,
        (left(c.command_id::text, 14) || '8' || substr(uuid_generate_v5(c.command_id, 'undo')::text, 16))::uuid));
INSERT INTO violations
SELECT 15, format('saga %s: %s without a name', saga_id, action) FROM actions WHERE coalesce(who, '') = '';

-- 18 and 19. Beyond the list: no domain event is skipped. Each is known from what the timelines say.
CREATE TEMP TABLE announced AS
    SELECT t.saga_id || '/' || t.revision || CASE WHEN t.epoch > 0 THEN '.' || t.epoch ELSE '' END || '/' || e.type AS event_id, e.type
    FROM timeline AS t JOIN sagas AS s ON s.id = t.saga_id
    JOIN (VALUES ('order_fulfilment', 'PENDING', 'order.created'), ('order_fulfilment', 'CONFIRMED', 'order.confirmed'),
        ('order_fulfilment', 'PAID', 'order.paid'), ('order_fulfilment', 'FULFILLED', 'order.fulfilled'),
        ('order_fulfilment', 'CANCELLED', 'order.cancelled'), ('order_fulfilment', 'FAILED', 'order.failed'),
        ('order_fulfilment', 'PAYMENT_FAILED', 'order.failed'), ('order_fulfilment', 'SHIPMENT_FAILED', 'order.failed'),
        ('order_return', 'RETURN_REQUESTED', 'order.return.requested'), ('order_refund', 'REFUNDED', 'order.refunded'))
        AS e (workflow, label, type) ON e.workflow = s.workflow AND e.label = t.did ->> 'label'
    UNION ALL
    -- What no label says: a cancellation is promised; the payment is given back, which a timer may ask for again;
    SELECT t.saga_id || '/' || t.revision || CASE WHEN t.epoch > 0 THEN '.' || t.epoch ELSE '' END || '/' || e.type, e.type
    FROM timeline AS t JOIN sagas AS s ON s.id = t.saga_id AND s.workflow = 'order_fulfilment',
    LATERAL (SELECT 'order.cancel.requested' WHERE t.event -> 'cancel_requested' IS NOT NULL
             UNION ALL SELECT 'refund.requested' WHERE t.did -> 'sent' ? 'pay compensate' AND t.event <> '"woke"') AS e (type)
    UNION ALL
    -- and a return is paid back once it is to be restocked, and complete once it is.
    SELECT t.saga_id || '/' || t.revision || CASE WHEN t.epoch > 0 THEN '.' || t.epoch ELSE '' END || '/' || e.type, e.type
    FROM timeline AS t JOIN sagas AS s ON s.id = t.saga_id AND s.workflow = 'order_return',
    LATERAL (SELECT CASE t.did ->> 'step' WHEN 'refund' THEN 'order.refunded' ELSE 'order.returned' END) AS e (type)
    WHERE (t.did ->> 'step' = 'refund' AND t.did ->> 'sent' LIKE '%"restock%')
       OR (t.did ->> 'step' = 'restock' AND t.did ->> 'ended' IS NOT NULL);
CREATE INDEX ON announced (event_id);

-- 18. The notification worker has recorded every event that customers are notified of, once: so it arrived.
CREATE TEMP TABLE told_of AS
    SELECT event_id FROM announced
    WHERE type NOT IN ('order.confirmed', 'order.paid', 'order.cancel.requested', 'refund.requested');
INSERT INTO looked_at SELECT 18, count(*) FROM told_of;
INSERT INTO violations
SELECT 18, format('event %s was not recorded', a.event_id)
FROM told_of AS a LEFT JOIN notified AS n ON n.event_id = a.event_id WHERE n.event_id IS NULL;
INSERT INTO violations
SELECT 18, format('%s records of event %s, and not one a channel', count(*), event_id)
FROM notified GROUP BY event_id HAVING count(*) <> 2 OR count(DISTINCT channel) <> 2;
INSERT INTO violations
SELECT 18, format('event %s was recorded, and no timeline has it', n.event_id)
FROM notified AS n LEFT JOIN told_of AS a ON a.event_id = n.event_id
-- Events of entries that a restore has lost were recorded before.
WHERE a.event_id IS NULL AND (SELECT epoch FROM restores) = 0;

-- 19. The publisher has published every event of any kind, and has numbered those of an order without gaps, if its events
--     are noted.
INSERT INTO looked_at SELECT 19, count(*) FROM announced HAVING EXISTS (SELECT FROM published);
INSERT INTO violations
SELECT 19, format('event %s was not published', a.event_id)
FROM announced AS a LEFT JOIN published AS p ON p.event_id = a.event_id
WHERE p.event_id IS NULL AND EXISTS (SELECT FROM published);
INSERT INTO violations
SELECT 19, format('event %s was published, and no timeline has it', p.event_id)
FROM published AS p LEFT JOIN announced AS a ON a.event_id = p.event_id
WHERE a.event_id IS NULL AND (SELECT epoch FROM restores) = 0;
INSERT INTO violations
SELECT 19, format('order %s: %s events, numbered from %s to %s', order_id, count(*), min(sequence), max(sequence))
FROM published GROUP BY order_id
HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(DISTINCT sequence) <> count(*);
