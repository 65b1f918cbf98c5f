//! Postgres is a `SagaStore`.

mod support;

amends_postgres::conformance!(support::world);
