//! Helpers for tests: their own databases, their own broker, and waiting for conditions.
//!
//! Everything is real, started once per test process and ended with it.

#![warn(missing_docs)]

mod apache;
mod broker;
mod database;
mod janitor;
pub mod proxy;
pub mod redis;
mod scratch;
mod secured_kafka;
mod server;
pub mod smtp;
pub mod tls;
mod tls_http;
mod tls_postgres;

use std::{
    future::Future,
    time::{Duration, Instant},
};

pub use apache::{change_kafka_password, has_real_kafka};
pub use broker::{TestBroker, broker, real_kafka};
pub use database::{TestDatabase, database, login_role};
pub use secured_kafka::SecuredKafka;
pub use tls_http::TlsHttp;
pub use tls_postgres::TlsPostgres;

/// Waits until the condition yields a value; fails the test with this description if it does not in time.
pub async fn eventually<T, F>(what: &str, within: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
