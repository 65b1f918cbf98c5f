//! The engine over Postgres, Kafka and tokio.

use amends_engine::runtime::Engine;
use amends_kafka::{KafkaSettings, KafkaSink};
use amends_pool::Pool;
use amends_postgres::{PgSagaStore, keys};
use anyhow::Result;

use crate::{clock::TokioClock, failpoints::Point};

/// The engine over Postgres, Kafka and tokio.
pub type PgEngine = Engine<Point<PgSagaStore>, Point<KafkaSink>, TokioClock>;

/// Creates the sink of commands: each is signed with its participant's current key, as of now.
///
/// # Errors
/// The keys cannot be read, or the sink cannot be created.
pub async fn command_sink(kafka: &KafkaSettings, pool: &Pool) -> Result<KafkaSink> {
    let keys = keys::signing_keys(pool).await?;
    let by_topic = keys.into_iter().map(|(participant, key)| (format!("{participant}.commands"), key));
    Ok(KafkaSink::new(kafka)?.signing(by_topic.collect()))
}
