//! Receives events, and records them in one transaction.

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::{
    transport::{self, Batch, Inbound, Sink, Source},
    wire,
};

use crate::event::{Event, template};

/// The longest id, in bytes.
const REASON_LONGEST: usize = 300;
const RECORDER_BATCH: usize = 500;
const RECORDER_PATIENCE: Duration = Duration::from_millis(500);

/// Why a batch was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// Records the messages that would be sent.
pub struct Recorder<S, K> {
    pool: Pool,
    source: S,
    sink: K,
}

impl<S: Source, K: Sink> Recorder<S, K> {
    /// Creates a recorder that reads events from `source`; unreadable ones go to `sink` as dead letters.
    pub fn new(pool: impl Into<Pool>, source: S, sink: K) -> Self {
        Self { pool: pool.into(), source, sink }
    }

    /// Processes one batch; returns the number of its events. Offsets move after the commit.
    ///
    /// # Errors
    /// [`Error`]: the batch is received again.
    pub async fn run_once(&mut self) -> Result<usize, Error> {
        let batch = self.source.receive(RECORDER_BATCH, RECORDER_PATIENCE).await?;
        if batch.messages.is_empty() {
            return Ok(0);
        }
        match self.record(&batch).await {
            Ok(()) => {
                self.source.commit(batch.receipt)?;
                Ok(batch.messages.len())
            }
            Err(error) => {
                self.source.rewind()?;
                Err(error)
            }
        }
    }

    async fn record(&self, batch: &Batch) -> Result<(), Error> {
        let (mut orders, mut ids, mut types, mut sequences, mut templates) =
            (vec![], vec![], vec![], vec![], vec![]);
        let mut dead: Vec<(&Inbound, String)> = Vec::new();
        for message in &batch.messages {
            let event: Event = match wire::read(&message.bytes) {
                Ok(event) => event,
                Err(why) => {
                    dead.push((message, why.to_string()));
                    continue;
                }
            };
            if event.id.len().max(event.data.order_id.len()).max(event.r#type.len()) > REASON_LONGEST {
                dead.push((message, format!("id, type, orderId: longer than {REASON_LONGEST} bytes")));
                continue;
            }
            let Some(sequence) = event.number() else {
                dead.push((message, "sequence: not a number".to_owned()));
                continue;
            };
            if let Some(template) = template(&event.r#type) {
                orders.push(event.data.order_id);
                ids.push(event.id);
                types.push(event.r#type);
                sequences.push(sequence);
                templates.push(template);
            }
        }
        if !ids.is_empty() {
            let recorded = sqlx::query(
                "INSERT INTO notifications (order_id, event_id, event_type, sequence, template)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) AS n
                 ORDER BY 1, 2
                 ON CONFLICT DO NOTHING",
            )
            .bind(orders)
            .bind(ids)
            .bind(types)
            .bind(sequences)
            .bind(templates)
            .execute(&self.pool)
            .await?;
            metrics::counter!("amends_notifications_recorded_total").increment(recorded.rows_affected());
        }
        for (message, why) in dead {
            self.sink.dead_letter(message, &why).await?;
        }
        Ok(())
    }
}
