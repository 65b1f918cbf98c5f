-- The built-in carrier's own books: the worker's code does not read them. One row a key, by which a booking is
-- repeated without effect. No address is kept.
CREATE TABLE carrier_bookings (
    key             uuid PRIMARY KEY,
    tracking_number text,  -- none if it was refused
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
-- The service checks at its start that the schema is the one it was made for.
GRANT SELECT ON _sqlx_migrations TO amends_shipment;
GRANT SELECT ON schema_compatibility TO amends_shipment;
