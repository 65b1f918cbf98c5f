-- Products and their prices, set by operators. A customer's order takes the price that it finds here, and keeps it: the
-- order's own lines are what was agreed. A product belongs to no order, so it has no home.
CREATE TABLE products (
    product_id text        PRIMARY KEY COLLATE "C"
               CHECK (octet_length(product_id) <= 64 AND product_id ~ '^[A-Za-z0-9._-]+$'),
    unit_price bigint      NOT NULL CHECK (unit_price >= 0),
    revision   integer     NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    currency   text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    name       text        NOT NULL
);

GRANT SELECT, INSERT, UPDATE ON products TO amends_engine;
