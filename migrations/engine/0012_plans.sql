-- What operators have planned: the event that a plan applies, and the revision of the saga at which it does so. A plan
-- belongs to no home, because it is known by its hash alone. Plans are deleted a day after they have expired; what was
-- done is in the timeline.
CREATE TABLE plans (
    hash       text        PRIMARY KEY COLLATE "C" CHECK (hash ~ '^[0-9a-f]{64}$'),
    saga_id    uuid        NOT NULL,
    expires_at timestamptz NOT NULL,
    revision   integer     NOT NULL,
    event      text        NOT NULL,
    planned_by text        NOT NULL,
    -- The answer to its application: it is given again.
    answer     text
);

CREATE INDEX plans_by_expiry ON plans (expires_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON plans TO amends_engine;
