-- What the notification worker would send. One row a domain event, however often it arrives.
CREATE TABLE notifications (
    order_id    text NOT NULL COLLATE "C",  -- a UUIDv7: in the order of time
    event_id    text NOT NULL,
    event_type  text NOT NULL,
    sequence    bigint NOT NULL,
    template    text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, event_id)
);

GRANT SELECT, INSERT, DELETE ON notifications TO amends_notification;
-- The service checks at its start that the schema is the one it was made for.
GRANT SELECT ON _sqlx_migrations TO amends_notification;
