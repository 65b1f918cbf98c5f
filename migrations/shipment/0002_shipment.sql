-- The built-in carrier's own books: the worker's code does not read them. One row per key, so that a repeated booking
-- has no further effect. No address is stored.
CREATE TABLE carrier_bookings (
    key             uuid PRIMARY KEY,
    tracking_number text,  -- null if it was refused
    country         text NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE carrier_cancellations (
    key         uuid PRIMARY KEY,
    booking_key uuid NOT NULL UNIQUE REFERENCES carrier_bookings (key),
    created_at  timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON commands TO amends_shipment;
GRANT SELECT, DELETE ON commands_default TO amends_shipment;
GRANT SELECT ON command_keys TO amends_shipment;
GRANT EXECUTE ON FUNCTION ensure_partitions(integer, timestamptz), expire_partition(interval) TO amends_shipment;
GRANT SELECT, INSERT, DELETE ON carrier_bookings, carrier_cancellations TO amends_shipment;
-- At its start the service checks that the schema is the one it was built for.
GRANT SELECT ON _sqlx_migrations TO amends_shipment;
GRANT SELECT ON schema_compatibility TO amends_shipment;
