//! `PgRows` passes the conformance suite.

use amends_testkit::TestDatabase;
use amends_worker::PgRows;

use crate::books::books;

async fn rows() -> (PgRows, TestDatabase) {
    let database = books().await;
    (PgRows::new(database.pool.clone()), database)
}

amends_worker::conformance!(rows);
