//! The engine over Postgres, Kafka and tokio.

use amends_engine::runtime::Engine;
use amends_kafka::KafkaSink;
use amends_postgres::PgSagaStore;

use crate::{clock::TokioClock, failpoints::Point};

/// The engine over Postgres, Kafka and tokio.
pub type PgEngine = Engine<Point<PgSagaStore>, Point<KafkaSink>, TokioClock>;
