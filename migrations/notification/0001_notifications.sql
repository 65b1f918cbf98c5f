-- The messages that customers get about their orders: a row a domain event and channel, however often the event arrives.
-- There is no personal data here: whom a message goes to is asked from the api when it is sent, and only a masked form of
-- the address is kept.
CREATE TABLE notifications (
    -- Computed from the event and the channel: a UUIDv7 of the event's time. The message's own id follows from it.
    id         uuid        PRIMARY KEY,
    order_id   uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at    timestamptz,
    -- When it is tried next; while a sender has it, when that sender's claim lapses.
    due_at     timestamptz,
    -- Its number among the `notif.sent` events.
    number     bigint,
    -- What was paid back, in minor units of the currency: of a refund.
    amount     bigint,
    attempts   integer     NOT NULL DEFAULT 0,
    currency   text,
    event_id   text        NOT NULL,
    event_type text        NOT NULL,
    channel    text        NOT NULL CHECK (channel IN ('email', 'sms')),
    status     text        NOT NULL CHECK (status IN ('QUEUED', 'SENT', 'FAILED', 'SKIPPED')),
    -- Why it was not sent, or not yet, in a word for programs.
    reason     text,
    -- `m***@e***.org`
    address    text,
    -- The text that would be sent, as JSON: in `dev`, where nothing is.
    preview    text,
    CHECK ((status = 'QUEUED') = (due_at IS NOT NULL)),
    CHECK ((status = 'SENT') = (sent_at IS NOT NULL)),
    CHECK (number IS NULL OR status = 'SENT')
);

-- Lists: the newest order first, and of an order the newest message.
CREATE INDEX notifications_by_order ON notifications (order_id, id);
-- What is to be sent. Small: a row leaves it once it is settled.
CREATE INDEX notifications_due ON notifications (channel, due_at) WHERE due_at IS NOT NULL;
-- What was sent and has no number yet. Small likewise.
CREATE INDEX notifications_unnumbered ON notifications (sent_at, id) WHERE status = 'SENT' AND number IS NULL;
CREATE UNIQUE INDEX notifications_by_number ON notifications (number) WHERE number IS NOT NULL;

-- The `notif.sent` events: how many were numbered, and up to which they are published. Who locks the row publishes.
CREATE TABLE notif_sent (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    numbered  bigint  NOT NULL DEFAULT 0,
    published bigint  NOT NULL DEFAULT 0 CHECK (published <= numbered)
);
INSERT INTO notif_sent DEFAULT VALUES;

GRANT SELECT, INSERT, DELETE ON notifications TO amends_notification;
GRANT UPDATE (sent_at, due_at, number, attempts, status, reason, address, preview) ON notifications TO amends_notification;
GRANT SELECT ON notif_sent TO amends_notification;
GRANT UPDATE (numbered, published) ON notif_sent TO amends_notification;
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
