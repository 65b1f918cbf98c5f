//! `PgSagaStore` passes the conformance suite.

mod support;

amends_postgres::conformance!(support::world);
