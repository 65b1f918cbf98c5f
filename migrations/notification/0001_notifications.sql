-- Messages that the notification worker would send: one row per domain event, however often it arrives.
CREATE TABLE notifications (
    order_id    text NOT NULL COLLATE "C",  -- a UUIDv7: sorts by time
    event_id    text NOT NULL,
    event_type  text NOT NULL,
    sequence    bigint NOT NULL,
    template    text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, event_id)
);

GRANT SELECT, INSERT, DELETE ON notifications TO amends_notification;
-- At its start the service checks that the schema is the one it was built for.
GRANT SELECT ON _sqlx_migrations TO amends_notification;

-- The oldest schema whose programs can run beside this one. A migration after which they cannot raises it: an N-1
-- program starts, and runs, beside a migrated N database.
CREATE TABLE schema_compatibility (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    compatible_from bigint NOT NULL
);
INSERT INTO schema_compatibility (compatible_from) VALUES (1);
GRANT SELECT ON schema_compatibility TO amends_notification;
