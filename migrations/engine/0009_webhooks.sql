-- Webhooks: where events of orders are sent, and the deliveries. They have no home: on a distributed Postgres they stay on
-- the coordinator. No row of a saga or an order refers to them.

CREATE TABLE webhooks (
    id                 uuid        PRIMARY KEY,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Until when the secret before the present one signs too.
    previous_until     timestamptz,
    -- Since when every attempt has failed.
    failing_since      timestamptz,
    -- The process that delivers to it now, and until when the others leave it alone.
    leased_until       timestamptz,
    leased_by          uuid,
    revision           integer     NOT NULL DEFAULT 1,
    is_enabled         boolean     NOT NULL DEFAULT true,
    -- It exists no more; the row goes once its deliveries have gone.
    is_deleted         boolean     NOT NULL DEFAULT false,
    format             text        NOT NULL CHECK (format IN ('event', 'snapshot')),
    url                text        NOT NULL,
    types              text[]      NOT NULL,
    -- Sealed with a key of the settings.
    secret             text        NOT NULL,
    previous_secret    text,
    disabled_reason    text
);

-- An event for a webhook. The id begins with the millisecond of the event, so that the oldest go first.
CREATE TABLE webhook_deliveries (
    id                 uuid        PRIMARY KEY,
    webhook_id         uuid        NOT NULL,
    order_id           uuid,
    -- When it is sent next; null: never by itself.
    due_at             timestamptz,
    -- The first attempt since it was planned or asked for again, and the last attempt.
    first_tried_at     timestamptz,
    tried_at           timestamptz,
    sequence           bigint      NOT NULL,
    -- Attempts in all, and since it was planned or asked for again.
    attempts           integer     NOT NULL DEFAULT 0,
    tries              integer     NOT NULL DEFAULT 0,
    -- Of the last attempt: the receiver's status, or none.
    answer_status      smallint,
    status             text        NOT NULL CHECK (status IN ('PENDING', 'DELIVERED', 'FAILED', 'SKIPPED')),
    event_type         text        NOT NULL,
    event_id           text        NOT NULL,
    -- The beginning of the receiver's answer, or why there was none.
    answer             text,
    failure            text,
    -- The CloudEvent.
    event              text        NOT NULL,
    UNIQUE (webhook_id, event_id)
) WITH (fillfactor = 80);

-- What a webhook has to send now.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at, id) WHERE due_at IS NOT NULL;
-- Lists, the newest first, of one status or of all.
CREATE INDEX webhook_deliveries_by_status ON webhook_deliveries (webhook_id, status, id);

GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks, webhook_deliveries TO amends_engine;
