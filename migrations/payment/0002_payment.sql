-- The built-in gateway's own books, as if they were a bank's: the worker's code does not read them. One row per key, so
-- that a repeated charge has no further effect; the first answer stands.
CREATE TABLE gateway_charges (
    key        uuid PRIMARY KEY,
    charge_id  uuid NOT NULL,
    amount     bigint NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    method     text NOT NULL,
    declined   text,  -- the reason; null if the money was captured
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Refunds, many per charge: together never more than was captured.
CREATE TABLE gateway_refunds (
    key        uuid PRIMARY KEY,
    refund_id  uuid NOT NULL,
    charge_key uuid NOT NULL REFERENCES gateway_charges (key),
    amount     bigint NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX gateway_refunds_by_charge ON gateway_refunds (charge_key);

-- How often the gateway failed for a key (method card_error_twice).
CREATE TABLE gateway_faults (
    key   uuid PRIMARY KEY,
    calls integer NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON commands TO amends_payment;
GRANT SELECT, DELETE ON commands_default TO amends_payment;
GRANT SELECT ON command_keys TO amends_payment;
GRANT EXECUTE ON FUNCTION ensure_partitions(integer, timestamptz), expire_partition(interval) TO amends_payment;
GRANT SELECT, INSERT, DELETE ON gateway_charges, gateway_refunds TO amends_payment;
-- Refunds of one charge take turns: they lock its row.
GRANT UPDATE (method) ON gateway_charges TO amends_payment;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_faults TO amends_payment;
-- At its start the service checks that the schema is the one it was built for.
GRANT SELECT ON _sqlx_migrations TO amends_payment;
GRANT SELECT ON schema_compatibility TO amends_payment;
